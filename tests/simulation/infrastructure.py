"""Flow runs as processes of a simulated machine, for one worker: what `ProcessInfrastructure` is on a real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    nullcontext,
)
from typing import Any, ClassVar, Final, Protocol
from uuid import UUID

import attrs
import trio

from trioworker.infrastructure.exit_status import exit_hint, exit_message
from trioworker.infrastructure.protocol import (
    Assignment,
    Gone,
    HookCall,
    InfrastructureError,
    Intent,
    NoteTrace,
    Outcome,
    Running,
    ShutdownPolicy,
    Trace,
    Unknown,
    always_crash,
    note_nothing,
)
from trioworker.testing.fake_infrastructure import DEFAULT_TEMPLATE

from .fence import Fence
from .machine import KILLED, Machine, Process
from .network import Passing

__all__ = ["SimulatedInfrastructure", "Starter"]

# On top of the grace, as on a real machine.
_KILL_MARGIN: Final = 12.0


class Starter(Protocol):
    """What the infrastructure finds around it."""

    machine: Machine

    def start(self, flow_run_id: UUID) -> Process:
        """Start the process of a run, which waits to be released."""
        ...

    def forks(self) -> bool:
        """Whether the next one comes from a template."""
        ...

    def hook_seconds(self) -> float:
        """For how long the next hooks go on."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Job:
    """A run to be executed."""

    flow_run_id: UUID
    note_trace: NoteTrace = note_nothing
    shutdown_policy: Callable[[], ShutdownPolicy] = always_crash


@attrs.define(eq=False)
class _Running:
    process: Process
    adopted: bool = False
    kill_requested: bool = False
    killed: trio.Event = attrs.field(factory=trio.Event)

    def deliver(self, intent: Intent) -> bool:
        """Tell the process of an intent; whether it had come to its end before."""
        if self.adopted or not self.process.reachable:
            return False
        if self.process.conclusion is not None:
            return True
        self.process.told = intent
        return False

    async def terminate(self, grace: float) -> None:
        """End the whole group."""
        await terminate(self.process, grace)


class SimulatedInfrastructure:
    """An `Infrastructure` for one worker, which the processes outlive.

    Args:
        world: starts processes.
        fence: of the worker.
        pass_step: lets it come to a step.
        kill_grace: seconds between SIGTERM and SIGKILL for a run that is cut off.
    """

    type: ClassVar[str] = "process"
    speaks_for_itself: ClassVar[bool] = False
    configured_by_deployment: ClassVar[bool] = True

    def __init__(self, world: Starter, fence: Fence, pass_step: Passing, kill_grace: float) -> None:
        self._world = world
        self._fence = fence
        self._pass_step = pass_step
        self._kill_grace = kill_grace
        self._running: dict[str, _Running] = {}

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """See `Infrastructure.default_base_job_template`."""
        return DEFAULT_TEMPLATE

    def open(self) -> AbstractAsyncContextManager[None]:
        """See `Infrastructure.open`."""
        return nullcontext()

    def prepare(self, assignment: Assignment) -> Job:
        """See `Infrastructure.prepare`."""
        return Job(
            flow_run_id=assignment.flow_run_id,
            note_trace=assignment.note_trace,
            shutdown_policy=assignment.shutdown_policy,
        )

    @asynccontextmanager
    async def open_workspace(self, job: Job) -> AsyncIterator[Job]:
        """See `Infrastructure.open_workspace`."""
        yield job

    async def run(self, job: Job, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> Outcome:
        """See `Infrastructure.run`."""
        running = _Running(await self._start(job))
        process = running.process
        self._running[str(process.pid)] = running
        try:
            async with self._ended_with_block(running, job):
                await job.note_trace(self._trace(process))
                process.noted = True
                task_status.started(str(process.pid))
                await process.ended.wait()
                self._fence.check()
                if running.kill_requested:
                    await running.killed.wait()
        finally:
            self._forget(running)
        if process.conclusion is not None:
            message = "Flow run reported how it ended."
            return Outcome(status_code=0, message=message, state=process.conclusion)
        assert process.status is not None
        status = process.status
        return Outcome(status_code=status, message=exit_message(status), hint=exit_hint(status))

    async def _start(self, job: Job) -> Process:
        if not self._world.forks():
            await job.note_trace(Trace(None, self._details(None)))
            await self._pass_step("before start")
            process = self._world.start(job.flow_run_id)
            process.released.set()
            await self._pass_step_with(process, "after start")
            return process
        await self._pass_step("before start")
        process = self._world.start(job.flow_run_id)
        try:
            await self._pass_step("after start")
            await job.note_trace(self._trace(process))
            process.noted = True
            self._fence.check()
        except BaseException:
            # It has not got the word to begin, and ends with its template.
            process.end(KILLED)
            raise
        process.released.set()
        return process

    async def _pass_step_with(self, process: Process, step: str) -> None:
        """Come to a step with a process in hand that nobody knows of yet."""
        try:
            await self._pass_step(step)
        except trio.Cancelled:
            process.end(KILLED)
            raise

    @asynccontextmanager
    async def _ended_with_block(self, running: _Running, job: Job) -> AsyncIterator[None]:
        try:
            yield
            if running.process.status != 0:
                await running.terminate(self._kill_grace)
                self._fence.check()
        except BaseException:
            if not self._fence.fallen:
                with trio.move_on_after(self._kill_grace + _KILL_MARGIN, shield=True):
                    await self._cut_off(running, job)
            raise

    async def _cut_off(self, running: _Running, job: Job) -> None:
        await self._pass_step("before cut off")
        policy = job.shutdown_policy()
        if policy == "leave" and not running.kill_requested:
            return
        if policy == "reschedule":
            running.deliver("reschedule")
        await running.terminate(self._kill_grace)
        await self._pass_step("after cut off")

    async def run_hooks(self, job: Job, call: HookCall) -> None:
        """See `Infrastructure.run_hooks`."""
        await self._pass_step("before call hooks")
        await trio.sleep(self._world.hook_seconds())
        await self._pass_step("after call hooks")

    async def kill(self, identifier: str, grace: float, *, intent: Intent | None = None) -> None:
        """See `Infrastructure.kill`."""
        await self._pass_step("before kill")
        running = self._running.get(identifier)
        if running is None:
            return
        running.kill_requested = True
        try:
            with trio.move_on_after(grace + _KILL_MARGIN, shield=True):
                if intent is None or not await self._ends_by_itself(running, intent, grace):
                    await running.terminate(grace)
                await self._pass_step("after kill")
        finally:
            running.killed.set()

    async def _ends_by_itself(self, running: _Running, intent: Intent, grace: float) -> bool:
        if not running.deliver(intent):
            return False
        with trio.move_on_after(grace) as waiting:
            await running.process.ended.wait()
        return not waiting.cancelled_caught

    def kill_now(self) -> None:
        """See `Infrastructure.kill_now`."""
        for running in self._running.values():
            for process in running.process.group:
                process.end(KILLED)

    async def find(self, flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        """See `Infrastructure.find`."""
        await trio.lowlevel.checkpoint()
        await self._pass_step("before find")
        machine = self._world.machine
        details = json.loads(trace.details)
        process: Process | None = None
        if details["boot"] == machine.boot:
            if trace.identifier is None:
                process = machine.leader_of(flow_run_id)
            else:
                process = machine.at(int(trace.identifier), details["started"])
        await self._pass_step("after find")
        if process is None or not process.lives:
            return Gone()
        process.noted = True
        return Running(self._trace(process))

    @asynccontextmanager
    async def open_remains(self, flow_run_id: UUID, trace: Trace) -> AsyncIterator[Job]:
        """See `Infrastructure.open_remains`."""
        yield Job(flow_run_id=flow_run_id)

    async def adopt(self, job: Job, trace: Trace, *, shutdown_policy: Callable[[], ShutdownPolicy]) -> None:
        """See `Infrastructure.adopt`."""
        await self._pass_step("before adopt")
        process = self._process(trace)
        if process is None:
            return
        running = _Running(process, adopted=True)
        self._running[str(process.pid)] = running
        try:
            await process.ended.wait()
            self._fence.check()
            if running.kill_requested:
                await running.killed.wait()
            await self._pass_step("after adopt")
        except BaseException:
            if not self._fence.fallen:
                with trio.move_on_after(self._kill_grace + _KILL_MARGIN, shield=True):
                    await self._cut_off(running, attrs.evolve(job, shutdown_policy=shutdown_policy))
            raise
        finally:
            self._forget(running)

    def _forget(self, running: _Running) -> None:
        # Another one may have its number by now, which on a real machine takes longer.
        number = str(running.process.pid)
        if self._running.get(number) is running:
            del self._running[number]

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:
        """See `Infrastructure.clear`."""
        await self._pass_step("before clear")
        if trace.identifier is None:
            return
        if json.loads(trace.details)["started"] is None:
            raise InfrastructureError("the ledger does not tell its process from others")
        process = self._process(trace)
        if process is not None:
            await terminate(process, self._kill_grace)
        await self._pass_step("after clear")

    def _process(self, trace: Trace) -> Process | None:
        details = json.loads(trace.details)
        if trace.identifier is None or details["boot"] != self._world.machine.boot:
            return None
        return self._world.machine.at(int(trace.identifier), details["started"])

    def _trace(self, process: Process) -> Trace:
        return Trace(str(process.pid), self._details(process))

    def _details(self, process: Process | None) -> str:
        started = None if process is None else process.started
        return json.dumps({"boot": self._world.machine.boot, "started": started})


async def terminate(leader: Process, grace: float) -> None:
    """SIGTERM for a whole group, the grace, SIGKILL for whoever is left."""
    try:
        for process in leader.group:
            process.terminate()
        with trio.move_on_after(grace):
            await _gone(leader)
            return
    finally:
        for process in leader.group:
            process.end(KILLED)
    await trio.lowlevel.checkpoint_if_cancelled()


async def _gone(leader: Process) -> None:
    while group := leader.group:
        await group[0].ended.wait()
