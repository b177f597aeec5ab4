"""Finding the runs that somebody wants cancelled."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing
from support import FOREVER, POOL, World

from trioworker.api.errors import APIUnavailableError, ObjectNotFoundError, RequestRefusedError
from trioworker.api.models import FlowRun
from trioworker.cancellation import CancellationWatch, is_orphan
from trioworker.runs.active import ActiveRuns
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def watch(
    world: World, active: ActiveRuns | None = None, queues: tuple[str, ...] = (), orphan_age: float = 0
) -> CancellationWatch:
    return CancellationWatch(
        api=world.api,
        pool_name=POOL,
        queue_names=queues,
        active=active or ActiveRuns(None),
        orphan_age=orphan_age,
    )


def claimed(world: World) -> FlowRun:
    """A run that a worker has claimed, and that somebody wants cancelled."""
    run = world.schedule()
    world.api.set_state(run.id, "Pending")
    world.api.cancel(run.id)
    assert world.states(run)[-1] == "Cancelling"
    return run


def test_run_is_an_orphan_when_it_neither_began_nor_has_a_place() -> None:
    run = FlowRun(id=uuid4(), name="run", flow_id=uuid4())
    assert is_orphan(run)
    assert not is_orphan(FlowRun(id=uuid4(), name="run", flow_id=uuid4(), infrastructure_pid="1001"))


async def test_run_in_hand_is_told(autojump_clock: Clock, world: World) -> None:
    run = claimed(world)
    active = ActiveRuns(None)
    with active.hold(run) as in_hand:
        await watch(world, active).poll()
        assert in_hand.cancel_requested.is_set()
    assert world.states(run)[-1] == "Cancelling"


async def test_run_that_never_began_is_cancelled_here(autojump_clock: Clock, world: World) -> None:
    run = claimed(world)
    await watch(world).poll()
    assert world.states(run)[-1] == "Cancelled"
    assert world.message(run) == "Flow run cancelled by worker (no infrastructure found)."


async def test_orphan_is_given_time_to_turn_out_to_be_none(autojump_clock: Clock, world: World) -> None:
    """The worker that has claimed it shall see for itself, and not launch what is cancelled already."""
    run = claimed(world)
    patient = watch(world, orphan_age=40)
    await patient.poll()
    await trio.sleep(39)
    await patient.poll()
    assert world.states(run)[-1] == "Cancelling"
    await trio.sleep(1)
    await patient.poll()
    assert world.states(run)[-1] == "Cancelled"


async def test_orphan_that_cannot_be_cancelled_keeps_no_run_in_hand_from_being_told(
    autojump_clock: Clock, world: World
) -> None:
    claimed(world)
    run = claimed(world)
    world.api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))
    active = ActiveRuns(None)
    with active.hold(run) as in_hand:
        await watch(world, active).poll()
        assert in_hand.cancel_requested.is_set()


async def test_run_that_runs_elsewhere_is_left_to_its_worker(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.set_state(run.id, "Pending")
    world.api.set_state(run.id, "Running")
    await world.api.set_infrastructure_pid(run.id, "other-host:7")
    world.api.cancel(run.id)
    await watch(world).poll()
    assert world.states(run)[-1] == "Cancelling"


async def test_run_that_began_without_a_known_place_is_left_alone(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.set_state(run.id, "Pending")
    world.api.set_state(run.id, "Running")
    world.api.cancel(run.id)
    await watch(world).poll()
    assert world.states(run)[-1] == "Cancelling"


async def test_run_of_another_queue_is_not_seen(autojump_clock: Clock, world: World) -> None:
    run = claimed(world)
    world.api.add_work_queue(POOL, "urgent")
    await watch(world, queues=("urgent",)).poll()
    assert world.states(run)[-1] == "Cancelling"


async def test_orphan_that_is_deleted_meanwhile_does_not_keep_others_from_being_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    claimed(world)
    other = claimed(world)
    world.api.fail("set_flow_run_state", ObjectNotFoundError("POST", 404, "Flow run not found"))
    await watch(world).poll()
    assert world.states(other)[-1] == "Cancelled"


async def test_worker_polls_for_cancellations_in_their_own_rhythm(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working({"PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "25"}):
        await trio.sleep(60)
    assert world.api.times("find_cancelling_flow_runs") == [0, 25, 50]


async def test_cancellation_is_found_after_an_outage(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working():
        await trio.sleep(5)
        world.api.fail("find_cancelling_flow_runs", APIUnavailableError("gone"), times=3)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    # 20, then 40, 60 and 60 seconds of back-off.
    assert world.now == 180


async def test_run_that_another_worker_prepares_is_not_run_after_its_cancellation(
    autojump_clock: Clock, world: World
) -> None:
    """To the worker that has not claimed it, a run that is being prepared looks like an orphan."""
    run = world.schedule()
    world.api.latencies["read_flow"] = 15
    async with world.working(name="one"):
        await world.api.wait_for_state(run.id, "Pending")
        await trio.sleep(2)
        world.api.cancel(run.id)
        async with world.working(name="two"):
            await trio.sleep(60)
    assert world.states(run)[-1] == "Cancelled"
    assert world.infrastructure.executions == []


async def test_cancellation_is_told_at_once_where_the_api_tells_it(
    autojump_clock: Clock, world: World
) -> None:
    world.api.accept_state_changes()
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working():
        await trio.sleep(33)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.now == 33


async def test_cancellation_that_nothing_told_of_is_found_when_the_connection_is_back(
    autojump_clock: Clock, world: World
) -> None:
    world.api.accept_state_changes()
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working({"PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "100000"}):
        await trio.sleep(33)
        world.api.refuse_state_changes()
        world.api.cancel(run.id)
        await trio.sleep(600)
        world.api.accept_state_changes()
        await world.api.wait_for_state(run.id, "Cancelled")
    assert 633 <= world.now < 800


async def test_cancellations_of_other_workers_runs_cost_no_polls(autojump_clock: Clock, world: World) -> None:
    world.api.accept_state_changes()
    foreign = [world.schedule(at=100_000) for _ in range(50)]
    async with world.working({"PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "100000"}):
        await trio.sleep(33)
        polls = world.api.count("find_cancelling_flow_runs")
        for run in foreign:
            world.api.set_state(run.id, "Pending", force=True)
            world.api.cancel(run.id)
            await trio.sleep(1)
        assert world.api.count("find_cancelling_flow_runs") == polls
