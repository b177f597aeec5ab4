"""What time it is for the server, which decides when a run is due."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

# An answer that took longer tells too little: nobody knows when within that time the server looked at its clock.
_QUICK = timedelta(seconds=2)


# The header `Date` of an answer has whole seconds, which some servers set once a second. What differs by less is left
# to what tells more.
_COARSE = timedelta(seconds=5)
_HALF_A_SECOND = timedelta(seconds=0.5)


class ServerClock:
    """The server's clock, by this machine's and what the two differ.

    They count as equal until an answer shows that they are not.

    Args:
        now: the time of day by this machine's clock.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._local = now
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """The server's time of day."""
        return self._local() + self._ahead

    def local(self) -> datetime:
        """This machine's time of day."""
        return self._local()

    def compare(self, server_time: datetime, *, asked: datetime, answered: datetime) -> None:
        """Take note of what the server's clock showed during a request.

        Args:
            server_time: what it showed.
            asked: when the request was sent, by this machine's clock.
            answered: when the answer had come.
        """
        if asked <= server_time <= answered:
            self._ahead = timedelta(0)
        elif timedelta(0) <= answered - asked <= _QUICK:
            self._ahead = server_time - (asked + (answered - asked) / 2)

    def compare_with_date(self, date: datetime, *, asked: datetime, answered: datetime) -> None:
        """Take note of the date of an answer, if the clock is far from right.

        Nothing else may tell of that: by a clock that was set back, no run is due for a long time, and so none is
        listed.

        Args:
            date: of the answer, in whole seconds.
            asked: when the request was sent, by this machine's clock.
            answered: when the answer had come.
        """
        likely = date + _HALF_A_SECOND
        if timedelta(0) <= answered - asked <= _QUICK and abs(likely - (answered + self._ahead)) > _COARSE:
            # As it was rounded down: so a run begins up to a second late, but not early.
            self._ahead = date - answered
