"""How many flow runs are started a second, so that a backlog does not become a storm of processes."""

from __future__ import annotations

import math

import trio


class LaunchRate:
    """Allows so many starts a second; after a quiet while, as many as in a second at once.

    Args:
        per_second: how many; infinity for any number.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        # What is allowed without waiting, and when that was so; less than nothing if somebody waits already.
        self._left = self._most
        self._counted_at = -math.inf

    def within(self, seconds: float) -> int | None:
        """How many starts are allowed from now on within so many seconds; None for any number."""
        if math.isinf(self._per_second):
            return None
        self._count()
        allowed = self._left + seconds * self._per_second + 1e-6
        return max(0, math.floor(allowed)) if math.isfinite(allowed) else None

    def seconds_to_next(self) -> float:
        """Seconds until one more start is allowed; 0 if it is now."""
        if math.isinf(self._per_second):
            return 0.0
        self._count()
        return max(0.0, (1 - self._left) / self._per_second)

    async def wait(self) -> None:
        """Return when one more start is allowed, which then counts."""
        if math.isinf(self._per_second):
            await trio.lowlevel.checkpoint()
            return
        self._count()
        self._left -= 1
        try:
            await trio.sleep(max(0.0, -self._left / self._per_second))
        except trio.Cancelled:
            self._left += 1
            raise

    def _count(self) -> None:
        now = trio.current_time()
        self._left = min(self._most, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
