"""Run a coroutine every so often, and back off while the API has trouble."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from trioworker.api.condition import Condition
from trioworker.api.errors import APIError, APIUnavailableError, is_outage
from trioworker.lean_attrs import frozen

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_LONGEST_DELAY = 60.0


@frozen(kw_only=True)
class Rhythm:
    """How often something is done.

    Attributes:
        interval: seconds from one start to the next.
        jitter: the part of a delay that is left to chance, 0 to 1, so that a fleet does not march in step.
        chance: random numbers from 0 to 1.
    """

    interval: float
    jitter: float = 0.3
    chance: Callable[[], float]

    @property
    def shortest_interval(self) -> float:
        """Seconds from one start to the next at the least, if chance has it."""
        return self.interval * (1 - self.jitter)

    @property
    def longest_interval(self) -> float:
        """Seconds from one start to the next at the most, as long as there are no failures."""
        return self.interval * (1 + self.jitter)

    def delay(self, failures: int, retry_after: float | None = None, *, spent: float = 0) -> float:
        """Seconds until the next start after so many failures in a row.

        The interval doubles with each failure, up to a minute (or the interval itself, if that is longer).
        What the API asked for is never undercut.

        Args:
            failures: how many rounds in a row have failed.
            retry_after: seconds that the API asked to wait, counted from now.
            spent: seconds that the last round took, which are part of the interval if it was a good one.
        """
        longest = max(self.interval, _LONGEST_DELAY)
        # 2.0**failures grows out of a float's range in an outage of days.
        backed_off = min(self.interval * 2.0 ** min(failures, 30), longest)
        delay = backed_off * (1 + self.jitter * (2 * self.chance() - 1))
        if not failures:
            delay -= spent
        return max(0.0, delay, retry_after or 0.0)


class WakeUp:
    """Lets a sleeping loop start its next round early; any number of calls make one round."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._at = math.inf
        self._asleep: trio.CancelScope | None = None

    def __call__(self) -> None:
        """Wake the loop, or keep it from falling asleep next."""
        self._event.set()

    def by(self, moment: float) -> None:
        """Wake the loop at a moment of Trio's clock, unless a round begins before."""
        self._at = min(self._at, moment)
        if self._asleep is not None:
            self._asleep.deadline = min(self._asleep.deadline, moment)

    async def sleep(self, seconds: float, *, at_least: float = 0) -> bool:
        """Sleep until the time is over or somebody calls.

        Args:
            seconds: how long.
            at_least: how many of them are slept in any case.

        Returns:
            Whether somebody called.
        """
        begin = trio.current_time()
        await trio.sleep(min(at_least, seconds))
        with trio.move_on_at(min(begin + seconds, self._at)) as self._asleep:
            await self._event.wait()
        self._asleep = None
        return self._event.is_set() or trio.current_time() < begin + seconds

    def answer(self) -> None:
        """Take all calls so far for answered, because a round begins."""
        self._event = trio.Event()
        self._at = math.inf


# Seconds from the end of a round to the next one that somebody calls for: for the first of a row, and at the most if
# the rounds bring something, and if they do not. A row ends with a pause of so many seconds.
_SHORTEST_SPACE = 0.05
_LONGEST_FRUITFUL_SPACE = 0.2
_LONGEST_SPACE = 1.0
_PAUSE = 2.0


class Spacing:
    """Keeps rounds apart that are called for, however often that is; the first one after a pause comes at once."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def after_round(self, *, called: bool, pause: float, fruitful: bool) -> float:
        """Seconds from a round to the next one at the soonest.

        Args:
            called: whether the round was called for.
            pause: seconds from the one before until it began.
            fruitful: whether it has brought something.
        """
        self._in_a_row = self._in_a_row + 1 if called and pause <= _PAUSE else 0
        longest = _LONGEST_FRUITFUL_SPACE if fruitful else _LONGEST_SPACE
        return min(_SHORTEST_SPACE * 2.0 ** min(self._in_a_row, 10), longest)


async def repeat(
    name: str,
    workload: Callable[[], Awaitable[object]],
    rhythm: Rhythm,
    *,
    wake_up: WakeUp | None = None,
    spacing: Spacing | None = None,
    run_first: bool = True,
) -> None:
    """Call `workload` for ever in the given rhythm, its own run time included.

    Errors of the API slow it down; anything else is our bug and ends it.

    Args:
        name: what the workload does, for the log ("poll for flow runs").
        workload: what to do; returns something true if it was worth the while.
        rhythm: how often.
        wake_up: starts the next round early.
        spacing: keeps rounds apart that are started early.
        run_first: whether the first round comes before the first delay.
    """
    wake_up = wake_up or WakeUp()
    failures = 0
    complaint = ""
    delay = 0.0 if run_first else rhythm.delay(0)
    space = 0.0
    called = False
    ended = trio.current_time()
    while True:
        if delay > 0:
            called = await wake_up.sleep(delay, at_least=space)
        started = trio.current_time()
        pause = started - ended
        wake_up.answer()
        retry_after = None
        space = 0.0
        try:
            fruitful = bool(await workload())
        except APIError as error:
            failures += 1
            if isinstance(error, APIUnavailableError):
                retry_after = error.retry_after
            # An outage is announced once for the whole worker; a refusal concerns this loop alone.
            if not is_outage(error) and str(error) != complaint:
                complaint = str(error)
                _logger.error("Could not %s, trying again: %s", name, error)
        else:
            if complaint:
                complaint = ""
                _logger.info("Could %s again", name)
            failures = 0
            if spacing is not None:
                space = spacing.after_round(called=called, pause=pause, fruitful=fruitful)
        ended = trio.current_time()
        delay = rhythm.delay(failures, retry_after, spent=ended - started)
        if delay == 0:
            await trio.lowlevel.checkpoint()


async def patiently(
    action: Callable[[], Awaitable[T]],
    rhythm: Rhythm,
    condition: Condition,
    *,
    strikes: float = math.inf,
    on_failure: Callable[[APIError], None] = lambda _: None,
) -> T:
    """Do something that must be done, however long the API is away.

    Args:
        action: what to do.
        rhythm: the delays between attempts; they end early when the API is back.
        condition: knows whether the API answers.
        strikes: how many failures to bear while the API answers others, which then is no outage.
        on_failure: told of each failure that time may heal.

    Raises:
        APIError: one that time does not heal, or that uses up the strikes.
    """
    failures = struck = 0
    while True:
        try:
            return await action()
        except APIError as error:
            struck += condition.reachable
            if not is_outage(error) or struck >= strikes:
                raise
            on_failure(error)
            failures += 1
            retry_after = error.retry_after if isinstance(error, APIUnavailableError) else None
        await condition.sleep(rhythm.delay(failures, retry_after), at_least=retry_after or 0)
