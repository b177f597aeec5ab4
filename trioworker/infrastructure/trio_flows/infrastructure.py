"""Flow runs as calls of functions that the program has handed over: no process, no import of Prefect."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from socket import gethostname
from typing import Any, ClassVar
from uuid import UUID, uuid4

import attrs
import trio

from trioworker.api.errors import APIError
from trioworker.api.models import FlowRun
from trioworker.errors import ConfigurationError
from trioworker.flows.declaration import FlowDeclarations, TrioFlow
from trioworker.flows.pool import TRIO_BASE_JOB_TEMPLATE, TRIO_TYPE
from trioworker.infrastructure.protocol import (
    Assignment,
    Gone,
    HookCall,
    InfrastructureError,
    Intent,
    NoteTransition,
    Outcome,
    Running,
    ShutdownPolicy,
    Trace,
    Unknown,
)
from trioworker.infrastructure.trio_flows.engine import FlowEngine
from trioworker.infrastructure.trio_flows.report import RunReport
from trioworker.infrastructure.trio_flows.run_logs import sending_run_logs
from trioworker.infrastructure.trio_flows.services import Room, Services
from trioworker.infrastructure.trio_flows.transitions import Transitions

_logger = logging.getLogger("trioworker.flow_runs")


@attrs.frozen(eq=False)
class FlowJob:
    """A flow run and the function that it is a run of."""

    flow: TrioFlow
    flow_run: FlowRun
    transition_ids: set[UUID]
    note_transition: NoteTransition
    engine: FlowEngine | None = None


# What is certain of a run may be told for as long as this, in seconds, when nobody waits for calls any more.
_LAST_SECOND = 1.0


@attrs.define(eq=False)
class _Running:
    """A run in hand."""

    engine: FlowEngine
    ended: trio.Event = attrs.field(factory=trio.Event)


class TrioInfrastructure:
    """Calls functions.

    An async function runs as a task and is cancelled as any task is: its clean-up code is executed, and what of that
    awaits something has to be shielded. Any other function runs in a thread, which cannot be ended.

    Args:
        flows: the functions.
        services: what their runs need of the worker.
        kill_grace: seconds that a call has to end when it is cut off.

    Raises:
        ConfigurationError: there are no functions, or one has a signature that cannot be served.
    """

    type: ClassVar[str] = TRIO_TYPE
    speaks_for_itself: ClassVar[bool] = True
    configured_by_deployment: ClassVar[bool] = False

    def __init__(self, flows: FlowDeclarations, services: Services, kill_grace: float) -> None:
        flows.check()
        self._flows = flows
        self._services = services
        self._kill_grace = kill_grace
        # Two workers may share a process, and two processes a number, each on a host of its own.
        self._token = uuid4().hex[:8]
        self._room: Room | None = None
        self._running: dict[str, _Running] = {}
        # Also of runs that were cut off, as long as code of their functions goes on.
        self._engines: dict[str, FlowEngine] = {}
        # With the seconds that are left of each when everything is killed.
        self._graces: dict[trio.CancelScope, float] = {}

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """A template without variables: there is nothing to choose."""
        return TRIO_BASE_JOB_TEMPLATE

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """See `Infrastructure.open`: here is where the functions are called."""
        with sending_run_logs(self._services.now) as log_handler:
            async with trio.open_nursery() as calls:
                self._room = Room(
                    nursery=calls, threads=trio.CapacityLimiter(math.inf), log_handler=log_handler
                )
                try:
                    yield
                finally:
                    _warn_of_overdue(len(calls.child_tasks))

    def prepare(self, assignment: Assignment) -> FlowJob:
        """See `Infrastructure.prepare`."""
        flow = self._flows.get(assignment.flow_name)
        if flow is None:
            served = ", ".join(repr(each.name) for each in self._flows)
            raise InfrastructureError(
                f"this worker has no function for flow {assignment.flow_name!r}, only for {served}: delete its"
                " deployment, or serve it on a work pool of its own"
            )
        try:
            _ = flow.parameters
        except ConfigurationError as error:
            raise InfrastructureError(str(error)) from error
        return FlowJob(flow, assignment.flow_run, assignment.transition_ids, assignment.note_transition)

    @asynccontextmanager
    async def open_workspace(self, job: FlowJob) -> AsyncIterator[FlowJob]:
        """See `Infrastructure.open_workspace`: lasts until no code of the function is being executed any more."""
        assert self._room is not None  # noqa: S101 - `open` comes first
        report = RunReport(job.flow_run, self._services)
        transitions = Transitions(
            job.flow,
            job.flow_run,
            place=self._place(job.flow_run),
            services=self._services,
            report=report,
            transition_ids=job.transition_ids,
            note_transition=job.note_transition,
        )
        engine = FlowEngine(
            job.flow,
            job.flow_run,
            transitions=transitions,
            report=report,
            services=self._services,
            room=self._room,
            grace=self._kill_grace,
        )
        place = self._place(job.flow_run)
        self._engines[place] = engine
        try:
            try:
                yield attrs.evolve(job, engine=engine)
            except Exception:
                # Such as an end that the API refuses to hear of: the code may go on all the same.
                await engine.wait_for_call()  # noqa: ASYNC120 - who is cut off meanwhile is spoken for once more
                raise
            # Not in a `finally`: whoever is in a hurry does not wait.
            await engine.wait_for_call()
        finally:
            if not engine.is_calling:
                del self._engines[place]

    async def run(
        self, job: FlowJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """See `Infrastructure.run`."""
        assert job.engine is not None  # noqa: S101 - `open_workspace` comes first
        place = self._place(job.flow_run)
        self._running[place] = running = _Running(job.engine)
        try:
            task_status.started(place)
            return await job.engine.run()
        except BaseException as error:  # noqa: ASYNC103 - see below
            outcome = await self._cut_off(job.engine, error)  # noqa: ASYNC102, ASYNC120 - shielded and bounded
            if outcome is None:
                raise
            # Whoever cancels gets a checkpoint soon enough; how the run ended is to be known all the same.
            return outcome  # noqa: ASYNC104
        finally:
            del self._running[place]
            running.ended.set()

    async def _cut_off(self, engine: FlowEngine, error: BaseException) -> Outcome | None:
        """End a run's call within the time that it has for that; how the run ended, if that is certain."""
        engine.cancel_call()
        with self._grace(self._kill_grace, left_when_killed=0) as grace:
            await engine.wait_for_call()
        if _is_cancellation(error):
            left = grace.deadline - trio.current_time()
            with self._grace(max(left, _LAST_SECOND), left_when_killed=_LAST_SECOND):
                try:
                    return await engine.finish()
                except APIError as refusal:
                    _logger.debug("The end of a flow run is left to the worker: %s", refusal)
        return None

    @contextmanager
    def _grace(self, seconds: float, *, left_when_killed: float) -> Iterator[trio.CancelScope]:
        """A shielded scope of so many seconds, of which `kill_now` leaves no more than some."""
        with trio.move_on_after(seconds, shield=True) as scope:
            self._graces[scope] = left_when_killed
            try:
                yield scope
            finally:
                del self._graces[scope]

    async def run_hooks(self, job: FlowJob, call: HookCall) -> None:  # noqa: ARG002 - see the protocol
        """See `Infrastructure.run_hooks`; functions have none."""
        await trio.lowlevel.checkpoint()

    async def kill(
        self,
        identifier: str,
        grace: float,
        *,
        intent: Intent | None = None,  # noqa: ARG002 - there is only one way to end a call
    ) -> None:
        """See `Infrastructure.kill`: cancels the call, which then has `grace` seconds for its clean-up."""
        running = self._running.get(identifier)
        if running is None:
            await trio.lowlevel.checkpoint()
            return
        running.engine.cancel(grace)
        if running.engine.interruptible:
            await running.ended.wait()
            return
        with trio.move_on_after(grace):
            await running.ended.wait()
            return
        raise InfrastructureError(
            "its function runs in a thread, which nothing can cancel; the run ends when the function returns"
        )

    def kill_now(self) -> None:
        """See `Infrastructure.kill_now`: a call cannot be killed, but nobody waits for its clean-up any more."""
        self._kill_grace = 0
        for running in self._running.values():
            running.engine.cancel_call()
        now = trio.current_time()
        for grace, left in self._graces.items():
            grace.deadline = min(grace.deadline, now + left)

    def _place(self, flow_run: FlowRun) -> str:
        """How a call is known everywhere: by the process and the worker that it is in, and its run."""
        return f"{os.getpid()}:{gethostname()}:{self._token}:{flow_run.id}"

    async def find(self, flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:  # noqa: ARG002
        """See `Infrastructure.find`: no call outlives its program."""
        await trio.lowlevel.checkpoint()
        identifier = trace.identifier or ""
        engine = self._engines.get(identifier)
        goes_on = identifier in self._running or (engine is not None and engine.is_calling)
        return Running(trace) if goes_on else Gone()

    @asynccontextmanager
    async def open_remains(self, flow_run_id: UUID, trace: Trace) -> AsyncIterator[None]:  # noqa: ARG002
        """See `Infrastructure.open_remains`: nothing is left of a call."""
        await trio.lowlevel.checkpoint()
        yield None

    async def adopt(
        self,
        job: FlowJob | None,  # noqa: ARG002
        trace: Trace,
        *,
        shutdown_policy: Callable[[], ShutdownPolicy],  # noqa: ARG002
    ) -> None:
        """See `Infrastructure.adopt`."""
        running = self._running.get(trace.identifier or "")
        if running is None:
            await trio.lowlevel.checkpoint()
        else:
            await running.ended.wait()

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:  # noqa: ARG002
        """See `Infrastructure.clear`."""
        await trio.lowlevel.checkpoint()


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _warn_of_overdue(count: int) -> None:
    if count:
        _logger.warning(
            "%d function%s still going on, though the end of the run was reported",
            count,
            " is" if count == 1 else "s are",
        )
