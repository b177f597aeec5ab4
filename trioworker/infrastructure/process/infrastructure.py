"""Flow runs as processes on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import UUID

import attrs
import trio

from trioworker.infrastructure.exit_status import exit_hint, exit_message
from trioworker.infrastructure.interpreter import find_interpreter
from trioworker.infrastructure.process.attempt_protocol import final_state
from trioworker.infrastructure.process.control_channel import (
    Conclusion,
    ControlChannel,
    Delivery,
    EngineReceipt,
    open_control_channel,
)
from trioworker.infrastructure.process.environment import run_environment
from trioworker.infrastructure.process.hooks import open_hook_process
from trioworker.infrastructure.process.identity import Machine, ProcessDetails, mark_of
from trioworker.infrastructure.process.job import PrefectModule, ProcessJob, origin_of, read_configuration
from trioworker.infrastructure.process.prefect_abilities import has_workspace_supervisor
from trioworker.infrastructure.process.start import (
    Origin,
    group_errors_explained,
    machine_errors_explained,
    start_process,
)
from trioworker.infrastructure.process.supervisor import supervise, with_manifest
from trioworker.infrastructure.process.template import DEFAULT_BASE_JOB_TEMPLATE
from trioworker.infrastructure.process.warm.program.messages import Job
from trioworker.infrastructure.process.warm.template import RefusedError, command_without_template
from trioworker.infrastructure.process.warm.templates import Templates
from trioworker.infrastructure.process.workspace import (
    Workspace,
    open_directories,
    open_left_directories,
)
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
from trioworker.orphan_group import OrphanGroup
from trioworker.process_group import ProcessGroup
from trioworker.settings import Settings

__all__ = ["DEFAULT_BASE_JOB_TEMPLATE", "ProcessInfrastructure", "ProcessJob"]

# On top of the grace: what the kernel may need to take down a group that was killed, and the engine to be told why.
_KILL_MARGIN: Final = 12.0


@attrs.define(eq=False, repr=False)
class _RunningProcess:
    group: ProcessGroup | OrphanGroup
    channel: ControlChannel
    kill_requested: bool = False
    killed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def identifier(self) -> str:
        return str(self.group.pid)

    async def ends_by_itself(self, intent: Intent, grace: float) -> bool:
        """Tell the engine of an intent; whether it had come to its end before, and its process does so in time."""
        if await self.channel.deliver(intent) is not Delivery.ALREADY_CONCLUDED:
            return False
        with trio.move_on_after(grace) as waiting:
            await self.group.wait()
        return not waiting.cancelled_caught


class ProcessInfrastructure:
    """Runs each flow run as the leader of a process group of its own.

    The process inherits the worker's standard output, so what it writes does not depend on the worker's life.

    Args:
        settings: where the interpreter and the environment come from.
        kill_grace: seconds between SIGTERM and SIGKILL for a run that is cut off.

    Raises:
        ConfigurationError: no interpreter with Prefect was found.
    """

    type: ClassVar[str] = "process"
    speaks_for_itself: ClassVar[bool] = False
    configured_by_deployment: ClassVar[bool] = True

    def __init__(self, settings: Settings, kill_grace: float) -> None:
        self._settings = settings
        self._kill_grace = kill_grace
        self._python = find_interpreter(settings.python)
        self._templates = (
            Templates(self._python, settings.preload, settings.environment) if settings.warm_start else None
        )
        self._running: dict[str, _RunningProcess] = {}
        self._groups: set[ProcessGroup | OrphanGroup] = set()
        # Those that were adopted, for as long as what is left of their runs is kept.
        self._adopted: dict[UUID, OrphanGroup] = {}
        self._machine = Machine.this()
        # The runs that go on when the worker ends.
        self._left: set[UUID] = set()
        self._supervisor_known: bool | None = None
        self._supervisor_lock = trio.Lock()

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """The template of Prefect's own process worker."""
        return DEFAULT_BASE_JOB_TEMPLATE

    def open(self) -> AbstractAsyncContextManager[None]:
        """See `Infrastructure.open`; what processes share is what they are forked from."""
        return nullcontext() if self._templates is None else self._templates.open()

    def prepare(self, assignment: Assignment) -> ProcessJob:
        """See `Infrastructure.prepare`."""
        configuration = read_configuration(assignment.configuration)
        return ProcessJob(
            flow_run_id=assignment.flow_run_id,
            command=configuration.command,
            environment=run_environment(
                assignment.flow_run_id,
                worker=self._settings.environment,
                settings=self._settings.environment_for_runs(),
                attribution=assignment.environment,
                job=configuration.env,
                settings_win=configuration.command is not None,
            ),
            origin=origin_of(configuration, self._python),
            working_directory=configuration.working_directory,
            stream_output=configuration.stream_output,
            note_trace=assignment.note_trace,
            shutdown_policy=assignment.shutdown_policy,
        )

    @asynccontextmanager
    async def open_workspace(self, job: ProcessJob) -> AsyncIterator[ProcessJob]:
        """See `Infrastructure.open_workspace`."""
        async with open_directories(
            job.working_directory, left=lambda: job.flow_run_id in self._left
        ) as workspace:
            if job.command is not None:
                yield attrs.evolve(job, workspace=workspace)
            elif await self._has_supervisor(workspace.private):
                module, supervised = await supervise(workspace, job.flow_run_id)
                yield self._run_by_prefect(job, supervised, module)
            else:
                yield self._run_by_prefect(job, workspace, PrefectModule("prefect.engine"))

    def _run_by_prefect(self, job: ProcessJob, workspace: Workspace, module: PrefectModule) -> ProcessJob:
        return attrs.evolve(job, command=module.command(self._python), module=module, workspace=workspace)

    async def _has_supervisor(self, directory: Path) -> bool:
        # One question for all the runs that start at the same moment; one that failed is asked anew.
        async with self._supervisor_lock:
            if self._supervisor_known is None:
                self._supervisor_known = await has_workspace_supervisor(
                    self._python, self._settings.environment, directory, owned=self._ended_with_block
                )
            return self._supervisor_known

    async def run(
        self, job: ProcessJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """See `Infrastructure.run`; the identifier is the process id."""
        async with open_control_channel() as channel:
            group = await self._start(job, {**job.environment, **channel.environment})
            running = _RunningProcess(group, channel)
            with self._findable(running):
                async with self._ended_with_block(group, self._cut_off(running, job)):
                    await job.note_trace(self._trace(job, group.pid))
                    task_status.started(running.identifier)
                    status = await group.wait()
                    if running.kill_requested:
                        # The process is gone, but what it started may have to be killed yet.
                        await running.killed.wait()
            return _outcome(status, await channel.final_conclusion())

    def _cut_off(self, running: _RunningProcess, job: ProcessJob) -> Callable[[], Awaitable[bool]]:
        """What is done about a process that the worker's own end cuts off; whether it is to be ended."""

        async def cut_off() -> bool:
            policy = job.shutdown_policy()
            if policy == "leave" and not running.kill_requested:
                self._left.add(job.flow_run_id)
                return False
            if policy == "reschedule":
                await running.channel.deliver("reschedule")
            return True

        return cut_off

    async def _start(self, job: ProcessJob, environment: Mapping[str, str]) -> ProcessGroup:
        """Start the process of a run: from a template if possible, otherwise fresh."""
        directory, command = job.opened_workspace.root, job.opened_command
        if job.module is not None and self._templates is not None:
            forked = Job(job.module.name, [*job.module.arguments], str(directory), {**environment})
            try:
                return await self._templates.fork(
                    forked,
                    stream_output=job.stream_output,
                    before_beginning=lambda pid: job.note_trace(self._trace(job, pid)),
                )
            except RefusedError as refused:
                if refused.no_template:
                    command = command_without_template(self._python, job.module.name, job.module.arguments)
        await job.note_trace(self._trace(job, None))
        return await start_process(
            command,
            origin=job.origin,
            environment=environment,
            directory=directory,
            stream_output=job.stream_output,
        )

    @contextmanager
    def _findable(self, running: _RunningProcess) -> Iterator[None]:
        self._running[running.identifier] = running
        try:
            yield
        finally:
            del self._running[running.identifier]

    @asynccontextmanager
    async def _ended_with_block(
        self, group: ProcessGroup, cut_off: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncIterator[None]:
        """See to it that a process ends with the block, at the end of which it has ended if nothing went wrong.

        What it has started may go on after a good end only: what failed may be run again soon, and nothing of it
        shall be around then.

        Args:
            group: the process, and what it has started.
            cut_off: awaited if the block is cancelled; whether the process is to be ended then.

        Raises:
            InfrastructureError: somebody else has reaped the process, or the kernel does not end it; also for what
                the block asks the group.
        """
        with group_errors_explained():
            self._groups.add(group)
            try:
                yield
                if await group.wait() != 0:
                    await group.terminate(self._kill_grace)
            except BaseException:
                with trio.move_on_after(self._kill_grace + _KILL_MARGIN, shield=True):
                    if cut_off is None or await cut_off():
                        await group.terminate(self._kill_grace)
                raise
            finally:
                self._groups.discard(group)
            group.release()

    async def run_hooks(self, job: ProcessJob, call: HookCall) -> None:
        """See `Infrastructure.run_hooks`."""
        async with open_hook_process(self._python, job, call) as process:
            group = await start_process(
                process.command,
                origin=process.origin,
                environment=process.environment,
                directory=process.directory,
                stream_output=job.stream_output,
            )
            async with self._ended_with_block(group):
                status = await group.wait()
        if status != 0:
            raise InfrastructureError(
                f"the process that calls them ended with status {status}; the output of the worker may tell more"
            )

    async def kill(self, identifier: str, grace: float, *, intent: Intent | None = None) -> None:
        """See `Infrastructure.kill`."""
        running = self._running.get(identifier)
        if running is None:
            return
        running.kill_requested = True
        try:
            # Shielded, since a cancellation would cut the grace to nothing. When the whole worker is stopped, `run`
            # cuts it to what is right for that.
            with group_errors_explained(), trio.move_on_after(grace + _KILL_MARGIN, shield=True):
                if intent is None or not await running.ends_by_itself(intent, grace):
                    await running.group.terminate(grace)
        finally:
            running.killed.set()

    def kill_now(self) -> None:
        """See `Infrastructure.kill_now`."""
        for group in self._groups:
            # Of one that somebody else has reaped there is nothing to kill.
            with suppress(ChildProcessError):
                group.kill()

    async def find(self, flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        """See `Infrastructure.find`."""
        details = ProcessDetails.decode(trace.details)
        if details is None:
            await trio.lowlevel.checkpoint()
            return Unknown("what the ledger says of it cannot be understood")
        pid = _pid(trace)
        # In a thread, since all processes of the machine may have to be looked at.
        with machine_errors_explained("processes cannot be looked for"):
            sight = await trio.to_thread.run_sync(details.see, pid, flow_run_id)
        if sight.pid is not None:
            return Running(Trace(str(sight.pid), details.of_process(sight.pid).encode()))
        if sight.gone:
            return Gone()
        return Unknown(_unseen(details))

    @asynccontextmanager
    async def open_remains(self, flow_run_id: UUID, trace: Trace) -> AsyncIterator[ProcessJob]:
        """See `Infrastructure.open_remains`."""
        details = ProcessDetails.decode(trace.details)
        job = ProcessJob(
            flow_run_id=flow_run_id,
            command=None,
            # Not known any more.
            environment={},
            origin=Origin(
                program="the program of an earlier worker", directory="the directory of an earlier worker"
            ),
            working_directory=None,
            stream_output=details is None or details.stream_output,
        )
        if details is None:
            yield job
            return
        async with open_left_directories(
            Path(details.private),
            None if details.temporary is None else Path(details.temporary),
            left=lambda: flow_run_id in self._left,
        ) as workspace:
            try:
                yield attrs.evolve(job, workspace=with_manifest(workspace))
            finally:
                self._adopted.pop(flow_run_id, None)

    async def adopt(
        self, job: ProcessJob, trace: Trace, *, shutdown_policy: Callable[[], ShutdownPolicy]
    ) -> None:
        """See `Infrastructure.adopt`."""
        group = self._adopted[job.flow_run_id] = _orphan(job.flow_run_id, trace)
        running = _RunningProcess(group, ControlChannel.unreachable())
        cut_off = self._cut_off(running, attrs.evolve(job, shutdown_policy=shutdown_policy))
        with group_errors_explained(), self._findable(running):
            self._groups.add(group)
            try:
                await group.wait()
                if running.kill_requested:
                    await running.killed.wait()
            except BaseException:
                with trio.move_on_after(self._kill_grace + _KILL_MARGIN, shield=True):
                    if await cut_off():
                        await group.terminate(self._kill_grace)
                raise
            finally:
                self._groups.discard(group)

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:
        """See `Infrastructure.clear`."""
        await trio.lowlevel.checkpoint()
        if trace.identifier is None:
            return
        details = ProcessDetails.decode(trace.details)
        if details is not None:
            here = self._machine.still_has_processes_of(details.machine)
            if here is None:
                raise InfrastructureError(_unseen(details))
            if not here:
                # The number is another one's here.
                return
        # The one that was adopted has seen its members, when there is no leader any more to know them by.
        group = self._adopted.get(flow_run_id) or _orphan(flow_run_id, trace)
        with group_errors_explained():
            await group.terminate(self._kill_grace)

    def _trace(self, job: ProcessJob, pid: int | None) -> Trace:
        """By which a later worker finds the process of a run; without its number if it is yet to be started."""
        workspace = job.opened_workspace
        details = ProcessDetails(
            machine=self._machine,
            private=str(workspace.private),
            temporary=str(workspace.root) if workspace.temporary else None,
            stream_output=job.stream_output,
        )
        if pid is None:
            return Trace(None, details.encode())
        return Trace(str(pid), details.of_process(pid).encode())


def _pid(trace: Trace) -> int | None:
    identifier = trace.identifier
    return int(identifier) if identifier is not None and identifier.isdecimal() else None


def _orphan(flow_run_id: UUID, trace: Trace) -> OrphanGroup:
    """What an earlier worker has started.

    Raises:
        InfrastructureError: the trace does not tell.
    """
    details, pid = ProcessDetails.decode(trace.details), _pid(trace)
    if pid is None or details is None or details.started is None:
        raise InfrastructureError("the ledger does not tell its process from others")
    return OrphanGroup(pid, details.started, mark_of(flow_run_id))


def _unseen(details: ProcessDetails) -> str:
    return f"it was started on {details.machine.host}, whose processes cannot be seen from here"


def _outcome(status: int, conclusion: Conclusion | None) -> Outcome:
    # As in Prefect, a status tells nothing of an engine that has said what it made of its run.
    if conclusion is None:
        return Outcome(status_code=status, message=exit_message(status), hint=exit_hint(status))
    if isinstance(conclusion, EngineReceipt):
        return Outcome(
            status_code=0,
            message="Flow run reported how it ended.",
            state=final_state(conclusion),
        )
    return Outcome(status_code=0, message=f"Flow run ended, as it was told to ({conclusion}).")
