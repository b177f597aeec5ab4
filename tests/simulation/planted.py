"""Bugs that are planted on purpose: each breaks one rule of the product, and must be found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

import attrs
import pytest
import trio

from trioworker.api.models import FlowRun, OrchestrationResult, ProposedState
from trioworker.ledger.ledger import Ledger
from trioworker.runs.active import ActiveRun, ActiveRuns, RunEnd
from trioworker.runs.cut_off import CutOff
from trioworker.runs.flow_run import FlowRunner
from trioworker.runs.inheritance import _Inherited
from trioworker.runs.record import RunRecord
from trioworker.runs.requests import RunRequests
from trioworker.service import Rhythm

__all__ = ["PLANTED"]

Plant = Callable[[pytest.MonkeyPatch], None]


def _no_transition_id(patch: pytest.MonkeyPatch) -> None:
    """To the server, a repeated request for a state is another one."""
    original = RunRequests._without_doubt
    made: set[UUID] = set()

    def anonymous(argument: object) -> object:
        if isinstance(argument, ProposedState):
            if argument.transition_id in made:
                return attrs.evolve(argument, transition_id=uuid4())
            made.add(argument.transition_id)
        return argument

    async def ask(self: RunRequests, action: Callable[[], Awaitable[Any]]) -> Any:
        if isinstance(action, partial):
            arguments = [anonymous(argument) for argument in action.args]
            action = partial(action.func, *arguments, **action.keywords)
        return await original(self, action)

    patch.setattr(RunRequests, "_without_doubt", ask)


def _ledger_after_claim(patch: pytest.MonkeyPatch) -> None:
    """A state is written down when it was proposed, not before."""
    write = RunRecord.propose
    original = RunRequests.propose

    async def nothing(self: RunRecord, transition_id: UUID) -> None:
        await trio.lowlevel.checkpoint()

    async def propose(self: RunRequests, state: ProposedState, **options: Any) -> OrchestrationResult:
        result = await original(self, state, **options)
        await write(self.active.record, state.transition_id)
        return result

    patch.setattr(RunRecord, "propose", nothing)
    patch.setattr(RunRequests, "propose", propose)


def _slot_leaked(patch: pytest.MonkeyPatch) -> None:
    """A run that turns out to be another worker's keeps its slot."""
    original = ActiveRuns.hold

    @contextmanager
    def hold(self: ActiveRuns, flow_run: FlowRun, found_at: float | None = None) -> Iterator[ActiveRun]:
        with original(self, flow_run, found_at) as run:
            yield run
        if run.ending is not None and run.ending.how is RunEnd.LOST:
            self._by_id[flow_run.id] = run

    patch.setattr(ActiveRuns, "hold", hold)


def _given_back_alive(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a process lives before its run is given back by the next worker."""

    async def live(self: _Inherited) -> None:
        await self.conclude()

    patch.setattr(_Inherited, "live", live)


def _ended_alive(patch: pytest.MonkeyPatch) -> None:
    """A worker that is stopped takes each process for gone, also what it leaves."""

    async def goes_on(self: CutOff) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    patch.setattr(CutOff, "goes_on", goes_on)


def _unsettled_struck_out(patch: pytest.MonkeyPatch) -> None:
    """What could not be settled is forgotten."""

    async def close_record(self: FlowRunner, active: ActiveRun) -> None:
        await active.record.strike_out()

    patch.setattr(FlowRunner, "close_record", close_record)


def _no_second_look(patch: pytest.MonkeyPatch) -> None:
    """A request without an answer counts as one that has had no effect."""
    patch.setattr("trioworker.runs.flow_run.IN_FLIGHT_SECONDS", 0.0)
    patch.setattr("trioworker.reconciliation.IN_FLIGHT_SECONDS", 0.0)


def _orphans_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The ledgers of workers that are gone are looked at by nobody."""

    async def adopt_orphaned(self: Ledger) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Ledger, "adopt_orphaned", adopt_orphaned)


def _no_patience(patch: pytest.MonkeyPatch) -> None:
    """Whatever failed is tried again almost at once."""
    patch.setattr(Rhythm, "delay", lambda *_, **__: 0.2)


PLANTED: Final = MappingProxyType(
    {
        "no transition id": _no_transition_id,
        "ledger written after the claim": _ledger_after_claim,
        "a slot leaked": _slot_leaked,
        "a run given back while its process lives": _given_back_alive,
        "a run ended while its process lives": _ended_alive,
        "what is not settled struck out": _unsettled_struck_out,
        "no second look": _no_second_look,
        "ledgers of others forgotten": _orphans_forgotten,
        "no patience": _no_patience,
    }
)
