"""What becomes of runs that a worker's end cuts off, by its policy: crash, reschedule or leave; in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from flow_support import Stage as Functions
from ledger_support import Estate
from support import FOREVER, POOL, World

from trioworker import ConfigurationError, RunEnd, RunFinished
from trioworker.api.models import FlowRun
from trioworker.infrastructure.protocol import ShutdownPolicy
from trioworker.ledger.entry import Stage
from trioworker.testing import Script

Clock = trio.testing.MockClock

GOES_ON = Script(seconds=FOREVER)
STUBBORN = Script(seconds=FOREVER, ignores_terminate=True)


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Estate]:
    estate = Estate(tmp_path, machine=nursery)
    yield estate
    estate.lasting.switch_off()


async def stopped(
    world: World, policy: ShutdownPolicy, *scripts: Script, again: bool = True
) -> list[FlowRun]:
    """Runs that go on when their worker is stopped; the pool is paused then.

    Args:
        world: in which they run.
        policy: of the worker.
        scripts: what they do.
        again: whether the worker is told twice, so that it does not wait.
    """
    runs = [world.schedule(script) for script in scripts]
    async with world.working(on_shutdown=policy, drain_timeout=20, kill_grace=5, flush_timeout=3) as worker:
        for run in runs:
            await world.api.wait_for_state(run.id, "Running")
        await trio.sleep(10 - world.now)
        world.api.pause_work_pool(POOL)
        worker.shutdown()
        if again:
            worker.stop()
    return runs


class TestReschedule:
    async def test_run_is_dead_before_it_is_offered_to_anybody(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        (run,) = await stopped(world, "reschedule", STUBBORN)
        execution = world.infrastructure.execution(run.id)
        (kill,) = execution.kills
        assert (kill.at, kill.intent) == (10, "reschedule")
        assert (execution.ended_at, execution.status) == (15, -9)
        assert world.api.history(run.id)[-1] == ("AwaitingRetry", 15)
        assert world.message(run) == "Worker 'worker' was stopped before the flow run had ended."
        assert world.api.flow_run(run.id).infrastructure_pid is None

    async def test_it_is_executed_again_by_whoever_comes(self, autojump_clock: Clock, world: Estate) -> None:
        (run,) = await stopped(world, "reschedule", GOES_ON)
        world.infrastructure.scripts[run.id] = Script()
        world.api.pause_work_pool(POOL, paused=False)
        async with world.working():
            await world.api.wait_for_state(run.id, "Completed")
        assert len(world.infrastructure.executions) == 2

    async def test_drain_timeout_cuts_off_as_a_second_signal_does(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        (run,) = await stopped(world, "reschedule", GOES_ON, again=False)
        assert world.api.history(run.id)[-1] == ("AwaitingRetry", 30)

    async def test_hard_stop_does_too(self, autojump_clock: Clock, world: Estate) -> None:
        run = world.schedule(GOES_ON)
        with trio.move_on_after(10):
            await world.worker(on_shutdown="reschedule").run()
        assert world.api.history(run.id)[-1] == ("AwaitingRetry", 10)
        assert not world.lasting.lives(run.id)

    async def test_run_that_means_to_wait_for_its_own_retry_gets_over_that(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        waits = Script(ends="AwaitingRetry", retry_type="in_process", seconds=5)
        run = world.schedule(waits)
        async with world.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "AwaitingRetry")
            world.api.pause_work_pool(POOL)
            worker.stop()
        assert world.states(run)[-3:] == ["AwaitingRetry", "Crashed", "AwaitingRetry"]
        assert world.api.flow_run(run.id).empirical_policy.retry_type == "reschedule"

    async def test_run_that_has_waited_for_its_own_retry_is_offered_to_all(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """It is Running again, but for the server it would still be its own business to try again."""
        run = world.schedule(GOES_ON)
        async with world.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            world.api.set_state(run.id, "AwaitingRetry", retry_type="in_process")
            world.api.set_state(run.id, "Running")
            world.api.pause_work_pool(POOL)
            worker.stop()
        assert world.states(run)[-2:] == ["Crashed", "AwaitingRetry"]
        assert world.api.flow_run(run.id).empirical_policy.retry_type == "reschedule"

    async def test_crash_that_the_engine_reports_is_no_obstacle(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        unreachable = Script(seconds=FOREVER, reachable=False, terminated="Crashed")
        (run,) = await stopped(world, "reschedule", unreachable)
        assert world.states(run)[-2:] == ["Crashed", "AwaitingRetry"]

    async def test_run_that_somebody_wants_cancelled_is_cancelled(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule(STUBBORN)
        async with world.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            world.api.cancel(run.id)
            await trio.sleep(25)
            assert world.infrastructure.execution(run.id).kills
            worker.stop()
        assert world.states(run)[-1] == "Cancelled"

    async def test_cancellation_of_which_the_worker_does_not_know_counts_too(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule(GOES_ON)
        async with world.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            world.api.cancel(run.id)
            worker.stop()
        assert world.states(run)[-1] == "Cancelled"

    async def test_run_that_has_just_ended_stays_so(self, autojump_clock: Clock, world: Estate) -> None:
        run = world.schedule(GOES_ON)
        async with world.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            world.api.set_state(run.id, "Completed")
            worker.stop()
        assert world.states(run)[-1] == "Completed"

    async def test_call_of_a_function_is_rescheduled(self, autojump_clock: Clock, world: Estate) -> None:
        functions = Functions(world)

        @functions.app.flow()
        async def work() -> None:
            await trio.sleep_forever()

        run = functions.schedule()
        async with functions.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            worker.stop()
        assert world.states(run)[-1] == "AwaitingRetry"

    async def test_call_of_a_function_that_does_not_end_is_not_offered_to_others(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        functions = Functions(world)

        @functions.app.flow()
        async def work() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)

        run = functions.schedule()
        async with functions.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            worker.stop()
        assert world.states(run)[-1] == "Crashed"


class TestLeave:
    async def test_run_goes_on_and_is_adopted_by_the_next_worker(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        (run,) = await stopped(world, "leave", GOES_ON)
        assert world.lasting.lives(run.id)
        assert world.now == 10
        assert world.states(run)[-1] == "Running"
        (entry,) = world.shelf.entries
        assert entry.stage is Stage.LAUNCHED
        async with world.working() as worker:
            await trio.sleep(100)
            assert worker.runs_in_hand == 1
            world.lasting.end(run.id)
            await trio.sleep(300)
        assert world.states(run)[-1] == "Completed"
        assert len(world.infrastructure.executions) == 1
        assert world.shelf.entries == []

    async def test_it_is_no_reason_to_fail(self, autojump_clock: Clock, world: Estate) -> None:
        world.schedule(GOES_ON)
        async with world.working(on_shutdown="leave") as worker:
            await trio.sleep(10)
            worker.stop()
        assert not worker.cut_off

    async def test_drain_comes_first(self, autojump_clock: Clock, world: Estate) -> None:
        (run,) = await stopped(world, "leave", Script(seconds=25), again=False)
        assert world.states(run)[-1] == "Completed"
        assert world.shelf.entries == []

    async def test_adopted_run_is_left_once_more(self, autojump_clock: Clock, world: Estate) -> None:
        (run,) = await stopped(world, "leave", GOES_ON)
        for _ in range(3):
            async with world.working(on_shutdown="leave") as worker:
                await trio.sleep(10)
                worker.stop()
        assert world.lasting.lives(run.id)
        assert world.states(run)[-1] == "Running"

    async def test_run_that_was_not_started_yet_is_given_back(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule(GOES_ON)
        world.api.latencies["bulk_set_flow_run_state"] = world.api.latencies["set_flow_run_state"] = 1
        async with world.working(on_shutdown="leave") as worker:
            await trio.sleep(1.5)
            worker.stop()
        assert world.states(run)[-1] == "Scheduled"
        assert world.infrastructure.executions == []
        # Its last request was not answered, and may take effect after it was given back.
        assert [entry.stage for entry in world.shelf.entries] == [Stage.CLAIMED]

    async def test_run_whose_process_has_just_been_started_is_not_given_back(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """Or it would be executed twice."""
        run = world.schedule(GOES_ON)
        world.lasting.trace_seconds = 5
        async with world.working(on_shutdown="leave") as worker:
            await world.api.wait_for_state(run.id, "Running")
            worker.stop()
        assert world.lasting.lives(run.id)
        assert world.states(run)[-1] == "Running"
        async with world.working() as worker:
            await trio.sleep(10)
            assert worker.runs_in_hand == 1
            world.lasting.end(run.id)
        assert len(world.infrastructure.executions) == 1

    async def test_run_that_is_being_cancelled_is_ended(self, autojump_clock: Clock, world: Estate) -> None:
        run = world.schedule(STUBBORN)
        async with world.working(on_shutdown="leave") as worker:
            await world.api.wait_for_state(run.id, "Running")
            world.api.cancel(run.id)
            await trio.sleep(25)
            worker.stop()
        assert world.states(run)[-1] == "Cancelled"
        assert not world.lasting.lives(run.id)

    async def test_abandoned_worker_leaves_nothing(self, autojump_clock: Clock, world: Estate) -> None:
        run = world.schedule(GOES_ON)
        async with world.working(on_shutdown="leave") as worker:
            await trio.sleep(10)
            worker.abandon()
        assert world.states(run)[-1] == "Crashed"
        assert not world.lasting.lives(run.id)
        assert worker.cut_off

    async def test_ledger_that_cannot_be_kept_makes_a_crash_of_it_and_that_is_said(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        world.shelf.trouble = "no space left on device"
        (run,) = await stopped(world, "leave", GOES_ON)
        assert world.states(run)[-1] == "Crashed"
        assert not world.lasting.lives(run.id)
        assert any(
            message.startswith("The ledger cannot be kept in the shelf: no space left on device.")
            for message in world.messages
        )
        assert (
            "Stopping 1 flow run now, since the next worker would not know of it: SIGTERM, and SIGKILL after 5 s."
            in world.messages
        )

    async def test_ledger_that_fails_in_the_middle_of_it_changes_nothing(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """Of what is left, it has known before."""
        run, other = world.schedule(GOES_ON), world.schedule(STUBBORN)
        async with world.working(on_shutdown="leave") as worker:
            await trio.sleep(10)
            world.api.cancel(other.id)
            await trio.sleep(25)
            # Its end has to be written down, while the first one is left.
            world.shelf.trouble = "no space left on device"
            worker.stop()
        assert world.lasting.lives(run.id)
        assert world.states(run)[-1] == "Running"
        assert not worker.cut_off
        assert run.id in {entry.flow_run_id for entry in world.shelf.entries}

    async def test_functions_cannot_be_left(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="calls of functions cannot be left"):
            Functions(World(tmp_path)).worker(on_shutdown="leave")

    async def test_nothing_can_be_left_without_a_ledger(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="only if it is written down"):
            World(tmp_path).worker(on_shutdown="leave", ledger=False)


class TestCrash:
    async def test_run_is_dead_before_it_is_said_to_have_crashed(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        (run,) = await stopped(world, "crash", STUBBORN)
        assert world.infrastructure.execution(run.id).ended_at == 15
        assert world.api.history(run.id)[-1] == ("Crashed", 15)
        assert world.shelf.entries == []


class TestNextWorker:
    """The API is away while runs are cut off: the next worker does what was decided, and says why."""

    @pytest.mark.parametrize(("policy", "state"), [("crash", "Crashed"), ("reschedule", "AwaitingRetry")])
    async def test_carries_out_what_was_decided(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, state: str
    ) -> None:
        run = world.schedule(STUBBORN)
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(10)
            world.api.start_outage()
            worker.stop()
        assert world.states(run)[-1] == "Running"
        (entry,) = world.shelf.entries
        assert entry.stage is Stage.ENDED
        assert entry.fate == (None if policy == "crash" else "SCHEDULED")
        world.api.end_outage()
        world.api.pause_work_pool(POOL)
        # Its own policy is of no concern.
        async with world.working(on_shutdown="crash" if policy == "reschedule" else "reschedule"):
            await world.api.wait_for_state(run.id, state)
            assert world.message(run) == "Worker 'worker' was stopped before the flow run had ended."
            await trio.sleep(300)
        assert world.states(run)[-1] == state
        assert world.shelf.entries == []

    async def test_tells_the_exit_status_that_this_one_has_seen(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule(Script(seconds=20, ends=None, status=7))
        async with world.working() as worker:
            await trio.sleep(10)
            world.api.start_outage()
            await trio.sleep(20)
            worker.stop()
        world.api.end_outage()
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")
        message = world.message(run)
        assert message is not None
        assert "status code 7" in message or "exit" in message.lower()
        assert "nobody knows" not in message

    @pytest.mark.parametrize("policy", ["crash", "reschedule", "leave"])
    async def test_takes_care_of_a_claim_whose_answer_was_lost(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy
    ) -> None:
        run = world.schedule(Script())
        world.api.lose_answer("set_flow_run_state", times=1000)
        async with world.working(on_shutdown=policy) as worker:
            await world.api.wait_for_state(run.id, "Pending")
            world.api.start_outage()
            worker.shutdown()
            await trio.sleep(5)
            worker.stop()
        assert world.states(run)[-1] == "Pending"
        world.api._faults.clear()
        world.api.end_outage()
        async with world.working():
            await world.api.wait_for_state(run.id, "Completed")
        assert len(world.infrastructure.executions) == 1


class TestProcessThatDoesNotEnd:
    @pytest.mark.parametrize("policy", ["crash", "reschedule"])
    async def test_nothing_is_said_about_its_run_until_it_has(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy
    ) -> None:
        run = world.schedule(GOES_ON)
        world.lasting.unkillable.add(run.id)
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(10)
            worker.stop()
        assert world.states(run)[-1] == "Running"
        assert len(world.shelf.entries) == 1
        assert worker.cut_off
        world.lasting.unkillable.clear()
        async with world.working() as worker:
            await trio.sleep(10)
            assert worker.runs_in_hand == 1
            world.lasting.end(run.id)
        assert world.states(run)[-1] == "Completed"

    @pytest.mark.parametrize("policy", ["crash", "reschedule"])
    async def test_nor_if_it_was_just_being_started(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy
    ) -> None:
        run = world.schedule(GOES_ON)
        world.lasting.trace_seconds = 5
        world.lasting.unkillable.add(run.id)
        async with world.working(on_shutdown=policy) as worker:
            await world.api.wait_for_state(run.id, "Running")
            worker.stop()
        assert world.states(run)[-1] == "Running"
        assert len(world.shelf.entries) == 1


class TestWhereNoProcessCanBeLookedFor:
    """As on a system without /proc: whoever has run it is believed."""

    @pytest.mark.parametrize(("policy", "state"), [("crash", "Crashed"), ("reschedule", "AwaitingRetry")])
    async def test_run_that_was_ended_is_reported(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, state: str
    ) -> None:
        run = world.schedule(GOES_ON)
        world.lasting.elsewhere[run.id] = "there is no list of processes here"
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(10)
            world.api.pause_work_pool(POOL)
            worker.stop()
        assert world.states(run)[-1] == state
        assert world.shelf.entries == []

    async def test_run_that_could_not_be_ended_is_not(self, autojump_clock: Clock, world: Estate) -> None:
        run = world.schedule(GOES_ON)
        world.lasting.elsewhere[run.id] = "there is no list of processes here"
        world.lasting.unkillable.add(run.id)
        async with world.working(on_shutdown="reschedule") as worker:
            await trio.sleep(10)
            worker.stop()
        assert world.states(run)[-1] == "Running"
        assert len(world.shelf.entries) == 1


class TestClaimInFlight:
    """A claim takes effect also when nobody waits for the answer any more."""

    @pytest.mark.parametrize("policy", ["crash", "reschedule", "leave"])
    @pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    async def test_it_is_given_back_or_finished(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, seconds: float
    ) -> None:
        run = world.schedule(Script(seconds=4))
        world.api.latency = 1
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(seconds)
            worker.shutdown()
        assert world.states(run)[-1] in {"Scheduled", "Completed"}
        assert world.shelf.entries == []
        assert not worker.cut_off

    @pytest.mark.parametrize("policy", ["crash", "reschedule", "leave"])
    @pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    async def test_so_it_is_when_the_worker_is_stopped_at_once(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, seconds: float
    ) -> None:
        run = world.schedule(GOES_ON)
        world.api.latency = 1
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(seconds)
            worker.stop()
        ends = {"crash": "Crashed", "reschedule": "AwaitingRetry", "leave": "Running"}
        assert world.states(run)[-1] in {"Scheduled", ends[policy]}
        assert world.lasting.lives(run.id) == (world.states(run)[-1] == "Running")


class TestThirdSignal:
    @pytest.mark.parametrize(("policy", "state"), [("crash", "Crashed"), ("reschedule", "AwaitingRetry")])
    async def test_policy_counts_for_what_is_killed_too(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, state: str
    ) -> None:
        run = world.schedule(STUBBORN)
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(10)
            worker.stop()
            await trio.sleep(1)
            worker.abandon()
        assert world.infrastructure.execution(run.id).killed_now_at == 11
        assert world.api.history(run.id)[-1] == (state, 11)


class TestEvents:
    @pytest.mark.parametrize(
        ("policy", "end", "state"),
        [
            ("crash", RunEnd.CUT_OFF, "Crashed"),
            ("reschedule", RunEnd.CUT_OFF, "AwaitingRetry"),
            ("leave", RunEnd.LEFT, "Running"),
        ],
    )
    async def test_end_of_a_run_is_told(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, end: RunEnd, state: str
    ) -> None:
        run = world.schedule(GOES_ON)
        async with world.working(on_shutdown=policy) as worker:
            watch = worker.watch()
            await world.api.wait_for_state(run.id, "Running")
            await world.api.set_infrastructure_pid(run.id, "1001")
            await trio.sleep(10)
            worker.stop()
        (finished,) = [each async for each in watch if isinstance(each, RunFinished)]
        assert finished.end is end
        assert world.states(run)[-1] == state


class TestWhatIsSaid:
    """In the order of events; the last line sums up what has become of the runs that were cut off."""

    async def said(self, world: Estate, policy: ShutdownPolicy, *scripts: Script) -> list[str]:
        await stopped(world, policy, *scripts)
        return world.messages[1:]

    @pytest.mark.parametrize(
        ("policy", "lines"),
        [
            (
                "crash",
                [
                    "Stopping 2 flow runs now: SIGTERM, and SIGKILL after 5 s.",
                    "Cut off 2 flow runs: reported as crashed.",
                ],
            ),
            (
                "reschedule",
                [
                    "Stopping 2 flow runs now: SIGTERM, and SIGKILL after 5 s. Then any worker may take them again.",
                    "Cut off 2 flow runs: offered to any worker again.",
                ],
            ),
            (
                "leave",
                [
                    "Leaving 2 flow runs running, for the worker that comes next.",
                    "Cut off 2 flow runs: left running.",
                ],
            ),
        ],
    )
    async def test_by_policy(
        self, autojump_clock: Clock, world: Estate, policy: ShutdownPolicy, lines: list[str]
    ) -> None:
        assert await self.said(world, policy, GOES_ON, GOES_ON) == lines

    async def test_several_kinds_of_ends_are_counted(self, autojump_clock: Clock, world: Estate) -> None:
        runs = [world.schedule(STUBBORN) for _ in range(4)]
        async with world.working(on_shutdown="reschedule") as worker:
            for run in runs:
                await world.api.wait_for_state(run.id, "Running")
            world.api.pause_work_pool(POOL)
            world.api.set_state(runs[1].id, "Completed")
            world.api.cancel(runs[2].id)
            world.lasting.unkillable.add(runs[3].id)
            worker.stop()
        assert world.messages[-1] == (
            "Cut off 4 flow runs: 1 offered to any worker again, 1 cancelled, 1 ended by themselves in that moment, 1"
            " not reported. The worker that comes next sees to what is not reported."
        )

    async def test_nobody_sees_to_what_is_not_reported_without_a_ledger(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        world.schedule(GOES_ON)
        async with world.working(ledger=False) as worker:
            await trio.sleep(10)
            world.api.start_outage()
            worker.stop()
        assert world.messages[-1] == "Cut off 1 flow run: not reported."

    async def test_calls_of_functions(self, autojump_clock: Clock, world: Estate) -> None:
        functions = Functions(world)

        @functions.app.flow()
        async def work() -> None:
            await trio.sleep_forever()

        run = functions.schedule()
        async with functions.working(on_shutdown="reschedule") as worker:
            await world.api.wait_for_state(run.id, "Running")
            worker.stop()
        assert world.messages[-2:] == [
            "Cancelling 1 flow run now; functions get 5 s for their clean-up. Then any worker may take it again.",
            "Cut off 1 flow run: offered to any worker again.",
        ]

    async def test_nothing_is_summed_up_where_nothing_was_cut_off(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        await stopped(world, "leave", Script(seconds=15), again=False)
        assert not any("ut off" in message or "Leaving" in message for message in world.messages)
