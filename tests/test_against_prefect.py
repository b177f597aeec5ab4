"""What a process job is made of, compared with what Prefect's own code makes of the same."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from trioworker.infrastructure.process.environment import run_environment
from trioworker.infrastructure.process.job import read_configuration
from trioworker.infrastructure.protocol import InfrastructureError

pytestmark = pytest.mark.process

RUN_ID = UUID(int=1)

ATTRIBUTION = {
    "PREFECT__FLOW_RUN_ID": str(RUN_ID),
    "PREFECT__FLOW_ID": str(UUID(int=2)),
    "PREFECT__FLOW_NAME": "flow",
    "PREFECT__DEPLOYMENT_ID": str(UUID(int=3)),
    "PREFECT__DEPLOYMENT_NAME": "deployment",
    "PREFECT__WORKER_NAME": "worker",
    "PREFECT__WORKER_ID": str(UUID(int=4)),
}

HOOKS = "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"

# What a layer may say of a variable; "absent" is that it does not name it.
SAYINGS = ("absent", "value", "null")


def every_combination() -> dict[str, dict[str, Any]]:
    """Layers in which every combination of sayings has a variable of its own, named after it."""
    layers: dict[str, dict[str, Any]] = {"worker": {}, "settings": {}, "job": {}}
    for sayings in product(SAYINGS[:2], SAYINGS[:2], SAYINGS):
        name = "_".join(("OF", *sayings)).upper()
        for layer, saying in zip(layers, sayings, strict=True):
            if saying != "absent":
                layers[layer][name] = None if saying == "null" else f"of {layer}"
    return layers


def attribution_overlaid(worker: str, job: str) -> dict[str, dict[str, Any]]:
    """Layers that all say something of the variables that tell a run who it is."""
    sayings = {"absent": {}, "value": dict.fromkeys([*ATTRIBUTION, HOOKS], "other")} | {
        "null": dict.fromkeys([*ATTRIBUTION, HOOKS])
    }
    return {"worker": sayings[worker], "settings": {}, "job": sayings[job]}


def each(field: str, *values: Any) -> list[dict[str, Any]]:
    """A job configuration for each value of a field."""
    return [{field: value} for value in values]


ENVIRONMENTS: list[dict[str, Any]] = [
    {**layers, "command": command, "attribution": ATTRIBUTION}
    for layers in (
        every_combination(),
        *(attribution_overlaid(*sayings) for sayings in product(SAYINGS[:2], SAYINGS)),
    )
    for command in (None, "python -m prefect.engine")
]


CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    *each("command", None, "", "say 'this thing'", 7, ["say"], True),
    *each("working_dir", None, "", ".", "below", "/above/../here", "~/x", "a\\b", 7, []),
    *each("stream_output", True, False, None, 0, 1, 2, 1.0, 0.0, 0.5, -1),
    *each("stream_output", "", "on", "OFF", "t", "N", "YES", "1", "0"),
    *each("stream_output", " true", "1.0", "perhaps", [], {}),
    *each("env", {"A": "1"}, {"A": None}, {"A": 1}, {"A": True}, {"A": {"b": [1]}}),
    *each("env", None, [], "A=1", 7),
    *each("labels", {}, {"a": "b"}, {"a": 1}, {"a": None}, None, [], "a"),
    *each("name", None, "", "name", 7, []),
    {"unknown": "field"},
]


@pytest.fixture(scope="module")
def of_prefect(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    if importlib.util.find_spec("prefect") is None:
        pytest.skip("Prefect is not installed: pip install 'trioworker[local]'")
    home = tmp_path_factory.mktemp("home")
    answer = subprocess.run(
        [sys.executable, Path(__file__).with_name("prefect_reference.py")],
        input=json.dumps({"environments": ENVIRONMENTS, "configurations": CONFIGURATIONS}),
        env={"HOME": str(home), "PREFECT_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    made: dict[str, list[dict[str, Any]]] = json.loads(answer.stdout)
    return made


def test_environments_are_those_of_prefect(of_prefect: dict[str, list[dict[str, Any]]]) -> None:
    ours = [
        run_environment(
            RUN_ID,
            worker=case["worker"],
            settings=case["settings"],
            attribution=ATTRIBUTION,
            job=case["job"],
            settings_win=case["command"] is not None,
        )
        for case in ENVIRONMENTS
    ]
    assert ours == of_prefect["environments"]


def test_configurations_are_read_and_refused_as_by_prefect(
    of_prefect: dict[str, list[dict[str, Any]]],
) -> None:
    for fields, expected in zip(CONFIGURATIONS, of_prefect["configurations"], strict=True):
        if "refused" in expected:
            with pytest.raises(InfrastructureError, match=f"job configuration: {next(iter(fields))}"):
                read_configuration(fields)
            continue
        made = read_configuration(fields)
        assert (made.command is None) == (expected["command"] is None), fields
        assert made.env == expected["env"], fields
        assert made.stream_output == expected["stream_output"], fields
        expected_directory = expected["working_dir"]
        if expected_directory is None:
            assert made.working_directory is None, fields
        else:
            assert made.working_directory is not None, fields
            assert str(made.working_directory.resolve()) == expected_directory, fields
