"""The stub of the API on which commands are dispatched."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import PrefectServer

from benchmarks.apparatus.rest import open_rest
from benchmarks.apparatus.sides import TRIOWORKER, Side
from benchmarks.apparatus.stage import Stage, deploy
from benchmarks.measures.dispatch import dispatch
from benchmarks.report.samples import Samples
from benchmarks.stub.runs import StubRuns

SCHEDULED = {"work_queue_id": "queue", "flow_run": {"id": "pattern", "name": "pattern", "state": None}}
DOCUMENT = {
    "id": "pattern",
    "flow_id": "flow",
    "state": {"id": "state", "type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": "now"}},
}


@pytest.fixture
def runs() -> StubRuns:
    return StubRuns(SCHEDULED, DOCUMENT)


def executed(run: str, at: float, status: str = "0") -> dict[str, object]:
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{run}",
        "prefect.resource.role": "flow-run",
        "prefect.infrastructure.status-code": status,
    }
    return {
        "event": "prefect.worker.executed-flow-run",
        "occurred": datetime.fromtimestamp(at, UTC).isoformat(),
        "related": [{"prefect.resource.role": "flow"}, resource],
    }


def test_nothing_is_due_before_it_is_released(runs: StubRuns) -> None:
    assert runs.due(200, now=1.0) == []
    assert runs.handed_out_at == 0


def test_runs_are_due_until_they_are_claimed(runs: StubRuns) -> None:
    runs.release(3)
    first, second = (entry["flow_run"]["id"] for entry in runs.due(2, now=1.0))
    runs.propose(first, {"type": "PENDING"})
    left = [entry["flow_run"]["id"] for entry in runs.due(200, now=2.0)]
    assert first not in left
    assert second in left
    assert len(left) == 2
    assert runs.handed_out_at == 1.0
    assert not runs.troubles


def test_a_run_is_shown_as_the_server_shows_the_pattern(runs: StubRuns) -> None:
    runs.release(1)
    (entry,) = runs.due(1, now=1.0)
    run = entry["flow_run"]["id"]
    assert entry["work_queue_id"] == "queue"
    assert runs.runs[run].document["flow_id"] == "flow"
    assert runs.runs[run].document["state_id"] == entry["flow_run"]["state_id"]


def test_a_state_has_what_the_worker_has_put_into_it_and_the_time_of_the_schedule(runs: StubRuns) -> None:
    runs.release(1)
    (run,) = runs.runs
    details = {"transition_id": "mine", "scheduled_time": None}
    answer = runs.propose(run, {"type": "PENDING", "name": None, "state_details": details})
    assert answer["status"] == "ACCEPT"
    assert answer["state"]["name"] == "Pending"
    assert answer["state"]["state_details"] == {"scheduled_time": "now", "transition_id": "mine"}


def test_a_run_that_was_submitted_has_completed(runs: StubRuns) -> None:
    runs.release(1)
    (run,) = runs.runs
    runs.propose(run, {"type": "PENDING"})
    runs.propose(run, {"type": "PENDING", "name": "Submitting"})
    names = [state["name"] for state in runs.runs[run].states]
    assert names == ["Late", "Pending", "Submitting", "Running", "Completed"]
    assert runs.runs[run].document["state_type"] == "COMPLETED"
    assert not runs.troubles


def test_what_a_worker_should_not_do_is_noted(runs: StubRuns) -> None:
    runs.release(2)
    one, two = runs.runs
    for _ in range(2):
        runs.propose(one, {"type": "PENDING"})
    runs.propose(two, {"type": "CRASHED", "message": "no reason"})
    runs.note_event(executed(two, 5.0, status="1"))
    assert runs.troubles == [
        f"run {one} was claimed twice",
        f"run {two} was said to be CRASHED: no reason",
        f"run {two} ended with status 1",
    ]


def test_the_time_is_that_from_the_first_poll_to_the_last_execution(runs: StubRuns) -> None:
    runs.release(2)
    one, two = runs.runs
    runs.due(200, now=10.0)
    runs.due(200, now=11.0)
    for event in (executed(one, 12.0), executed(two, 14.0), executed(one, 12.0)):
        runs.note_event(event)
    runs.note_event({"event": "prefect.worker.started"})
    report = json.loads(runs.report())
    assert report["executed"] == 2
    assert report["seconds"] == pytest.approx(4.0)


@pytest.mark.process
async def test_our_worker_dispatches_commands_on_the_stub(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    side = Side(TRIOWORKER, Path(sys.executable), home, f"stub-{tmp_path.name}")
    samples = Samples()
    async with open_rest(prefect_server.url) as rest:
        stage = Stage(rest, tmp_path, {side.name: await deploy(rest, side)})
        await dispatch(stage, side, 5, samples)
    assert samples.of("dispatch_rate_5", "trioworker")[0] > 0
    assert samples.of("dispatch_cpu_5", "trioworker")[0] > 0
    assert samples.of("dispatch_peak_5", "trioworker")[0] > 10
