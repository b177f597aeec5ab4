"""The benchmark reports nothing when something went wrong: a worker that fails its runs may well be quick."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from benchmark_support import samples_of

from benchmarks.apparatus.rest import StateSeen
from benchmarks.apparatus.verdicts import expect, seconds_between
from benchmarks.command import main
from benchmarks.failures import FailedRunError
from benchmarks.plan import Plan
from benchmarks.progress import Progress
from benchmarks.report.samples import Samples

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def history(*names: str) -> list[StateSeen]:
    return [
        StateSeen(name, name.upper(), BEGIN + timedelta(seconds=place)) for place, name in enumerate(names)
    ]


WELL = history("Scheduled", "Pending", "Submitting", "Running", "Completed")


def test_a_run_that_was_claimed_once_and_ran_once_went_well() -> None:
    expect("trioworker", "run 3 of the burst", WELL, "Completed")


@pytest.mark.parametrize(
    "states",
    [
        history("Scheduled", "Pending", "Running", "Failed"),
        history("Scheduled", "Pending", "Running", "Crashed"),
        history("Scheduled", "Pending", "Running"),
        history("Scheduled", "Pending", "Running", "Pending", "Running", "Completed"),
        history("Scheduled", "Pending", "Pending", "Running", "Completed"),
        history("Scheduled", "Pending", "Completed"),
        history(),
    ],
)
def test_any_other_run_is_a_failure_that_names_side_run_and_states(states: list[StateSeen]) -> None:
    with pytest.raises(FailedRunError, match=r"^trioworker failed run 3 of the burst: ") as failure:
        expect("trioworker", "run 3 of the burst", states, "Completed")
    assert all(state.name in str(failure.value) for state in states)


def test_a_cancelled_run_has_to_end_cancelled() -> None:
    states = history("Scheduled", "Pending", "Running", "Cancelling", "Cancelled")
    expect("prefect", "cancellation 1", states, "Cancelled")
    with pytest.raises(FailedRunError):
        expect("prefect", "cancellation 1", WELL, "Cancelled")


def test_times_are_those_of_the_first_state_of_a_name() -> None:
    assert seconds_between(history("Scheduled", "Pending", "Running", "Running"), "Scheduled", "Running") == 2


async def failing(plan: Plan, pythons: dict[str, Path], directory: Path, progress: Progress) -> Samples:
    progress.step("something was measured")
    expect(
        "prefect", "run 7 of the burst of round 2", history("Scheduled", "Pending", "Crashed"), "Completed"
    )
    raise AssertionError


async def interrupted(plan: Plan, pythons: dict[str, Path], directory: Path, progress: Progress) -> Samples:
    os.kill(os.getpid(), signal.SIGINT)
    await trio.sleep_forever()
    raise AssertionError


async def measured(plan: Plan, pythons: dict[str, Path], directory: Path, progress: Progress) -> Samples:
    await trio.lowlevel.checkpoint()
    return samples_of(first_poll=([2.5], [0.25]))


def test_a_failed_run_leaves_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path)], failing) == 1
    assert list(tmp_path.iterdir()) == []
    told = capsys.readouterr()
    assert told.out == ""
    assert "Nothing to report: prefect failed run 7 of the burst of round 2" in told.err


def test_a_failed_run_leaves_an_earlier_report_as_it_is(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path)], measured) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["--output", str(tmp_path)], failing) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupted_it_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path)], interrupted) == 130
    assert list(tmp_path.iterdir()) == []
    assert "Interrupted" in capsys.readouterr().err


def test_what_was_measured_is_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--output", str(tmp_path)], measured) == 0
    assert "exec to first poll" in capsys.readouterr().out
    assert (tmp_path / "RESULTS.md").exists()
