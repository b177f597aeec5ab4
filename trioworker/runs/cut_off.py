"""What becomes of a run that the worker's own end cuts off while it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from trioworker.infrastructure.protocol import Infrastructure, InfrastructureError, Running, Unknown
from trioworker.ledger.entry import Fate
from trioworker.runs.active import ActiveRun, RunEnd
from trioworker.runs.boundary import failure_boundary
from trioworker.runs.log import RunLog
from trioworker.runs.settlement import Settlement
from trioworker.shutdown import Shutdown

__all__ = ["CutOff"]


@attrs.frozen(eq=False, repr=False)
class CutOff:
    """The end of the worker, as one run meets it.

    Attributes:
        active: the run.
        run_log: told what becomes of it.
        settlement: settles it.
        infrastructure: has run it.
        shutdown: knows the policy, and how long there is to speak.
        worker_name: who is stopped.
    """

    active: ActiveRun
    run_log: RunLog
    settlement: Settlement
    infrastructure: Infrastructure[Any]
    shutdown: Shutdown
    worker_name: str

    async def have_last_words(self, conclude: Callable[[], Awaitable[None]]) -> None:
        """Speak for the run, shielded, but no longer than the worker may last.

        Args:
            conclude: what is to be done.
        """
        name = self.active.flow_run.name
        with self.shutdown.last_words() as scope, failure_boundary(self.active, self.run_log, lost="Left"):
            await conclude()
        if scope.cancelled_caught:
            self.active.note_end(RunEnd.UNSETTLED, "the API did not answer in time")
            self.run_log.alarm(f"Flow run '{name}' is left as it is: the API did not answer in time")
        self.shutdown.tally.add(self.active)

    async def conclude(self, *, ended: bool = False) -> None:
        """Do as the shutdown policy says about a run that had not ended; it was ended, unless that is to leave it.

        Args:
            ended: see `goes_on`.

        Raises:
            InfrastructureError: it does not end, so that nothing may be said about it yet.
            APIError: the API refuses to hear of it.
        """
        policy = self.shutdown.policy
        if await self.goes_on(ended=ended and policy != "leave"):
            if policy == "leave":
                reason = f"Left running by worker '{self.worker_name}', for the worker that comes next."
                self.active.note_end(RunEnd.LEFT, reason)
                self.run_log.info(reason)
                return
            if not self.infrastructure.speaks_for_itself:
                raise InfrastructureError("its process does not end")
            # It ends with this program. Until then nobody shall begin it anew beside what goes on.
            policy = "crash"
        fate: Fate | None = None
        if policy == "reschedule" and not self.active.cancel_requested.is_set():
            fate = "SCHEDULED"
        reason = f"Worker '{self.worker_name}' was stopped before the flow run had ended."
        await self.active.record.note_end(reason, fate)
        await self.settlement.settle(reason, fate=fate)
        self.active.note_end(RunEnd.CUT_OFF, reason)

    async def goes_on(self, *, ended: bool = False) -> bool:
        """Whether what was started for the run has not ended, or may not have.

        Args:
            ended: whether those who ran it have ended it, which is believed where nobody can look for it.
        """
        entry = self.active.record.entry
        if entry is None or entry.trace is None:
            return False
        found = await self.infrastructure.find(self.active.flow_run.id, entry.trace)
        if isinstance(found, Running) and found.trace != entry.trace:
            # It had been started, but had not said where yet: whoever comes next may find only what is left of it.
            await self.active.record.note_trace(found.trace)
        return isinstance(found, Running) or (isinstance(found, Unknown) and not ended)
