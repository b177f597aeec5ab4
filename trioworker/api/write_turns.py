"""How many changes are asked of the server at once: many, or one after the other if it cannot cope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

# How long it stays narrow after the server has last turned a request away, and then before each widening.
QUIET_SECONDS = 60.0

# Rather than wait for ever behind a request that is stuck, a request goes out of turn.
PATIENCE_SECONDS = 10.0


class WriteTurns:
    """Whose turn it is to have the server change something.

    A server on SQLite takes one change at a time, and turns away another that comes in between. Repetitions only
    meet with the next crowd, so that many runs at once wear out their retries; one after the other, the same
    changes are through in less than half the time. A server on PostgreSQL takes many. Which one it is shows when
    it turns a request away.

    Args:
        width: how many at once as long as the server copes.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._limiter = trio.CapacityLimiter(width)
        self._widen_at = 0.0

    @property
    def width(self) -> int:
        """How many may go at once now."""
        return int(self._limiter.total_tokens)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, though no longer than `PATIENCE_SECONDS`, and have it in the block."""
        self._widen_if_quiet()
        # A holder of its own for each request: one task may have several.
        holder = object()
        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            await self._limiter.acquire_on_behalf_of(holder)
        try:
            yield
        finally:
            if not patience.cancelled_caught:
                self._limiter.release_on_behalf_of(holder)

    def turned_away(self) -> None:
        """Take note that the server has turned a request away: from now on they go one after the other."""
        self._limiter.total_tokens = 1
        self._widen_at = trio.current_time() + QUIET_SECONDS

    def _widen_if_quiet(self) -> None:
        if self.width < self._width and trio.current_time() >= self._widen_at:
            self._limiter.total_tokens = min(2 * self.width, self._width)
            self._widen_at = trio.current_time() + QUIET_SECONDS
