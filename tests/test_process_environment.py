"""Which layer of a run's environment wins; that Prefect's do likewise is in `test_against_prefect`."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest

from trioworker.infrastructure.process.environment import run_environment

RUN_ID = UUID(int=1)

OWN = {
    "PREFECT__FLOW_RUN_ID": str(RUN_ID),
    "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
}


def environment(settings_win: bool, **layers: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a run; layers that are not given are empty."""
    every = {"worker": {}, "settings": {}, "attribution": {}, "job": {}, **layers}
    return run_environment(RUN_ID, settings_win=settings_win, **every)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings_win", [False, True])
def test_run_knows_which_one_it_is_and_leaves_its_hooks_to_the_worker(settings_win: bool) -> None:
    other = dict.fromkeys(OWN, "other")
    assert environment(settings_win) == OWN
    assert environment(settings_win, worker=other, settings=other, attribution=other, job=other) == OWN


@pytest.mark.parametrize(
    ("layers", "settings_win", "winner"),
    [
        (("worker", "settings"), False, "settings"),
        (("worker", "settings"), True, "settings"),
        (("worker", "attribution"), False, "attribution"),
        (("worker", "attribution"), True, "attribution"),
        (("attribution", "job"), False, "job"),
        (("attribution", "job"), True, "job"),
        (("settings", "attribution"), False, "attribution"),
        (("settings", "attribution"), True, "settings"),
        (("worker", "settings", "attribution", "job"), False, "job"),
        (("worker", "settings", "attribution", "job"), True, "settings"),
    ],
)
def test_of_layers_that_name_the_same_variable_one_wins(
    layers: tuple[str, ...], settings_win: bool, winner: str
) -> None:
    said = environment(settings_win, **{layer: {"A": layer} for layer in layers})
    assert said == {**OWN, "A": winner}


@pytest.mark.parametrize("settings_win", [False, True])
def test_layers_add_to_each_other(settings_win: bool) -> None:
    layers = {"worker": {"A": "1"}, "settings": {"B": "2"}, "attribution": {"C": "3"}, "job": {"D": "4"}}
    assert environment(settings_win, **layers) == {**OWN, "A": "1", "B": "2", "C": "3", "D": "4"}


@pytest.mark.parametrize("settings_win", [False, True])
@pytest.mark.parametrize("layer", ["worker", "settings"])
def test_null_of_the_job_takes_away_neither_what_the_worker_has_nor_the_settings(
    settings_win: bool, layer: str
) -> None:
    said = environment(settings_win, **{layer: {"A": "kept"}}, job={"A": None, "B": None})
    assert said == {**OWN, "A": "kept"}


@pytest.mark.parametrize("settings_win", [False, True])
def test_null_of_the_job_takes_attribution_away(settings_win: bool) -> None:
    said = environment(settings_win, attribution={"A": "of attribution", "B": "stays"}, job={"A": None})
    assert said == {**OWN, "B": "stays"}


@pytest.mark.parametrize("layer", ["worker", "settings", "job"])
def test_control_channel_of_another_run_is_none_of_its_business(layer: str) -> None:
    """A worker may itself have been started by a run."""
    channel = {"PREFECT__CONTROL_PORT": "1", "PREFECT__CONTROL_TOKEN": "token"}
    assert environment(False, **{layer: channel}) == OWN


def test_no_layer_is_changed() -> None:
    worker = {"A": "1", "PREFECT__CONTROL_PORT": "1"}
    job = {"A": None, "B": "2"}
    environment(True, worker=worker, job=job)
    assert worker == {"A": "1", "PREFECT__CONTROL_PORT": "1"}
    assert job == {"A": None, "B": "2"}
