"""What the command does not import, because that is what keeps it quick and small."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = {"prefect", "pydantic", "fastapi", "hypercorn", "httpx_ws", "h2", "asyncio", "rich", "pygments"}


def test_help_imports_nothing_heavy() -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trioworker", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in finished.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "trio" in imported
    assert not imported & HEAVY
