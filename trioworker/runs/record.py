"""What the ledger gets to know of one run in hand, step by step, and always before the step is taken."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import attrs
import trio

from trioworker.api.models import FlowRun
from trioworker.infrastructure.protocol import Trace
from trioworker.ledger.entry import Entry, Fate, Stage
from trioworker.ledger.ledger import Ledger

__all__ = ["RunRecord", "keep_together"]


@attrs.define(eq=False, repr=False)
class RunRecord:
    """The entry of a run.

    Attributes:
        ledger: where it is kept.
        flow_run: the run.
        worker_name: of the worker.
        entry: as it is now; None before the run is claimed, and when its end is settled.
    """

    ledger: Ledger
    flow_run: FlowRun
    worker_name: str
    entry: Entry | None = None

    def proposing(self, transition_id: UUID) -> Entry:
        """The entry with one more transition id; the first is that of the claim."""
        entry = self.entry or Entry(
            attempt=transition_id,
            flow_run_id=self.flow_run.id,
            flow_run_name=self.flow_run.name,
            flow_id=self.flow_run.flow_id,
            deployment_id=self.flow_run.deployment_id,
            worker_name=self.worker_name,
            due=self.flow_run.next_scheduled_start_time,
            found_as=self.flow_run.state_id,
            found_at=self.flow_run.infrastructure_pid,
        )
        self.entry = attrs.evolve(entry, transition_ids=entry.transition_ids | {transition_id})
        return self.entry

    async def propose(self, transition_id: UUID) -> None:
        """Take down that a state is about to be proposed."""
        if self.entry is not None and transition_id in self.entry.transition_ids:
            await trio.lowlevel.checkpoint()
            return
        await self.ledger.keep(self.proposing(transition_id))

    async def note_trace(self, trace: Trace) -> None:
        """Take down where the run runs, or is about to; see `Assignment.note_trace`."""
        stage = Stage.LAUNCHING if trace.identifier is None else Stage.LAUNCHED
        await self._keep(trace=trace, stage=stage)

    async def note_start(self, identifier: str) -> None:
        """Take down where the run runs, if its kind of infrastructure has not told."""
        if self.entry is None or self.entry.stage is Stage.LAUNCHED:
            await trio.lowlevel.checkpoint()
            return
        await self._keep(trace=Trace(identifier), stage=Stage.LAUNCHED)

    async def note_end(self, ended: str, fate: Fate | None = None) -> None:
        """Take down how the run has ended, and what is to become of it.

        Args:
            ended: how, as a sentence for its state.
            fate: what is to become of it; None to go by the state that the server has.
        """
        await self._keep(ended=ended, fate=fate, stage=Stage.ENDED)

    async def strike_out(self) -> None:
        """Take down that the run's end is settled."""
        entry, self.entry = self.entry, None
        if entry is not None:
            await self.ledger.drop(entry.attempt)

    async def _keep(self, **changes: object) -> None:
        if self.entry is None:
            await trio.lowlevel.checkpoint()
            return
        self.entry = attrs.evolve(self.entry, **changes)  # type: ignore[arg-type]
        await self.ledger.keep(self.entry)


async def keep_together(records: Sequence[RunRecord], transition_id: UUID) -> None:
    """Take down that a state is about to be proposed for several runs of one worker at once."""
    await records[0].ledger.keep(*[record.proposing(transition_id) for record in records])
