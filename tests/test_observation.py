"""What a worker shows to the program that it runs in: its status, and what happens, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
import trio
import trio.testing
from flow_support import Stage
from support import FOREVER, POOL, World

from trioworker import (
    APILost,
    APIRegained,
    GaveUpError,
    Happening,
    RunClaimed,
    RunEnd,
    RunFinished,
    RunHappening,
    RunStarted,
    StateType,
    Watch,
    WatchOverflow,
    Worker,
    WorkerPhase,
    WorkerRefusedError,
)
from trioworker.api.errors import RequestRefusedError
from trioworker.api.models import FlowRun
from trioworker.infrastructure.exit_status import exit_message
from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError
from trioworker.observation import run_status
from trioworker.runs.active import ActiveRun
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def rest(watch: Watch) -> list[Happening]:
    """What there is to be told until the worker has stopped, which it has unless a test waits for it here."""
    return [happening async for happening in watch]


@asynccontextmanager
async def watched(world: World, **options: Any) -> AsyncIterator[tuple[Worker, Watch]]:
    """A worker that works for the length of a block, and is watched from its beginning on."""
    worker = world.worker(**options)
    watch = worker.watch()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        yield worker, watch
        worker.shutdown()


def kinds(happenings: Iterable[Happening]) -> list[type[Happening]]:
    return [type(happening) for happening in happenings]


def finish(happenings: Iterable[Happening]) -> RunFinished:
    """How the only run of all ended."""
    (finished,) = [each for each in happenings if isinstance(each, RunFinished)]
    return finished


# What happens


async def test_watch_tells_of_a_run_from_claim_to_end(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=3))
    worker = world.worker()
    watch = worker.watch()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await world.api.wait_for_state(run.id, "Completed")
        worker.shutdown()
    which: dict[str, Any] = {"flow_run_id": run.id, "flow_run_name": run.name, "flow_name": "flow"}
    assert await rest(watch) == [
        RunClaimed(at=world.api.moment(0), **which),
        RunStarted(at=world.api.moment(0), **which, identifier="1001", pid=1001),
        RunFinished(
            at=world.api.moment(3),
            **which,
            end=RunEnd.EXECUTED,
            message=exit_message(0),
            status_code=0,
            state_type=StateType.COMPLETED,
            state_name="Completed",
            seconds=3,
        ),
    ]


async def test_run_is_not_in_hand_any_more_when_its_end_is_told(autojump_clock: Clock, world: World) -> None:
    async with world.working(limit=1) as worker:
        world.schedule(Script(seconds=3), at=15)
        with worker.watch() as watch:
            async for happening in watch:
                if isinstance(happening, RunFinished):
                    break
        assert world.now == 18
        assert worker.status().runs == ()
        assert worker.status().free == 1


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Script(status=3, ends=None), (RunEnd.EXECUTED, 3, "Crashed")),
        (Script(ends="Failed", status=1), (RunEnd.EXECUTED, 1, "Failed")),
        (Script(ends="Suspended"), (RunEnd.EXECUTED, 0, "Suspended")),
        (Script(breaks=ZeroDivisionError("a bug")), (RunEnd.EXECUTED, None, "Completed")),
        (Script(breaks=ZeroDivisionError("a bug"), ends=None), (RunEnd.EXECUTED, None, "Crashed")),
        (Script(cannot_start=InfrastructureError("no such file")), (RunEnd.NOT_STARTED, None, "Crashed")),
        (Script(cannot_start=ZeroDivisionError("a bug")), (RunEnd.NOT_STARTED, None, "Crashed")),
        (Script(cannot_prepare=InfrastructureError("bad field")), (RunEnd.NOT_STARTED, None, "Crashed")),
    ],
)
async def test_end_tells_what_became_of_the_run(
    autojump_clock: Clock, world: World, script: Script, expected: tuple[RunEnd, int | None, str]
) -> None:
    world.schedule(script)
    worker = world.worker(run_once=True)
    watch = worker.watch()
    await worker.run()
    happenings = await rest(watch)
    finished = finish(happenings)
    assert (finished.end, finished.status_code, finished.state_name) == expected
    started = finished.end is RunEnd.EXECUTED
    assert kinds(happenings) == [RunClaimed, *[RunStarted] * started, RunFinished]
    assert finished.message


async def test_end_of_a_run_that_is_cancelled_is_that_of_its_process(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with watched(world) as (worker, watch):
        await trio.sleep(5)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
        worker.shutdown()
        finished = finish(await rest(watch))
    assert (finished.end, finished.status_code) == (RunEnd.EXECUTED, -15)
    assert finished.state_type is StateType.CANCELLED


async def test_run_that_is_cancelled_before_it_is_started_never_was(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    async with watched(world) as (worker, watch):
        await world.api.wait_for_state(run.id, "Pending")
        world.api.latencies["set_flow_run_state"] = 100
        await trio.sleep(1)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
        worker.shutdown()
        happenings = await rest(watch)
    assert kinds(happenings) == [RunClaimed, RunFinished]
    assert finish(happenings).end is RunEnd.NOT_STARTED
    assert finish(happenings).state_type is StateType.CANCELLED


async def test_run_that_is_given_back_says_so_and_may_come_again(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(cannot_start=InfrastructureFullError("no memory")))
    async with watched(world) as (worker, watch):
        await trio.sleep(1)
        world.infrastructure.scripts[run.id] = Script()
        await world.api.wait_for_state(run.id, "Completed")
        worker.shutdown()
        happenings = await rest(watch)
    assert kinds(happenings) == [RunClaimed, RunFinished, RunClaimed, RunStarted, RunFinished]
    first = happenings[1]
    assert isinstance(first, RunFinished)
    assert first.end is RunEnd.GIVEN_BACK
    assert first.state_type is StateType.SCHEDULED
    assert "no memory" in first.message


async def test_run_that_is_deleted_after_its_claim_is_lost(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    async with watched(world) as (worker, watch):
        await world.api.wait_for_state(run.id, "Pending")
        world.api.latencies["set_flow_run_state"] = 1
        await trio.sleep(0.5)
        world.api.delete_flow_run(run.id)
        await trio.sleep(60)
        worker.shutdown()
        happenings = await rest(watch)
    assert kinds(happenings) == [RunClaimed, RunFinished]
    assert finish(happenings).end is RunEnd.LOST


async def test_run_that_another_worker_claims_first_is_not_told_of(
    autojump_clock: Clock, world: World
) -> None:
    world.schedule()
    async with (
        watched(world, name="one") as (one, watch_of_one),
        watched(world, name="two") as (two, watch_of_two),
    ):
        await trio.sleep(60)
        one.shutdown()
        two.shutdown()
        told = [kinds(await rest(watch)) for watch in (watch_of_one, watch_of_two)]
    assert sorted(told, key=len) == [[], [RunClaimed, RunStarted, RunFinished]]


async def test_run_whose_end_the_api_refuses_to_hear_of_is_unsettled(
    autojump_clock: Clock, world: World
) -> None:
    world.schedule(Script(ends=None))
    async with watched(world) as (worker, watch):
        await trio.sleep(0.5)
        refusal = RequestRefusedError("GET /flow_runs", 418, "a teapot")
        world.api.fail("read_flow_run", refusal, times=100)
        await trio.sleep(60)
        worker.shutdown()
        finished = finish(await rest(watch))
    assert finished.end is RunEnd.UNSETTLED
    assert "a teapot" in finished.message


async def test_run_that_is_cut_off_says_so(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=FOREVER))
    worker = world.worker()
    watch = worker.watch()
    with trio.move_on_after(10):
        await worker.run()
    happenings = await rest(watch)
    assert kinds(happenings) == [RunClaimed, RunStarted, RunFinished]
    assert finish(happenings).end is RunEnd.CUT_OFF
    assert finish(happenings).state_type is StateType.CRASHED
    assert finish(happenings).at == world.api.moment(10)


async def test_run_that_is_cut_off_while_the_api_is_away_is_unsettled(
    autojump_clock: Clock, world: World
) -> None:
    world.schedule(Script(seconds=FOREVER))
    worker = world.worker()
    watch = worker.watch()
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            await trio.sleep(9)
            world.api.start_outage()
            await trio.sleep_forever()
    assert finish(await rest(watch)).end is RunEnd.UNSETTLED


@pytest.mark.parametrize("outage", [False, True], ids=["well", "outage"])
@pytest.mark.parametrize("at", [step / 2 for step in range(1, 40)])
async def test_every_claim_has_one_end_whenever_the_worker_is_cancelled(
    autojump_clock: Clock, world: World, at: float, outage: bool
) -> None:
    """With an API that takes its time, the cancellation meets runs at every step of their lives."""
    world.api.latency = 0.7
    for script in (
        Script(seconds=2),
        Script(seconds=FOREVER, start_seconds=1, ignores_terminate=True),
        Script(breaks=ZeroDivisionError("a bug")),
        Script(ends=None, status=1, hook_seconds=3),
        Script(cannot_start=InfrastructureFullError("no memory")),
    ):
        world.schedule(script)
    worker = world.worker()
    watch = worker.watch()
    with trio.move_on_after(at):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            await trio.sleep(at - 0.3)
            if outage:
                world.api.start_outage()
            await trio.sleep_forever()
    unfinished: dict[Any, list[type[Happening]]] = {}
    for happening in await rest(watch):
        if isinstance(happening, RunHappening):
            seen = unfinished.setdefault(happening.flow_run_id, [])
            seen.append(type(happening))
            if isinstance(happening, RunFinished):
                assert unfinished.pop(happening.flow_run_id) in (
                    [RunClaimed, RunFinished],
                    [RunClaimed, RunStarted, RunFinished],
                )
    assert unfinished == {}
    assert worker.status().runs == ()


async def test_watch_tells_when_the_api_is_lost_and_regained(autojump_clock: Clock, world: World) -> None:
    async with watched(world) as (worker, watch):
        await trio.sleep(5)
        with world.api.outage("no connection: refused"):
            await trio.sleep(100)
            assert not worker.status().api_reachable
        await trio.sleep(100)
        assert worker.status().api_reachable
        worker.shutdown()
        lost, regained = await rest(watch)
    assert isinstance(lost, APILost)
    assert lost.reason == "no connection: refused"
    assert isinstance(regained, APIRegained)
    assert regained.at > lost.at
    # From its first failed request to its next good one, which is at the latest a back-off after the outage.
    assert 95 <= regained.seconds <= 200


async def test_watch_from_before_the_start_misses_nothing(autojump_clock: Clock, world: World) -> None:
    world.api.start_outage()
    worker = world.worker()
    watch = worker.watch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(10)
        worker.shutdown()
    (lost,) = await rest(watch)
    assert isinstance(lost, APILost)
    assert lost.at == world.api.moment(0)


async def test_notices_are_what_they_were(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        worker.watch()
        with world.api.outage("no connection: refused"):
            await trio.sleep(100)
        await trio.sleep(100)
    assert (
        "The Prefect API does not answer: no connection: refused. Trying again until it does."
        in world.messages
    )


# Watching


async def test_watch_begins_with_its_call_and_not_with_the_iteration(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working() as worker:
        early = worker.watch()
        world.schedule()
        await trio.sleep(30)
        late = worker.watch()
        worker.shutdown()
        assert len(await rest(early)) == 3
        assert await rest(late) == []


async def test_each_of_several_watches_is_told_everything(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        watches = [worker.watch() for _ in range(3)]
        world.schedule(Script(seconds=3))
        await trio.sleep(1)
        watches[1].close()
        await trio.sleep(30)
        worker.shutdown()
        told = [kinds(await rest(watch)) for watch in watches]
    everything = [RunClaimed, RunStarted, RunFinished]
    assert told == [everything, [], everything]


async def test_slow_watch_is_told_how_much_it_missed_and_where(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        quick, slow = worker.watch(), worker.watch(capacity=2)
        for second in (2, 4):
            world.schedule(Script(seconds=second))
        await trio.sleep(15)
        taken = [await anext(slow) for _ in range(3)]
        last = world.schedule()
        await world.api.wait_for_state(last.id, "Completed")
        worker.shutdown()
        everything, left = await rest(quick), await rest(slow)
    assert len(everything) == 9
    assert taken == [*everything[:2], WatchOverflow(at=everything[2].at, missed=4)]
    assert left == [*everything[6:8], WatchOverflow(at=everything[8].at, missed=1)]


async def test_watch_never_keeps_more_than_its_capacity_and_one(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        watch = worker.watch(capacity=5)
        for second in range(30):
            world.schedule(Script(seconds=second))
        await trio.sleep(60)
        worker.shutdown()
        told = await rest(watch)
    assert len(told) == 6
    (overflow,) = [each for each in told if isinstance(each, WatchOverflow)]
    assert overflow.missed == 90 - 5
    assert told[-1] is overflow


async def test_watch_that_is_left_without_a_taker_holds_nothing_up(
    autojump_clock: Clock, world: World
) -> None:
    runs = [world.schedule(Script(seconds=3)) for _ in range(20)]
    async with world.working() as worker:
        worker.watch(capacity=1)
        for run in runs:
            await world.api.wait_for_state(run.id, "Completed")
        assert world.now == 3


async def test_watch_without_room_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="1 happening or more"):
        world.worker().watch(capacity=0)


async def test_iteration_that_is_cancelled_loses_nothing(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        world.schedule(Script(seconds=3), at=15)
        told: list[Happening] = []
        with worker.watch() as watch:
            while len(told) < 3:
                with trio.move_on_after(0.25):
                    async for happening in watch:
                        told.append(happening)  # noqa: PERF401 - cancelled between two
        assert kinds(told) == [RunClaimed, RunStarted, RunFinished]


async def test_happening_that_waits_is_taken_though_nobody_ever_sleeps(
    autojump_clock: Clock, world: World
) -> None:
    """Each step of the iteration lets others run, and can be cancelled."""
    world.schedule()
    async with watched(world) as (_, watch):
        await trio.sleep(30)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(watch)
        assert scope.cancelled_caught
        assert isinstance(await anext(watch), RunClaimed)


async def test_leaving_the_block_ends_the_iteration_of_another_task(
    autojump_clock: Clock, world: World
) -> None:
    ended = trio.Event()

    async def iterate(watch: Watch) -> None:
        assert await rest(watch) == []
        ended.set()

    async with world.working() as worker, trio.open_nursery() as nursery:
        watch = worker.watch()
        nursery.start_soon(iterate, watch)
        with watch:
            await trio.testing.wait_all_tasks_blocked()
            assert not ended.is_set()
        await trio.testing.wait_all_tasks_blocked()
        assert ended.is_set()


async def test_watch_that_was_closed_may_be_closed_again(autojump_clock: Clock, world: World) -> None:
    watch = world.worker().watch()
    watch.close()
    watch.close()
    assert await rest(watch) == []


# The end of the worker


async def test_iteration_ends_when_the_worker_has_drained(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=15))
    async with watched(world) as (worker, watch):
        await trio.sleep(1)
        worker.shutdown()
        happenings = await rest(watch)
        assert world.now == 15
        assert worker.status().phase is WorkerPhase.STOPPED
    assert isinstance(happenings[-1], RunFinished)


async def refuse(world: World) -> Worker:
    world.api.add_work_pool("push", pool_type="modal:push")
    return world.worker(pool="push")


async def give_up(world: World) -> Worker:
    world.api.start_outage()
    return world.worker({"TRIOWORKER_GIVE_UP_AFTER": "60"})


@pytest.mark.parametrize(("make", "error"), [(refuse, WorkerRefusedError), (give_up, GaveUpError)])
async def test_iteration_ends_when_the_worker_has_failed(
    autojump_clock: Clock, world: World, make: Callable[[World], Any], error: type[Exception]
) -> None:
    worker = await make(world)
    watch = worker.watch()
    with pytest.raises(error):
        await worker.run()
    assert RunFinished not in kinds(await rest(watch))
    assert worker.status().phase is WorkerPhase.STOPPED


async def test_watch_of_a_worker_that_has_stopped_ends_at_once(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        worker.shutdown()
    assert await rest(worker.watch()) == []


async def test_second_run_of_a_worker_ends_no_watch(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=3))
    async with watched(world) as (worker, watch):
        with pytest.raises(RuntimeError):
            await worker.run()
        await trio.sleep(5)
        worker.shutdown()
        assert len(await rest(watch)) == 3


# Status


async def test_status_of_a_worker_that_never_ran(world: World) -> None:
    status = world.worker(limit=3).status()
    assert (status.name, status.pool, status.type) == ("worker", POOL, None)
    assert status.phase is WorkerPhase.STARTING
    assert (status.limit, status.free) == (3, 3)
    assert status.api_reachable
    assert status.runs == ()


def test_status_can_be_asked_for_without_trio(tmp_path: Path) -> None:
    async def make() -> Worker:
        world = World(tmp_path)
        worker = world.worker()
        worker.shutdown()
        await worker.run()
        return worker

    assert trio.run(make).status().phase is WorkerPhase.STOPPED


async def test_status_follows_the_worker_through_its_phases(autojump_clock: Clock, world: World) -> None:
    world.api.latency = 2
    run = world.schedule(Script(seconds=60))
    worker = world.worker(drain_timeout=1000)
    phases = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(1)
        phases.append(worker.status().phase)
        assert worker.status().type is None
        await world.api.wait_for_state(run.id, "Running")
        phases.append(worker.status().phase)
        assert worker.status().type == "process"
        worker.shutdown()
        phases.append(worker.status().phase)
    phases.append(worker.status().phase)
    assert phases == ["starting", "working", "draining", "stopped"]
    assert worker.status().type == "process"


async def test_worker_that_polls_once_drains_from_then_on(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=60))
    worker = world.worker(run_once=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(1)
        assert worker.status().phase is WorkerPhase.DRAINING


async def test_status_shows_the_runs_in_hand(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=60))
    async with world.working(limit=2) as worker:
        await trio.sleep(15)
        later = world.schedule(Script(seconds=FOREVER))
        await trio.sleep(10)
        world.api.cancel(later.id)
        world.infrastructure.scripts[later.id] = Script()
        before = worker.status()
        await trio.sleep(20)
    first, second = before.runs
    assert (first.flow_run_id, first.flow_run_name, first.flow_name) == (run.id, run.name, "flow")
    assert first.age == 25
    assert first.claimed
    assert (first.identifier, first.pid) == ("1001", 1001)
    assert not first.cancelling
    assert (second.flow_run_id, second.age) == (later.id, 5)
    assert (before.limit, before.free) == (2, 0)


async def test_status_shows_what_is_being_claimed_and_cancelled(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    world.api.latencies["read_flow"] = 5
    async with world.working() as worker:
        await trio.sleep(1)
        (being_claimed,) = worker.status().runs
        await world.api.wait_for_state(run.id, "Running")
        (running,) = worker.status().runs
        world.api.cancel(run.id)
        await trio.sleep(25)
        (being_cancelled,) = worker.status().runs
    assert (being_claimed.claimed, being_claimed.identifier, being_claimed.pid) == (False, None, None)
    assert being_claimed.flow_name is None
    assert (running.claimed, running.cancelling, running.pid) == (True, False, 1001)
    assert being_cancelled.cancelling


async def test_status_is_a_snapshot(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=60))
    async with world.working() as worker:
        await trio.sleep(1)
        before = worker.status()
        await trio.sleep(1)
        after = worker.status()
        assert (before.runs[0].age, after.runs[0].age) == (1, 2)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            before.limit = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("identifier", "pid"),
    [
        ("1234", 1234),
        ("1234:0b8c7a52-5a0c-4f9c-9a2e-5e6f6f0c9d11", 1234),
        ("4194304:", 4194304),
        ("4f0c9d118a3e", None),
        ("123456789012", None),
        ("cluster:namespace:job", None),
        ("host:1234", None),
        ("١٢٣", None),
        ("", None),
    ],
)
async def test_process_id_is_read_from_the_identifier(identifier: str, pid: int | None) -> None:
    run = ActiveRun(FlowRun(id=uuid4(), name="red-fox", flow_id=uuid4()))
    run.note_start(identifier)
    assert run_status(run).pid == pid
    assert run_status(run).identifier == identifier


# Functions, which nobody can end


@pytest.fixture
async def stage(world: World) -> Stage:
    """With a function that has 500 seconds of shielded clean-up."""
    stage = Stage(world)

    @stage.app.flow()
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(500)

    return stage


async def refuse_cancelled_of(stage: Stage, run: FlowRun) -> float:
    """Have a run cancelled whose clean-up does not end in time; returns when that was, in seconds."""
    await stage.world.api.wait_for_state(run.id, "Running")
    cancelled_at = stage.world.now
    stage.world.api.cancel(run.id)
    await trio.sleep(29)
    stage.world.api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))
    return cancelled_at


async def test_function_keeps_its_slot_though_the_api_refuses_to_hear_of_its_end(
    autojump_clock: Clock, stage: Stage
) -> None:
    run = stage.schedule()
    worker = stage.worker(limit=1)
    watch = worker.watch()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        # Some time after the first poll for cancellations, so that the next one need not keep its distance.
        await trio.sleep(1)
        cancelled_at = await refuse_cancelled_of(stage, run)
        await trio.sleep(300)
        assert worker.status().free == 0
        await trio.sleep(300)
        assert worker.status().free == 1
        worker.shutdown()
    finished, taken_up = [each for each in await rest(watch) if isinstance(each, RunFinished)]
    assert finished.end is RunEnd.UNSETTLED
    assert finished.at == stage.world.api.moment(cancelled_at + 500)
    # Looked at once more before long, when the API does not refuse any more.
    assert (taken_up.end, taken_up.state_name) == (RunEnd.EXECUTED, "Cancelled")


async def test_worker_that_is_stopped_waits_for_no_clean_up_to_settle_what_the_api_has_refused(
    autojump_clock: Clock, stage: Stage
) -> None:
    run = stage.schedule()
    worker = stage.worker(limit=1)
    watch = worker.watch()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await refuse_cancelled_of(stage, run)
        await trio.sleep(60)
        worker.stop()
        stopped_at = stage.world.now
    finished = finish(await rest(watch))
    assert finished.at == stage.world.api.moment(stopped_at)
    assert finished.end is not RunEnd.UNSETTLED
