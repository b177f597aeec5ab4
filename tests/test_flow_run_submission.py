"""What a worker tells the world about a run that it is about to start, and what it hears in answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from support import FOREVER, POOL, World

from trioworker.api.errors import RequestRefusedError
from trioworker.api.models import Event, FlowRun
from trioworker.infrastructure.protocol import InfrastructureFullError
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def work(world: World, run: FlowRun, *until: str) -> None:
    async with world.working():
        await world.api.wait_for_state(run.id, *until)


def event(world: World, name: str) -> Event:
    (found,) = [event for event in world.api.events if event.event == name]
    return found


async def test_run_is_submitting_before_it_is_started(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    await work(world, run, "Completed")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]


async def submitting_takes(world: World, run: FlowRun, seconds: float) -> None:
    """Return a second after a run was proposed to be `Submitting`, which takes so long; what follows is quick."""
    await world.api.wait_for_state(run.id, "Pending")
    world.api.latencies["set_flow_run_state"] = seconds
    await trio.sleep(1)
    world.api.latencies.clear()


async def test_run_is_labelled_with_its_worker(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    await work(world, run, "Completed")
    labels = world.api.labels(run.id)
    assert labels["prefect.worker.name"] == "worker"
    assert labels["prefect.worker.type"] == "process"
    assert labels["prefect.work-pool.name"] == POOL
    assert labels["prefect.work-pool.id"] == str(world.api.work_pool(POOL).id)


async def test_labels_wait_until_the_run_has_begun_and_hold_no_slot(
    autojump_clock: Clock, world: World
) -> None:
    first, next_one = world.schedule(Script(seconds=1)), world.schedule(Script(seconds=60))
    world.api.latencies["update_flow_run_labels"] = 20
    async with world.working(limit=1):
        await world.api.wait_for_state(next_one.id, "Running")
        assert "prefect.worker.name" not in world.api.labels(first.id)
        await world.api.wait_for_state(next_one.id, "Completed")
        assert [world.api.labels(run.id)["prefect.worker.name"] for run in (first, next_one)] == [
            "worker"
        ] * 2


async def test_run_that_could_not_be_started_has_no_labels(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(cannot_start=InfrastructureFullError("no more files")))
    async with world.working():
        await world.api.wait_for_state(run.id, "Pending")
        await world.api.wait_for_state(run.id, "Scheduled")
    assert "prefect.worker.name" not in world.api.labels(run.id)


async def test_run_that_cannot_be_labelled_runs_all_the_same(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule()
    refused = RequestRefusedError("PATCH /flow_runs", 422, "no labels today")
    world.api.fail("update_flow_run_labels", refused)
    await work(world, run, "Completed")
    assert "Dropped one of the labels of flow runs, which the API refuses: no labels today" in caplog.messages


async def test_events_tell_that_a_run_was_submitted_and_executed(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(status=3, ends=None))
    await work(world, run, "Crashed")
    submitted = event(world, "prefect.worker.submitted-flow-run")
    executed = event(world, "prefect.worker.executed-flow-run")
    assert executed.follows == submitted.id
    (about,) = [each for each in executed.related if each["prefect.resource.role"] == "flow-run"]
    assert about["prefect.resource.id"] == f"prefect.flow-run.{run.id}"
    assert about["prefect.infrastructure.status-code"] == "3"
    execution = world.infrastructure.execution(run.id)
    assert about["prefect.infrastructure.identifier"] == execution.identifier


async def test_event_tells_that_a_running_run_was_cancelled(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working():
        await trio.sleep(5)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert event(world, "prefect.runner.cancelled-flow-run").resource["prefect.resource.name"] == "standalone"


async def test_run_that_could_not_be_submitted_has_no_events(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(job_variables={"env": "not a mapping"})
    await work(world, run, "Crashed")
    assert not any("flow-run" in event.event for event in world.api.events)


async def test_run_that_is_cancelled_while_it_is_submitted_is_not_started(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    async with world.working():
        await submitting_takes(world, run, 100)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.infrastructure.executions == []


async def test_run_that_is_cancelled_just_before_it_is_submitted_is_not_started(
    autojump_clock: Clock, world: World
) -> None:
    """The server rejects `Submitting` of a run that is being cancelled."""
    run = world.schedule()
    async with world.working():
        await world.api.wait_for_state(run.id, "Pending")
        world.api.latencies["set_flow_run_state"] = 1
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.infrastructure.executions == []
    assert world.states(run) == ["Scheduled", "Pending", "Cancelling", "Cancelled"]


async def test_run_that_is_deleted_before_it_is_submitted_is_not_started(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    async with world.working():
        await submitting_takes(world, run, 2)
        world.api.delete_flow_run(run.id)
        await trio.sleep(60)
    assert world.infrastructure.executions == []


async def test_run_is_given_back_when_the_worker_is_told_to_stop_while_it_is_submitted(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    async with world.working() as worker:
        await submitting_takes(world, run, 5)
        worker.shutdown()
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Scheduled"]


async def test_run_is_given_back_at_the_hard_stop_while_it_is_submitted(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    async with world.working() as worker:
        await submitting_takes(world, run, 1000)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled"]
