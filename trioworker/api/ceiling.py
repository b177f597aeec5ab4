"""How many requests are under way at once: as many as the server copes with, which shows when it turns one away."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

# Seconds without a request turned away after which one more may go at once.
STEP_SECONDS = 5.0

# Rather than wait for ever behind requests that are stuck, others go after so many seconds as if these were over.
PATIENCE_SECONDS = 10.0

# For so long a request that cannot bear others waits for a moment without any.
QUIET_PATIENCE_SECONDS = 10.0


class Ceiling:
    """A number of requests that is halved when the server turns one away, and grows by one while it does not.

    Repetitions only meet with the next crowd: many runs at once would wear out their retries and the server. A server
    on SQLite, say, takes one change at a time, and one after the other the same changes are through in less than half
    the time. One on PostgreSQL takes many.

    Args:
        most: how many go at once as long as none was turned away.

    Attributes:
        isolates: whether it lets a request that may not bear others go alone. That takes time, so it does not before
            that has proved to be necessary.
    """

    def __init__(self, most: int) -> None:
        self.isolates: bool = False
        self._most = most
        self._lowest = most
        self._lowered_at = -math.inf
        self._closed_until = -math.inf
        # When each of them began, the oldest first; those that are stuck do not count any more.
        self._under_way: dict[object, float] = {}
        self._alone: object = None
        self._waiting: dict[object, trio.Event] = {}
        self._waiting_for_quiet: dict[object, trio.Event] = {}

    @property
    def height(self) -> int:
        """How many may go at once now."""
        return int(min(self._lowest + self._steps, self._most))

    @property
    def _steps(self) -> float:
        """How many steps it has grown since it was lowered; infinite if it never was."""
        steps = (trio.current_time() - self._lowered_at) / STEP_SECONDS
        # At the moment of a step, rounding may not leave it a little short.
        return steps if math.isinf(steps) else math.floor(steps + 1e-6)

    def turned_away(self) -> None:
        """Take note that the server has turned a request away, or has let it wait in vain."""
        self._lowest = max(1, self.height // 2)
        self._lowered_at = trio.current_time()

    def close(self, seconds: float) -> None:
        """Let no request begin for so many seconds, since the server has asked for that."""
        self._closed_until = max(self._closed_until, trio.current_time() + seconds)

    @asynccontextmanager
    async def place(self, *, alone: bool = False) -> AsyncIterator[None]:
        """Wait until a request may go, whoever came first first, and let it be under way in the block.

        Args:
            alone: whether it may fail if another one goes at the same moment. If the ceiling `isolates`, it waits for
                a quiet one, after all others, though no longer than `QUIET_PATIENCE_SECONDS`, and then keeps others
                waiting.
        """
        request = object()
        if alone and self.isolates:
            with trio.move_on_after(QUIET_PATIENCE_SECONDS):
                await self._enter(request, self._waiting_for_quiet)
        if request not in self._under_way:
            await self._enter(request, self._waiting)
        try:
            yield
        finally:
            self._leave(request)

    async def _enter(self, request: object, queue: dict[object, trio.Event]) -> None:
        turn = queue[request] = trio.Event()
        self._admit()
        try:
            while not turn.is_set():
                with trio.move_on_at(self._next_chance()):
                    await turn.wait()
                self._admit()
        except BaseException:
            queue.pop(request, None)
            self._leave(request)
            raise

    def _leave(self, request: object) -> None:
        self._under_way.pop(request, None)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._has_room():
            self._let_in(self._waiting)
        if self._waiting_for_quiet and not self._waiting and self._has_room() and not self._under_way:
            self._alone = self._let_in(self._waiting_for_quiet)

    def _let_in(self, queue: dict[object, trio.Event]) -> object:
        request = next(iter(queue))
        self._under_way[request] = trio.current_time()
        queue.pop(request).set()
        return request

    def _has_room(self) -> bool:
        now = trio.current_time()
        while self._under_way and self._began_first() + PATIENCE_SECONDS <= now:
            del self._under_way[next(iter(self._under_way))]
        if now < self._closed_until or self._alone in self._under_way:
            return False
        return len(self._under_way) < self.height

    def _next_chance(self) -> float:
        """When there may be room though nobody leaves."""
        now = trio.current_time()
        if now < self._closed_until:
            return self._closed_until
        stuck = self._began_first() + PATIENCE_SECONDS
        if self.height >= self._most:
            return stuck
        return min(stuck, self._lowered_at + (self._steps + 1) * STEP_SECONDS)

    def _began_first(self) -> float:
        return next(iter(self._under_way.values()), math.inf)
