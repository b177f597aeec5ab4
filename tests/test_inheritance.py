"""What becomes of a run that a worker has left which is gone: the table of all cases, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from flow_support import Stage as Functions
from ledger_support import EARLIER, SILENT, Estate
from support import FOREVER, POOL, settle

from trioworker import RunEnd, RunFinished, RunHappening
from trioworker.api.errors import RequestRefusedError
from trioworker.api.models import FlowRun, ProposedState, StateType
from trioworker.infrastructure.protocol import InfrastructureError, Trace
from trioworker.ledger.entry import Fate, Stage
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Estate]:
    estate = Estate(tmp_path, machine=nursery)
    # Nobody shall take what is given back before a test has looked at it.
    estate.api.pause_work_pool(POOL)
    yield estate
    estate.lasting.switch_off()


# Twice as long as it takes until a run has been looked at for the last time.
TWO_LOOKS = 300.0

# What the server says of the run, and what it is then brought to, by what there is of a process: none was launched;
# one was about to be, and nothing of it is there; one was, and has ended; one was, and ends while it is watched.
TABLE = """
server says                | not launched | launching | ended                 | lives
Scheduled, never claimed   | -            | -         | -                     | -
Scheduled anew             | -            | -         | -                     | -
Pending, ours              | Scheduled    | Crashed   | Crashed               | Crashed
Submitting, ours           | Scheduled    | Crashed   | Crashed               | Crashed
Pending, another's         | -            | -         | -                     | -
Submitting, another's      | -            | -         | -                     | -
Running                    | -            | Crashed   | Crashed               | Crashed
Running, another's         | -            | -         | -                     | -
Cancelling                 | Cancelled    | Cancelled | Cancelled             | Cancelled
Paused                     | -            | Crashed   | Crashed               | Crashed
Suspended                  | -            | -         | -                     | -
AwaitingRetry, in process  | -            | Crashed AwaitingRetry | Crashed AwaitingRetry | Crashed AwaitingRetry
AwaitingRetry, rescheduled | -            | -         | -                     | -
Completed                  | -            | -         | -                     | -
Failed                     | -            | -         | -                     | -
Crashed                    | -            | -         | -                     | -
Cancelled                  | -            | -         | -                     | -
deleted                    | -            | -         | -                     | -
"""


STAGES: dict[str, tuple[Stage, Trace | None]] = {
    "not launched": (Stage.CLAIMED, None),
    "launching": (Stage.LAUNCHING, Trace(None)),
}


def cells() -> list[tuple[str, str, list[str]]]:
    """What the server says, what there is of a process, and the states to come."""
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    return [
        (row[0], process, [] if cell == "-" else cell.split())
        for row in rows
        for process, cell in zip(head[1:], row[1:], strict=True)
    ]


async def on_server(world: Estate, says: str) -> tuple[FlowRun, UUID, UUID]:
    """A run that was claimed, as the server has it now; and the ids of its claim and of its being submitted."""
    api, run = world.api, world.schedule()
    claim, submitting = UUID(int=1), UUID(int=2)
    if says == "Scheduled, never claimed":
        return run, claim, submitting
    await world.claim(run, attempt=claim)
    name, _, whose = says.partition(", ")
    if name != "Pending":
        await world.claim(run, name="Submitting", attempt=submitting)
    if whose == "another's":
        api.set_state(run.id, "Scheduled")
        await world.claim(run)
        if name != "Pending":
            await world.claim(run, name="Submitting")
        if name == "Running":
            api.set_state(run.id, "Running")
    elif says == "deleted":
        api.delete_flow_run(run.id)
    elif says == "Scheduled anew":
        api.set_state(run.id, "Scheduled")
    elif name not in {"Pending", "Submitting"}:
        api.set_state(run.id, "Running")
        await api.set_infrastructure_pid(run.id, "1001")
        if name == "AwaitingRetry":
            retry_type = "in_process" if whose == "in process" else "reschedule"
            api.set_state(run.id, "AwaitingRetry", retry_type=retry_type)
        elif name != "Running":
            api.set_state(run.id, name)
    return run, claim, submitting


@pytest.mark.parametrize(("says", "process", "to_come"), cells())
async def test_run_is_brought_to_the_end_that_is_true_of_it(
    autojump_clock: Clock, world: Estate, says: str, process: str, to_come: list[str]
) -> None:
    run, claim, submitting = await on_server(world, says)
    before = [] if says == "deleted" else world.states(run)
    stage, trace = STAGES.get(process, (Stage.LAUNCHED, Trace("1001")))
    if process == "lives":
        assert world.lasting.leave_behind(run) == "1001"
    world.shelf.put(world.entry(run, claim, submitting, stage=stage, trace=trace))
    async with world.working() as worker:
        if process == "lives":
            await trio.sleep(40)
            # One that is Cancelling has been ended by now; about any other nothing is said while it lives.
            assert world.lasting.lives(run.id) == (says != "Cancelling")
            if says not in {"Cancelling", "deleted"}:
                assert world.states(run) == before
                assert worker.runs_in_hand == 1
            world.lasting.end(run.id, None)
        await trio.sleep(TWO_LOOKS)
        assert worker.runs_in_hand == 0
        assert world.shelf.entries == []
    after = [] if says == "deleted" else world.states(run)
    assert after[len(before) :] == to_come


class TestWhatIsSaid:
    async def test_crash_says_that_the_exit_status_is_not_known_and_who_had_started_it(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun()
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")
        assert world.message(run) == (
            f"Flow run's process (999) has ended, and how, nobody knows: worker '{EARLIER}', which had started it,"
            " was gone by then."
        )

    async def test_crash_of_a_run_whose_start_was_interrupted_says_so(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule()
        attempt = await world.claim(run)
        world.shelf.put(world.entry(run, attempt, stage=Stage.LAUNCHING, trace=Trace(None)))
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")
        assert world.message(run) == (
            f"Flow run may have been started, but nothing of it goes on: worker '{EARLIER}', which had started it,"
            " was gone by then."
        )

    async def test_given_back_run_says_by_whom_and_why(self, autojump_clock: Clock, world: Estate) -> None:
        run = await world.claimed()
        async with world.working():
            await world.api.wait_for_state(run.id, "Scheduled")
        assert world.message(run) == (
            f"Given back by worker 'worker': worker '{EARLIER}', which had claimed it, was gone before it was"
            " started."
        )

    async def test_end_that_the_earlier_worker_has_seen_is_told_in_its_words(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(ended="Flow run process exited with non-zero status code 7.")
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")
        assert world.message(run) == "Flow run process exited with non-zero status code 7."

    async def test_nothing_is_said_of_a_process_that_never_was(
        self, autojump_clock: Clock, world: Estate, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = await world.claimed()
        world.api.cancel(run.id)
        async with world.working():
            await world.api.wait_for_state(run.id, "Cancelled")
            await settle()
        assert "process" not in caplog.text

    async def test_adopted_run_says_where_it_goes_on_and_who_had_started_it(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(script=SILENT)
        async with world.working():
            await trio.sleep(5)
            assert (
                f"Flow run '{run.name}' goes on in process 1001, which worker '{EARLIER}' has started; watching it"
                in world.log(run)
            )
            world.lasting.end(run.id)


class TestAdoption:
    async def test_run_completes_as_if_nothing_had_been(self, autojump_clock: Clock, world: Estate) -> None:
        run = await world.begun(script=Script(begins=None, seconds=100))
        async with world.working() as worker:
            await trio.sleep(99)
            assert worker.runs_in_hand == 1
            await trio.sleep(2)
            assert worker.runs_in_hand == 0
        assert world.states(run)[-2:] == ["Running", "Completed"]
        assert world.lasting.cleared == []

    async def test_process_of_unknown_number_is_found_and_reported(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """Its worker was killed between the start of the process and taking its number down."""
        run = world.schedule()
        attempt = await world.claim(run)
        world.lasting.leave_behind(run)
        world.shelf.put(world.entry(run, attempt, stage=Stage.LAUNCHING, trace=Trace(None)))
        async with world.working():
            await trio.sleep(5)
            assert world.api.flow_run(run.id).infrastructure_pid == "1001"
            (entry,) = world.shelf.entries
            assert (entry.stage, entry.trace) == (Stage.LAUNCHED, Trace("1001"))
            world.lasting.end(run.id, None)
            await world.api.wait_for_state(run.id, "Crashed")
        # What it has started may go on.
        assert world.lasting.cleared == ["1001"]

    async def test_run_that_was_cancelled_while_nobody_watched_is_told_and_ended(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun("Cancelling", script=SILENT)
        async with world.working():
            await world.api.wait_for_state(run.id, "Cancelled")
        (kill,) = world.lasting.execution(run.id).kills
        assert (kill.grace, kill.intent) == (30, "cancel")

    async def test_run_is_cancelled_later(self, autojump_clock: Clock, world: Estate) -> None:
        run = await world.begun(script=SILENT)
        async with world.working():
            await trio.sleep(100)
            world.api.cancel(run.id)
            await world.api.wait_for_state(run.id, "Cancelled")
        assert not world.lasting.lives(run.id)

    async def test_cancellation_that_comes_while_its_process_is_looked_for_is_not_lost(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        runs = [await world.begun("Cancelling", script=SILENT) for _ in range(10)]
        # Longer than it takes until all runs that are Cancelling are asked for.
        world.lasting.find_seconds = 120
        # The looks at the single runs find no API.
        world.api.latencies["read_flow_run"] = FOREVER
        async with world.working():
            await trio.sleep(150)
            assert not any(world.lasting.lives(run.id) for run in runs)
            world.api.latencies.clear()

    @pytest.mark.parametrize("method", ["read_flow_run", "read_flow_run_states", "set_infrastructure_pid"])
    async def test_process_is_not_ended_because_the_api_refuses_to_tell_of_its_run(
        self, autojump_clock: Clock, world: Estate, method: str
    ) -> None:
        run = await world.begun(script=SILENT)
        await world.api.set_infrastructure_pid(run.id, "")
        world.api.fail(method, RequestRefusedError("GET /flow_runs", 422, "no"))
        async with world.working() as worker:
            await trio.sleep(30)
            assert world.lasting.lives(run.id)
            assert worker.runs_in_hand == 1
            world.lasting.end(run.id)
            await settle()
        assert world.states(run)[-1] == "Completed"

    async def test_failure_to_kill_ends_neither_the_watch_nor_the_worker(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun("Cancelling", script=SILENT)
        world.lasting.kill_breaks = RuntimeError("a bug")
        async with world.working() as worker:
            await trio.sleep(30)
            assert worker.runs_in_hand == 1
            assert world.lasting.execution(run.id).cancelled_at is None
            world.lasting.end(run.id, None)
            await world.api.wait_for_state(run.id, "Cancelled")

    async def test_place_of_a_run_that_somebody_else_has_begun_is_not_overwritten(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(script=SILENT)
        world.api.set_state(run.id, "Scheduled")
        await world.claim(run)
        world.api.set_state(run.id, "Running")
        await world.api.set_infrastructure_pid(run.id, "elsewhere:7")
        async with world.working():
            await trio.sleep(30)
            assert world.api.flow_run(run.id).infrastructure_pid == "elsewhere:7"
            world.lasting.end(run.id, None)
            await trio.sleep(30)
        assert world.states(run)[-1] == "Running"

    async def test_what_a_process_has_left_is_ended_before_its_run_is_offered_again(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        await world.begun("Cancelling")
        async with world.working():
            await trio.sleep(5)
        assert world.lasting.cleared[0] == "999"


class TestHooks:
    @pytest.mark.parametrize(("states", "kind"), [([], "crashed"), (["Cancelling"], "cancellation")])
    async def test_they_are_called_once(
        self, autojump_clock: Clock, world: Estate, states: list[str], kind: str
    ) -> None:
        run = await world.begun(*states, script=SILENT)
        async with world.working():
            await trio.sleep(5)
            world.lasting.end(run.id, None)
            await trio.sleep(TWO_LOOKS)
        (called,) = world.lasting.execution(run.id).hooks
        assert called.call.kind == kind
        assert called.call.flow_run["id"] == str(run.id)

    @pytest.mark.parametrize("state", ["Completed", "Failed", "Suspended"])
    async def test_they_are_not_called_where_the_engine_has_spoken(
        self, autojump_clock: Clock, world: Estate, state: str
    ) -> None:
        run = await world.begun(script=SILENT)
        async with world.working():
            await trio.sleep(5)
            world.lasting.end(run.id, state)
            await trio.sleep(TWO_LOOKS)
        assert world.lasting.execution(run.id).hooks == []

    async def test_that_they_cannot_be_called_harms_nothing(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun()
        world.lasting.scripts[run.id] = Script(cannot_call_hooks=InfrastructureError("no room"))
        world.lasting.leave_behind(run)
        world.lasting.end(run.id, None)
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")


class TestSlotsOfTheDeployment:
    """A run that was cut off in the middle holds a lease of its deployment's concurrency limit."""

    @pytest.fixture
    async def limited(self, world: Estate) -> Estate:
        world.deployment = world.api.add_deployment("limited", POOL, concurrency_limit=1)
        return world

    async def slot_is_free(self, world: Estate) -> bool:
        """Whether another run gets it."""
        other = world.schedule()
        await world.claim(other)
        return world.states(other)[-1] == "Pending"

    async def test_given_back(self, autojump_clock: Clock, limited: Estate) -> None:
        run = await limited.claimed()
        async with limited.working():
            await limited.api.wait_for_state(run.id, "Scheduled")
        assert await self.slot_is_free(limited)

    async def test_crashed(self, autojump_clock: Clock, limited: Estate) -> None:
        run = await limited.begun()
        async with limited.working():
            await limited.api.wait_for_state(run.id, "Crashed")
        assert await self.slot_is_free(limited)

    async def test_retry_that_its_process_meant_to_wait_for(
        self, autojump_clock: Clock, limited: Estate
    ) -> None:
        run = await limited.begun(retries=1)
        limited.api.set_state(run.id, "Failed")
        assert limited.states(run)[-1] == "AwaitingRetry"
        async with limited.working():
            await trio.sleep(TWO_LOOKS)
        assert limited.states(run)[-2:] == ["Crashed", "AwaitingRetry"]
        assert limited.api.flow_run(run.id).infrastructure_pid is None
        assert await self.slot_is_free(limited)

    async def test_rescheduled_as_the_earlier_worker_has_decided(
        self, autojump_clock: Clock, limited: Estate
    ) -> None:
        run = await limited.begun(ended="It was stopped.", fate="SCHEDULED")
        async with limited.working():
            await trio.sleep(TWO_LOOKS)
        assert limited.states(run)[-2:] == ["Running", "AwaitingRetry"]
        assert limited.message(run) == "It was stopped."
        assert limited.api.flow_run(run.id).infrastructure_pid is None
        assert await self.slot_is_free(limited)


class TestFate:
    """What the earlier worker has decided about a run that it cut off, and could not tell the API."""

    @pytest.mark.parametrize(
        ("fate", "says", "to_come"),
        [
            ("CRASHED", "Running", ["Crashed"]),
            ("SCHEDULED", "Running", ["AwaitingRetry"]),
            # The engine has forced it, since nobody could tell it of the intent.
            ("SCHEDULED", "Crashed", ["AwaitingRetry"]),
            ("CRASHED", "Crashed", []),
            ("SCHEDULED", "Cancelling", ["Cancelled"]),
            ("SCHEDULED", "Completed", []),
            ("SCHEDULED", "Failed", []),
            ("SCHEDULED", "Cancelled", []),
            ("SCHEDULED", "Suspended", []),
        ],
    )
    async def test_is_carried_out_once(
        self, autojump_clock: Clock, world: Estate, fate: Fate, says: str, to_come: list[str]
    ) -> None:
        run = await world.begun(*[] if says == "Running" else [says], ended="It was stopped.", fate=fate)
        before = world.states(run)
        async with world.working():
            await trio.sleep(TWO_LOOKS)
        assert world.states(run)[len(before) :] == to_come

    async def test_is_not_carried_out_on_an_attempt_of_somebody_else(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(ended="It was stopped.", fate="SCHEDULED")
        async with world.working():
            await world.api.wait_for_state(run.id, "AwaitingRetry")
            # Before the second look.
            await world.claim(run)
            world.api.set_state(run.id, "Running")
            world.api.set_state(run.id, "Crashed")
            await trio.sleep(TWO_LOOKS)
        assert world.states(run)[-1] == "Crashed"


class TestEvents:
    async def happenings(self, world: Estate, run: FlowRun, *, end: bool) -> list[str]:
        worker = world.worker()
        watch = worker.watch()
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            if end:
                await trio.sleep(5)
                world.lasting.end(run.id)
            await trio.sleep(TWO_LOOKS)
            worker.shutdown()
        seen = [happening async for happening in watch if isinstance(happening, RunHappening)]
        assert {happening.flow_run_id for happening in seen} <= {run.id}
        return [
            happening.end.name if isinstance(happening, RunFinished) else type(happening).__name__
            for happening in seen
        ]

    async def test_adopted_run_is_claimed_started_and_finished(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(script=SILENT)
        told = await self.happenings(world, run, end=True)
        assert told == ["RunClaimed", "RunStarted", RunEnd.EXECUTED.name]

    async def test_run_that_is_given_back_is_claimed_and_finished(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.claimed()
        assert await self.happenings(world, run, end=False) == ["RunClaimed", RunEnd.GIVEN_BACK.name]

    async def test_run_that_is_reported_crashed_is_claimed_and_finished(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun()
        assert await self.happenings(world, run, end=False) == ["RunClaimed", RunEnd.EXECUTED.name]

    async def test_nothing_is_told_of_a_run_that_is_settled_already(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun("Completed")
        assert await self.happenings(world, run, end=False) == []


class TestCutOff:
    """The worker is stopped while it takes the runs of another up."""

    @pytest.mark.parametrize("number_is_known", [True, False])
    @pytest.mark.parametrize(("policy", "state"), [("crash", "Crashed"), ("leave", "Running")])
    async def test_run_whose_process_is_still_looked_for(
        self, autojump_clock: Clock, world: Estate, policy: str, state: str, number_is_known: bool
    ) -> None:
        run = await world.begun(script=SILENT)
        if not number_is_known:
            (entry,) = world.shelf.entries
            world.shelf.put(world.entry(run, entry.attempt, stage=Stage.LAUNCHING, trace=Trace(None)))
        world.lasting.find_seconds = 1
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(0.5)
            worker.stop()
        assert world.states(run)[-1] == state
        assert world.lasting.lives(run.id) == (policy == "leave")
        assert len(world.shelf.entries) == 1

    @pytest.mark.parametrize(("policy", "state"), [("crash", "Crashed"), ("leave", "Running")])
    async def test_adopted_run(self, autojump_clock: Clock, world: Estate, policy: str, state: str) -> None:
        run = await world.begun(script=SILENT)
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(5)
            worker.stop()
        assert world.states(run)[-1] == state
        assert world.lasting.lives(run.id) == (policy == "leave")

    async def test_adopted_run_that_had_been_elsewhere_before(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """Its worker was killed before it could report the new place, as after a run was suspended and resumed."""
        run = await world.begun(script=SILENT)
        (entry,) = world.shelf.entries
        world.shelf.put(attrs.evolve(entry, found_at="elsewhere:7"))
        await world.api.set_infrastructure_pid(run.id, "elsewhere:7")
        world.api.latencies["read_flow_run_states"] = FOREVER
        async with world.working() as worker:
            await trio.sleep(5)
            worker.stop()
        assert world.states(run)[-1] == "Crashed"

    async def test_adopted_run_is_rescheduled_when_it_is_dead(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(script=Script(begins=None, seconds=FOREVER, ignores_terminate=True))
        async with world.working(on_shutdown="reschedule") as worker:
            await trio.sleep(5)
            worker.stop()
        ended_at = world.lasting.execution(run.id).ended_at
        assert ended_at is not None
        assert world.api.history(run.id)[-1] == ("AwaitingRetry", ended_at)

    @pytest.mark.parametrize("policy", ["crash", "reschedule"])
    async def test_adopted_run_that_does_not_end_is_not_spoken_for(
        self, autojump_clock: Clock, world: Estate, policy: str
    ) -> None:
        runs = [await world.begun(script=SILENT) for _ in range(3)]
        world.lasting.unkillable |= {run.id for run in runs}
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(5)
            worker.stop()
        assert {world.states(run)[-1] for run in runs} == {"Running"}
        assert len(world.shelf.entries) == 3

    @pytest.mark.parametrize("policy", ["crash", "reschedule"])
    async def test_run_that_is_just_being_looked_for_and_does_not_end(
        self, autojump_clock: Clock, world: Estate, policy: str
    ) -> None:
        run = await world.begun(script=SILENT)
        world.lasting.unkillable.add(run.id)
        world.lasting.find_seconds = 1
        async with world.working(on_shutdown=policy) as worker:
            await trio.sleep(0.5)
            worker.stop()
        assert world.states(run)[-1] == "Running"
        assert len(world.shelf.entries) == 1

    async def test_run_that_waits_for_the_api(self, autojump_clock: Clock, world: Estate) -> None:
        run = await world.begun()
        world.api.latencies["read_flow_run"] = FOREVER
        async with world.working() as worker:
            await trio.sleep(5)
            worker.stop()
        assert world.states(run)[-1] == "Running"
        world.api.latencies.clear()
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")

    async def test_run_that_had_ended_before_is_not_said_to_have_been_stopped(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(script=SILENT)
        async with world.working() as worker:
            await trio.sleep(5)
            world.api.latency = 1
            world.lasting.end(run.id, None)
            await trio.sleep(0.5)
            worker.stop()
        message = world.message(run)
        assert message is not None
        assert message.startswith("Flow run's process (1001) has ended")

    async def test_run_of_which_nobody_can_tell_is_left_alone(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun()
        world.lasting.elsewhere[run.id] = "it was on another machine"
        world.lasting.find_seconds = 1
        async with world.working() as worker:
            await trio.sleep(0.5)
            worker.stop()
        assert world.states(run)[-1] == "Running"
        assert len(world.shelf.entries) == 1


async def test_run_of_another_machine_is_forgotten_once_it_needs_nothing(
    autojump_clock: Clock, world: Estate
) -> None:
    run = await world.begun()
    world.lasting.elsewhere[run.id] = "it was on another machine"
    async with world.working():
        await trio.sleep(30)
        assert len(world.shelf.entries) == 1
        world.api.set_state(run.id, "Completed")
        await trio.sleep(2000)
        assert world.shelf.entries == []


async def test_claim_that_came_too_late_has_no_finished_run_executed_again(
    autojump_clock: Clock, world: Estate
) -> None:
    """The claim was on its way when its worker was killed; when it took effect, another one had executed the run."""
    run = world.schedule()
    await world.claim(run)
    world.api.set_state(run.id, "Running")
    world.api.set_state(run.id, "Completed")
    late = await world.claim(run)
    assert world.states(run)[-1] == "Pending"
    world.shelf.put(world.entry(run, late))
    async with world.working():
        await trio.sleep(TWO_LOOKS)
    assert world.states(run)[-1] == "Completed"


async def test_claim_that_came_too_late_is_recognized_though_its_history_is_not_in_the_order_of_effects(
    autojump_clock: Clock, world: Estate
) -> None:
    """The server stamps a state when its request arrives, which then may have to wait its turn."""
    run = world.schedule()
    await world.claim(run)
    world.api.set_state(run.id, "Running")
    world.api.set_state(run.id, "Completed")
    late = await world.claim(run)
    states = world.api._run(run.id, "").states
    states.insert(1, states.pop())
    world.shelf.put(attrs.evolve(world.entry(run, late), found_as=run.state_id))
    async with world.working():
        await trio.sleep(TWO_LOOKS)
    assert world.states(run)[-1] == "Completed"


async def test_claim_that_came_too_late_leaves_a_retry_to_whoever_waits_for_it(
    autojump_clock: Clock, world: Estate
) -> None:
    run = world.schedule(retries=1)
    await world.claim(run)
    world.api.set_state(run.id, "Running")
    world.api.set_state(run.id, "Failed")
    assert world.states(run)[-1] == "AwaitingRetry"
    late = await world.claim(run)
    world.shelf.put(attrs.evolve(world.entry(run, late), found_as=run.state_id))
    async with world.working():
        await trio.sleep(TWO_LOOKS)
    assert world.states(run)[-2:] == ["Pending", "AwaitingRetry"]


async def test_state_that_the_api_refuses_to_take_is_proposed_again_later(
    autojump_clock: Clock, world: Estate
) -> None:
    run = await world.begun()
    world.api.fail("set_flow_run_state", RequestRefusedError("POST /set_state", 422, "no"))
    async with world.working():
        await trio.sleep(30)
        assert world.states(run)[-1] == "Running"
        await world.api.wait_for_state(run.id, "Crashed")
        assert world.now < 1000


class TestFunctions:
    """A call ends with the program that it is in, and what it has said about its run may not be written down."""

    @pytest.fixture
    async def functions(self, world: Estate) -> Functions:
        functions = Functions(world)

        @functions.app.flow()
        async def work() -> None:
            await trio.sleep(1)

        return functions

    async def left(self, world: Estate, functions: Functions, *states: str, stage: Stage) -> FlowRun:
        run = functions.schedule()
        attempt = await world.claim(run)
        for name in states:
            proposed = ProposedState(type=StateType[name.upper()], name=name)
            await world.api.set_flow_run_state(run.id, proposed)
        place = f"1:host:token:{run.id}"
        if states:
            await world.api.set_infrastructure_pid(run.id, place)
        trace = None if stage is Stage.CLAIMED else Trace(place)
        world.shelf.put(world.entry(run, attempt, stage=stage, trace=trace))
        return run

    @pytest.mark.parametrize("stage", [Stage.CLAIMED, Stage.LAUNCHED])
    async def test_call_that_was_running_has_crashed(
        self, autojump_clock: Clock, world: Estate, functions: Functions, stage: Stage
    ) -> None:
        run = await self.left(world, functions, "Running", stage=stage)
        async with functions.working():
            await world.api.wait_for_state(run.id, "Crashed")
            await trio.sleep(TWO_LOOKS)
        assert world.states(run)[-2:] == ["Running", "Crashed"]
        assert world.shelf.entries == []

    @pytest.mark.parametrize("stage", [Stage.CLAIMED, Stage.LAUNCHED])
    async def test_call_that_had_not_begun_is_made_by_the_next_worker(
        self, autojump_clock: Clock, world: Estate, functions: Functions, stage: Stage
    ) -> None:
        run = await self.left(world, functions, stage=stage)
        async with functions.working():
            await world.api.wait_for_state(run.id, "Completed")

    async def test_call_that_was_cancelled_meanwhile(
        self, autojump_clock: Clock, world: Estate, functions: Functions
    ) -> None:
        run = await self.left(world, functions, "Running", "Cancelling", stage=Stage.LAUNCHED)
        async with functions.working():
            await world.api.wait_for_state(run.id, "Cancelled")
