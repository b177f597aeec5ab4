"""No more runs are started a second than wanted, and a single one never waits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio
import trio.testing
from support import FOREVER, World

from trioworker.errors import ConfigurationError
from trioworker.launch_rate import LaunchRate
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def starts(rate: LaunchRate, number: int) -> list[float]:
    """When so many starts are allowed, from now."""
    start = trio.current_time()
    times = []
    for _ in range(number):
        await rate.wait()
        times.append(round(trio.current_time() - start, 6))
    return times


async def test_as_many_as_in_a_second_are_allowed_at_once_and_then_one_by_one(autojump_clock: Clock) -> None:
    rate = LaunchRate(4)
    assert await starts(rate, 8) == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1]


async def test_what_was_not_used_is_kept_for_a_second_only(autojump_clock: Clock) -> None:
    rate = LaunchRate(4)
    await starts(rate, 4)
    await trio.sleep(0.5)
    assert await starts(rate, 3) == [0, 0, 0.25]
    await trio.sleep(1000)
    assert await starts(rate, 5) == [0, 0, 0, 0, 0.25]


async def test_less_than_one_a_second_is_one_at_a_time(autojump_clock: Clock) -> None:
    assert await starts(LaunchRate(0.1), 3) == [0, 10, 20]


async def test_any_number_is_allowed_where_there_is_no_limit(autojump_clock: Clock) -> None:
    rate = LaunchRate(math.inf)
    assert rate.within(0) is None
    assert set(await starts(rate, 1000)) == {0}


async def test_no_number_is_too_large(autojump_clock: Clock) -> None:
    assert LaunchRate(1.7e308).within(5) is None


async def test_it_is_known_how_many_are_allowed_soon(autojump_clock: Clock) -> None:
    rate = LaunchRate(4)
    assert [rate.within(0), rate.within(1)] == [4, 8]
    await starts(rate, 4)
    assert [rate.within(0), rate.within(0.5), rate.within(1)] == [0, 2, 4]
    slow = LaunchRate(0.5)
    assert slow.within(1) == 1
    await slow.wait()
    assert slow.within(1) == 0


async def test_who_gives_up_waiting_uses_nothing(autojump_clock: Clock) -> None:
    rate = LaunchRate(1)
    await rate.wait()
    with trio.move_on_after(0.5):
        await rate.wait()
    assert await starts(rate, 1) == [0.5]


# The worker


def started_at(world: World) -> list[float]:
    return sorted(round(execution.started_at, 3) for execution in world.infrastructure.executions)


async def test_single_run_is_not_delayed(autojump_clock: Clock, world: World) -> None:
    async with world.working({"PREFECT_WORKER_QUERY_SECONDS": "1"}, launch_rate=0.5):
        await trio.sleep(99.5)
        run = world.schedule()
        await world.api.wait_for_state(run.id, "Running")
    assert started_at(world) == [100]


async def test_backlog_is_started_at_the_rate_and_claimed_no_sooner(
    autojump_clock: Clock, world: World
) -> None:
    runs = [world.schedule(Script(seconds=FOREVER)) for _ in range(100)]
    async with world.working(launch_rate=10) as worker:
        await trio.sleep(2.95)
        # At once as many as in a second, then ten a second; of those that wait none is claimed, so others are free
        # to take them.
        assert len(started_at(world)) == 39
        claimed = [run for run in runs if world.states(run) != ["Scheduled"]]
        assert len(claimed) == 39
        assert worker.runs_in_hand == 39
        await trio.sleep(10)
        assert len(started_at(world)) == 100
        assert started_at(world)[-1] == pytest.approx(9, abs=0.1)
        worker.stop()
    # About one poll a second while there is a backlog.
    assert world.api.count("get_scheduled_flow_runs") < 15


async def test_backlog_is_started_in_order(autojump_clock: Clock, world: World) -> None:
    runs = [world.schedule(at=-100 + number) for number in range(30)]
    async with world.working(launch_rate=5):
        for run in runs:
            await world.api.wait_for_state(run.id, "Completed")
    order = [execution.assignment.flow_run_id for execution in world.infrastructure.executions]
    claims = sorted(runs, key=lambda run: dict(world.api.history(run.id))["Pending"])
    assert [run.id for run in claims] == [run.id for run in runs]
    assert sorted(order) == sorted(run.id for run in runs)


async def test_slower_than_one_a_second_polls_no_more_often(autojump_clock: Clock, world: World) -> None:
    for _ in range(5):
        world.schedule()
    async with world.working(launch_rate=0.05):
        await trio.sleep(95)
        assert started_at(world) == [0, 20, 40, 60, 80]
        assert world.api.count("get_scheduled_flow_runs") == 10


async def test_only_poll_takes_all_runs_at_the_rate(autojump_clock: Clock, world: World) -> None:
    for _ in range(30):
        world.schedule()
    worker = world.worker(run_once=True, launch_rate=5)
    with trio.fail_after(100):
        await worker.run()
    assert len(started_at(world)) == 30
    assert started_at(world)[-1] == 5


async def test_shutdown_does_not_wait_for_the_rate(autojump_clock: Clock, world: World) -> None:
    for _ in range(50):
        world.schedule()
    async with world.working(launch_rate=1) as worker:
        await trio.sleep(2.5)
        worker.shutdown()
    assert world.now == 3
    assert len(started_at(world)) == 3


@pytest.mark.parametrize("wrong", [0, -1, math.nan, "many"])
async def test_rate_that_cannot_be_right_is_refused(world: World, wrong: float) -> None:
    with pytest.raises(ConfigurationError, match="launch_rate"):
        world.config(launch_rate=wrong)


async def test_processes_have_a_limit_if_nobody_says_so_and_functions_have_none(world: World) -> None:
    assert world.config().effective_launch_rate == 50
    assert world.config(launch_rate=math.inf).effective_launch_rate == math.inf
