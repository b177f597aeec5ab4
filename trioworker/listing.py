"""What a poll has listed, and what is to be made of it: pure decisions."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from datetime import datetime, timedelta

from trioworker.api.client import LARGEST_PAGE
from trioworker.api.models import FlowRun
from trioworker.lean_attrs import frozen

# How many runs of the future a page has room for, besides those that are due.
_ROOM_FOR_LATER = 20

# A timer may go off a little early.
_EARLY = timedelta(milliseconds=10)


def page_size(free: int | None, still_listed: int, *, looks_ahead: bool) -> int:
    """How many runs to ask for.

    At least one, since the server shows from the polling that a queue is being served.

    Args:
        free: how many slots there are; None for any number.
        still_listed: how many runs may be listed that are not to be taken: those that are being claimed, and those
            whose claim has just come to nothing.
        looks_ahead: whether runs are listed whose time has not come.
    """
    if free is None:
        return LARGEST_PAGE
    wanted = max(1, free + still_listed)
    return min(LARGEST_PAGE, wanted + _ROOM_FOR_LATER if looks_ahead else wanted)


def choose(due: Iterable[FlowRun], not_wanted: Container[object], free: int | None) -> list[FlowRun]:
    """The runs to take in hand, most urgent first: none that is not wanted, and no more than have a slot."""
    fresh = {run.id: run for run in due if run.id not in not_wanted}
    return list(fresh.values())[:free]


@frozen(kw_only=True)
class Listing:
    """The runs that a poll has listed, in the server's order: by the priority of their queues, then by time.

    Attributes:
        due: those whose time has come.
        later: those whose time has not.
        full: whether they are as many as were asked for, so that there may be more.
    """

    due: Sequence[FlowRun]
    later: Sequence[FlowRun] = ()
    full: bool

    @classmethod
    def at(cls, now: datetime, listed: Sequence[FlowRun], *, asked_for: int) -> Listing:
        """Tell those that are due from the rest.

        Args:
            now: the server's time.
            listed: as the server has listed them.
            asked_for: how many there could have been.
        """
        later = [run for run in listed if _time_of(run, now) > now + _EARLY]
        due = [run for run in listed if _time_of(run, now) <= now + _EARLY]
        return cls(due=due, later=later, full=len(listed) >= asked_for)

    def may_hide(self, *, pool_is_limited: bool) -> bool:
        """Whether a run that is due may be missing because one took its place that is not.

        A queue of a higher priority comes first with all that was asked for, and the server lists no more than was
        asked for, nor more than the pool has slots.

        Args:
            pool_is_limited: whether the work pool has a concurrency limit.
        """
        return bool(self.later) and (self.full or pool_is_limited)

    def seconds_to_next(self, now: datetime) -> float | None:
        """How long it is until the first run of `later` is due; None if there is none."""
        if not self.later:
            return None
        return (min(_time_of(run, now) for run in self.later) - now).total_seconds()


def _time_of(run: FlowRun, now: datetime) -> datetime:
    return run.next_scheduled_start_time or now
