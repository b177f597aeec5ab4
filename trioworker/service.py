"""Run a coroutine every so often, and back off while the API has trouble."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from trioworker.api.condition import Condition
from trioworker.api.errors import APIError, APIUnavailableError, is_outage

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_LONGEST_DELAY = 60.0


@attrs.frozen(kw_only=True)
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

    def __call__(self) -> None:
        """Wake the loop, or keep it from falling asleep next."""
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or somebody calls."""
        with trio.move_on_after(seconds):
            await self._event.wait()

    def answer(self) -> None:
        """Take all calls so far for answered, because a round begins."""
        self._event = trio.Event()


async def repeat(
    name: str,
    workload: Callable[[], Awaitable[object]],
    rhythm: Rhythm,
    *,
    wake_up: WakeUp | None = None,
    run_first: bool = True,
) -> None:
    """Call `workload` for ever in the given rhythm, its own run time included.

    Errors of the API slow it down; anything else is our bug and ends it.

    Args:
        name: what the workload does, for the log ("poll for flow runs").
        workload: what to do.
        rhythm: how often.
        wake_up: starts the next round early.
        run_first: whether the first round comes before the first delay.
    """
    wake_up = wake_up or WakeUp()
    failures = 0
    complaint = ""
    delay = 0.0 if run_first else rhythm.delay(0)
    while True:
        if delay > 0:
            await wake_up.sleep(delay)
        started = trio.current_time()
        wake_up.answer()
        retry_after = None
        try:
            await workload()
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
        delay = rhythm.delay(failures, retry_after, spent=trio.current_time() - started)
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
