"""How soon runs are taken in hand, and how few polls that takes: over the fake API, in virtual time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio
import trio.testing
from support import FOREVER, POOL, World, settle

from trioworker.api.errors import APIUnavailableError, RequestRefusedError
from trioworker.api.models import FlowRun, ProposedState, StateType
from trioworker.infrastructure.protocol import InfrastructureFullError
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """One whose API tells of state changes."""
    world = World(tmp_path)
    world.api.accept_state_changes()
    return world


def polls(world: World) -> list[float]:
    return world.api.times("get_scheduled_flow_runs")


def polls_between(world: World, begin: float, end: float) -> int:
    return sum(begin <= at < end for at in polls(world))


def claimed(world: World, run: FlowRun) -> list[float]:
    return [at for name, at in world.api.history(run.id) if name == "Pending"]


def due(world: World, run: FlowRun) -> float:
    return world.api.history(run.id)[0][1]


def started(world: World) -> list[float]:
    return [each.started_at for each in world.infrastructure.executions]


async def until(world: World, moment: float) -> None:
    await trio.sleep(moment - world.now)


# Told by the websocket


async def test_run_starts_when_it_is_scheduled(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await until(world, 3)
        run = world.schedule()
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.history(run.id)[1:4] == [("Pending", 3), ("Submitting", 3), ("Running", 3)]


async def test_one_poll_is_enough_for_one_run(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await until(world, 2)
        world.schedule()
        await until(world, 9)
    assert polls_between(world, 1, 9) == 1


async def test_run_that_is_created_by_the_worker_itself_takes_one_poll(
    autojump_clock: Clock, world: World
) -> None:
    world.api.latencies["create_flow_run"] = 0.5
    async with world.working() as worker:
        await until(world, 2)
        run_id = await worker.create_flow_run(world.deployment.id)
        await world.api.wait_for_state(run_id, "Completed")
    assert polls_between(world, 1, 9) == 1


async def test_interval_begins_anew_with_an_early_poll(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await until(world, 7)
        world.schedule()
        await until(world, 28)
    assert [at for at in polls(world) if at > 1] == [7, 17, 27]


async def test_thousand_changes_within_a_second_make_a_handful_of_polls(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await until(world, 2)
        for _ in range(1000):
            world.api.set_state(world.schedule().id, "Pending")
            await trio.sleep(0.001)
        await until(world, 8)
    assert polls_between(world, 2, 8) <= 8


async def test_two_hundred_runs_within_a_second_take_a_handful_of_polls(
    autojump_clock: Clock, world: World
) -> None:
    runs = []
    async with world.working(launch_rate=math.inf):
        await until(world, 2)
        for _ in range(200):
            runs.append(world.schedule(Script(seconds=1)))
            await trio.sleep(0.005)
        await until(world, 8)
    assert {world.states(run)[-1] for run in runs} == {"Completed"}
    assert polls_between(world, 2, 8) <= 8
    assert max(claimed(world, run)[0] - due(world, run) for run in runs) <= 0.2


async def test_stream_of_runs_for_others_makes_no_more_than_a_poll_a_second(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await until(world, 2)
        for _ in range(600):
            run = world.schedule()
            world.api.set_state(run.id, "Pending")
            await trio.sleep(0.1)
    assert polls_between(world, 2, 62) <= 66


async def test_stream_of_runs_for_this_worker_makes_no_more_than_five_polls_a_second(
    autojump_clock: Clock, world: World
) -> None:
    runs = []
    async with world.working():
        await until(world, 2)
        for _ in range(200):
            runs.append(world.schedule())
            await trio.sleep(0.06)
        await until(world, 16)
    assert polls_between(world, 2, 14) <= 5 * 12 + 4
    assert max(claimed(world, run)[0] - due(world, run) for run in runs) <= 0.2 + 1e-6


async def test_runs_that_come_one_after_the_other_wait_for_nothing(
    autojump_clock: Clock, world: World
) -> None:
    runs = []
    async with world.working():
        await until(world, 2)
        for _ in range(40):
            runs.append(world.schedule())
            await trio.sleep(0.25)
    assert max(claimed(world, run)[0] - due(world, run) for run in runs) == 0


async def test_run_that_comes_after_a_stream_waits_for_nothing(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await until(world, 2)
        for _ in range(100):
            world.api.set_state(world.schedule().id, "Pending")
            await trio.sleep(0.01)
        await until(world, 6)
        run = world.schedule()
        await settle()
        assert claimed(world, run) == [6]


async def test_run_that_is_scheduled_during_a_poll_and_found_by_it_takes_no_other(
    autojump_clock: Clock, world: World
) -> None:
    world.api.latencies["get_scheduled_flow_runs"] = 1
    async with world.working():
        await until(world, 3)
        first = world.schedule()
        await trio.sleep(0.5)
        second = world.schedule()
        await until(world, 9)
    assert (claimed(world, first), claimed(world, second)) == ([4], [4])
    assert polls_between(world, 2, 9) == 1


async def test_run_that_is_told_before_it_is_shown_is_looked_for_once_more(
    autojump_clock: Clock, world: World
) -> None:
    """An event may come before the transaction that it tells of."""
    async with world.working() as worker:
        await until(world, 3)
        world.api.pause_work_pool(POOL)
        run = world.schedule()
        await trio.sleep(0.01)
        world.api.pause_work_pool(POOL, paused=False)
        await until(world, 5)
        assert worker.runs_in_hand == 0
    assert claimed(world, run)[0] < 3.1


async def test_queue_that_is_not_served_makes_no_polls(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_queue(POOL, "urgent")
    urgent = world.api.add_deployment("flow", POOL, name="u", queue_name="urgent")
    async with world.working(queues=("urgent",)):
        await until(world, 2)
        world.schedule()
        await until(world, 4)
        run = world.api.schedule(urgent)
        await until(world, 6)
    assert polls_between(world, 2, 6) == 1
    assert claimed(world, run) == [4]


async def test_each_connecting_is_followed_by_a_poll_of_each_kind(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await until(world, 103)
        world.api.refuse_state_changes()
        missed = world.schedule()
        world.api.accept_state_changes()
        await until(world, 108)
    (connected,) = (at for at in world.api.times("open_state_changes") if at > 1)
    assert 104 <= connected < 107
    assert connected in polls(world)
    assert connected in world.api.times("find_cancelling_flow_runs")
    assert claimed(world, missed) == [connected]


async def test_thousand_cancellations_within_a_second_make_a_handful_of_polls(
    autojump_clock: Clock, world: World
) -> None:
    # They are still in hand when they are cancelled once more.
    runs = [world.schedule(Script(seconds=FOREVER, ignores_terminate=True)) for _ in range(100)]
    async with world.working():
        await until(world, 2)
        for _ in range(10):
            for run in runs:
                world.api.set_state(run.id, "Cancelling", force=True)
                await trio.sleep(0.001)
        await until(world, 60)
    polled = [at for at in world.api.times("find_cancelling_flow_runs") if 2 <= at < 9]
    assert 1 <= len(polled) <= 8
    assert {world.states(run)[-1] for run in runs} == {"Cancelled"}


# Switched off


@pytest.mark.parametrize(
    ("values", "options"), [({}, {"websocket": False}), ({"TRIOWORKER_WEBSOCKET": "false"}, {})]
)
async def test_websocket_that_is_switched_off_is_never_opened(
    autojump_clock: Clock, world: World, values: dict[str, str], options: dict[str, bool]
) -> None:
    async with world.working(values, **options):
        await until(world, 3)
        run = world.schedule(Script(seconds=FOREVER))
        await world.api.wait_for_state(run.id, "Running")
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
        await until(world, 1000)
    assert world.api.count("open_state_changes") == 0
    assert claimed(world, run) == [10]
    assert dict(world.api.history(run.id))["Cancelled"] == 20


async def test_option_wins_over_the_setting(autojump_clock: Clock, world: World) -> None:
    async with world.working({"TRIOWORKER_WEBSOCKET": "false"}, websocket=True):
        await until(world, 1)
    assert world.api.count("open_state_changes") == 1


# Free slots, full pages


async def test_free_slot_is_taken_at_once(autojump_clock: Clock, world: World) -> None:
    for _ in range(3):
        world.schedule(Script(seconds=3))
    async with world.working(limit=1):
        await until(world, 9.5)
    assert started(world) == [0, 3, 6]


async def test_free_slot_makes_no_poll_if_nothing_was_left_behind(
    autojump_clock: Clock, world: World
) -> None:
    for _ in range(3):
        world.schedule(Script(seconds=3))
    async with world.working(websocket=False, limit=4):
        await until(world, 9.5)
    assert polls(world) == [0]


async def test_free_slot_of_a_pool_with_a_limit_is_taken_at_once(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_pool(POOL, concurrency_limit=1)
    world.deployment = world.api.add_deployment("flow", POOL)
    for _ in range(3):
        world.schedule(Script(seconds=3))
    async with world.working():
        await until(world, 9.5)
    assert started(world) == [0, 3, 6]


async def test_run_that_is_scheduled_while_all_slots_are_taken_is_polled_for_when_one_is_free(
    autojump_clock: Clock, world: World
) -> None:
    world.schedule(Script(seconds=5))
    async with world.working(limit=1):
        await until(world, 2)
        for _ in range(100):
            world.schedule(Script(seconds=1))
        await until(world, 9.5)
    assert polls_between(world, 1, 5) == 0
    assert started(world)[:3] == [0, 5, 6]


@pytest.mark.parametrize("limit", [None, 1000])
async def test_full_page_is_followed_by_the_next_one(
    autojump_clock: Clock, world: World, limit: int | None
) -> None:
    for _ in range(220):
        world.schedule(Script(seconds=FOREVER))
    async with world.working(limit=limit, launch_rate=math.inf, drain_timeout=0):
        await trio.sleep(0.5)
        assert len(world.infrastructure.running) == 220
    assert 2 <= len(polls(world)) <= 6


async def test_full_page_that_nothing_can_be_taken_from_is_no_reason_to_poll_again(
    autojump_clock: Clock, world: World
) -> None:
    """The server lists runs until their claim has arrived."""
    for _ in range(210):
        world.schedule()
    world.api.latencies["set_flow_run_state"] = 100
    async with world.working(launch_rate=math.inf, drain_timeout=1000):
        await until(world, 35)
    assert len(polls(world)) <= 6


# Runs of the future


@pytest.mark.parametrize("due", [4, 10, 16, 25.5, 100])
@pytest.mark.parametrize("websocket", [True, False])
async def test_run_of_the_future_is_taken_when_it_is_due(
    autojump_clock: Clock, world: World, due: float, websocket: bool
) -> None:
    run = world.schedule(at=due)
    async with world.working(websocket=websocket):
        await world.api.wait_for_state(run.id, "Completed")
    assert dict(world.api.history(run.id))["Pending"] == pytest.approx(due)


async def test_run_of_a_schedule_is_taken_when_it_is_due(autojump_clock: Clock, world: World) -> None:
    deployment = world.api.add_deployment("flow", POOL, name="each minute", schedules=[{"interval": 60}])
    async with world.working():
        await until(world, 301)
    times = [claimed(world, run) for run in world.api.flow_runs if run.deployment_id == deployment.id]
    assert [at for (at,) in times if at] == pytest.approx([60, 120, 180, 240, 300])


async def test_run_of_the_future_costs_one_poll_at_its_time(autojump_clock: Clock, world: World) -> None:
    world.schedule(at=14)
    async with world.working(websocket=False):
        await until(world, 33)
    assert polls(world) == pytest.approx([0, 10, 14, 24])


async def test_run_that_is_put_off_does_not_start_early(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(at=5)
    async with world.working(websocket=False):
        await until(world, 4)
        await reschedule(world, run, 31)
        await world.api.wait_for_state(run.id, "Completed")
    assert claimed(world, run) == pytest.approx([31])


async def test_run_that_is_put_forward_starts_at_once(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(at=500)
    async with world.working():
        await until(world, 12)
        await reschedule(world, run, 12)
        await world.api.wait_for_state(run.id, "Completed")
    assert claimed(world, run) == [12]


async def test_run_that_others_have_taken_before_its_time_is_theirs(
    autojump_clock: Clock, world: World
) -> None:
    taken, deleted = world.schedule(at=5), world.schedule(at=6)
    async with world.working():
        await until(world, 4)
        world.api.set_state(taken.id, "Pending")
        world.api.delete_flow_run(deleted.id)
        await until(world, 9)
    assert world.infrastructure.executions == []
    assert world.api.count("set_flow_run_state") == 0


async def test_run_of_the_future_takes_no_slot(autojump_clock: Clock, world: World) -> None:
    later = world.schedule(at=8)
    async with world.working(limit=1) as worker:
        await until(world, 1)
        assert worker.status().free == 1
        now = world.schedule(Script(seconds=3))
        await until(world, 9.5)
    assert claimed(world, now) == [1]
    assert claimed(world, later) == pytest.approx([8])


async def test_time_that_passes_while_all_slots_are_taken_makes_no_poll(
    autojump_clock: Clock, world: World
) -> None:
    world.schedule(Script(seconds=7))
    later = world.schedule(at=4)
    async with world.working(websocket=False, limit=1):
        await until(world, 9)
    assert polls(world) == [0, 7]
    assert claimed(world, later) == [7]


async def reschedule(world: World, run: FlowRun, at: float) -> None:
    state = ProposedState(type=StateType.SCHEDULED, name="Scheduled", scheduled_time=world.api.moment(at))
    await world.api.set_flow_run_state(run.id, state)


@pytest.mark.parametrize("pool_limit", [None, 30])
async def test_urgent_runs_of_the_future_do_not_hide_those_that_are_due(
    autojump_clock: Clock, world: World, pool_limit: int | None
) -> None:
    """The server lists by priority first, so they may fill the page, or all that the pool's limit lets it list."""
    if pool_limit is not None:
        world.api.add_work_pool(POOL, concurrency_limit=pool_limit)
        world.deployment = world.api.add_deployment("flow", POOL)
    world.api.add_work_queue(POOL, "urgent", priority=1)
    urgent = world.api.add_deployment("flow", POOL, name="urgent", queue_name="urgent")
    soon = [world.api.schedule(urgent, at=12) for _ in range(60)]
    due = [world.schedule(Script(seconds=1)) for _ in range(3)]
    async with world.working(limit=10):
        await until(world, 2)
        assert [claimed(world, run) for run in due] == [[0], [0], [0]]
        await until(world, 60)
    assert min(claimed(world, run)[0] for run in soon) == pytest.approx(12)
    assert {world.states(run)[-1] for run in soon} == {"Completed"}


# A prefetch


@pytest.mark.parametrize(
    ("values", "options"),
    [({}, {"prefetch_seconds": 7}), ({"PREFECT_WORKER_PREFETCH_SECONDS": "7"}, {})],
)
async def test_prefetch_that_is_set_counts(
    autojump_clock: Clock, world: World, values: dict[str, str], options: dict[str, float]
) -> None:
    run = world.schedule(at=16)
    async with world.working(values, **options):
        await world.api.wait_for_state(run.id, "Completed")
    history = dict(world.api.history(run.id))
    # The poll that follows the connecting of the websocket is 0.05 s after the first, and the regular ones go by it.
    assert (history["Pending"], history["Running"]) == (10.05, 16.05)
    assert world.api.calls[0].at == 0


async def test_only_poll_takes_runs_as_far_ahead_as_prefects(autojump_clock: Clock, world: World) -> None:
    """There is no later one, which could take them when they are due."""
    soon, later = world.schedule(at=9), world.schedule(at=11)
    await world.worker(run_once=True).run()
    assert world.states(soon)[-1] == "Completed"
    assert world.states(later) == ["Scheduled"]


# Clocks that differ


@pytest.mark.parametrize("skew", [-15, -3, -0.3])
async def test_run_does_not_wait_for_a_clock_that_is_slow(
    autojump_clock: Clock, world: World, skew: float
) -> None:
    world.skew = skew
    world.api.latency = 0.01
    async with world.working():
        await until(world, 22)
        now = world.schedule()
        later = world.schedule(at=40)
        await world.api.wait_for_state(later.id, "Completed")
    assert claimed(world, now) == pytest.approx([22], abs=0.1)
    assert claimed(world, later) == pytest.approx([40], abs=0.1)


@pytest.mark.parametrize("skew", [0.3, 3, 15])
async def test_run_does_not_begin_early_by_a_clock_that_is_fast(
    autojump_clock: Clock, world: World, skew: float
) -> None:
    world.skew = skew
    world.api.latency = 0.01
    first = world.schedule(at=26)
    async with world.working():
        await world.api.wait_for_state(first.id, "Completed")
        # By now it is known what the clocks differ.
        world.schedule()
        second = world.schedule(at=70)
        await world.api.wait_for_state(second.id, "Completed")
    assert dict(world.api.history(first.id))["Running"] >= 26 - 0.5
    assert claimed(world, second) == pytest.approx([70], abs=0.1)


async def test_clock_that_is_set_right_is_believed_again(autojump_clock: Clock, world: World) -> None:
    world.skew = -5
    world.api.latency = 0.01
    async with world.working():
        await until(world, 12)
        world.schedule()
        await until(world, 15)
        world.skew = 0
        await until(world, 20)
        world.schedule()
        await until(world, 25)
        later = world.schedule(at=40)
        await world.api.wait_for_state(later.id, "Completed")
    assert claimed(world, later) == pytest.approx([40], abs=0.1)


@pytest.mark.parametrize("websocket", [True, False])
@pytest.mark.parametrize("jump", [-86_400.0, -3600.0, -30.0])
async def test_run_does_not_wait_for_a_clock_that_was_set_back(
    autojump_clock: Clock, world: World, jump: float, *, websocket: bool
) -> None:
    """By that clock no run is due for a long time, so none is listed that could tell the right time."""
    world.api.latency = 0.01
    async with world.working(websocket=websocket):
        await until(world, 102)
        world.skew = jump
        await until(world, 103)
        now = world.schedule()
        later = world.schedule(at=150)
        await world.api.wait_for_state(later.id, "Completed")
    interval = 10
    assert claimed(world, now)[0] <= 103 + (0.2 if websocket else 2 * interval)
    assert claimed(world, later) == pytest.approx([150], abs=0.1)


@pytest.mark.parametrize("jump", [30.0, 3600.0, 86_400.0])
async def test_run_does_not_begin_early_by_a_clock_that_was_set_forward(
    autojump_clock: Clock, world: World, jump: float
) -> None:
    world.api.latency = 0.01
    async with world.working():
        await until(world, 102)
        world.skew = jump
        await until(world, 103)
        later = world.schedule(at=150)
        far = world.schedule(at=1000)
        await world.api.wait_for_state(far.id, "Completed")
    assert claimed(world, later) == pytest.approx([150], abs=0.6)
    assert claimed(world, far) == pytest.approx([1000], abs=0.6)
    assert dict(world.api.history(far.id))["Running"] >= 1000 - 0.5


# What it costs


async def test_idle_hour_takes_no_more_requests_than_polling_alone(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await until(world, 3600)
    assert len(polls(world)) <= 3600 / 10 + 2
    assert world.api.count("find_cancelling_flow_runs") <= 3600 / 20 + 2
    assert world.api.count("send_worker_heartbeat") <= 3600 / 30 + 1
    assert world.api.count("read_work_pool") <= 3600 / 30 + 3
    assert world.api.count("open_state_changes") == 1


async def test_run_that_cannot_be_claimed_is_tried_as_often_as_by_polling_alone(
    autojump_clock: Clock, world: World
) -> None:
    world.deployment = world.api.add_deployment("flow", POOL, name="blocked", concurrency_limit=0)
    world.schedule()
    async with world.working(limit=1):
        await until(world, 2)
        for _ in range(5):
            # What others do has it poll, and find that one again.
            world.api.set_state(world.schedule().id, "Running", force=True)
            await trio.sleep(1)
        await until(world, 599)
    assert world.api.count("set_flow_run_state") <= 60 + 2
    assert len(polls(world)) <= 60 + 20


async def test_run_that_waits_for_a_slot_of_its_deployment_makes_few_requests(
    autojump_clock: Clock, world: World
) -> None:
    world.deployment = world.api.add_deployment("flow", POOL, name="one", concurrency_limit=1)
    world.schedule(Script(seconds=FOREVER))
    waiting = world.schedule()
    async with world.working(drain_timeout=0):
        await until(world, 599)
    # Each half minute it is due, refused, and put off.
    assert world.states(waiting).count("AwaitingConcurrencySlot") <= 21
    assert len(polls(world)) <= 60 + 2 * 21


async def test_runs_of_a_paused_queue_make_no_polls(autojump_clock: Clock, world: World) -> None:
    world.api.pause_work_queue(POOL, "default")
    async with world.working():
        await until(world, 3)
        for _ in range(50):
            world.schedule()
        await until(world, 303)
    assert len(polls(world)) <= 31 + 3


async def test_run_that_is_given_back_for_want_of_room_is_tried_as_often_as_by_polling_alone(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(cannot_start=InfrastructureFullError("no more files")))
    async with world.working(limit=1):
        await until(world, 99)
    assert claimed(world, run) == pytest.approx([0] + [10.05 + 10 * number for number in range(9)])
    assert len(polls(world)) <= 12


async def test_runs_that_have_just_been_given_back_do_not_stand_in_the_way_of_others(
    autojump_clock: Clock, world: World
) -> None:
    for _ in range(40):
        world.schedule(Script(cannot_start=InfrastructureFullError("no more files")))
    good = world.schedule()
    async with world.working(limit=1):
        await world.api.wait_for_state(good.id, "Completed")
    assert claimed(world, good)[0] < 10


async def test_retries_in_the_flows_own_process_make_no_polls(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=90))
    async with world.working():
        await until(world, 1)
        for second in range(2, 62, 3):
            await until(world, second)
            world.api.set_state(run.id, "AwaitingRetry", force=True, retry_type="in_process")
            world.api.set_state(run.id, "Running", force=True)
        await until(world, 80)
    assert len(polls(world)) <= 9


async def test_run_that_crashed_and_is_to_be_tried_again_at_once_is(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=2, ends="AwaitingRetry"))
    async with world.working():
        await until(world, 9)
    assert claimed(world, run)[:2] == [0, 2]


# Trouble


async def test_what_is_told_does_not_cut_short_the_delays_of_a_failing_poll(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await until(world, 5)
        world.api.fail("get_scheduled_flow_runs", APIUnavailableError("busy", retry_after=50))
        for _ in range(40):
            world.schedule()
            await trio.sleep(1)
        await until(world, 60)
    assert [at for at in polls(world) if at > 1][:2] == [5, 55]


async def test_slot_that_becomes_free_during_a_failing_poll_does_not_cut_its_delay_short(
    autojump_clock: Clock, world: World
) -> None:
    world.schedule(Script(seconds=10.5))
    world.schedule()
    async with world.working(websocket=False, limit=1):
        await until(world, 5)
        world.api.latencies["get_scheduled_flow_runs"] = 1
        world.api.fail("get_scheduled_flow_runs", RequestRefusedError("POST /poll", 422, "odd"))
        await until(world, 35)
    assert polls(world)[:3] == [0, 10, 31]


async def test_run_that_nobody_knows_makes_two_polls(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        await until(world, 2)
        run = world.schedule()
        world.api.delete_flow_run(run.id)
        await until(world, 9)
        assert worker.runs_in_hand == 0
    assert polls_between(world, 1, 9) == 2
