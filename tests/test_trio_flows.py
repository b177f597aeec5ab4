"""Flow runs as calls of functions: the states that they go through, and how they end. In virtual time."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from flow_support import POOL, Counter, Stage, sleep_until
from support import World, settle

from trioworker import (
    ConfigurationError,
    Happening,
    RunEnd,
    RunFinished,
    TrioFlows,
    Worker,
    WorkerRefusedError,
)
from trioworker.api.errors import APIUnavailableError, RequestRefusedError
from trioworker.api.models import FlowRun, FlowRunPolicy, StateType
from trioworker.infrastructure.protocol import Gone, HookCall, InfrastructureError, Running, Trace
from trioworker.infrastructure.trio_flows.current import CurrentFlowRun, current_flow_run
from trioworker.infrastructure.trio_flows.infrastructure import FlowJob, TrioInfrastructure

Clock = trio.testing.MockClock


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(World(tmp_path))


# Good ends


async def test_function_that_returns_is_completed(autojump_clock: Clock, stage: Stage) -> None:
    calls: list[int] = []

    @stage.app.flow()
    async def work(n: int) -> None:
        calls.append(n)
        await trio.sleep(3)

    run = stage.schedule(parameters={"n": "5"})
    await stage.finish(run)
    assert calls == [5]
    assert stage.history(run) == [("Scheduled", 0), ("Pending", 0), ("Running", 0), ("Completed", 3)]
    assert stage.said(run).splitlines() == [
        "Beginning flow run 'run-1' for flow 'work'",
        "Finished in state Completed()",
    ]


async def test_server_knows_where_a_run_runs_and_by_whom(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(1)

    run = stage.schedule()
    await stage.finish(run)
    place = stage.world.api.flow_run(run.id).infrastructure_pid
    assert place is not None
    assert place.endswith(f":{run.id}")
    assert stage.world.api.labels(run.id)["prefect.worker.type"] == "trio"


async def test_nothing_but_the_answer_to_running_keeps_a_function_waiting(
    autojump_clock: Clock, stage: Stage
) -> None:
    began: list[float] = []

    @stage.app.flow(retries=1)
    async def work() -> None:
        began.append(stage.world.now)

    stage.world.api.latencies = {"set_infrastructure_pid": 50, "update_flow_run_policy": 50}
    run = stage.schedule()
    await stage.finish(run)
    assert began == [0]
    # But the end of the run is not told before the server knows about retries.
    assert stage.history(run)[-1] == ("Completed", 50)


async def test_function_knows_its_flow_run(autojump_clock: Clock, stage: Stage) -> None:
    known: list[CurrentFlowRun] = []

    def deep() -> None:
        known.append(current_flow_run())

    @stage.app.flow()
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            deep()

    run = stage.schedule(tags=["blue"])
    await stage.finish(run)
    assert known == [
        CurrentFlowRun(
            id=run.id,
            name="run-1",
            flow_name="work",
            deployment_id=run.deployment_id,
            tags=("blue",),
            attempt=1,
        )
    ]


def test_code_that_no_flow_run_has_called_has_none() -> None:
    with pytest.raises(LookupError, match="not called by a flow run"):
        current_flow_run()


async def test_sync_function_is_called_in_a_thread(stage: Stage) -> None:
    threads: list[threading.Thread] = []

    @stage.app.flow()
    def work() -> None:
        assert current_flow_run().name == "run-1"
        threads.append(threading.current_thread())

    run = stage.schedule()
    await stage.finish(run)
    assert stage.states(run)[-1] == "Completed"
    assert threads != [threading.main_thread()]


# Failures and retries


async def test_function_that_raises_is_failed(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        raise ValueError("no luck")

    run = stage.schedule()
    await stage.finish(run)
    assert stage.states(run)[-1] == "Failed"
    assert stage.message(run) == "Flow run encountered an exception: ValueError: no luck"
    _, error, end = stage.lines(run, of_engine=True)
    first, traceback, file, *_ = error.message.splitlines()
    assert first == "Encountered exception during execution: ValueError('no luck')"
    assert traceback == "Traceback (most recent call last):"
    assert "test_trio_flows.py" in file
    assert "call.py" not in error.message
    assert end.message == "Finished in state Failed('Flow run encountered an exception: ValueError: no luck')"


async def test_group_of_errors_is_failed_with_each_of_them(autojump_clock: Clock, stage: Stage) -> None:
    async def fail(error: Exception) -> None:
        raise error

    @stage.app.flow()
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("one"))
            nursery.start_soon(fail, KeyError("two"))

    run = stage.schedule()
    await stage.finish(run)
    message = stage.message(run) or ""
    assert sorted(message.removeprefix("Flow run encountered an exception: ").split("; ")) == [
        "KeyError: 'two'",
        "ValueError: one",
    ]


async def test_error_that_cannot_be_shown_fails_its_run_all_the_same(
    autojump_clock: Clock, stage: Stage
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

        __repr__ = __str__

    @stage.app.flow()
    async def work() -> None:
        raise MuteError

    run = stage.schedule()
    await stage.finish(run)
    assert stage.states(run)[-1] == "Failed"


async def test_message_that_is_no_text_is_sent_as_text(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        raise ValueError("half \ud800 and nothing \0")

    run = stage.schedule()
    await stage.finish(run)
    assert (
        stage.message(run) == "Flow run encountered an exception: ValueError: half \\ud800 and nothing \\x00"
    )


async def test_server_has_a_failed_function_called_again(autojump_clock: Clock, stage: Stage) -> None:
    attempts: list[int] = []

    @stage.app.flow(retries=2, retry_delay=10)
    async def work() -> None:
        attempts.append(current_flow_run().attempt)
        if len(attempts) < 3:
            raise ValueError

    run = stage.schedule()
    await stage.finish(run)
    assert attempts == [1, 2, 3]
    assert stage.history(run) == [
        ("Scheduled", 0),
        ("Pending", 0),
        ("Running", 0),
        ("AwaitingRetry", 0),
        ("Running", 10),
        ("AwaitingRetry", 10),
        ("Running", 20),
        ("Completed", 20),
    ]
    assert "Received non-final state 'AwaitingRetry' when proposing final state 'Failed'" in stage.said(run)


async def test_run_fails_when_its_retries_are_used_up(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow(retries=1)
    async def work() -> None:
        raise ValueError(f"attempt {count()}")

    run = stage.schedule()
    await stage.finish(run)
    assert count.count == 2
    assert stage.states(run)[-1] == "Failed"
    assert stage.message(run) == "Flow run encountered an exception: ValueError: attempt 2"


@pytest.mark.parametrize(
    ("retries", "retry_delay", "wanted"),
    [
        (None, None, FlowRunPolicy(retries=3, retry_delay=7)),
        (0, None, FlowRunPolicy(retries=0, retry_delay=7)),
        (1, 5, FlowRunPolicy(retries=1, retry_delay=5)),
    ],
)
async def test_what_a_run_says_of_retries_goes_before_what_its_flow_says(
    autojump_clock: Clock, stage: Stage, retries: int | None, retry_delay: int | None, wanted: FlowRunPolicy
) -> None:
    @stage.app.flow(retries=3, retry_delay=7)
    async def work() -> None: ...

    run = stage.schedule()
    given = FlowRunPolicy(retries=retries, retry_delay=retry_delay)
    await stage.world.api.update_flow_run_policy(run.id, given)
    stage.world.api.calls.clear()
    await stage.finish(run)
    policy = stage.world.api.flow_run(run.id).empirical_policy
    assert (policy.retries, policy.retry_delay) == (wanted.retries, wanted.retry_delay)
    assert stage.world.api.count("update_flow_run_policy") == (wanted != given)


async def test_each_attempt_gets_its_own_arguments(autojump_clock: Clock, stage: Stage) -> None:
    seen: list[list[int]] = []

    @stage.app.flow(retries=1)
    async def work(numbers: list[int]) -> None:
        seen.append(list(numbers))
        numbers.clear()
        if len(seen) == 1:
            raise ValueError

    run = stage.schedule(parameters={"numbers": [1, 2]})
    await stage.finish(run)
    assert seen == [[1, 2], [1, 2]]


async def test_failed_run_that_somebody_wants_retried_is_called_again(
    autojump_clock: Clock, stage: Stage
) -> None:
    attempts: list[int] = []

    @stage.app.flow()
    async def work() -> None:
        attempts.append(current_flow_run().attempt)
        if len(attempts) == 1:
            raise ValueError

    run = stage.schedule()
    async with stage.working():
        await stage.world.api.wait_for_state(run.id, "Failed")
        stage.world.api.set_state(run.id, "AwaitingRetry", force=True)
        await stage.world.api.wait_for_state(run.id, "Completed")
    assert attempts == [1, 2]


async def test_retry_is_not_lost_with_the_answer_that_promised_it(
    autojump_clock: Clock, stage: Stage
) -> None:
    count = Counter()
    api = stage.world.api

    @stage.app.flow(retries=1, retry_delay=30)
    async def work() -> None:
        if count() == 1:
            api.lose_answer("set_flow_run_state")
            raise ValueError

    run = stage.schedule()
    async with stage.working():
        await api.wait_for_state(run.id, "Completed")
    assert count.count == 2
    assert stage.states(run) == [
        "Scheduled",
        "Pending",
        "Running",
        "AwaitingRetry",
        # The repetition, which the server has taken for the end of a run that waits.
        "Failed",
        "AwaitingRetry",
        "Pending",
        "Running",
        "Completed",
    ]


async def test_failure_that_the_server_takes_in_spite_of_retries_is_the_end(
    autojump_clock: Clock, stage: Stage
) -> None:
    api = stage.world.api

    @stage.app.flow()
    async def work() -> None:
        # As if a person had taken the retries away.
        policy = FlowRunPolicy(retries=0)
        await api.update_flow_run_policy(run.id, policy)
        raise ValueError

    run = stage.schedule(retries=5)
    api.set_state(run.id, "Running")
    api.set_state(run.id, "AwaitingRetry")
    await stage.finish(run)
    assert stage.states(run)[-2:] == ["Running", "Failed"]


# Time


async def test_function_that_takes_too_long_is_timed_out(autojump_clock: Clock, stage: Stage) -> None:
    cleaned_up: list[float] = []

    @stage.app.flow(timeout=60)
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up.append(stage.world.now)

    run = stage.schedule()
    await stage.finish(run)
    assert stage.history(run)[-1] == ("TimedOut", 60)
    assert stage.world.api.flow_run(run.id).state.type is StateType.FAILED  # type: ignore[union-attr]
    assert stage.message(run) == "Flow run exceeded timeout of 60.0 second(s)"
    assert cleaned_up == [60]


async def test_each_attempt_has_the_whole_time(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow(timeout=60, retries=1)
    async def work() -> None:
        await trio.sleep(61 if count() == 1 else 59)

    run = stage.schedule()
    await stage.finish(run)
    assert stage.history(run)[2:] == [
        ("Running", 0),
        ("AwaitingRetry", 60),
        ("Running", 60),
        ("Completed", 119),
    ]


async def test_what_clean_up_raises_after_the_timeout_is_told(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow(timeout=1)
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cannot clean up")

    run = stage.schedule()
    await stage.finish(run)
    assert stage.states(run)[-1] == "TimedOut"
    assert "Clean-up after the timeout failed: ValueError('cannot clean up')" in stage.said(run)


async def test_run_taken_ahead_of_its_time_begins_on_time(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    run = stage.schedule(at=8)
    await stage.finish(run, prefetch_seconds=10)
    assert stage.history(run) == [("Scheduled", 0), ("Pending", 0), ("Running", 8), ("Completed", 8)]


# Cancellation


async def test_cancelled_function_cleans_up(autojump_clock: Clock, stage: Stage) -> None:
    done: list[str] = []

    @stage.app.flow()
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(10, shield=True):
                await trio.sleep(4)
                done.append("cleaned up")

    run = stage.schedule()
    async with stage.working():
        await sleep_until(stage.world, 20)
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert done == ["cleaned up"]
    assert stage.history(run)[2:] == [("Running", 0), ("Cancelling", 20), ("Cancelled", 24)]


async def test_clean_up_that_takes_too_long_is_not_waited_for_but_keeps_its_slot(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work(seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    run = stage.schedule(parameters={"seconds": 100})
    waiting = stage.schedule(parameters={"seconds": 0}, at=1)
    async with stage.working(limit=1):
        await sleep_until(stage.world, 20)
        stage.world.api.cancel(run.id)
        await stage.ended(waiting)
    assert stage.history(run)[-1] == ("Cancelled", 50)
    assert "Its clean-up did not end within 30 s and goes on" in stage.said(run)
    assert dict(stage.history(waiting))["Running"] >= 120


async def test_what_clean_up_raises_after_the_cancellation_is_told_once(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cannot clean up")

    run = stage.schedule()
    async with stage.working():
        await stage.world.api.wait_for_state(run.id, "Running")
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert stage.states(run)[-1] == "Cancelled"
    assert stage.said(run).count("Clean-up after the cancellation failed: ValueError") == 1


async def test_function_that_ignores_its_cancellation_is_cancelled_when_it_has_ended(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(25)

    run = stage.schedule()
    async with stage.working():
        await sleep_until(stage.world, 5)
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert stage.history(run)[-1] == ("Cancelled", 25)


async def test_run_is_cancelled_while_it_waits_for_its_time(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow()
    async def work() -> None:
        count()

    run = stage.schedule(at=9)
    async with stage.working(prefetch_seconds=10):
        await sleep_until(stage.world, 4)
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert stage.history(run)[-1] == ("Cancelled", 4)
    assert count.count == 0


async def test_run_is_cancelled_while_it_waits_for_a_retry(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow(retries=1, retry_delay=100)
    async def work() -> None:
        count()
        raise ValueError

    run = stage.schedule()
    async with stage.working():
        await sleep_until(stage.world, 50)
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert stage.history(run)[-1] == ("Cancelled", 50)
    assert count.count == 1


async def test_thread_is_cancelled_once_it_has_returned(stage: Stage) -> None:
    release, running = threading.Event(), trio.Event()

    @stage.app.flow()
    def work() -> None:
        trio.from_thread.run_sync(running.set)
        release.wait(60)

    run = stage.schedule()
    async with stage.working() as worker:
        await running.wait()
        stage.world.api.cancel(run.id)
        await settle()
        assert stage.states(run)[-1] == "Cancelling"
        assert worker.runs_in_hand == 1
        release.set()
        await stage.ended(run)
    assert stage.states(run)[-1] == "Cancelled"


async def test_thread_that_asks_is_told_of_its_cancellation(stage: Stage) -> None:
    running = trio.Event()
    pause = threading.Event()

    @stage.app.flow()
    def work() -> None:
        trio.from_thread.run_sync(running.set)
        while True:
            pause.wait(0.005)
            trio.from_thread.check_cancelled()

    run = stage.schedule()
    async with stage.working():
        await running.wait()
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert stage.states(run)[-1] == "Cancelled"


async def test_end_is_refused_to_a_run_that_somebody_has_cancelled(
    autojump_clock: Clock, stage: Stage
) -> None:
    api = stage.world.api

    @stage.app.flow(retries=3)
    async def work() -> None:
        # Told to nobody for now: the function ends before the worker hears of it.
        api.refuse_state_changes()
        api.cancel(run.id)
        raise ValueError

    run = stage.schedule()
    await stage.finish(run)
    assert stage.states(run)[-2:] == ["Cancelling", "Cancelled"]


# The worker stops


async def test_function_that_ends_within_the_drain_is_completed(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(15)

    run = stage.schedule()
    async with stage.working(drain_timeout=10) as worker:
        await sleep_until(stage.world, 6)
        worker.shutdown()
    assert stage.history(run)[-1] == ("Completed", 15)
    assert not worker.cut_off


async def test_function_that_outlasts_the_drain_is_crashed_after_its_clean_up(
    autojump_clock: Clock, stage: Stage
) -> None:
    done: list[str] = []

    @stage.app.flow(retries=0)
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            done.append("cleaned up")

    run = stage.schedule()
    async with stage.working(drain_timeout=10, kill_grace=5) as worker:
        await sleep_until(stage.world, 6)
        worker.shutdown()
    assert done == ["cleaned up"]
    assert stage.history(run)[-1] == ("Crashed", 18)
    assert stage.message(run) == "Worker 'worker' was stopped before the flow run had ended."


async def test_run_whose_clean_up_does_not_end_is_crashed_in_time(
    autojump_clock: Clock, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    run = stage.schedule()
    async with stage.working(kill_grace=5) as worker:
        await sleep_until(stage.world, 20)
        worker.stop()
    assert stage.history(run)[-1] == ("Crashed", 25)
    assert stage.world.now == 100
    assert "1 function is still going on, though the end of the run was reported" in caplog.text


async def test_several_functions_that_go_on_are_counted(
    autojump_clock: Clock, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    stage.schedule()
    stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 20)
        worker.stop()
    assert "2 functions are still going on" in caplog.text


async def test_abandoned_run_is_crashed_at_once(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    run = stage.schedule()
    async with stage.working(kill_grace=5) as worker:
        await sleep_until(stage.world, 20)
        worker.stop()
        await trio.sleep(1)
        worker.abandon()
    assert stage.history(run)[-1] == ("Crashed", 21)


async def test_host_that_is_cancelled_has_functions_cleaned_up_and_runs_crashed(
    autojump_clock: Clock, stage: Stage
) -> None:
    done: list[float] = []

    @stage.app.flow()
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            done.append(stage.world.now)

    run = stage.schedule()
    with trio.move_on_after(20):
        await stage.worker().run()
    assert done == [20]
    assert stage.history(run)[-1] == ("Crashed", 20)


async def test_error_of_clean_up_does_not_reach_a_host_that_is_cancelled(
    autojump_clock: Clock, stage: Stage
) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cannot clean up")

    @stage.app.flow()
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    run = stage.schedule()
    with trio.move_on_after(20) as scope:
        await stage.worker().run()
    assert scope.cancelled_caught
    assert stage.states(run)[-1] == "Crashed"


async def test_run_that_waits_for_its_time_is_given_back(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    run = stage.schedule(at=9)
    async with stage.working(prefetch_seconds=10) as worker:
        await sleep_until(stage.world, 4)
        worker.stop()
    assert stage.states(run) == ["Scheduled", "Pending", "Scheduled"]
    assert (stage.message(run) or "").startswith("Given back")


@pytest.mark.parametrize("due", [0.4, 2.4, 7.6])
async def test_run_never_begins_before_its_time(autojump_clock: Clock, stage: Stage, due: float) -> None:
    """The server rounds, and takes `Running` up to half a second ahead."""
    began: list[float] = []

    @stage.app.flow()
    async def work() -> None:
        began.append(stage.world.now)

    await stage.finish(stage.schedule(at=due))
    assert began == [pytest.approx(due)]


async def test_clock_that_disagrees_with_the_server_counts_for_nothing(
    autojump_clock: Clock, stage: Stage
) -> None:
    began: list[float] = []

    @stage.app.flow()
    async def work() -> None:
        began.append(stage.world.now)

    ahead = attrs.evolve(stage.world.surroundings, now=lambda: stage.world.api.now() + timedelta(seconds=100))
    run = stage.schedule(at=7.6)
    worker = Worker(stage.world.config(pool=POOL, flows=stage.app), surroundings=ahead)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await stage.ended(run)
        worker.shutdown()
    # As far as the server tells it, which is in whole seconds.
    assert began == [pytest.approx(8, abs=0.5)]


async def test_run_that_waits_for_its_time_does_not_hold_up_a_drain(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    run = stage.schedule(at=9)
    async with (
        stage.working(prefetch_seconds=10, drain_timeout=100) as worker,
        trio.open_nursery() as nursery,
    ):
        ends: list[Happening] = []

        async def watch() -> None:
            with worker.watch() as happenings:
                ends.extend([each async for each in happenings])

        nursery.start_soon(watch)
        await sleep_until(stage.world, 4)
        worker.shutdown()
    assert stage.world.now == 4
    assert stage.states(run) == ["Scheduled", "Pending", "Scheduled"]
    # At its time, not before.
    given_back = stage.world.api.flow_run(run.id).state
    assert given_back is not None
    assert given_back.state_details.scheduled_time == stage.world.api.moment(9)
    (finished,) = [each for each in ends if isinstance(each, RunFinished)]
    assert finished.end is RunEnd.GIVEN_BACK


async def test_retry_does_not_hold_up_a_drain(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow(retries=1, retry_delay=100)
    async def work() -> None:
        if count() == 1:
            raise ValueError

    run = stage.schedule()
    async with stage.working(drain_timeout=1000) as worker:
        await sleep_until(stage.world, 50)
        worker.shutdown()
    assert stage.world.now == 50
    assert stage.states(run) == ["Scheduled", "Pending", "Running", "AwaitingRetry"]
    await stage.finish(run)
    # At its time, and by whoever comes along.
    assert stage.history(run)[-2:] == [("Running", 100), ("Completed", 100)]


@pytest.mark.parametrize("how", ["shutdown", "stop", "abandon"])
async def test_retry_that_is_left_keeps_its_time(autojump_clock: Clock, stage: Stage, how: str) -> None:
    count = Counter()

    @stage.app.flow(retries=1, retry_delay=1000)
    async def work() -> None:
        if count() == 1:
            raise ValueError

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 50)
        stage.world.api.latencies = {"read_flow_run": 0.1, "update_flow_run_policy": 0.1}
        getattr(worker, how)()
    stage.world.api.latencies = {}
    assert stage.states(run) == ["Scheduled", "Pending", "Running", "AwaitingRetry"]
    await stage.finish(run)
    assert stage.history(run)[-2:] == [("Running", 1000), ("Completed", 1000)]
    assert stage.world.api.flow_run(run.id).run_count == 2


async def test_retry_that_is_left_gives_its_slot_back(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow(retries=1, retry_delay=100)
    async def work() -> None:
        if count() == 1:
            raise ValueError

    stage.deployment("work", concurrency_limit=1)
    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 50)
        worker.shutdown()
    other = stage.schedule()
    await stage.finish(other, run)
    # Neither had to wait for the slot that the first attempt had.
    assert stage.history(other)[-1] == ("Completed", 50)
    assert stage.history(run)[-2:] == [("Running", 100), ("Completed", 100)]


@pytest.mark.parametrize("slow", [0.0, 2.0])
async def test_run_that_another_worker_has_taken_over_is_left_to_it(
    autojump_clock: Clock, stage: Stage, slow: float
) -> None:
    """Two workers in one process; the one that leaves a retry does not know that it was heard."""
    calls: list[float] = []

    @stage.app.flow(retries=1, retry_delay=10)
    async def work() -> None:
        calls.append(stage.world.now)
        await trio.sleep(8)
        if len(calls) == 1:
            raise ValueError

    run = stage.schedule()
    first, second = stage.worker(name="first", drain_timeout=1000), stage.worker(name="second")
    async with trio.open_nursery() as nursery:
        await nursery.start(first.run)
        await nursery.start(second.run)
        await sleep_until(stage.world, 17.5)
        stage.world.api.lose_answer("update_flow_run_policy")
        stage.world.api.latencies = {"set_infrastructure_pid": slow, "read_flow_run": 0.6}
        first.shutdown()
        await stage.ended(run)
        second.shutdown()
    assert len(calls) == 2
    assert "Crashed" not in stage.states(run)
    assert stage.states(run)[-2:] == ["Running", "Completed"]


async def test_function_that_has_returned_is_completed_however_great_the_hurry(
    autojump_clock: Clock, stage: Stage
) -> None:
    returned = trio.Event()

    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(1)
        returned.set()

    run = stage.schedule()
    async with stage.working() as worker:
        await stage.world.api.wait_for_state(run.id, "Running")
        stage.world.api.latencies = {"set_flow_run_state": 0.2}
        await returned.wait()
        worker.abandon()
    assert stage.states(run)[-1] == "Completed"


async def test_run_that_somebody_has_ended_meanwhile_is_not_given_back(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    run = stage.schedule(at=9)
    async with stage.working(prefetch_seconds=10) as worker:
        await sleep_until(stage.world, 4)
        stage.world.api.set_state(run.id, "Completed", force=True)
        worker.stop()
    assert stage.states(run) == ["Scheduled", "Pending", "Completed"]


async def test_refusal_of_parameters_is_told_though_the_worker_stops(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow(retries=1)
    async def work(n: int) -> None: ...

    run = stage.schedule(parameters={"n": "many"})
    stage.world.api.latencies = {"set_flow_run_state": 2}
    async with stage.working() as worker:
        await sleep_until(stage.world, 3)
        worker.stop()
    assert stage.history(run) == [("Scheduled", 0), ("Pending", 2), ("Failed", 5)]


async def test_refusal_that_comes_with_the_end_of_the_host_stays_with_its_run(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None:
        # The answer comes at the moment at which the host is cancelled.
        stage.world.api.latencies = {"set_flow_run_state": 20}
        stage.world.api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))

    async def hurry() -> None:
        await trio.sleep(10)
        stage.world.api.latencies = {}

    run = stage.schedule()
    with trio.move_on_after(20) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry)
            await stage.worker().run()
    assert scope.cancelled_caught
    assert stage.states(run)[-1] == "Crashed"


async def test_retry_of_a_run_that_waits_for_it_is_left_to_other_workers(
    autojump_clock: Clock, stage: Stage
) -> None:
    count = Counter()

    @stage.app.flow(retries=1, retry_delay=100)
    async def work() -> None:
        if count() == 1:
            raise ValueError

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 50)
        worker.stop()
    await stage.finish(run)
    assert count.count == 2
    assert stage.states(run)[-3:] == ["Pending", "Running", "Completed"]


@pytest.mark.parametrize("retries", [0, 1])
async def test_end_that_was_on_its_way_when_the_worker_stopped_is_told(
    autojump_clock: Clock, stage: Stage, retries: int
) -> None:
    @stage.app.flow(retries=retries)
    async def work() -> None:
        stage.world.api.latencies = {"set_flow_run_state": 2}
        raise ValueError("no luck")

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 1)
        worker.stop()
    expected = "AwaitingRetry" if retries else "Failed"
    assert stage.history(run)[3] == (expected, 3)


async def test_retries_are_told_before_the_end_of_a_run_that_was_cut_off(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow(retries=1)
    async def work() -> None:
        stage.world.api.latencies = {"update_flow_run_policy": 2}
        raise ValueError("no luck")

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 1)
        worker.stop()
    assert stage.history(run)[3] == ("AwaitingRetry", 3)


async def test_thread_that_returns_within_the_grace_is_completed(stage: Stage) -> None:
    release, running = threading.Event(), trio.Event()

    @stage.app.flow()
    def work() -> None:
        trio.from_thread.run_sync(running.set)
        release.wait(60)

    run = stage.schedule()
    async with stage.working(kill_grace=60) as worker:
        await running.wait()
        worker.stop()
        await settle()
        release.set()
    assert stage.states(run)[-1] == "Completed"


async def test_end_that_the_server_does_not_take_any_more_is_left_to_the_worker(
    autojump_clock: Clock, stage: Stage
) -> None:
    api = stage.world.api

    @stage.app.flow()
    async def work() -> None:
        api.latencies = {"set_flow_run_state": 2}
        api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 1)
        worker.stop()
    assert stage.states(run)[-1] == "Crashed"


async def test_run_that_was_cancelled_and_cut_off_is_cancelled(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(4)

    run = stage.schedule()
    async with stage.working() as worker:
        await sleep_until(stage.world, 1)
        stage.world.api.cancel(run.id)
        await sleep_until(stage.world, 2)
        worker.stop()
    assert stage.history(run)[-1] == ("Cancelled", 4)


# What is no `Exception`


class OfItsOwn(BaseException):
    pass


def exits() -> None:
    raise SystemExit(3)


def raises_its_own() -> None:
    raise OfItsOwn("strange")


def raises_a_mixed_group() -> None:
    raise BaseExceptionGroup("mixed", [SystemExit(1), ValueError("x")])


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (exits, "Execution was aborted by Python system exit call."),
        (raises_its_own, "Execution was interrupted by an unexpected exception: "),
        (
            raises_a_mixed_group,
            "Execution was interrupted by an unexpected exception: SystemExit: 1; ValueError: x",
        ),
    ],
)
async def test_other_ends_crash_their_run_alone(
    autojump_clock: Clock, stage: Stage, end: Callable[[], None], message: str
) -> None:
    @stage.app.flow()
    async def work() -> None:
        end()

    @stage.app.flow()
    async def sibling() -> None:
        await trio.sleep(5)

    run, other = stage.schedule(), stage.schedule("sibling")
    await stage.finish(run, other)
    assert stage.states(run)[-1] == "Crashed"
    assert (stage.message(run) or "").startswith(message)
    assert stage.states(other)[-1] == "Completed"


async def test_cancelled_that_was_kept_and_raised_again_crashes_its_run_alone(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept.append(error)
                raise
        raise BaseExceptionGroup("kept", [kept[0], ValueError("x")])

    @stage.app.flow()
    async def sibling() -> None:
        await trio.sleep(5)

    run, other = stage.schedule(), stage.schedule("sibling")
    await stage.finish(run, other)
    assert stage.states(run)[-1] == "Crashed"
    assert stage.states(other)[-1] == "Completed"


@pytest.mark.parametrize("alone", [True, False])
async def test_keyboard_interrupt_reaches_the_host_once_runs_are_reported(
    autojump_clock: Clock, stage: Stage, alone: bool
) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(1)
        if alone:
            raise KeyboardInterrupt
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("x")])

    @stage.app.flow()
    async def sibling() -> None:
        await trio.sleep_forever()

    runs = stage.schedule(), stage.schedule("sibling")
    with pytest.raises(KeyboardInterrupt):
        await stage.worker().run()
    assert [stage.states(run)[-1] for run in runs] == ["Crashed", "Crashed"]


# What the server says


async def test_run_that_was_deleted_is_left(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        stage.world.api.delete_flow_run(run.id)

    run = stage.schedule()
    async with stage.working() as worker:
        await trio.sleep(30)
        assert worker.runs_in_hand == 0
    assert stage.world.api.flow_runs == []
    assert "The flow run was deleted." in stage.said(run)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (4, "Somebody has made something else of the flow run, which is Completed now"),
        (8.5, "The server did not let the flow run begin (state Completed): Run is already COMPLETED."),
    ],
)
async def test_run_that_may_not_begin_is_left_as_it_is(
    autojump_clock: Clock, stage: Stage, at: float, said: str
) -> None:
    count = Counter()

    @stage.app.flow()
    async def work() -> None:
        count()

    run = stage.schedule(at=9)
    async with stage.working(prefetch_seconds=10):
        await sleep_until(stage.world, at)
        stage.world.api.set_state(run.id, "Completed", data={"type": "reference"}, force=True)
        await sleep_until(stage.world, 20)
    assert count.count == 0
    assert stage.states(run)[-1] == "Completed"
    assert said in stage.said(run)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_function_is_called_once_though_an_answer_is_lost(
    autojump_clock: Clock, stage: Stage, lost: int
) -> None:
    count = Counter()

    @stage.app.flow()
    async def work() -> None:
        count()
        if lost == 3:
            stage.world.api.lose_answer("set_flow_run_state")

    run = stage.schedule(at=9)
    if lost == 1:
        stage.world.api.lose_answer("set_flow_run_state")
    async with stage.working():
        await sleep_until(stage.world, 4)
        if lost == 2:
            # The one that says "wait" is on its way already.
            stage.world.api.lose_answer("set_flow_run_state")
        await stage.ended(run)
    assert count.count == 1
    assert stage.states(run) == ["Scheduled", "Pending", "Running", "Completed"]


@pytest.mark.parametrize(
    "method",
    [
        "set_flow_run_state",
        "read_deployment",
        "read_flow",
        "read_flow_run_states",
        "update_flow_run_policy",
        "set_infrastructure_pid",
        "read_flow_run",
        "update_flow_run_labels",
    ],
)
async def test_outage_at_any_request_delays_the_run_and_nothing_else(
    autojump_clock: Clock, stage: Stage, method: str
) -> None:
    count = Counter()

    @stage.app.flow(retries=1)
    async def work() -> None:
        if count() == 1:
            raise ValueError

    run = stage.schedule()
    stage.world.api.fail(method, APIUnavailableError("away"), times=6)
    await stage.finish(run)
    assert count.count == 2
    assert stage.states(run) == ["Scheduled", "Pending", "Running", "AwaitingRetry", "Running", "Completed"]


async def test_outage_of_an_hour_while_a_function_runs(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(60)

    run = stage.schedule()
    async with stage.working():
        await stage.world.api.wait_for_state(run.id, "Running")
        await sleep_until(stage.world, 10)
        with stage.world.api.outage():
            await trio.sleep(3600)
        await stage.ended(run)
    name, at = stage.history(run)[-1]
    assert name == "Completed"
    assert at < 3610 + 60


async def test_run_goes_on_though_the_server_does_not_take_its_place(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow(retries=2)
    async def work() -> None:
        raise ValueError

    stage.world.api.fail("set_infrastructure_pid", RequestRefusedError("PATCH", 422, "no such thing"))
    stage.world.api.fail("update_flow_run_policy", RequestRefusedError("PATCH", 422, "no such thing"))
    run = stage.schedule()
    await stage.finish(run)
    assert stage.states(run)[-2:] == ["Running", "Failed"]
    assert "The server does not take of the flow run where it runs: " in stage.said(run)
    assert "The server does not take of the flow run how often to try it again: " in stage.said(run)


async def test_heartbeats_tell_that_a_run_goes_on(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(400)

    run = stage.schedule(tags=["blue"])
    await stage.finish(run)
    beats = [event for event in stage.world.api.events if event.event == "prefect.flow-run.heartbeat"]
    assert [(beat.occurred - stage.world.api.moment(0)).total_seconds() for beat in beats] == [0, 180, 360]
    assert beats[0].resource["prefect.resource.id"] == f"prefect.flow-run.{run.id}"
    assert [related["prefect.resource.role"] for related in beats[0].related] == ["flow", "deployment", "tag"]


async def test_heartbeats_can_be_done_without(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    async with _opened(stage, stage.schedule()) as (infrastructure, job):
        outcome = await infrastructure.run(job)
    assert outcome.state is not None
    assert outcome.state.type is StateType.COMPLETED
    assert stage.world.api.events == []
    assert stage.world.api.logs == []


# What does not fit


async def test_parameters_that_do_not_fit_fail_the_run_with_each_named(
    autojump_clock: Clock, stage: Stage
) -> None:
    count = Counter()

    @stage.app.flow(retries=3)
    async def work(width: int, height: int = 1) -> None:
        count()

    run = stage.schedule(parameters={"width": "wide", "height": [], "depth": 1})
    await stage.finish(run)
    assert count.count == 0
    assert stage.states(run) == ["Scheduled", "Pending", "Failed"]
    for text in (stage.message(run) or "", stage.said(run)):
        assert text.startswith("Validation of flow parameters failed with error: ")
        assert all(name in text for name in ("width", "height", "depth"))


async def test_parameter_that_exits_crashes_its_run_alone(autojump_clock: Clock, stage: Stage) -> None:
    @attrs.define
    class Picture:
        path: str = attrs.field(converter=sys.exit)

    @stage.app.flow()
    async def work(picture: Picture) -> None: ...

    @stage.app.flow()
    async def sibling() -> None: ...

    run, other = stage.schedule(parameters={"picture": {"path": "a"}}), stage.schedule("sibling")
    # As if it had been defined in a module, where its name can be resolved.
    work.__annotations__["picture"] = Picture
    await stage.finish(run, other)
    assert [stage.states(each)[-1] for each in (run, other)] == ["Crashed", "Completed"]


async def test_runs_of_a_flow_that_is_not_served_are_crashed_with_advice(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    runs = [stage.schedule("another") for _ in range(20)]
    await stage.finish(*runs, stage.schedule())
    assert {stage.states(run)[-1] for run in runs} == {"Crashed"}
    assert (stage.message(runs[0]) or "").endswith(
        "this worker has no function for flow 'another', only for 'work': delete its deployment, or serve it on"
        " a work pool of its own"
    )


async def test_flow_declared_too_late_with_a_bad_signature_crashes_its_runs(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    run = stage.schedule("late")
    async with stage.working():
        # Nobody has looked for runs yet.
        @stage.app.flow()
        async def late(stream: threading.Event) -> None: ...

        await stage.ended(run)
    assert stage.states(run)[-1] == "Crashed"
    assert "stream" in (stage.message(run) or "")


async def test_worker_does_not_start_without_flows(autojump_clock: Clock, stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match=r"no flows to serve"):
        await stage.worker().run()


async def test_worker_does_not_start_with_a_signature_that_cannot_be_served(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def work(stream: threading.Event) -> None: ...

    with pytest.raises(ConfigurationError, match="stream"):
        await stage.worker().run()


async def test_functions_are_not_served_to_a_pool_of_processes(autojump_clock: Clock, stage: Stage) -> None:
    worker = stage.world.worker(flows=stage.app)
    with pytest.raises(WorkerRefusedError, match="type 'process'"):
        await worker.run()


async def test_pool_of_functions_is_created(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    async with stage.world.working(pool="new", flows=stage.app):
        pool = stage.world.api.work_pool("new")
    assert pool.type == "trio"
    assert pool.base_job_template["variables"] == {"type": "object", "properties": {}}


# Many runs


async def test_no_more_functions_run_than_the_limit_allows(autojump_clock: Clock, stage: Stage) -> None:
    active: list[int] = [0]
    peaks: list[int] = []

    @stage.app.flow()
    async def work() -> None:
        active[0] += 1
        peaks.append(active[0])
        await trio.sleep(1)
        active[0] -= 1

    runs = [stage.schedule() for _ in range(30)]
    await stage.finish(*runs, limit=4)
    assert max(peaks) == 4
    assert {stage.states(run)[-1] for run in runs} == {"Completed"}


async def test_ends_of_many_runs_do_not_touch_each_other(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow(timeout=30)
    async def work(n: int) -> None:
        await trio.sleep(n % 7)
        match n % 5:
            case 0:
                raise ValueError(n)
            case 1:
                raise SystemExit(n)
            case 2:
                await trio.sleep_forever()
            case 3:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

    runs = [stage.schedule(parameters={"n": n}) for n in range(50)]
    await stage.finish(*runs)
    assert [stage.states(run)[-1] for run in runs] == 10 * [
        "Failed",
        "Crashed",
        "TimedOut",
        "Completed",
        "Completed",
    ]


async def test_two_workers_in_one_process_do_not_know_of_each_other(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    stages = [Stage(World(tmp_path)), Stage(World(tmp_path))]
    calls: list[tuple[int, str]] = []

    def declare(app: TrioFlows, number: int) -> None:
        @app.flow(name="work")
        async def work() -> None:
            await trio.sleep(1)
            calls.append((number, current_flow_run().name))

    for number, stage in enumerate(stages):
        declare(stage.app, number)
    first, second = stages
    runs = first.schedule(name="a"), second.schedule(name="b")
    async with first.working(), second.working():
        await first.ended(runs[0])
        await second.ended(runs[1])
    assert sorted(calls) == [(0, "a"), (1, "b")]


# The rest of the protocol


@asynccontextmanager
async def _opened(stage: Stage, run: FlowRun) -> AsyncIterator[tuple[TrioInfrastructure, FlowJob]]:
    """The infrastructure without a worker, and a run that is claimed, in its workspace."""
    infrastructure, job = stage.claimed(run)
    async with infrastructure.open(), infrastructure.open_workspace(job) as opened:
        yield infrastructure, opened


async def test_calls_are_found_by_their_place_while_they_go_on(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(10)

    run = stage.schedule()
    async with _opened(stage, run) as (infrastructure, job):
        async with trio.open_nursery() as nursery:
            place = await nursery.start(infrastructure.run, job)
            assert await infrastructure.find(run.id, Trace(place)) == Running(Trace(place))
        assert await infrastructure.find(run.id, Trace(place)) == Gone()
        # There is nothing to be killed any more, and there are no hooks to be called.
        await infrastructure.kill(place, 30)
        await infrastructure.run_hooks(job, HookCall(kind="crashed", flow_run={}, state={}))
    assert stage.states(run)[-1] == "Completed"


async def test_kill_waits_until_a_function_has_ended(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    async with _opened(stage, stage.schedule()) as (infrastructure, job), trio.open_nursery() as nursery:
        place = await nursery.start(infrastructure.run, job)
        await trio.sleep(1)
        await infrastructure.kill(place, 30)
        assert stage.world.now == 10


async def test_kill_says_that_a_thread_goes_on(stage: Stage) -> None:
    release, running = threading.Event(), trio.Event()

    @stage.app.flow()
    def work() -> None:
        trio.from_thread.run_sync(running.set)
        release.wait(60)

    async with _opened(stage, stage.schedule()) as (infrastructure, job), trio.open_nursery() as nursery:
        place = await nursery.start(infrastructure.run, job)
        await running.wait()
        with pytest.raises(InfrastructureError, match="runs in a thread, which nothing can cancel"):
            await infrastructure.kill(place, 0.05)
        nursery.start_soon(infrastructure.kill, place, 60)
        await settle()
        release.set()


async def test_refusal_of_a_state_is_told_to_the_worker(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    stage.world.api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))
    run = stage.schedule()
    async with _opened(stage, run) as (infrastructure, job):
        with pytest.raises(RequestRefusedError):
            await infrastructure.run(job)
    # It is the worker's to say what becomes of the run.
    assert stage.states(run)[-1] == "Pending"
