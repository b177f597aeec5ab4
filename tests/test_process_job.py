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
        ({"command": ["a", "b"]}, "command must be text, not a list"),
        ({"command": "say 'it"}, "command cannot be split into words: No closing quotation"),
        ({"command": "   "}, "command is blank"),
        ({"working_dir": 7}, "working_dir must be text, not a number"),
        ({"working_dir": "a\0b"}, "working_dir must not have a null character in it"),
        ({"working_dir": "\ud800"}, "working_dir has characters in it that no file name can have"),
        ({"stream_output": "perhaps"}, "stream_output must be true or false, or .* not another string"),
        ({"stream_output": None}, "stream_output must be true or false, or .* not null"),
        ({"env": ["A=1"]}, "env must be a mapping, not a list"),
        ({"env": {7: "x"}}, "env must have text for names, not a number"),
        ({"env": {"A=B": "x"}}, "env has a name that is empty, or has a = or a null character in it"),
        ({"env": {"": "x"}}, "env has a name that is empty"),
        ({"env": {"A": "\0"}}, r"env\.A must not have a null character in it"),
        ({"labels": None}, "labels must be a mapping, not null"),
        ({"labels": {"team": 7}}, r"labels\.team must be text, not a number"),
        ({"name": 7}, "name must be text, not a number"),
    ],
)
def test_wrong_configuration_is_refused_by_the_name_of_the_field(
    configuration: dict[str, Any], message: str
) -> None:
    with pytest.raises(InfrastructureError, match=f"job configuration: {message}"):
        read_configuration(configuration)


@pytest.mark.parametrize(
    "configuration",
    [
        {"command": {"password": "hush"}},
        {"command": "run --token 'hush"},
        {"labels": {"a": {"password": "hush"}}},
        {"labels": "hush"},
        {"working_dir": ["hush"]},
        {"working_dir": "hush\0"},
        {"working_dir": "hush\ud800"},
        {"env": ["hush"]},
        {"env": "hush"},
        {"env": {"KEY=hush": "x"}},
        {"env": {"KEY": "hush\0"}},
        {"stream_output": "hush"},
        {"stream_output": ["hush"]},
        {"name": {"password": "hush"}},
    ],
)
def test_what_is_wrong_is_told_without_the_value(configuration: dict[str, Any]) -> None:
    """A secret block may have put it there, and more people read states than blocks."""
    with pytest.raises(InfrastructureError) as caught:
        read_configuration(configuration)
    assert "hush" not in str(caught.value)


def test_command_is_split_as_a_shell_does() -> None:
    assert read_configuration({"command": "run 'this thing' --now"}).command == ("run", "this thing", "--now")


def test_home_directories_are_not_expanded_as_prefect_does_not_either() -> None:
    assert read_configuration({"working_dir": "~/x"}).working_directory == Path.cwd() / "~" / "x"


def test_env_does_not_show() -> None:
    assert "hush" not in repr(read_configuration({"env": {"KEY": "hush"}, "command": "run hush"}))


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
