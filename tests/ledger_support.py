"""What the tests of the ledger share: ledgers and processes that outlive their worker, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import attrs
import trio
import trio.testing
from support import FOREVER, World

from trioworker import Surroundings, WorkerConfig
from trioworker.api.models import FlowRun, ProposedState, StateType
from trioworker.infrastructure.exit_status import exit_message
from trioworker.infrastructure.protocol import (
    Assignment,
    Gone,
    InfrastructureError,
    Intent,
    Outcome,
    Running,
    ShutdownPolicy,
    Trace,
    Unknown,
)
from trioworker.ledger.entry import Entry, Fate, Stage
from trioworker.ledger.ledger import Ledger, LedgerError
from trioworker.notices import Notify
from trioworker.testing import FakeInfrastructure, FakeJob, FakePrefectAPI, Kill, Script
from trioworker.testing.fake_infrastructure import _end, _intent, _Process
from trioworker.testing.memory_ledger import MemoryStorage

EARLIER = "yesterday's"
"""The name of the worker that is gone."""

SILENT = Script(begins=None, seconds=FOREVER, ends=None)
"""Goes on until somebody ends it, and says nothing."""


class LastingInfrastructure(FakeInfrastructure):
    """Infrastructure whose processes are the machine's: they go on when their worker is gone.

    Args:
        api: where the flows propose their states.
        machine: where the processes live.

    Attributes:
        adoptions: when each run was adopted, by its id.
        cleared: of which identifiers the rest was ended.
        elsewhere: why nobody can tell of a run whether it goes on.
        find_seconds: how long it takes to look for a process.
        kill_breaks: raised by `kill`, which has then done nothing.
        trace_seconds: how long the start of a process takes after the process is there.
        unkillable: the runs whose processes no signal ends.
    """

    def __init__(self, api: FakePrefectAPI, machine: trio.Nursery) -> None:
        super().__init__(api)
        self.adoptions: dict[UUID, float] = {}
        self.cleared: list[str | None] = []
        self.elsewhere: dict[UUID, str] = {}
        self.find_seconds = 0.0
        self.kill_breaks: Exception | None = None
        self.trace_seconds = 0.0
        self.unkillable: set[UUID] = set()
        self._watched: set[str] = set()
        self._machine = machine

    def leave_behind(self, flow_run: FlowRun, script: Script = SILENT) -> str:
        """Start a process of a run that no worker of today knows; its identifier."""
        assignment = Assignment(
            flow_run=flow_run, flow_name="", name="", labels={}, configuration={}, environment={}
        )
        return self._begin(FakeJob(assignment, script)).execution.identifier

    def end(self, flow_run_id: UUID, state_name: str | None = "Completed") -> None:
        """Let the process of a run come to its end, in this state."""
        for process in self._of(flow_run_id):
            if state_name is not None:
                self._api.set_state(flow_run_id, state_name)
            _end(process, 0)

    def lives(self, flow_run_id: UUID) -> bool:
        """Whether a process of a run goes on."""
        return bool(self._of(flow_run_id))

    def switch_off(self) -> None:
        """End every process, as the machine does."""
        for process in self._running.values():
            _end(process, -9)

    async def run(
        self, job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """See `Infrastructure.run`."""
        assignment = job.assignment
        await assignment.note_trace(Trace(None))
        process = self._begin(job)
        self._watched.add(process.execution.identifier)
        try:
            await trio.sleep(self.trace_seconds)
            await assignment.note_trace(Trace(process.execution.identifier))
            task_status.started(process.execution.identifier)
            await process.ended.wait()
        except trio.Cancelled:
            await self._cut_off(process, assignment.shutdown_policy)  # noqa: ASYNC102 - shields itself
            raise
        status = process.execution.status
        assert status is not None
        return Outcome(status_code=status, message=exit_message(status))

    async def find(self, flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        """See `Infrastructure.find`."""
        await trio.sleep(self.find_seconds)
        if flow_run_id in self.elsewhere:
            return Unknown(self.elsewhere[flow_run_id])
        for process in self._of(flow_run_id):
            if trace.identifier in {None, process.execution.identifier}:
                return Running(Trace(process.execution.identifier))
        return Gone()

    async def adopt(
        self, job: FakeJob, trace: Trace, *, shutdown_policy: Callable[[], ShutdownPolicy]
    ) -> None:
        """See `Infrastructure.adopt`."""
        process = self._running.get(trace.identifier or "")
        if process is None:
            await trio.lowlevel.checkpoint()
            return
        self.adoptions[job.assignment.flow_run_id] = self._api.seconds()
        self._watched.add(process.execution.identifier)
        try:
            await process.ended.wait()
        except trio.Cancelled:
            await self._cut_off(process, shutdown_policy)  # noqa: ASYNC102 - shields itself
            raise

    async def kill(self, identifier: str, grace: float, *, intent: Intent | None = None) -> None:
        """See `Infrastructure.kill`; here it knows a run only once somebody watches that."""
        if self.kill_breaks is not None:
            raise self.kill_breaks
        if identifier not in self._watched:
            await trio.lowlevel.checkpoint()
            return
        await super().kill(identifier, grace, intent=intent)

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:
        """See `Infrastructure.clear`."""
        await trio.lowlevel.checkpoint()
        self.cleared.append(trace.identifier)
        process = self._running.get(trace.identifier or "")
        if process is not None:
            with trio.CancelScope(shield=True):
                await self._terminate(process, self._kill_grace)

    async def _cut_off(self, process: _Process, shutdown_policy: Callable[[], ShutdownPolicy]) -> None:
        execution = process.execution
        execution.cancelled_at = self._api.seconds()
        policy = shutdown_policy()
        if policy == "leave" and not execution.kills:
            return
        if process.job.assignment.flow_run_id in self.unkillable:
            raise InfrastructureError("a process of group 7 has not ended")
        with trio.CancelScope(shield=True):
            intent = _intent(attrs.evolve(process.job.assignment, shutdown_policy=shutdown_policy))
            execution.kills.append(Kill(grace=self._kill_grace, at=self._api.seconds(), intent=intent))
            await self._terminate(process, self._kill_grace, intent)

    def _begin(self, job: FakeJob) -> _Process:
        process = self._start(job)
        self._machine.start_soon(self._live, process)
        return process

    async def _live(self, process: _Process) -> None:
        try:
            await self._play(process)
        finally:
            del self._running[process.execution.identifier]

    def _of(self, flow_run_id: UUID) -> list[_Process]:
        return [
            process
            for process in self._running.values()
            if process.job.assignment.flow_run_id == flow_run_id and process.execution.status is None
        ]


class Shelf:
    """The ledgers of workers of one name, as in a directory on disk: each has one owner at a time.

    Attributes:
        storages: all that were ever begun.
        trouble: why nothing can be written; empty if it can.
    """

    def __init__(self) -> None:
        self.storages: list[ShelfStorage] = []
        self.trouble = ""

    @property
    def entries(self) -> list[Entry]:
        """What is written down, by all workers."""
        return [entry for storage in self.storages for entry in storage.entries.values()]

    def put(self, *entries: Entry) -> None:
        """Leave entries behind, as a worker does that is gone."""
        storage = self.own()
        storage.entries |= {entry.attempt: entry for entry in entries}
        storage.owned = False

    def own(self) -> ShelfStorage:
        """The first that nobody owns."""
        for storage in self.storages:
            if not storage.owned:
                storage.owned = True
                return storage
        self.storages.append(ShelfStorage(self))
        return self.storages[-1]

    @asynccontextmanager
    async def open(self, config: WorkerConfig, _: UUID | None, notify: Notify) -> AsyncIterator[Ledger]:
        """To be given as `Surroundings.open_ledger`."""
        await trio.lowlevel.checkpoint()
        if config.ledger is False:
            yield Ledger(notify=notify)
            return
        storage = self.own()
        try:
            ledger = Ledger(storage, list(storage.entries.values()), notify=notify, place="the shelf")
            await ledger.adopt_orphaned()
            yield ledger
        finally:
            storage.owned = False


class ShelfStorage(MemoryStorage):
    """One ledger of a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self.owned = True
        self._shelf = shelf
        self._orphaned: list[ShelfStorage] = []

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        """See `Storage.write`."""
        if self._shelf.trouble:
            await trio.lowlevel.checkpoint()
            raise LedgerError(self._shelf.trouble)
        await super().write(kept, dropped)

    async def take_orphaned(self, here: Collection[UUID]) -> Sequence[Entry]:
        """See `Storage.take_orphaned`."""
        await trio.lowlevel.checkpoint()
        self._orphaned = [storage for storage in self._shelf.storages if not storage.owned]
        entries = [entry for storage in self._orphaned for entry in storage.entries.values()]
        return [entry for entry in entries if entry.attempt not in here]

    async def let_orphaned_go(self) -> None:
        """See `Storage.let_orphaned_go`."""
        await trio.lowlevel.checkpoint()
        for storage in self._orphaned:
            storage.entries.clear()


@attrs.define(eq=False)
class Estate(World):
    """A world in which a worker that is gone has left something behind.

    Attributes:
        machine: where processes live.
        shelf: where ledgers are kept.
        lasting: the infrastructure.
    """

    machine: trio.Nursery = attrs.field(kw_only=True)
    shelf: Shelf = attrs.field(factory=Shelf, init=False)
    lasting: LastingInfrastructure = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.infrastructure = self.lasting = LastingInfrastructure(self.api, self.machine)

    @property
    def surroundings(self) -> Surroundings:
        return attrs.evolve(super().surroundings, open_ledger=self.shelf.open)

    async def claim(self, run: FlowRun, *, name: str = "Pending", attempt: UUID | None = None) -> UUID:
        """Propose that a run is pending, as a worker does; the transition id."""
        transition_id = uuid4() if attempt is None else attempt
        state = ProposedState(type=StateType.PENDING, name=name, transition_id=transition_id)
        await self.api.set_flow_run_state(run.id, state)
        return transition_id

    def entry(
        self,
        run: FlowRun,
        attempt: UUID,
        *further: UUID,
        stage: Stage = Stage.CLAIMED,
        trace: Trace | None = None,
        ended: str = "",
        fate: Fate | None = None,
    ) -> Entry:
        """What the worker that is gone has written down of a run, with these transition ids."""
        return Entry(
            attempt=attempt,
            flow_run_id=run.id,
            flow_run_name=run.name,
            flow_id=run.flow_id,
            deployment_id=run.deployment_id,
            worker_name=EARLIER,
            due=self.api.now(),
            stage=stage,
            transition_ids=frozenset({attempt, *further}),
            trace=trace,
            ended=ended,
            fate=fate,
        )

    async def claimed(self, **options: Any) -> FlowRun:
        """A run that the worker that is gone has claimed, and not started; `options` are those of `schedule`."""
        run = self.schedule(**options)
        self.shelf.put(self.entry(run, await self.claim(run)))
        return run

    async def begun(
        self,
        *states: str,
        script: Script | None = None,
        ended: str = "",
        fate: Fate | None = None,
        **options: Any,
    ) -> FlowRun:
        """A run that the worker that is gone has started, and that is Running.

        Args:
            states: that it has been in since.
            script: what its process does, if that goes on.
            ended: how it has ended, if that was written down.
            fate: what was to become of it, if that was written down.
            options: of `schedule`.
        """
        run = self.schedule(**options)
        attempt, submitting = await self.claim(run), await self.claim(run, name="Submitting")
        for name in ("Running", *states):
            self.api.set_state(run.id, name)
        identifier = "999" if script is None else self.lasting.leave_behind(run, script)
        await self.api.set_infrastructure_pid(run.id, identifier)
        stage = Stage.ENDED if ended else Stage.LAUNCHED
        trace = Trace(identifier)
        self.shelf.put(self.entry(run, attempt, submitting, stage=stage, trace=trace, ended=ended, fate=fate))
        return run
