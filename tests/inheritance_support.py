"""What the tests of taking over share: a world whose ledger outlasts its workers, and what may be left in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import attrs
from support import World

from trioworker import Surroundings, WorkerConfig
from trioworker.api.models import FlowRun, ProposedState, StateType
from trioworker.infrastructure.protocol import Trace
from trioworker.ledger.entry import Entry, Stage
from trioworker.ledger.ledger import Ledger
from trioworker.notices import Notify
from trioworker.testing import FakeInfrastructure
from trioworker.testing.memory_ledger import MemoryStorage

TRACE = Trace("4711")


class ClearedInfrastructure(FakeInfrastructure):
    """Takes note of what is cleared away."""

    cleared: list[Trace]

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:
        self.cleared.append(trace)
        await super().clear(flow_run_id, trace)


@attrs.define(eq=False)
class LastingWorld(World):
    """A world whose workers keep one ledger, one after the other.

    Attributes:
        storage: of the ledger.
    """

    storage: MemoryStorage = attrs.field(factory=MemoryStorage)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        infrastructure = ClearedInfrastructure(self.api)
        infrastructure.cleared = []
        self.infrastructure = infrastructure

    @property
    def cleared(self) -> list[Trace]:
        """What was cleared away so far."""
        assert isinstance(self.infrastructure, ClearedInfrastructure)
        return self.infrastructure.cleared

    @property
    def surroundings(self) -> Surroundings:
        return attrs.evolve(super().surroundings, open_ledger=self._open_ledger)

    @asynccontextmanager
    async def _open_ledger(self, _: WorkerConfig, __: UUID | None, notify: Notify) -> AsyncIterator[Ledger]:
        ledger = Ledger(self.storage, self.storage.entries.values(), notify=notify)
        await ledger.adopt_orphaned()
        yield ledger

    async def left(self, *states: str, stage: Stage = Stage.LAUNCHED, place: str = "") -> FlowRun:
        """A run that a worker has claimed which is gone, and its entry.

        Args:
            states: that it has been in since its claim.
            stage: how far the worker had come.
            place: where it runs, as the server knows.
        """
        run = self.schedule()
        claim = ProposedState(type=StateType.PENDING, name="Pending")
        await self.api.set_flow_run_state(run.id, claim)
        for state in states:
            self.api.set_state(run.id, state)
        if place:
            await self.api.set_infrastructure_pid(run.id, place)
        self.enter(run, claim.transition_id, stage)
        return run

    def enter(self, run: FlowRun, attempt: UUID, stage: Stage) -> None:
        """Write an attempt at a run down."""
        self.storage.entries[attempt] = Entry(
            attempt=attempt,
            flow_run_id=run.id,
            flow_run_name=run.name,
            flow_id=run.flow_id,
            deployment_id=run.deployment_id,
            worker_name="the last one",
            stage=stage,
            transition_ids=frozenset({attempt}),
            trace=None if stage is Stage.CLAIMED else TRACE,
        )
