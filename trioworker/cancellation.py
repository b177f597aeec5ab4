"""Finds the runs that somebody wants cancelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs
import trio

from trioworker.active_runs import ActiveRuns
from trioworker.api.client import PrefectAPI
from trioworker.api.errors import ObjectNotFoundError
from trioworker.api.models import FlowRun
from trioworker.conclusion import cancelled
from trioworker.service import Rhythm, repeat

_logger = logging.getLogger(__name__)


def is_orphan(flow_run: FlowRun) -> bool:
    """Whether a run has neither begun nor been given a place to run: nobody else will see to its cancellation."""
    return flow_run.start_time is None and flow_run.infrastructure_pid is None


@attrs.frozen(kw_only=True)
class CancellationWatch:
    """Polls for runs in state Cancelling.

    Those in hand are told; those that never began are cancelled right here. The rest are other workers'.

    Attributes:
        api: the API.
        pool_name: the work pool.
        queue_names: the queues that this worker serves; empty for all.
        active: the runs in hand.
    """

    api: PrefectAPI
    pool_name: str
    queue_names: Sequence[str]
    active: ActiveRuns

    async def poll(self) -> None:
        """Poll once."""
        for flow_run in await self.api.find_cancelling_flow_runs(
            self.pool_name, queue_names=self.queue_names
        ):
            in_hand = self.active.get(flow_run.id)
            if in_hand is not None:
                in_hand.cancel_requested.set()
            elif is_orphan(flow_run):
                await self._cancel_orphan(flow_run)

    async def _cancel_orphan(self, flow_run: FlowRun) -> None:
        state = cancelled("Flow run cancelled by worker (no infrastructure found).")
        try:
            await self.api.set_flow_run_state(flow_run.id, state)
        except ObjectNotFoundError:
            _logger.debug("Flow run %s was deleted before it was cancelled", flow_run.id)
        else:
            _logger.info("Cancelled flow run %r, which had not begun", flow_run.name)

    async def keep_polling(
        self,
        rhythm: Rhythm,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Poll for ever."""
        task_status.started()
        await repeat("poll for cancelled flow runs", self.poll, rhythm)
