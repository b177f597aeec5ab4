"""A whole worker on a fake API and fake infrastructure, in virtual time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from flow_support import Stage
from support import FOREVER, POOL, World, settle

from trioworker import (
    ConfigurationError,
    GaveUpError,
    Surroundings,
    Worker,
    WorkerRefusedError,
    open_worker,
)
from trioworker.api.errors import (
    APINotFoundError,
    APIUnavailableError,
    NotAuthenticatedError,
    NotPermittedError,
    ObjectNotFoundError,
    RequestRefusedError,
)
from trioworker.api.models import FlowRun
from trioworker.runs.flow_run import FlowRunner
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Start


async def test_worker_runs_what_is_scheduled(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=3))
    async with world.working():
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.history(run.id) == [
        ("Scheduled", 0),
        ("Pending", 0),
        ("Submitting", 0),
        ("Running", 0),
        ("Completed", 3),
    ]


async def test_start_waits_until_the_pool_was_read(autojump_clock: Clock, world: World) -> None:
    world.api.latency = 2
    async with world.working() as worker:
        # Once, to begin with: what tells its type is all that there is to know of it.
        assert world.now == 2
        assert worker.ready


async def test_worker_is_not_ready_before_it_polls(autojump_clock: Clock, world: World) -> None:
    world.api.latency = 2
    worker = world.worker()
    assert not worker.ready
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(1)
        assert not worker.ready
        worker.shutdown()


async def test_start_waits_for_an_api_that_is_away(autojump_clock: Clock, world: World) -> None:
    world.api.start_outage()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_outage_at, world, 10)
        async with world.working():
            assert world.now >= 10
            assert world.now <= 20


async def end_outage_at(world: World, seconds: float) -> None:
    await trio.sleep(seconds - world.now)
    world.api.end_outage()


async def test_shutdown_ends_a_start_that_waits_for_the_api(autojump_clock: Clock, world: World) -> None:
    world.api.start_outage()
    worker = world.worker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(100)
        worker.shutdown()
    assert world.now == 100
    assert not worker.ready
    assert not worker.cut_off
    assert world.api.events == []


async def test_shutdown_during_the_start_counts_as_started(autojump_clock: Clock, world: World) -> None:
    world.api.start_outage()
    worker = world.worker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shut_down_at, worker, 10)
        await nursery.start(worker.run)
        assert world.now == 10


async def shut_down_at(worker: Worker, at: float) -> None:
    await trio.sleep_until(at + trio.current_time())
    worker.shutdown()


async def test_worker_that_is_shut_down_before_it_runs_does_nothing(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    worker = world.worker()
    worker.shutdown()
    await worker.run()
    assert world.states(run) == ["Scheduled"]
    assert world.now == 0


async def test_pool_that_does_not_exist_is_created(autojump_clock: Clock, world: World) -> None:
    async with world.working(pool="new"):
        pool = world.api.work_pool("new")
    assert pool.type == "process"
    assert pool.base_job_template == world.infrastructure.default_base_job_template
    assert "Work pool 'new' created." in world.messages


async def test_worker_waits_for_a_pool_that_it_may_not_create(autojump_clock: Clock, world: World) -> None:
    world.api.delete_work_pool(POOL)
    worker = world.worker(create_pool_if_not_found=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(70)
        before = worker.ready
        world.api.add_work_pool(POOL)
        await trio.sleep(30)
        after = worker.ready
        worker.shutdown()
    assert (before, after) == (False, True)
    complaints = [message for message in world.messages if "not found" in message]
    assert len(complaints) == 1


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (NotAuthenticatedError("GET /work_pools/pool", 401, "who?"), "set PREFECT_API_KEY"),
        (NotPermittedError("GET /work_pools/pool", 403, "no"), "Check the permissions of PREFECT_API_KEY"),
        (APINotFoundError("GET /work_pools/pool", 404, "Not Found"), "Check PREFECT_API_URL"),
        (RequestRefusedError("GET /work_pools/pool", 418, "tea only"), "tea only"),
    ],
)
async def test_refusal_at_the_start_says_what_to_mend(
    autojump_clock: Clock, world: World, error: RequestRefusedError, advice: str
) -> None:
    world.api.fail("read_work_pool", error)
    with pytest.raises(ConfigurationError, match=advice):
        await world.worker().run()


async def test_pool_that_needs_no_worker_is_refused(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_pool("push", pool_type="modal:push")
    with pytest.raises(WorkerRefusedError, match="not required for push"):
        await world.worker(pool="push").run()


@pytest.mark.parametrize("latency", [0, 1])
async def test_time_in_which_the_api_is_asked_for_the_pool_is_used(
    autojump_clock: Clock, world: World, latency: int
) -> None:
    used: list[float] = []
    world.api.latencies["read_work_pool"] = latency
    surroundings = attrs.evolve(world.surroundings, while_api_is_asked=lambda: used.append(world.now))
    worker = Worker(world.config(run_once=True), surroundings=surroundings)
    await worker.run()
    assert [0 < at < latency for at in used] == [True] * latency


@pytest.mark.parametrize("run_once", [False, True])
async def test_worker_that_may_not_see_the_queues_works_all_the_same(
    autojump_clock: Clock, world: World, *, run_once: bool
) -> None:
    world.api.fail("read_work_queues", NotPermittedError("POST /queues/filter", 403, "no"), times=100)
    run = world.schedule()
    async with world.working(run_once=run_once):
        await world.api.wait_for_state(run.id, "Completed")
    assert len(world.api.times("read_work_queues")) == 1
    assert world.notified_at("does not answer") == []


async def test_error_at_the_start_comes_bare_out_of_start(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_pool("push", pool_type="modal:push")
    async with trio.open_nursery() as nursery:
        with pytest.raises(WorkerRefusedError):
            await nursery.start(world.worker(pool="push").run)


# Intake


async def test_worker_polls_in_its_rhythm(autojump_clock: Clock, world: World) -> None:
    async with world.working({"PREFECT_WORKER_QUERY_SECONDS": "4"}):
        await trio.sleep(10)
    assert world.api.times("get_scheduled_flow_runs") == [0, 4, 8]


async def test_heartbeats_come_in_their_rhythm(autojump_clock: Clock, world: World) -> None:
    async with world.working({"PREFECT_WORKER_HEARTBEAT_SECONDS": "7"}):
        await trio.sleep(15)
    assert [beat.at for beat in world.api.heartbeats] == [0, 7, 14]
    assert {beat.worker_name for beat in world.api.heartbeats} == {"worker"}
    assert {beat.interval_seconds for beat in world.api.heartbeats} == {7}


async def test_limit_holds_back_runs_until_a_slot_is_free(autojump_clock: Clock, world: World) -> None:
    runs = [world.schedule(Script(seconds=15)) for _ in range(3)]
    async with world.working(limit=2) as worker:
        await trio.sleep(1)
        assert worker.runs_in_hand == 2
        for run in runs:
            await world.api.wait_for_state(run.id, "Completed")
    started = [execution.started_at for execution in world.infrastructure.executions]
    assert started == [0, 0, 15]


async def test_runs_are_taken_ahead_of_their_time_by_the_prefetch(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(at=16)
    async with world.working(prefetch_seconds=7):
        await world.api.wait_for_state(run.id, "Completed")
    # Seen by the poll at 10, held by the flow until 16.
    assert world.api.history(run.id) == [
        ("Scheduled", 0),
        ("Pending", 10),
        ("Submitting", 10),
        ("Running", 16),
        ("Completed", 17),
    ]


async def test_run_once_sees_the_runs_to_their_end_and_stops(autojump_clock: Clock, world: World) -> None:
    runs = [world.schedule(Script(seconds=seconds)) for seconds in (1, 90)]
    later = world.schedule(at=60)
    await world.worker(run_once=True).run()
    assert [world.states(run)[-1] for run in runs] == ["Completed", "Completed"]
    assert world.states(later) == ["Scheduled"]
    assert world.now == 90
    assert world.api.count("get_scheduled_flow_runs") == 1


async def test_run_once_with_nothing_to_do_ends_at_once(autojump_clock: Clock, world: World) -> None:
    await world.worker(run_once=True).run()
    assert world.now == 0


async def test_run_once_waits_for_an_api_that_goes_away_before_the_poll(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.fail("get_scheduled_flow_runs", APIUnavailableError("gone"), times=2)
    await world.worker(run_once=True).run()
    assert world.states(run)[-1] == "Completed"


# Shutdown


async def test_drain_lets_runs_end_and_begins_no_more(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=15))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        worker.shutdown()
        late = world.schedule()
    assert world.states(run)[-1] == "Completed"
    assert world.states(late) == ["Scheduled"]
    assert world.now == 15
    assert not worker.cut_off
    assert worker.runs_in_hand == 0


async def test_heartbeats_go_on_during_the_drain(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=100))
    async with world.working(drain_timeout=200) as worker:
        await world.api.wait_for_state(run.id, "Running")
        worker.shutdown()
    assert [beat.at for beat in world.api.heartbeats] == [0, 30, 60, 90]


async def test_drain_timeout_cuts_runs_off_and_reports_them(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working(drain_timeout=20) as worker:
        await trio.sleep(100)
        worker.shutdown()
    assert world.api.history(run.id)[-1] == ("Crashed", 120)
    assert world.message(run) == "Worker 'worker' was stopped before the flow run had ended."
    assert world.now == 120
    assert worker.cut_off


async def test_cutting_off_is_said_once_when_it_begins(autojump_clock: Clock, world: World) -> None:
    """The line announces SIGTERM and SIGKILL, so it must not come after them."""
    for _ in range(2):
        world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working(drain_timeout=20, kill_grace=5):
        await trio.sleep(100)
    assert world.notified_at("Stopping") == [120]
    assert "Stopping 2 flow runs now: SIGTERM, and SIGKILL after 5 s." in world.messages


async def test_worker_is_gone_within_its_bound_whatever_happens(autojump_clock: Clock, world: World) -> None:
    """A run that ignores SIGTERM, an API that hangs: drain, grace and flush is all that it may take."""
    world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working(drain_timeout=20, kill_grace=5, flush_timeout=3) as worker:
        await trio.sleep(100)
        world.api.latency = math.inf
        worker.shutdown()
    assert worker.config.stop_bound == 28
    assert world.now <= 128


async def test_last_words_are_for_all_runs_under_one_deadline(autojump_clock: Clock, world: World) -> None:
    for _ in range(3):
        world.schedule(Script(seconds=FOREVER))
    async with world.working(drain_timeout=20, kill_grace=5, flush_timeout=3) as worker:
        await trio.sleep(100)
        world.api.start_outage()
        worker.shutdown()
    assert world.now == 128


async def test_state_is_delivered_when_the_api_returns_before_the_last_deadline(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_outage_at, world, 123)
        async with world.working(drain_timeout=20, kill_grace=5, flush_timeout=3) as worker:
            await trio.sleep(100)
            world.api.start_outage()
            worker.shutdown()
    assert world.states(run)[-1] == "Crashed"


async def test_stop_ends_runs_at_once(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working() as worker:
        await trio.sleep(10)
        worker.stop()
    execution = world.infrastructure.execution(run.id)
    assert execution.cancelled_at == 10
    assert execution.status == -15
    assert world.api.history(run.id)[-1] == ("Crashed", 10)


async def test_stop_cuts_a_drain_short(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working() as worker:
        await trio.sleep(10)
        worker.shutdown()
        await trio.sleep(3)
        worker.stop()
    assert world.api.history(run.id)[-1] == ("Crashed", 13)


async def test_abandon_kills_at_once_and_leaves_a_second_to_say_so(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working() as worker:
        await trio.sleep(10)
        world.api.start_outage()
        worker.stop()
        await trio.sleep(1)
        worker.abandon()
    assert world.now == 12
    assert world.infrastructure.execution(run.id).killed_now_at == 11
    assert world.infrastructure.execution(run.id).status == -9


async def test_abandon_from_the_first_signal_leaves_a_second(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working() as worker:
        await trio.sleep(10)
        world.api.start_outage()
        worker.abandon()
    assert world.now == 11
    assert worker.cut_off


async def test_abandon_leaves_a_second_for_the_flush(autojump_clock: Clock, world: World) -> None:
    async with world.working() as worker:
        await trio.sleep(10)
        world.api.start_outage()
        worker.shutdown()
        await trio.sleep(1)
        worker.abandon()
    assert world.now == 12


async def test_abandon_leaves_a_second_to_a_function_whose_end_was_being_told(
    autojump_clock: Clock, world: World
) -> None:
    stage = Stage(world)

    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(5)

    run = stage.schedule()
    async with stage.working(kill_grace=25) as worker:
        await world.api.wait_for_state(run.id, "Running")
        world.api.start_outage()
        await trio.sleep(10)
        worker.stop()
        await trio.sleep(1)
        worker.abandon()
        abandoned_at = world.now
    assert world.now == abandoned_at + 1


async def test_shutdown_may_be_called_any_number_of_times(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working(drain_timeout=20) as worker:
        await trio.sleep(10)
        worker.shutdown()
        await trio.sleep(15)
        worker.shutdown()
    assert world.api.history(run.id)[-1] == ("Crashed", 30)


async def test_hard_cancel_ends_and_reports_runs(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    with trio.move_on_after(10):
        await world.worker().run()
    assert world.infrastructure.execution(run.id).status == -15
    assert world.api.history(run.id)[-1] == ("Crashed", 10)
    assert [event.event for event in world.api.events] == [
        "prefect.worker.started",
        "prefect.worker.submitted-flow-run",
        "prefect.worker.stopped",
    ]


async def test_hard_cancel_is_over_within_grace_and_flush(autojump_clock: Clock, world: World) -> None:
    world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.worker(kill_grace=5, flush_timeout=3).run)
            await trio.sleep(9)
            world.api.start_outage()
            await trio.sleep_forever()
    assert world.now <= 18


async def test_run_found_at_the_moment_of_shutdown_cuts_nothing_off(
    autojump_clock: Clock, world: World
) -> None:
    other = world.schedule(Script(seconds=12))
    async with world.working() as worker:
        await trio.sleep(1)
        late = world.schedule(at=10)
        answer = world.api.get_scheduled_flow_runs

        async def shut_down_then_answer(*args: object, **options: object) -> list[FlowRun]:
            found = await answer(*args, **options)  # type: ignore[arg-type]
            worker.shutdown()
            return found

        world.api.get_scheduled_flow_runs = shut_down_then_answer  # type: ignore[method-assign]
        await trio.sleep(20)
    assert world.states(other)[-1] == "Completed"
    assert world.states(late) == ["Scheduled"]
    assert not worker.cut_off
    assert world.notified_at("Stopping") == []


# Events


async def test_stopped_follows_started_and_comes_after_the_last_run(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=15))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        worker.shutdown()
    started, _, executed, stopped = world.api.events
    assert (started.event, stopped.event) == ("prefect.worker.started", "prefect.worker.stopped")
    assert executed.event == "prefect.worker.executed-flow-run"
    assert stopped.follows == started.id
    assert started.follows is None
    assert started.occurred == world.api.moment(0)
    assert stopped.occurred == world.api.moment(15)
    assert started.resource["prefect.resource.id"] == "prefect.worker.process.worker"
    pool_id = world.api.work_pool(POOL).id
    assert [related["prefect.resource.id"] for related in started.related] == [f"prefect.work-pool.{pool_id}"]


# Outages


async def test_outage_is_said_once_and_its_end_once(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await trio.sleep(100)
        with world.api.outage("no connection: refused"):
            await trio.sleep(600)
        await trio.sleep(100)
    lost = "The Prefect API does not answer: no connection: refused. Trying again until it does."
    assert world.messages.count(lost) == 1
    assert len(world.notified_at("The Prefect API at http://fake/api is back after")) == 1


async def test_worker_polls_as_soon_as_the_api_is_known_to_be_back(
    autojump_clock: Clock, world: World
) -> None:
    """Whichever loop finds out first, the poll does not sit out its own back-off."""
    async with world.working():
        world.api.start_outage()
        await trio.sleep(600)
        world.api.end_outage()
        await trio.sleep(60)
        (back,) = world.notified_at("The Prefect API at http://fake/api is back")
        polls = world.api.times("get_scheduled_flow_runs")
        assert next(at for at in polls if at >= back) == back


async def test_runs_survive_an_outage(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=300))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        with world.api.outage():
            await trio.sleep(400)
        await trio.sleep(100)
    assert world.states(run)[-1] == "Completed"
    assert world.infrastructure.execution(run.id).cancelled_at is None


async def test_worker_gives_up_when_told_how_long_to_wait(autojump_clock: Clock, world: World) -> None:
    world.api.start_outage()
    with pytest.raises(GaveUpError, match="unreachable for 60 s"):
        await world.worker({"TRIOWORKER_GIVE_UP_AFTER": "60"}).run()
    assert world.now == 60


async def test_giving_up_drains_the_runs_in_hand(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=90))
    worker = world.worker({"TRIOWORKER_GIVE_UP_AFTER": "60"}, drain_timeout=1000, flush_timeout=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_until_it_gives_up, worker)
        await trio.sleep(5)
        world.api.start_outage()
        nursery.start_soon(end_outage_at, world, 85)
    assert world.states(run)[-1] == "Completed"
    assert world.infrastructure.execution(run.id).cancelled_at is None


async def run_until_it_gives_up(worker: Worker) -> None:
    with pytest.raises(GaveUpError):
        await worker.run()


async def test_short_outages_are_no_reason_to_give_up(autojump_clock: Clock, world: World) -> None:
    async with world.working({"TRIOWORKER_GIVE_UP_AFTER": "60"}):
        for _ in range(5):
            with world.api.outage():
                await trio.sleep(50)
            await trio.sleep(70)
    assert world.now == 600


async def test_api_that_is_away_from_the_start_is_said_at_once(autojump_clock: Clock, world: World) -> None:
    world.api.start_outage("no connection: refused")
    worker = world.worker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(100)
        worker.shutdown()
    assert world.notified_at("The Prefect API does not answer: no connection: refused.") == [0]


async def test_first_poll_after_a_start_through_an_outage_is_made_once(
    autojump_clock: Clock, world: World
) -> None:
    world.api.start_outage()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_outage_at, world, 10)
        async with world.working():
            await trio.sleep(5)
    assert world.api.count("get_scheduled_flow_runs") == 1


# Pools


async def test_pool_that_is_deleted_is_made_anew_with_the_next_poll(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await trio.sleep(5)
        world.api.delete_work_pool(POOL)
        await trio.sleep(6)
        assert world.api.work_pool(POOL).type == "process"
    assert world.notified_at("Work pool 'pool' created.") == [10]


async def test_changed_template_counts_from_the_next_heartbeat_on(
    autojump_clock: Clock, world: World
) -> None:
    async with world.working():
        await trio.sleep(5)
        template = {
            "job_configuration": {"command": "changed"},
            "variables": {"type": "object", "properties": {}},
        }
        await world.api.update_work_pool_template(POOL, template)
        await trio.sleep(30)
        run = world.schedule()
        await world.api.wait_for_state(run.id, "Completed")
    assert world.infrastructure.execution(run.id).assignment.configuration == {"command": "changed"}


# Several workers


async def test_two_workers_in_one_process_share_the_runs(autojump_clock: Clock, world: World) -> None:
    runs = [world.schedule(Script(seconds=5)) for _ in range(6)]
    async with world.working(name="one", limit=3) as one, world.working(name="two", limit=3) as two:
        await trio.sleep(1)
        assert one.runs_in_hand == two.runs_in_hand == 3
        for run in runs:
            await world.api.wait_for_state(run.id, "Completed")
        one.shutdown()
        await trio.sleep(100)
        assert two.ready
        last = world.schedule()
        await world.api.wait_for_state(last.id, "Completed")
    assert all(
        world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"] for run in runs
    )
    assert len(world.infrastructure.executions) == 7
    assert {beat.worker_name for beat in world.api.heartbeats} == {"one", "two"}


# open_worker


async def test_open_worker_drains_when_the_block_ends(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=15))
    async with open_worker(surroundings=world.surroundings, **options(world)) as worker:
        assert worker.ready
        await world.api.wait_for_state(run.id, "Running")
    assert world.states(run)[-1] == "Completed"
    assert world.now == 15


def options(world: World) -> dict[str, Any]:
    config = world.config()
    return {"pool": config.pool, "name": config.name, "settings": config.settings}


async def test_open_worker_stops_hard_for_an_error_which_leaves_bare(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))

    async def fail_inside() -> None:
        async with open_worker(surroundings=world.surroundings, **options(world)):
            await trio.sleep(4)
            raise LookupError("my own")

    with pytest.raises(LookupError, match="my own"):
        await fail_inside()
    assert world.now == 4
    assert world.states(run)[-1] == "Crashed"


async def test_open_worker_loses_no_error_to_a_cancellation_at_the_same_moment(
    autojump_clock: Clock, world: World
) -> None:
    scope = trio.CancelScope()

    async def fail_and_be_cancelled() -> None:
        async with open_worker(surroundings=world.surroundings, **options(world)):
            scope.cancel()
            raise ZeroDivisionError

    with scope:
        with pytest.raises(ZeroDivisionError):
            await fail_and_be_cancelled()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_open_worker_hands_on_an_interrupt_as_it_is(autojump_clock: Clock, world: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with open_worker(surroundings=world.surroundings, **options(world)):
            raise KeyboardInterrupt


async def test_open_worker_says_bare_why_the_worker_cannot_start(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_pool("push", pool_type="modal:push")
    with pytest.raises(WorkerRefusedError):
        async with open_worker(surroundings=world.surroundings, **{**options(world), "pool": "push"}):
            pytest.fail("the block was entered")


async def test_open_worker_cancels_the_block_when_the_worker_fails_and_says_bare_why(
    autojump_clock: Clock, world: World
) -> None:
    config = world.config({"TRIOWORKER_GIVE_UP_AFTER": "60"})
    entered: list[Worker] = []

    async def wait_inside() -> None:
        async with open_worker(
            surroundings=world.surroundings, pool=POOL, settings=config.settings
        ) as worker:
            entered.append(worker)
            world.api.start_outage()
            await trio.sleep_forever()

    with pytest.raises(GaveUpError):
        await wait_inside()
    assert len(entered) == 1


async def test_open_worker_does_not_enter_the_block_when_the_worker_gives_up_before(
    autojump_clock: Clock, world: World
) -> None:
    config = world.config({"TRIOWORKER_GIVE_UP_AFTER": "60"})
    world.api.start_outage()
    entered: list[Worker] = []

    async def wait_inside() -> None:
        async with open_worker(
            surroundings=world.surroundings, pool=POOL, settings=config.settings
        ) as worker:
            entered.append(worker)
            await trio.sleep_forever()

    with pytest.raises(GaveUpError):
        await wait_inside()
    assert entered == []


async def test_open_worker_leaves_when_its_surroundings_are_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    with trio.move_on_after(7):
        async with open_worker(surroundings=world.surroundings, **options(world)):
            await trio.sleep_forever()
    assert world.now == 7
    assert world.states(run)[-1] == "Crashed"


async def test_block_of_open_worker_may_shut_the_worker_down_itself(
    autojump_clock: Clock, world: World
) -> None:
    async with open_worker(surroundings=world.surroundings, **options(world)) as worker:
        worker.shutdown()
        await settle()
        assert world.api.events[-1].event == "prefect.worker.stopped"


# What the embedding program sees


async def test_notices_are_logged_unless_somebody_takes_them(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="trioworker")
    worker = Worker(world.config(), surroundings=world.surroundings)
    worker.shutdown()
    await worker.run()
    assert "Discovered type" not in caplog.text
    worker = Worker(world.config(run_once=True), surroundings=world.surroundings)
    await worker.run()
    assert "Discovered type 'process' for work pool 'pool'." in caplog.messages
    assert world.notices == []


async def test_day_without_work_costs_no_more_requests_than_the_rhythms_ask_for(
    autojump_clock: Clock, world: World
) -> None:
    day = 24 * 3600
    async with world.working():
        await trio.sleep(day - 1)
    assert world.api.count("get_scheduled_flow_runs") == day / 10
    assert world.api.count("send_worker_heartbeat") == day / 30
    assert world.api.count("find_cancelling_flow_runs") == day / 20


async def test_infrastructure_is_asked_for_by_the_type_of_the_pool(
    autojump_clock: Clock, world: World
) -> None:
    asked: list[str] = []
    usual = world.surroundings

    def infrastructure(worker_type: str, config: object) -> object:
        asked.append(worker_type)
        return world.infrastructure

    surroundings = Surroundings(
        open_api=usual.open_api,
        infrastructure=infrastructure,  # type: ignore[arg-type]
        now=usual.now,
        chance=usual.chance,
    )
    world.api.add_work_pool("other", pool_type="moonbase")
    worker = Worker(world.config(pool="other", run_once=True), surroundings=surroundings)
    await worker.run()
    assert asked == ["moonbase"]


async def test_type_without_infrastructure_is_refused(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_pool("kube", pool_type="kubernetes")
    usual = world.surroundings
    surroundings = Surroundings(open_api=usual.open_api, now=usual.now, chance=usual.chance)
    with pytest.raises(WorkerRefusedError, match="prefect worker start --pool 'kube' --type kubernetes"):
        await Worker(world.config(pool="kube"), surroundings=surroundings).run()


async def test_refusal_to_create_the_pool_is_final_at_the_start(autojump_clock: Clock, world: World) -> None:
    """A key that may not do so today may not do so in an hour."""
    world.api.fail("create_work_pool", NotPermittedError("POST /work_pools/", 403, "not yours"), times=100)
    with pytest.raises(ConfigurationError, match="not yours"):
        await world.worker(pool="another").run()
    assert world.now < 10


async def test_refused_heartbeats_start_no_hot_loop(autojump_clock: Clock, world: World) -> None:
    world.api.fail("send_worker_heartbeat", ObjectNotFoundError("POST", 404, "no pool"), times=1000)
    async with world.working():
        await trio.sleep(100)
    assert world.api.count("send_worker_heartbeat") < 10


async def test_one_shot_does_not_wait_for_a_pool_that_it_may_not_create(
    autojump_clock: Clock, world: World
) -> None:
    with pytest.raises(
        WorkerRefusedError, match="Work pool 'another' does not exist, and this worker may not"
    ):
        await world.worker(pool="another", run_once=True, create_pool_if_not_found=False).run()


async def test_worker_runs_once(autojump_clock: Clock, world: World) -> None:
    worker = world.worker()
    worker.shutdown()
    await worker.run()
    with pytest.raises(RuntimeError, match="once"):
        await worker.run()


async def test_process_that_stood_still_while_it_took_runs_goes_on_as_if_nothing_had_been(
    autojump_clock: Clock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may sleep at any moment, also between a poll and the first step of what it found."""
    first, second = world.schedule(Script(seconds=5)), world.schedule(Script(seconds=5), at=100)
    start = trio.Nursery.start

    async def stand_still_then_start(self: trio.Nursery, function: Any, *arguments: Any) -> Any:
        if getattr(function, "__func__", None) is FlowRunner.run:
            autojump_clock.jump(30)
        return await start(self, function, *arguments)

    monkeypatch.setattr(trio.Nursery, "start", stand_still_then_start)
    async with world.working() as worker:
        await world.api.wait_for_state(second.id, "Completed")
        assert not worker.cut_off
    assert world.states(first)[-1] == "Completed"


@pytest.mark.parametrize("attempt", range(20))
async def test_hard_cancel_in_the_moment_of_a_poll_keeps_to_the_bound(
    autojump_clock: Clock, world: World, attempt: int
) -> None:
    """Though a claim that it begins then would never be answered; twenty times, since Trio's order is by chance."""
    world.schedule(Script(seconds=5))
    world.api.latencies["set_flow_run_state"] = 10_000
    poll = world.api.get_scheduled_flow_runs
    scope = trio.CancelScope()

    async def cancel_then_answer(*arguments: Any, **options: Any) -> list[FlowRun]:
        found = await poll(*arguments, **options)
        scope.cancel()
        return found

    world.api.get_scheduled_flow_runs = cancel_then_answer  # type: ignore[method-assign]
    with scope:
        await world.worker().run()
    assert world.now <= 8


async def test_what_the_start_has_left_is_seen_to_after_the_first_poll_and_before_anything_else_is_opened(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.api.latencies["get_scheduled_flow_runs"] = 1
    seen: list[tuple[float, int, int]] = []

    def look() -> None:
        polls, sockets = (
            sum(call.method == method for call in world.api.calls)
            for method in ("get_scheduled_flow_runs", "open_state_changes")
        )
        seen.append((trio.current_time() - begin, polls, sockets))

    begin = trio.current_time()
    surroundings = attrs.evolve(world.surroundings, after_first_poll=look)
    async with trio.open_nursery() as nursery:
        worker = Worker(world.config(), surroundings=surroundings)
        await nursery.start(worker.run)
        await trio.sleep(60)
        worker.shutdown()
    assert seen == [(1, 1, 0)]
