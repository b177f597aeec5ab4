"""Which runs to take in hand now."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import attrs
import trio

from trioworker.api.client import LARGEST_PAGE, PrefectAPI
from trioworker.api.errors import ObjectNotFoundError
from trioworker.api.models import FlowRun
from trioworker.errors import ConfigurationError
from trioworker.health import PollingHealth
from trioworker.notices import Notice, Notify
from trioworker.runs.active import ActiveRuns
from trioworker.runs.flow_run import FlowRunner
from trioworker.service import Rhythm, WakeUp, repeat


def page_size(free: int | None, in_hand: int) -> int:
    """How many runs to ask for.

    As many as there are slots, and as many more as are in hand: a run that is being claimed is still listed.
    At least one, since the server shows from the polling that a queue is being served.
    """
    if free is None:
        return LARGEST_PAGE
    return min(LARGEST_PAGE, max(1, free + in_hand))


def choose(listed: Sequence[FlowRun], in_hand: Container[UUID], free: int | None) -> list[FlowRun]:
    """The runs to take in hand, most urgent first: none that is in hand already, and no more than have a slot."""
    fresh = {run.id: run for run in listed if run.id not in in_hand}
    return list(fresh.values())[:free]


@attrs.define(kw_only=True)
class Intake:
    """Polls for runs that are due and starts them.

    Attributes:
        api: the API.
        pool_name: the work pool.
        queue_names: the queues to take runs from; empty for all.
        prefetch: how far ahead of their time runs are taken.
        active: the runs in hand.
        runner: lives their lives.
        health: told of each good poll.
        pool_is_gone: called when the pool turns out not to exist.
        notify: told when a queue does not exist.
        now: the time of day.
    """

    api: PrefectAPI
    pool_name: str
    queue_names: Sequence[str]
    prefetch: timedelta
    active: ActiveRuns
    runner: FlowRunner
    health: PollingHealth
    pool_is_gone: Callable[[], None]
    notify: Notify
    now: Callable[[], datetime]
    _complaint: str = attrs.field(default="", init=False)

    async def poll(self, runs: trio.Nursery, *, only_time: bool = False) -> None:
        """Poll once, and start what was found.

        Args:
            runs: where it is started.
            only_time: whether there is no next poll, for which a work queue that is missing might be made.

        Raises:
            ConfigurationError: a work queue is missing, and this is the only poll.
            APIError: the API does not answer, or refuses to.
        """
        try:
            listed = await self.api.get_scheduled_flow_runs(
                self.pool_name,
                queue_names=self.queue_names,
                scheduled_before=self.now() + self.prefetch,
                limit=page_size(self.active.free, len(self.active)),
            )
        except ObjectNotFoundError as error:
            if self._is_about_a_queue(error):
                missing = f"a work queue is missing: {error.detail}"
                if only_time:
                    raise ConfigurationError(f"Nothing was polled, since {missing}") from error
                self._complain(f"Nothing is polled, since {missing}")
            self.pool_is_gone()
            return
        found_at = trio.current_time()
        self._complaint = ""
        self.health.polled()
        for flow_run in choose(listed, self.active, self.active.free):
            # One by one, so that the most urgent is claimed first. Shielded, since a shutdown in this very moment
            # would leave the run half way between two nurseries; and without a deadline, which a process that was
            # stopped for a while might exceed. A run waits for nothing before it is started.
            with trio.CancelScope(shield=True):
                await runs.start(self.runner.run, flow_run, found_at)

    def _is_about_a_queue(self, error: ObjectNotFoundError) -> bool:
        """Whether it is a queue that is missing; of a missing pool the heartbeat has something to say."""
        return bool(self.queue_names) and "queue" in error.detail

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            self._complaint = message
            self.notify(Notice(message, warning=True))

    async def keep_polling(
        self,
        runs: trio.Nursery,
        rhythm: Rhythm,
        wake_up: WakeUp,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Poll for ever; started at once, since what came before made sure that the pool is there."""
        task_status.started()
        await repeat("poll for flow runs", lambda: self.poll(runs), rhythm, wake_up=wake_up)
