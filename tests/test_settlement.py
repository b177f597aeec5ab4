"""A run whose process is gone is brought to its end on the server, and its flow's hooks are called on the way."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from support import FOREVER, World

from trioworker.api.errors import RequestRefusedError
from trioworker.api.models import FlowRun
from trioworker.infrastructure.exit_status import exit_hint, exit_message
from trioworker.infrastructure.protocol import InfrastructureError
from trioworker.testing import CalledHooks, Kill, Script

Clock = trio.testing.MockClock

DIES = Script(begins="Running", ends=None, status=-9)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def hooks(world: World, run: FlowRun) -> list[CalledHooks]:
    return world.infrastructure.execution(run.id).hooks


async def cancel(world: World, run: FlowRun, *until: str) -> None:
    """Work, and have the run cancelled after a while."""
    async with world.working():
        await trio.sleep(5)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, *until)


async def test_cancelled_run_is_told_why_before_it_is_terminated(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER, terminated="Crashed"))
    await cancel(world, run, "Cancelled")
    assert world.infrastructure.execution(run.id).kills == [Kill(grace=30, at=20, intent="cancel")]
    assert world.states(run)[-2:] == ["Cancelling", "Cancelled"]


async def test_cancellation_hooks_are_called_before_the_run_is_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER, hook_seconds=7))
    await cancel(world, run, "Cancelled")
    (called,) = hooks(world, run)
    assert called.call.kind == "cancellation"
    assert called.state_name == "Cancelling"
    assert called.call.state["type"] == "CANCELLING"
    assert called.call.flow_run["id"] == str(run.id)
    assert world.api.history(run.id)[-1] == ("Cancelled", called.at + 7)


async def test_crash_hooks_are_called_after_the_crash_is_reported(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(DIES)
    async with world.working():
        await world.api.wait_for_state(run.id, "Crashed")
    (called,) = hooks(world, run)
    assert called.call.kind == "crashed"
    assert called.state_name == "Crashed"
    assert called.call.state["type"] == "CRASHED"
    assert called.call.state["message"] == world.message(run)


@pytest.mark.parametrize("kind", ["cancellation", "crashed"])
async def test_workspace_is_there_for_the_hooks(autojump_clock: Clock, world: World, kind: str) -> None:
    script = Script(seconds=FOREVER) if kind == "cancellation" else DIES
    run = world.schedule(attrs.evolve(script, hook_seconds=9))
    if kind == "cancellation":
        await cancel(world, run, "Cancelled")
    else:
        async with world.working():
            await world.api.wait_for_state(run.id, "Crashed")
    execution = world.infrastructure.execution(run.id)
    assert execution.workspace_closed_at == execution.hooks[0].at + 9


@pytest.mark.parametrize(
    "script",
    [
        Script(),
        Script(ends="Failed"),
        Script(ends="Crashed"),
        Script(ends="Suspended"),
    ],
    ids=["completed", "failed", "crashed by its own account", "suspended"],
)
async def test_run_that_ends_by_itself_has_no_hooks_called_by_the_worker(
    autojump_clock: Clock, world: World, script: Script
) -> None:
    run = world.schedule(script)
    async with world.working():
        await trio.sleep(30)
    assert hooks(world, run) == []


async def test_cancelled_run_that_completes_in_time_has_no_hooks_called(
    autojump_clock: Clock, world: World
) -> None:
    """The flow was through before it was killed, and its state says so."""
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working():
        await trio.sleep(5)
        world.api.cancel(run.id)
        # Terminated by the poll at 20, it has until 50.
        await trio.sleep(20)
        world.api.set_state(run.id, "Completed", force=True)
        await trio.sleep(60)
    assert len(world.infrastructure.execution(run.id).kills) == 1
    assert world.states(run)[-1] == "Completed"
    assert hooks(world, run) == []


async def test_hooks_that_cannot_be_called_are_mentioned_and_hurt_nothing(
    autojump_clock: Clock, world: World
) -> None:
    broken = InfrastructureError("the hook process ended with status 1")
    run = world.schedule(Script(seconds=FOREVER, cannot_call_hooks=broken))
    await cancel(world, run, "Cancelled")
    line = next(line for line in world.api.logs if "hooks" in line.message)
    assert line.level == logging.WARNING
    assert line.message == f"The on_cancellation hooks of the flow could not be called: {broken}"


async def test_bug_in_the_call_of_hooks_does_not_keep_the_run_from_its_end(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule(Script(seconds=FOREVER, cannot_call_hooks=ZeroDivisionError("a bug")))
    await cancel(world, run, "Cancelled")
    assert any("could not be called: a bug" in line for line in world.log(run))
    assert any("met with a bug" in record.message for record in caplog.records)


async def test_run_whose_killing_fails_is_cancelled_all_the_same(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER, cannot_kill=ChildProcessError("reaped by somebody else")))
    await cancel(world, run, "Cancelled")
    assert world.states(run)[-1] == "Cancelled"


async def test_failure_to_kill_reaches_nobody_else_when_the_worker_stops(
    autojump_clock: Clock, world: World
) -> None:
    stubborn = Script(
        seconds=FOREVER, ignores_terminate=True, cannot_kill=ChildProcessError("reaped by somebody else")
    )
    run = world.schedule(stubborn)
    async with world.working(kill_grace=5) as worker:
        await trio.sleep(5)
        world.api.cancel(run.id)
        await trio.sleep(20)
        worker.stop()
    assert world.states(run)[-1] == "Cancelled"


async def test_run_that_ended_before_the_worker_was_stopped_is_said_to_have_ended_so(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(DIES)
    world.api.latencies["read_flow_run"] = 1000
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        await trio.sleep(10)
        del world.api.latencies["read_flow_run"]
        worker.stop()
    assert world.message(run) == exit_message(-9)
    (executed,) = [event for event in world.api.events if event.event == "prefect.worker.executed-flow-run"]
    (about,) = [each for each in executed.related if each["prefect.resource.role"] == "flow-run"]
    assert about["prefect.infrastructure.status-code"] == "-9"


async def test_hooks_that_the_stop_cuts_short_are_mentioned(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(attrs.evolve(DIES, hook_seconds=FOREVER))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Crashed")
        await trio.sleep(1)
        worker.stop()
    assert any("on_crashed hooks of the flow were cut short" in line for line in world.log(run))


async def test_hooks_are_not_called_when_the_run_cannot_be_read(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    gone = RequestRefusedError("GET /flow_runs", 422, "no such thing")
    world.api.fail("read_flow_run_document", gone)
    await cancel(world, run, "Cancelled")
    assert hooks(world, run) == []
    assert any("could not be called" in line for line in world.log(run))


async def test_run_keeps_its_slot_until_its_hooks_are_through(autojump_clock: Clock, world: World) -> None:
    first = world.schedule(attrs.evolve(DIES, hook_seconds=50))
    second = world.schedule()
    async with world.working(limit=1):
        await world.api.wait_for_state(second.id, "Running")
    (called,) = hooks(world, first)
    assert world.infrastructure.execution(second.id).started_at >= called.at + 50


async def test_run_whose_hooks_are_cut_off_is_cancelled_all_the_same(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER, hook_seconds=FOREVER))
    async with world.working() as worker:
        await trio.sleep(5)
        world.api.cancel(run.id)
        await trio.sleep(60)
        assert len(hooks(world, run)) == 1
        worker.stop()
    assert world.states(run)[-1] == "Cancelled"


async def test_run_that_is_cut_off_has_no_hooks_called(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working() as worker:
        await trio.sleep(5)
        worker.stop()
    assert world.states(run)[-1] == "Crashed"
    assert hooks(world, run) == []


@pytest.mark.parametrize("status", [0, 3])
async def test_every_crash_of_a_process_is_an_error_on_this_machine(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    run = world.schedule(Script(ends=None, status=status))
    async with world.working():
        await world.api.wait_for_state(run.id, "Crashed")
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"Flow run '{run.name}': {exit_message(status)}"]


async def test_lines_that_do_not_name_their_run_do_so_on_this_machine(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = world.schedule(DIES)
    async with world.working():
        await world.api.wait_for_state(run.id, "Crashed")
    here = [record.message for record in caplog.records if record.name == "trioworker.flow_runs"]
    assert all(run.name in line or str(run.id) in line for line in here)
    assert exit_hint(-9) in world.log(run)
    assert f"Flow run '{run.name}': {exit_hint(-9)}" in here
