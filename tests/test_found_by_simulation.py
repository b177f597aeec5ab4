"""Runs that an earlier worker has left are brought to their end, whatever that worker had come to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from inheritance_support import TRACE, LastingWorld

from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import FlowRun, ProposedState, State, StateType
from trioworker.infrastructure.protocol import Gone, Outcome, Running, Trace, Unknown
from trioworker.ledger.entry import Entry, Stage
from trioworker.ledger.ledger import Ledger, LedgerError
from trioworker.testing import Script
from trioworker.testing.fake_infrastructure import FakeJob
from trioworker.testing.memory_ledger import MemoryStorage

Clock = trio.testing.MockClock

# Seconds after which what was seen to has been looked at once more.
LONG = 200


@pytest.fixture
async def world(tmp_path: Path) -> LastingWorld:
    return LastingWorld(tmp_path)


async def test_run_whose_place_the_server_knows_is_crashed_when_its_process_is_gone(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    run = await world.left("Running", place="4711")
    async with world.working():
        await world.api.wait_for_state(run.id, "Crashed")


@pytest.mark.parametrize("end", ["Failed", "Crashed", "Cancelled"])
async def test_what_a_run_has_left_behind_is_cleared_away_after_a_bad_end(
    autojump_clock: Clock, world: LastingWorld, end: str
) -> None:
    await world.left("Running", end)
    async with world.working():
        await trio.sleep(1)
    assert TRACE in world.cleared


async def test_what_a_run_has_left_behind_goes_on_after_a_good_end(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    await world.left("Running", "Completed")
    async with world.working():
        await trio.sleep(LONG)
    assert world.cleared == []
    assert world.storage.entries == {}


async def test_two_attempts_at_one_run_are_seen_to_one_after_the_other(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    run = await world.left("Running")
    world.enter(run, uuid.uuid4(), Stage.CLAIMED)
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Crashed")
        await trio.sleep(LONG)
        assert worker.runs_in_hand == 0
    assert world.storage.entries == {}


class FullStorage(MemoryStorage):
    """Cannot be written to.

    Attributes:
        full: as long as this is so.
    """

    full = True

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        if self.full:
            raise LedgerError("database or disk is full")
        await super().write(kept, dropped)


async def test_what_could_not_be_written_down_is_as_soon_as_there_is_room(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    world.storage = storage = FullStorage()
    run = world.schedule(Script(seconds=1000))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        assert storage.entries == {}
        storage.full = False
        await trio.sleep(100)
        assert [entry.stage for entry in storage.entries.values()] == [Stage.LAUNCHED]
        await world.api.wait_for_state(run.id, "Completed")
    assert storage.entries == {}


async def test_run_that_is_left_before_its_number_is_known_is_not_offered_to_others(
    autojump_clock: Clock, world: LastingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start_and_wait(  # noqa: ASYNC128 - it does not get so far
        job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        await job.assignment.note_trace(Trace(None))
        await trio.sleep_forever()
        raise AssertionError

    async def find(flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        return Running(Trace("4711"))

    monkeypatch.setattr(world.infrastructure, "run", start_and_wait)
    monkeypatch.setattr(world.infrastructure, "find", find)
    run = world.schedule()
    async with world.working(on_shutdown="leave", drain_timeout=1):
        await trio.sleep(5)
    assert world.states(run)[-1] == "Submitting"
    [entry] = world.storage.entries.values()
    assert entry.trace == Trace("4711")


async def test_change_is_written_down_though_whoever_makes_it_is_cancelled(world: LastingWorld) -> None:
    await world.left("Running")
    [entry] = world.storage.entries.values()
    storage = MemoryStorage()
    ledger = Ledger(storage)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ledger.keep(entry)
    assert list(storage.entries.values()) == [entry]


@pytest.mark.parametrize(("begun", "end"), [(True, "Crashed"), (False, "Scheduled")])
async def test_run_that_is_cut_off_before_its_number_is_known_is_given_back_only_if_it_has_not_begun(
    autojump_clock: Clock,
    world: LastingWorld,
    monkeypatch: pytest.MonkeyPatch,
    *,
    begun: bool,
    end: str,
) -> None:
    async def start_and_wait(  # noqa: ASYNC128 - it does not get so far
        job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        await job.assignment.note_trace(Trace(None))
        if begun:
            world.api.set_state(job.assignment.flow_run_id, "Running")
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(world.infrastructure, "run", start_and_wait)
    run = world.schedule()
    async with world.working(drain_timeout=1):
        await trio.sleep(5)
    assert world.states(run)[-1] == end
    assert world.storage.entries == {}


async def test_what_is_left_is_cleared_away_of_a_process_whose_number_only_its_heir_has_found(
    autojump_clock: Clock, world: LastingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        return Running(TRACE)

    monkeypatch.setattr(world.infrastructure, "find", find)
    run = await world.left("Running", stage=Stage.LAUNCHING)
    [attempt] = world.storage.entries
    world.storage.entries[attempt] = attrs.evolve(world.storage.entries[attempt], trace=Trace(None))
    async with world.working():
        await world.api.wait_for_state(run.id, "Crashed")
    assert TRACE in world.cleared


async def test_place_of_a_run_is_forgotten_before_it_is_offered(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    """Or somebody who cancels it in between waits for whoever is in that place."""
    run = world.schedule(Script(seconds=1000))
    async with world.working(on_shutdown="reschedule", drain_timeout=1):
        await world.api.wait_for_state(run.id, "Running")
        await trio.sleep(1)
    asked = [
        call.arguments.get("infrastructure_pid", call.arguments.get("state"))
        for call in world.api.calls
        if call.method in {"set_infrastructure_pid", "set_flow_run_state"}
    ]
    assert asked[-2] == ""
    assert asked[-1].name == "AwaitingRetry"


@pytest.mark.parametrize("cancelled", [True, False])
async def test_what_a_run_has_left_behind_is_cleared_away_that_ended_well_but_said_nothing(
    autojump_clock: Clock, world: LastingWorld, *, cancelled: bool
) -> None:
    run = world.schedule(Script(seconds=20, ends=None))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        if cancelled:
            await trio.sleep(19.5)
            world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled" if cancelled else "Crashed")
        await trio.sleep(1)
    assert [trace.identifier for trace in world.cleared] == ["1001"]


async def test_run_is_taken_in_hand_once_though_it_is_polled_and_taken_up_at_the_same_moment(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    async with world.working() as worker, trio.open_nursery() as nursery:
        run = await world.left(stage=Stage.CLAIMED)
        [entry] = world.storage.entries.values()
        intake, reconciliation = worker._intake, worker._reconciliation
        assert intake is not None
        assert reconciliation is not None
        with worker._active.hold(run):
            await intake._start(nursery, run, trio.current_time())
            await nursery.start(reconciliation._see_all_through, [entry])
            await trio.sleep(LONG)
            assert worker.runs_in_hand == 1
        assert worker.runs_in_hand == 0


async def test_nothing_is_cleared_away_of_a_run_that_has_completed(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    run = world.schedule(Script(seconds=20))
    async with world.working():
        await world.api.wait_for_state(run.id, "Completed")
        await trio.sleep(1)
    assert world.cleared == []


async def claim_once_more(world: LastingWorld, run: FlowRun) -> None:
    """Have the first claim of a run take effect, which lay somewhere."""
    claim = next(call for call in world.api.calls if call.method == "set_flow_run_state")
    assert claim.arguments["state"].type is StateType.PENDING
    await world.api.set_flow_run_state(run.id, claim.arguments["state"])


@pytest.mark.parametrize("end", ["Completed", "Failed"])
async def test_run_is_put_back_that_a_claim_overtakes_after_its_end(
    autojump_clock: Clock, world: LastingWorld, end: str
) -> None:
    """Its first attempt found nobody, as it seemed, and comes when the run has ended by the second one."""
    world.api.fail("set_flow_run_state", APIUnavailableError("connection lost"))
    run = world.schedule(Script(seconds=5, ends=end))
    async with world.working():
        await world.api.wait_for_state(run.id, end)
        await trio.sleep(20)
        await claim_once_more(world, run)
        assert world.states(run)[-1] == "Pending"
        await trio.sleep(LONG)
    assert world.states(run)[-2:] == ["Pending", end]
    assert len(world.infrastructure.executions) == 1
    assert world.storage.entries == {}


@pytest.mark.parametrize("reports", [True, False])
async def test_run_is_put_back_that_a_claim_overtakes_while_its_process_ends(
    autojump_clock: Clock, world: LastingWorld, monkeypatch: pytest.MonkeyPatch, *, reports: bool
) -> None:
    original = world.infrastructure.run

    async def run_and_report(  # noqa: ASYNC128 - passed on
        job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        outcome = await original(job, task_status=task_status)
        state = State(type=StateType.COMPLETED, name="Completed")
        return attrs.evolve(outcome, state=state) if reports else outcome

    monkeypatch.setattr(world.infrastructure, "run", run_and_report)
    world.api.fail("set_flow_run_state", APIUnavailableError("connection lost"))
    run = world.schedule(Script(seconds=100, ends=None))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        world.api.set_state(run.id, "Completed")
        await claim_once_more(world, run)
        await trio.sleep(101)
        assert world.states(run)[-2:] == ["Pending", "Completed"]


async def test_run_is_tried_again_that_a_claim_overtakes_while_it_waits_for_that_itself(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    world.api.fail("set_flow_run_state", APIUnavailableError("connection lost"))
    run = world.schedule(Script(seconds=30, ends=None, status=1))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        world.api.set_state(run.id, "AwaitingRetry", retry_type="in_process")
        await claim_once_more(world, run)
        assert world.states(run)[-1] == "Pending"
        world.infrastructure.script = Script()
        world.infrastructure.scripts.clear()
        await world.api.wait_for_state(run.id, "Completed")
    assert "Crashed" in world.states(run)


async def test_run_is_put_back_that_a_claim_of_a_worker_overtakes_which_is_gone(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    run = await world.left("Running", "Completed")
    [attempt] = world.storage.entries
    late = ProposedState(type=StateType.PENDING, name="Pending", transition_id=attempt)
    async with world.working():
        await trio.sleep(30)
        await world.api.set_flow_run_state(run.id, late)
        await trio.sleep(LONG)
    assert world.states(run)[-2:] == ["Pending", "Completed"]
    assert world.infrastructure.executions == []


async def test_run_whose_requests_were_all_answered_is_not_looked_at_again(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    run = world.schedule(Script(seconds=5))
    async with world.working():
        await world.api.wait_for_state(run.id, "Completed")
        await trio.sleep(1)
        assert world.storage.entries == {}
        looks = world.api.count("read_flow_run")
        await trio.sleep(LONG)
        assert world.api.count("read_flow_run") == looks
