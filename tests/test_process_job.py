"""What is wrong with a job configuration; what is right is in `test_against_prefect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trioworker.infrastructure.process.job import read_configuration
from trioworker.infrastructure.protocol import InfrastructureError


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"command": ["a", "b"]}, r"command must be text, not \['a', 'b'\]"),
        ({"command": "say 'it"}, 'command "say \'it": No closing quotation'),
        ({"command": "   "}, "command is blank"),
        ({"working_dir": 7}, "working_dir must be text, not 7"),
        ({"working_dir": "a\0b"}, "working_dir must not have a null character in it"),
        ({"stream_output": "perhaps"}, "stream_output must be true or false, not 'perhaps'"),
        ({"stream_output": None}, "stream_output must be true or false, not None"),
        ({"env": ["A=1"]}, r"env must be a mapping, not \['A=1'\]"),
        ({"env": {7: "x"}}, "env must have text for names, not 7"),
        ({"env": {"A=B": "x"}}, "env 'A=B' cannot be the name of an environment variable"),
        ({"env": {"": "x"}}, "env '' cannot be the name of an environment variable"),
        ({"env": {"A": "\0"}}, r"env\.A must not have a null character in it"),
        ({"labels": None}, "labels must be a mapping, not None"),
        ({"labels": {"team": 7}}, r"labels\.team must be text, not 7"),
        ({"name": 7}, "name must be text, not 7"),
    ],
)
def test_wrong_configuration_is_refused_by_the_name_of_the_field(
    configuration: dict[str, Any], message: str
) -> None:
    with pytest.raises(InfrastructureError, match=f"job configuration: {message}"):
        read_configuration(configuration)


def test_command_is_split_as_a_shell_does() -> None:
    assert read_configuration({"command": "run 'this thing' --now"}).command == ("run", "this thing", "--now")


def test_home_directories_are_not_expanded_as_prefect_does_not_either() -> None:
    assert read_configuration({"working_dir": "~/x"}).working_directory == Path.cwd() / "~" / "x"


def test_env_does_not_show() -> None:
    assert "hush" not in repr(read_configuration({"env": {"KEY": "hush"}}))


def test_nothing_configured_leaves_all_to_prefect() -> None:
    read = read_configuration({})
    assert read.command is None
    assert read.working_directory is None
    assert read.stream_output is True
    assert dict(read.env) == {}


@pytest.mark.parametrize("command", [None, ""])
def test_empty_command_is_none(command: str | None) -> None:
    assert read_configuration({"command": command}).command is None


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        *((value, True) for value in (True, 1, 1.0, "true", "TRUE", "on", "Yes", "t", "1")),
        *((value, False) for value in (False, 0, 0.0, "false", "off", "N", "f", "0")),
    ],
)
def test_truth_may_be_spelled_in_many_ways(value: object, flag: bool) -> None:
    assert read_configuration({"stream_output": value}).stream_output is flag


@pytest.mark.parametrize("value", [2, 0.5, -1, " true", "1.0", "", [], {}])
def test_what_is_no_truth_is_refused(value: object) -> None:
    with pytest.raises(InfrastructureError, match="stream_output must be true or false"):
        read_configuration({"stream_output": value})


def test_values_of_variables_become_text_and_null_stays() -> None:
    env = {"A": 1, "B": True, "C": None, "D": "x"}
    assert read_configuration({"env": env}).env == {"A": "1", "B": "True", "C": None, "D": "x"}


def test_fields_of_other_kinds_of_infrastructure_are_passed_over() -> None:
    read = read_configuration({"image": "x", "labels": {"team": "red"}, "name": "any"})
    assert read == read_configuration({})
