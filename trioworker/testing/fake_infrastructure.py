"""Infrastructure in memory, for tests: flow runs that do what a script says, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, ClassVar
from uuid import UUID

import attrs
import trio

from trioworker.api.models import FlowRun, SetStateStatus, State
from trioworker.infrastructure.exit_status import exit_hint, exit_message
from trioworker.infrastructure.protocol import (
    Assignment,
    Gone,
    HookCall,
    InfrastructureError,
    Intent,
    Outcome,
    Running,
    ShutdownPolicy,
    Trace,
    Unknown,
)
from trioworker.lean_attrs import frozen
from trioworker.testing.fake_api import FakePrefectAPI

_TERMINATED = -15
_KILLED = -9

DEFAULT_TEMPLATE: Mapping[str, Any] = {
    "job_configuration": {"command": "{{ command }}", "env": "{{ env }}"},
    "variables": {
        "type": "object",
        "properties": {"command": {"type": "string"}, "env": {"type": "object", "default": {}}},
    },
}


@frozen(kw_only=True)
class Script:
    """What a flow run does once it is started, and what becomes of an attempt to start it.

    The states are proposed to the API by the flow itself, which no outage of the API affects. A flow whose
    first state is refused ends at once, as Prefect's engine does.

    Attributes:
        seconds: for how many seconds the flow goes on if nobody ends it; `math.inf` for ever.
        begins: the state that it proposes when it starts, such as `Running`; None for none.
        ends: the state that it proposes when it is through; None for none.
        retry_type: goes with `ends`: `in_process` for a flow that means to wait for its own retry.
        reports: whether it tells the worker which final state it has reported, as Prefect's engine does from 3.8 on;
            the worker asks the API about the end of any other.
        status: the exit status when it is through.
        terminated: the state that it forces on the API when it gets SIGTERM, such as `Crashed`; None for none.
        reachable: whether it can be told why it is terminated, in which case it leaves its state to the worker.
        ignores_terminate: whether it takes no notice of SIGTERM, so that only SIGKILL ends it early.
        start_seconds: how many seconds it takes to start it.
        hook_seconds: how many seconds its hooks take.
        cannot_prepare: raised by `prepare`.
        cannot_call_hooks: raised by `run_hooks`; an `InfrastructureError`, or anything for a bug.
        cannot_kill: raised by `kill` once the flow has ended.
        cannot_start: raised by `run` in place of starting; an `InfrastructureError`, or anything for a bug.
        breaks: raised by `run` once the flow has ended, in place of the outcome.
    """

    seconds: float = 1.0
    begins: str | None = "Running"
    ends: str | None = "Completed"
    retry_type: str | None = None
    reports: bool = False
    status: int = 0
    terminated: str | None = None
    reachable: bool = True
    ignores_terminate: bool = False
    start_seconds: float = 0.0
    hook_seconds: float = 0.0
    cannot_prepare: InfrastructureError | None = None
    cannot_call_hooks: Exception | None = None
    cannot_start: Exception | None = None
    cannot_kill: Exception | None = None
    breaks: Exception | None = None


@frozen(kw_only=True)
class Kill:
    """A call of `kill` for a flow run.

    Attributes:
        grace: seconds between SIGTERM and SIGKILL that were asked for.
        at: when, in seconds since the fake API was made.
        intent: why, as the flow was to be told; None if it was to be told nothing.
    """

    grace: float
    at: float
    intent: Intent | None = None


@frozen(kw_only=True)
class CalledHooks:
    """A call of the hooks that a flow has for its cancellation or its crash.

    Attributes:
        call: what the worker asked for.
        at: when, in seconds since the fake API was made.
        state_name: of the state that the run was in; None if somebody had deleted it.
    """

    call: HookCall
    at: float
    state_name: str | None


@attrs.define(eq=False, kw_only=True)
class Execution:
    """A flow run that was started. Times are in seconds since the fake API was made.

    Attributes:
        identifier: what the worker was told.
        assignment: what the worker asked for.
        started_at: when it was started.
        ended_at: when its last process was gone; None while it runs.
        status: its exit status; None while it runs.
        kills: every call of `kill` for it.
        cancelled_at: when the task that runs it was cancelled; None if it never was.
        killed_now_at: when `kill_now` got it; None if it never did.
        hooks: every call of its flow's hooks.
        workspace_closed_at: when its workspace was removed; None while it is there.
    """

    identifier: str
    assignment: Assignment
    started_at: float
    ended_at: float | None = None
    status: int | None = None
    kills: list[Kill] = attrs.field(factory=list)
    cancelled_at: float | None = None
    killed_now_at: float | None = None
    hooks: list[CalledHooks] = attrs.field(factory=list)
    workspace_closed_at: float | None = None


@frozen
class FakeJob:
    """What `FakeInfrastructure.prepare` makes.

    Attributes:
        assignment: what the worker asked for.
        script: what the run will do.
    """

    assignment: Assignment
    script: Script


@attrs.define(eq=False)
class _Process:
    job: FakeJob
    execution: Execution
    reported: State | None = None
    life: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    ended: trio.Event = attrs.field(factory=trio.Event)


class FakeInfrastructure:
    """An `Infrastructure` whose flow runs are played, not executed.

    Args:
        api: where the flows propose their states, and whose clock is used in the records.
        script: what flow runs do that have no script of their own.
        kill_grace: seconds between SIGTERM and SIGKILL when a run is cancelled.

    Attributes:
        type: the type of the work pools whose runs it plays; that of Prefect's processes.
        speaks_for_itself: see `Infrastructure`.
        configured_by_deployment: see `Infrastructure`.
        script: as above; may be changed at any time, for the runs that are prepared after that.
        scripts: the scripts of single flow runs, by their id.
        executions: every flow run that was started, in order.
    """

    type: ClassVar[str] = "process"
    speaks_for_itself: ClassVar[bool] = False
    configured_by_deployment: ClassVar[bool] = True

    def __init__(self, api: FakePrefectAPI, script: Script | None = None, *, kill_grace: float = 5.0) -> None:
        self.script: Script = script or Script()
        self.scripts: dict[UUID, Script] = {}
        self.executions: list[Execution] = []
        self._api = api
        self._kill_grace = kill_grace
        self._running: dict[str, _Process] = {}

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """A template with the variables `command` and `env`."""
        return DEFAULT_TEMPLATE

    def execution(self, flow_run_id: UUID) -> Execution:
        """The only execution of a flow run.

        Args:
            flow_run_id: of the run.

        Raises:
            LookupError: it was not started, or more than once.
        """
        found = [each for each in self.executions if each.assignment.flow_run_id == flow_run_id]
        if len(found) != 1:
            raise LookupError(f"flow run {flow_run_id} was started {len(found)} times")
        return found[0]

    @property
    def running(self) -> list[Execution]:
        """The flow runs that run now."""
        return [process.execution for process in self._running.values()]

    def open(self) -> AbstractAsyncContextManager[None]:
        """See `Infrastructure.open`."""
        return nullcontext()

    def prepare(self, assignment: Assignment) -> FakeJob:
        """See `Infrastructure.prepare`."""
        script = self.scripts.get(assignment.flow_run_id, self.script)
        if script.cannot_prepare is not None:
            raise script.cannot_prepare
        return FakeJob(assignment, script)

    @asynccontextmanager
    async def open_workspace(self, job: FakeJob) -> AsyncIterator[FakeJob]:
        """See `Infrastructure.open_workspace`."""
        try:
            yield job
        finally:
            for execution in self.executions:
                if execution.assignment is job.assignment:
                    execution.workspace_closed_at = self._api.seconds()

    async def run(
        self, job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """See `Infrastructure.run`."""
        await trio.sleep(job.script.start_seconds)
        if job.script.cannot_start is not None:
            raise job.script.cannot_start
        await job.assignment.note_trace(Trace(None))
        process = self._start(job)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._play, process)
                await job.assignment.note_trace(Trace(process.execution.identifier))
                task_status.started(process.execution.identifier)
                try:
                    await process.ended.wait()
                except trio.Cancelled:
                    process.execution.cancelled_at = self._api.seconds()
                    with trio.CancelScope(shield=True):
                        await self._terminate(process, self._kill_grace, _intent(job.assignment))
                    raise
        finally:
            del self._running[process.execution.identifier]
        if job.script.breaks is not None:
            raise job.script.breaks
        status = process.execution.status
        assert status is not None  # noqa: S101 - `_play` has ended
        if process.reported is not None:
            message = "Flow run reported how it ended."
            return Outcome(status_code=0, message=message, state=process.reported)
        return Outcome(status_code=status, message=exit_message(status), hint=exit_hint(status))

    async def run_hooks(self, job: FakeJob, call: HookCall) -> None:
        """See `Infrastructure.run_hooks`."""
        execution = self.execution(job.assignment.flow_run_id)
        try:
            state = self._api.flow_run(job.assignment.flow_run_id).state
        except LookupError:  # somebody has deleted the run
            state = None
        called = CalledHooks(call=call, at=self._api.seconds(), state_name=state.name if state else None)
        execution.hooks.append(called)
        await trio.sleep(job.script.hook_seconds)
        if job.script.cannot_call_hooks is not None:
            raise job.script.cannot_call_hooks

    async def kill(self, identifier: str, grace: float, *, intent: Intent | None = None) -> None:
        """See `Infrastructure.kill`."""
        process = self._running.get(identifier)
        if process is None:
            await trio.lowlevel.checkpoint()
            return
        process.execution.kills.append(Kill(grace=grace, at=self._api.seconds(), intent=intent))
        await self._terminate(process, grace, intent)
        if process.job.script.cannot_kill is not None:
            raise process.job.script.cannot_kill

    def kill_now(self) -> None:
        """See `Infrastructure.kill_now`."""
        for process in self._running.values():
            process.execution.killed_now_at = self._api.seconds()
            _end(process, _KILLED)

    async def find(self, flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        """See `Infrastructure.find`; no run outlives its worker here."""
        await trio.lowlevel.checkpoint()
        running = self._running.get(trace.identifier or "")
        if (
            running is not None
            and running.job.assignment.flow_run_id == flow_run_id
            and not running.ended.is_set()
        ):
            return Running(trace)
        return Gone()

    @asynccontextmanager
    async def open_remains(self, flow_run_id: UUID, trace: Trace) -> AsyncIterator[FakeJob]:
        """See `Infrastructure.open_remains`."""
        found = [each for each in self.executions if each.identifier == trace.identifier]
        if found:
            assignment = found[0].assignment
        else:
            # Somebody may have deleted the run.
            known = [run for run in self._api.flow_runs if run.id == flow_run_id]
            flow_run = known[0] if known else FlowRun(id=flow_run_id, name="", flow_id=flow_run_id)
            assignment = Assignment(
                flow_run=flow_run, flow_name="", name="", labels={}, configuration={}, environment={}
            )
        yield FakeJob(assignment, self.scripts.get(flow_run_id, self.script))

    async def adopt(
        self,
        job: FakeJob,  # noqa: ARG002 - see the protocol
        trace: Trace,
        *,
        shutdown_policy: Callable[[], ShutdownPolicy],  # noqa: ARG002 - see the protocol
    ) -> None:
        """See `Infrastructure.adopt`."""
        running = self._running.get(trace.identifier or "")
        if running is None:
            await trio.lowlevel.checkpoint()
        else:
            await running.ended.wait()

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:  # noqa: ARG002 - see the protocol
        """See `Infrastructure.clear`."""
        await trio.lowlevel.checkpoint()

    def _start(self, job: FakeJob) -> _Process:
        execution = Execution(
            identifier=str(1001 + len(self.executions)),
            assignment=job.assignment,
            started_at=self._api.seconds(),
        )
        process = _Process(job, execution)
        self.executions.append(execution)
        self._running[execution.identifier] = process
        return process

    async def _play(self, process: _Process) -> None:
        """Be the flow's process; nothing but its own end and signals end it."""
        script = process.job.script
        try:
            with process.life:
                if await self._proposed(process, script.begins):
                    await trio.sleep(script.seconds)
                    await self._proposed(process, script.ends, retry_type=script.retry_type)
                _end(process, script.status)
        finally:
            process.execution.ended_at = self._api.seconds()
            process.ended.set()

    async def _proposed(self, process: _Process, name: str | None, *, retry_type: str | None = None) -> bool:
        """Propose a state, as often as the API says to wait; False if it was refused."""
        if name is None:
            return True
        flow_run_id = process.job.assignment.flow_run_id
        while True:
            try:
                result = self._api.set_state(flow_run_id, name, retry_type=retry_type)
            except LookupError:  # somebody has deleted the run
                return False
            if result.status is not SetStateStatus.WAIT:
                break
            await trio.sleep(max(result.details.delay_seconds, 0.1))
        if process.job.script.reports and result.state is not None and result.state.type.is_final:
            process.reported = result.state
        return result.status is SetStateStatus.ACCEPT

    async def _terminate(self, process: _Process, grace: float, intent: Intent | None = None) -> None:
        """SIGTERM, the grace, SIGKILL."""
        script = process.job.script
        if not script.ignores_terminate and grace > 0 and not process.ended.is_set():
            if intent is None or not script.reachable:
                self._force(process, script.terminated)
            _end(process, _TERMINATED)
        with trio.move_on_after(grace):
            await process.ended.wait()
            return
        _end(process, _KILLED)
        with trio.CancelScope(shield=True):
            await process.ended.wait()

    def _force(self, process: _Process, name: str | None) -> None:
        if name is None:
            return
        try:
            result = self._api.set_state(process.job.assignment.flow_run_id, name, force=True)
        except LookupError:  # somebody has deleted the run
            return
        if process.job.script.reports:
            process.reported = result.state


def _intent(assignment: Assignment) -> Intent | None:
    """What a run is told that is cut off."""
    return "reschedule" if assignment.shutdown_policy() == "reschedule" else None


def _end(process: _Process, status: int) -> None:
    if process.execution.status is None:
        process.execution.status = status
        process.life.cancel()
