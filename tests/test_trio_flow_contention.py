"""Runs of functions that several workers, or people, get hold of, and whose answers get lost. In virtual time."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from flow_support import Stage, sleep_until
from support import World

from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import FlowRun
from trioworker.infrastructure.trio_flows.current import current_flow_run

Clock = trio.testing.MockClock

LOCKED = APIUnavailableError("503 database is locked")


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(World(tmp_path))


@attrs.define
class Calls:
    """When a function was called."""

    world: World
    at: list[float] = attrs.field(factory=list)

    def __call__(self) -> int:
        """Note a call; how many there have been."""
        self.at.append(self.world.now)
        return len(self.at)


# A claim that comes late


@pytest.mark.parametrize("delay", [0, 20])
async def test_retry_that_another_worker_waits_for_is_left_to_it(
    autojump_clock: Clock, stage: Stage, delay: int
) -> None:
    """The first worker's claim is repeated when the second has begun the run, and it has failed."""
    calls = Calls(stage.world)

    @stage.app.flow(retries=1, retry_delay=delay)
    async def work() -> None:
        if calls() == 1:
            raise ValueError
        await trio.sleep(10)

    run = stage.schedule(at=1)
    stage.world.api.fail("set_flow_run_state", LOCKED)
    async with stage.working(name="first", prefetch_seconds=10), stage.working(name="second"):
        await stage.ended(run)
        await trio.sleep(100)
    began = calls.at[0]
    assert calls.at == [began, began + delay]
    assert stage.states(run)[-2:] == ["Running", "Completed"]


async def test_retry_is_not_lost_if_its_worker_leaves_at_the_moment_of_a_late_claim(
    autojump_clock: Clock, stage: Stage
) -> None:
    calls = Calls(stage.world)

    @stage.app.flow(retries=1, retry_delay=20)
    async def work() -> None:
        if calls() == 1:
            raise ValueError

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 10)
        stage.world.api.set_state(run.id, "Pending")
        worker.shutdown()
    await stage.finish(run)
    assert stage.history(run)[-1] == ("Completed", 10)
    assert calls.at == [0, 10]


async def test_end_that_a_refused_claim_has_overwritten_is_put_back(
    autojump_clock: Clock, stage: Stage
) -> None:
    """A claim without a slot has the server put off even a run that has ended, and be run again."""
    called: list[str] = []

    @stage.app.flow()
    async def work(which: str) -> None:
        called.append(which)
        await trio.sleep(0.2 if which == "short" else 60)

    deployment = stage.deployment("work", concurrency_limit=1)
    short = stage.schedule(parameters={"which": "short"})
    stage.world.api.fail("set_flow_run_state", LOCKED)
    async with stage.working(name="first", prefetch_seconds=10), stage.working(name="second") as second:
        await stage.ended(short)
        long = await second.create_flow_run(deployment.id, parameters={"which": "long"})
        await trio.sleep(200)
    assert stage.states(short)[-2:] == ["AwaitingConcurrencySlot", "Completed"]
    assert [name for name, _ in stage.world.api.history(long)][-1] == "Completed"
    assert called == ["short", "long"]


async def test_run_that_waits_for_its_slot_is_left_waiting(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(60)

    stage.deployment("work", concurrency_limit=1)
    runs = [stage.schedule(), stage.schedule()]
    await stage.finish(*runs)
    waited = next(run for run in runs if "AwaitingConcurrencySlot" in stage.states(run))
    assert stage.states(waited)[:3] == ["Scheduled", "AwaitingConcurrencySlot", "AwaitingConcurrencySlot"]
    assert stage.states(waited)[-3:] == ["Pending", "Running", "Completed"]


# A run that somebody has taken away


@pytest.mark.parametrize("stopping", [False, True])
async def test_run_that_was_scheduled_anew_and_begun_by_another_is_left_to_it(
    autojump_clock: Clock, stage: Stage, stopping: bool
) -> None:
    calls = Calls(stage.world)

    @stage.app.flow()
    async def work() -> None:
        calls()
        await trio.sleep(100)

    run = stage.schedule(at=9)
    async with stage.working(name="first", prefetch_seconds=10) as first:
        await sleep_until(stage.world, 1)
        stage.world.api.set_state(run.id, "Scheduled")
        async with stage.working(name="second"):
            await stage.world.api.wait_for_state(run.id, "Running")
            if stopping:
                first.shutdown()
            await stage.ended(run)
    assert calls.at == [1]
    assert stage.history(run)[-2:] == [("Running", 1), ("Completed", 101)]


# Answers that get lost


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_retries_survive_any_number_of_lost_answers(
    autojump_clock: Clock, stage: Stage, lost: int
) -> None:
    calls = Calls(stage.world)

    @stage.app.flow(retries=3, retry_delay=10)
    async def work() -> None:
        await trio.sleep(1)
        if calls() == 1:
            stage.world.api.lose_answer("set_flow_run_state", times=lost)
            raise ValueError

    run = stage.schedule()
    async with stage.working():
        await trio.sleep(300)
    assert len(calls.at) == 2
    assert stage.states(run)[-1] == "Completed"


async def test_retry_survives_a_lost_answer_and_a_hasty_stop(autojump_clock: Clock, stage: Stage) -> None:
    calls = Calls(stage.world)
    api = stage.world.api

    @stage.app.flow(retries=3)
    async def work() -> None:
        if calls() == 1:
            api.lose_answer("set_flow_run_state", times=2)
            raise ValueError

    run = stage.schedule()
    async with stage.working() as worker:
        await api.wait_for_state(run.id, "Failed")
        worker.stop()
    await stage.finish(run)
    assert len(calls.at) == 2
    assert stage.states(run)[-1] == "Completed"


async def test_retry_after_a_lost_answer_finds_its_slot_free(autojump_clock: Clock, stage: Stage) -> None:
    calls = Calls(stage.world)

    @stage.app.flow(retries=1)
    async def work() -> None:
        if calls() == 1:
            stage.world.api.lose_answer("set_flow_run_state")
            raise ValueError

    stage.deployment("work", concurrency_limit=1)
    run = stage.schedule()
    async with stage.working():
        await stage.world.api.wait_for_state(run.id, "Completed")
    assert "AwaitingConcurrencySlot" not in stage.states(run)


# Retries that are left


async def leave_retry(stage: Stage, run: FlowRun) -> None:
    async with stage.working():
        await stage.world.api.wait_for_state(run.id, "AwaitingRetry")


async def test_retry_that_was_left_can_be_cancelled(autojump_clock: Clock, stage: Stage) -> None:
    """Nobody is at the place where it ran to see to that."""

    @stage.app.flow(retries=1, retry_delay=600)
    async def work() -> None:
        raise ValueError

    run = stage.schedule()
    await leave_retry(stage, run)
    stage.world.api.cancel(run.id)
    assert stage.states(run)[-1] == "Cancelled"


async def test_retry_that_was_left_in_a_hurry_is_anybodys_with_its_slot(
    autojump_clock: Clock, stage: Stage
) -> None:
    """What takes it from its worker is a crash, then."""

    @stage.app.flow(retries=1, retry_delay=600)
    async def work() -> None:
        if current_flow_run().attempt == 1:
            raise ValueError

    stage.deployment("work", concurrency_limit=1)
    run = stage.schedule()
    async with stage.working() as worker:
        await stage.world.api.wait_for_state(run.id, "AwaitingRetry")
        stage.world.api.fail("update_flow_run_policy", LOCKED, times=1000)
        worker.stop()
    assert stage.states(run)[-2:] == ["Crashed", "AwaitingRetry"]
    assert stage.world.api.flow_run(run.id).infrastructure_pid is None
    await stage.finish(run)
    assert stage.states(run)[-4:] == ["AwaitingRetry", "Pending", "Running", "Completed"]


# A worker that stops


async def test_nothing_is_begun_after_an_outage_that_a_shutdown_fell_into(
    autojump_clock: Clock, stage: Stage
) -> None:
    calls = Calls(stage.world)

    @stage.app.flow()
    async def work() -> None:
        calls()

    run = stage.schedule(at=9)
    async with stage.working(drain_timeout=30) as worker:
        await sleep_until(stage.world, 5)
        with stage.world.api.outage():
            await sleep_until(stage.world, 15)
            worker.shutdown()
            await sleep_until(stage.world, 18)
    assert calls.at == []
    assert stage.states(run)[-1] == "Scheduled"


async def test_drain_begins_no_further_attempt(autojump_clock: Clock, stage: Stage) -> None:
    calls = Calls(stage.world)

    @stage.app.flow(retries=50)
    async def work() -> None:
        calls()
        await trio.sleep(2)
        raise ValueError

    run = stage.schedule()
    async with stage.working(drain_timeout=20) as worker:
        await sleep_until(stage.world, 1)
        worker.shutdown()
    assert stage.history(run)[-1] == ("AwaitingRetry", 2)
    assert calls.at == [0]
    assert stage.world.api.flow_run(run.id).empirical_policy.retry_type == "reschedule"
