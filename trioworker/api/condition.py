"""Whether the API answers: one fact for the whole worker, and one line on each change of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

import trio

from trioworker.api.dates import parse_date
from trioworker.lean_attrs import frozen

# A single failed request is not an outage: a small server answers 503 now and then. Only failures that go on
# for this many seconds without one good answer between them are.
OUTAGE_AFTER = 2.0


@frozen
class ConditionChange:
    """The API was lost or is back.

    Attributes:
        reachable: what it is now.
        reason: why it was lost, in a few words; empty when it is back.
        seconds: how long it was away; 0 when it was lost.
    """

    reachable: bool
    reason: str = ""
    seconds: float = 0


class Condition:
    """Fed by every request, read by whoever wants to know.

    Args:
        on_change: called with each change, from within the request that found it.
    """

    def __init__(self, on_change: Callable[[ConditionChange], None] = lambda _: None) -> None:
        self._on_change = on_change
        self._ever_answered = False
        self._failing_since: float | None = None
        self._lost = trio.Event()
        self._back = trio.Event()
        self._back.set()
        self._back_off_until = -math.inf
        self._date: tuple[str, float] | None = None

    @property
    def back_off_until(self) -> float:
        """Until when, on Trio's clock, the API asked to be left alone; minus infinity if it never did."""
        return self._back_off_until

    @property
    def reachable(self) -> bool:
        """Whether the API counts as reachable; true until the contrary is known."""
        return not self._lost.is_set()

    def date_since(self, moment: float) -> datetime | None:
        """The server's date by the last answer since a moment on Trio's clock, in whole seconds; None if unknown."""
        if self._date is None or self._date[1] < moment:
            return None
        return parse_date(self._date[0])

    def dated(self, date: str) -> None:
        """Take note of the date of an answer.

        Args:
            date: as its header has it.
        """
        self._date = (date, trio.current_time())

    def answered(self) -> None:
        """Take note of a request that got a proper answer."""
        failing_since, self._failing_since = self._failing_since, None
        self._ever_answered = True
        if self._lost.is_set():
            self._lost = trio.Event()
            self._back.set()
            away = trio.current_time() - failing_since if failing_since is not None else 0
            self._on_change(ConditionChange(reachable=True, seconds=away))

    def failed(self, reason: str, *, retry_after: float | None = None, refused: bool = False) -> None:
        """Take note of a request that got no proper answer.

        Args:
            reason: why, in a few words.
            retry_after: for how many seconds the API asked to be left alone.
            refused: whether there was an answer that turned us away. From an API that has never answered
                otherwise this is first of all a mistake in the configuration, which is not announced here.
        """
        now = trio.current_time()
        if retry_after is not None:
            self._back_off_until = max(self._back_off_until, now + retry_after)
        if self._failing_since is None:
            self._failing_since = now
        lasting = now - self._failing_since >= OUTAGE_AFTER
        never_there = not self._ever_answered and not refused
        if not self._lost.is_set() and (lasting or never_there):
            self._lost.set()
            self._back = trio.Event()
            self._on_change(ConditionChange(reachable=False, reason=reason))

    async def sleep(self, seconds: float, *, at_least: float = 0) -> None:
        """Sleep, but while the API is lost no longer than until it is back.

        Args:
            seconds: how long.
            at_least: how many of them are slept in any case.
        """
        await trio.sleep(min(at_least, seconds))
        with trio.move_on_after(max(0.0, seconds - at_least)):
            if self.reachable:
                await trio.sleep_forever()
            await self.wait_back()

    async def wait_lost(self) -> None:
        """Return when the API is lost, at once if it is now."""
        await self._lost.wait()

    async def wait_back(self) -> None:
        """Return when the API is reachable, at once if it is now."""
        await self._back.wait()

    async def wait_lost_for(self, seconds: float) -> None:
        """Return once the API has been lost for `seconds` on end."""
        while True:
            await self.wait_lost()
            with trio.move_on_after(seconds):
                await self.wait_back()
                continue
            return
