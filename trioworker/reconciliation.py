"""Takes up what the ledger has and nobody has in hand: runs of a worker that is gone, or that could not be settled.

This comes before the first poll for runs, and again whenever the API is back, when another worker is found to be
gone, and from time to time. It waits for no slot, since what goes on has one already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import attrs
import trio

from trioworker.api.models import StateType
from trioworker.ledger.entry import Entry
from trioworker.notices import Notice, Notify, count_runs
from trioworker.runs.active import ActiveRun
from trioworker.runs.flow_run import IN_FLIGHT_SECONDS, FlowRunner
from trioworker.runs.inheritance import inherit
from trioworker.service import Rhythm, WakeUp, repeat

__all__ = ["Reconciliation"]

# Seconds until the next attempt at a run that could not be seen to, if the API is not away in between.
_PAUSE_SECONDS = 600.0


@attrs.define(kw_only=True, eq=False, repr=False)
class Reconciliation:
    """What is done about such runs.

    Attributes:
        runner: lives the lives of runs, and has the ledger.
        notify: told how many runs there are.
        look_for: told of a run that may be taken by any worker, this one among them.
    """

    runner: FlowRunner
    notify: Notify
    look_for: Callable[[UUID], None]
    _wake_up: WakeUp = attrs.field(factory=WakeUp, init=False)
    # By attempts: those to be tried anew, and from when on.
    _put_off: dict[UUID, float] = attrs.field(factory=dict, init=False)

    async def keep_looking(self, runs: trio.Nursery, rhythm: Rhythm) -> None:
        """Look for such runs for ever; the first time is over."""
        await repeat(
            "take up flow runs of earlier workers",
            partial(self._look_again, runs),
            rhythm,
            wake_up=self._wake_up,
            run_first=False,
        )

    def connection_is_back(self) -> None:
        """Try anew at once what could not be seen to."""
        self._put_off.clear()
        self._wake_up()

    async def _look_again(self, runs: trio.Nursery) -> None:
        await self.runner.ledger.adopt_orphaned()
        await self.look(runs)

    async def look(self, runs: trio.Nursery) -> None:
        """Take every such run in hand; what is to be done about it goes on after that.

        Args:
            runs: where it goes on.
        """
        now = trio.current_time()
        entries = [entry for entry in self.runner.ledger.entries if self._is_due(entry, now)]
        taken_up = [entry for entry in entries if entry.attempt not in self.runner.second_looks]
        if taken_up:
            self.notify(Notice(f"Taking up {count_runs(len(taken_up))} whose end is not settled."))
        for of_run in _by_runs(entries):
            # Shielded, as when a run is taken in hand that was polled; it waits for nothing.
            with trio.CancelScope(shield=True):
                await runs.start(self._see_all_through, of_run)

    def _is_due(self, entry: Entry, now: float) -> bool:
        if entry.flow_run_id in self.runner.active:
            return False
        again = self.runner.second_looks.get(entry.attempt, now)
        return now >= max(again, self._put_off.get(entry.attempt, now))

    async def _see_all_through(  # noqa: ASYNC128 - passed on
        self, attempts: Sequence[Entry], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """See to what is known of one run, one attempt after the other, as a run is in hand only once."""
        can_be_taken = False
        for attempt in attempts:
            if attempt.flow_run_id in self.runner.active:
                # It was polled at this very moment.
                task_status.started()
                break
            run = await self._see_through(attempt, task_status=task_status)
            task_status = trio.TASK_STATUS_IGNORED
            can_be_taken |= run.state is not None and run.state.type is StateType.SCHEDULED
        # Not before the last one: it would be in hand once more then.
        if can_be_taken:
            self.look_for(attempts[0].flow_run_id)

    async def _see_through(  # noqa: ASYNC128 - passed on
        self, entry: Entry, *, task_status: trio.TaskStatus[None]
    ) -> ActiveRun:
        attempt = entry.attempt
        is_last_look = attempt in self.runner.second_looks or not self.runner.ledger.is_inherited(attempt)
        run = await inherit(self.runner, entry, keep_entry=not is_last_look, task_status=task_status)
        now = trio.current_time()
        if not run.is_settled:
            self._put_off[attempt] = now + _PAUSE_SECONDS
            return run
        self._put_off.pop(attempt, None)
        if not is_last_look:
            # A request of the worker that is gone may yet take effect; nobody knows which were answered.
            self.runner.second_looks[attempt] = now + IN_FLIGHT_SECONDS
        return run


def _by_runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries of each run, the last one first: what goes on, if anything does, is mostly of that."""
    by_runs: dict[UUID, list[Entry]] = {}
    for entry in reversed(entries):
        by_runs.setdefault(entry.flow_run_id, []).append(entry)
    return list(by_runs.values())
