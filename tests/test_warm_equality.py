"""A flow run that is started warm is the same as one that is started fresh, but for what is on a written list.

A selection of the matrix of `make parity-warm`, which has many more cases. What may differ stands in
`parity/accepted_warm.py` and, for users, in `docs/warm-start.md`; the test fails, too, if something of it does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import PrefectServer, clean_environment

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux lets a template fork its worker's children"
    ),
]

_MATRIX = Path(__file__).with_name("parity") / "run.py"
_DOCUMENT = Path(__file__).parents[1] / "docs" / "warm-start.md"
_PATIENCE = 600

# Those that look at everything, and those whose ends are left to the interpreter, the kernel or the worker.
CASES = (
    "snapshot",
    "snapshot-async",
    "snapshot-after-steps",
    "output",
    "things-left-to-the-end",
    "sigsegv",
    "sigterm-from-outside",
    "cancelled-with-hooks",
)

Row = Mapping[str, Any]


@pytest.fixture(scope="module")
def matrix(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the matrix: each case, played fresh and warm."""
    output = tmp_path_factory.mktemp("matrix")
    options = ["--server", prefect_server.url, "--output", str(output), "--limit", "8"]
    sides = ["--worker-a", "fresh", "--worker-b", "warm"]
    done = subprocess.run(
        [sys.executable, str(_MATRIX), *sides, *options, "--only", *CASES],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    result = output / "parity.json"
    assert result.exists(), done.stdout
    document: dict[str, Any] = json.loads(result.read_text())
    return document


@pytest.mark.parametrize("case", [*CASES, "the-workers-themselves"])
def test_run_is_the_same_started_warm_and_fresh(matrix: dict[str, Any], case: str) -> None:
    (row,) = (row for row in matrix["cases"] if row["case"] == case)
    unaccepted = [
        f"{difference['aspect']}:\n" + "\n".join(difference["lines"])
        for difference in row["differences"]
        if difference["reason"] is None
    ]
    assert not unaccepted, "\n".join(unaccepted)


def test_whatever_may_be_different_is_documented(matrix: dict[str, Any]) -> None:
    page = " ".join(_DOCUMENT.read_text().lower().split())
    reasons = {difference["reason"] for row in matrix["cases"] for difference in row["differences"]}
    assert {reason for reason in filter(None, reasons) if reason.lower() not in page} == set()


def test_whatever_may_be_different_is_different(matrix: dict[str, Any]) -> None:
    assert matrix["accepted_but_absent"] == []


def test_difference_is_found_that_is_not_on_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_MATRIX.parent))
    from accepted_warm import ACCEPTED_WARM
    from compare import compare, unused

    aspect = "snapshot of relations"
    fresh = {aspect: {"command line": "python -m prefect.engine", "niceness": 0}}
    as_listed = {aspect: {"command line": "python start.py", "niceness": 0}}
    otherwise = {aspect: {"command line": "python start.py", "niceness": 5}}
    assert compare("any", "", (fresh, as_listed), ACCEPTED_WARM).verdict == "accepted"
    assert compare("any", "", (fresh, otherwise), ACCEPTED_WARM).verdict == "differs"
    assert unused(ACCEPTED_WARM, [compare("any", "", (fresh, fresh), ACCEPTED_WARM)]) == ACCEPTED_WARM
