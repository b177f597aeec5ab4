"""Reads what many runs need once for all of them: a worker meets the same few deployments and flows all the time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from uuid import UUID

import attrs
import trio

from trioworker.lean_attrs import frozen

_MOST = 1000

T = TypeVar("T")


@frozen
class _Memory(Generic[T]):
    value: T
    began: float


@attrs.define(eq=False, repr=False)
class _Reading:
    """A read in flight, that others who want the same wait for."""

    began: float = attrs.field(factory=trio.current_time)
    over: trio.Event = attrs.field(factory=trio.Event)
    failed: bool = False


class SharedReads(Generic[T]):
    """Reads each object once for all who want it, however many ask for it at once."""

    def __init__(self) -> None:
        self._memories: dict[UUID, _Memory[T]] = {}
        self._readings: dict[UUID, _Reading] = {}

    def __len__(self) -> int:
        """How many objects are remembered."""
        return len(self._memories)

    async def get(self, object_id: UUID, read: Callable[[], Awaitable[T]], *, since: float) -> T:
        """The object as it was at some moment since a given one; whatever `read` raises leaves.

        Who finds another reading waits for that. If that is cancelled, the next one reads; if it fails, each of those
        who waited reads for itself, since a failure may take long and is not to be waited for time and again.

        Args:
            object_id: which one.
            read: reads it.
            since: the moment, on Trio's clock: what was read before is read anew.
        """
        has_seen_failure = False
        while True:
            known = self._memories.get(object_id)
            if known is not None and known.began >= since:
                return known.value
            reading = self._readings.get(object_id)
            if reading is None or reading.began < since or has_seen_failure:
                return await self._read(object_id, read)
            await reading.over.wait()
            has_seen_failure = reading.failed

    async def _read(self, object_id: UUID, read: Callable[[], Awaitable[T]]) -> T:
        reading = self._readings[object_id] = _Reading()
        try:
            value = await read()
            self._remember(object_id, _Memory(value, reading.began))
        except Exception:
            reading.failed = True
            raise
        finally:
            # Of several who read for themselves, the others wait for the latest.
            if self._readings.get(object_id) is reading:
                del self._readings[object_id]
            reading.over.set()
        return value

    def _remember(self, object_id: UUID, memory: _Memory[T]) -> None:
        known = self._memories.get(object_id)
        if known is not None and known.began > memory.began:
            return
        if len(self._memories) >= _MOST:
            self._memories.clear()
        self._memories[object_id] = memory
