"""Finds the runs that somebody wants cancelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

import attrs
import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError
from trioworker.api.models import FlowRun
from trioworker.runs.active import ActiveRuns
from trioworker.runs.conclusion import cancelled
from trioworker.service import Rhythm, Spacing, WakeUp, repeat

_logger = logging.getLogger(__name__)

# Seconds of a poll that may go into runs that are not in hand.
_ORPHAN_SECONDS = 5.0


def is_orphan(flow_run: FlowRun) -> bool:
    """Whether a run has neither begun nor been given a place to run, so that nobody may see to its cancellation."""
    return flow_run.start_time is None and not flow_run.infrastructure_pid


@attrs.define(kw_only=True, eq=False, repr=False)
class CancellationWatch:
    """Polls for runs in state Cancelling.

    Those in hand are told. Those that never began are cancelled right here, but not at once: another worker may be
    about to start such a run, and shall have the time to see for itself. The rest are other workers'.

    Attributes:
        api: the API.
        pool_name: the work pool.
        queue_names: the queues that this worker serves; empty for all.
        active: the runs in hand.
        orphan_age: seconds that a run must have been seen to be an orphan.
    """

    api: PrefectAPI
    pool_name: str
    queue_names: Sequence[str]
    active: ActiveRuns
    orphan_age: float
    _orphans: dict[UUID, float] = attrs.field(factory=dict, init=False)

    async def poll(self) -> None:
        """Poll once."""
        cancelling = await self.api.find_cancelling_flow_runs(self.pool_name, queue_names=self.queue_names)
        orphans: list[FlowRun] = []
        for flow_run in cancelling:
            in_hand = self.active.get(flow_run.id)
            if in_hand is not None:
                in_hand.cancel_requested.set()
            elif is_orphan(flow_run):
                orphans.append(flow_run)
        now = trio.current_time()
        self._orphans = {flow_run.id: self._orphans.get(flow_run.id, now) for flow_run in orphans}
        # Runs in hand come first, in this poll and in the next.
        with trio.move_on_after(_ORPHAN_SECONDS):
            for flow_run in orphans:
                if now - self._orphans[flow_run.id] >= self.orphan_age:
                    await self._cancel_orphan(flow_run)

    async def _cancel_orphan(self, flow_run: FlowRun) -> None:
        state = cancelled("Flow run cancelled by worker (no infrastructure found).")
        try:
            await self.api.set_flow_run_state(flow_run.id, state)
        except APIError as error:
            # Whatever keeps this one from its end shall not keep others.
            _logger.debug("Flow run %r could not be cancelled: %s", flow_run.name, error)
        else:
            _logger.info("Cancelled flow run %r, which had not begun", flow_run.name)

    async def keep_polling(
        self,
        rhythm: Rhythm,
        wake_up: WakeUp,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Poll for ever."""
        task_status.started()
        await repeat("poll for cancelled flow runs", self.poll, rhythm, wake_up=wake_up, spacing=Spacing())
