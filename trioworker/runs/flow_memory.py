"""Remembers flows for a while, since a worker meets the same few again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import attrs
import trio

from trioworker.api.models import Flow

# Of a flow that runs are grouped by, nothing ever changes but tags and labels.
_GOOD_FOR = 60.0
_MOST = 1000


@attrs.frozen
class _Memory:
    flow: Flow
    until: float


@attrs.define(eq=False)
class _Reading:
    """A read in flight, that others who want the same flow wait for."""

    over: trio.Event = attrs.field(factory=trio.Event)
    failed: bool = False


class FlowMemory:
    """Reads each flow once a minute, however many ask for it at once."""

    def __init__(self) -> None:
        self._memories: dict[UUID, _Memory] = {}
        self._readings: dict[UUID, _Reading] = {}

    def __len__(self) -> int:
        """How many flows are remembered."""
        return len(self._memories)

    async def get(self, flow_id: UUID, read: Callable[[], Awaitable[Flow]]) -> Flow:
        """The flow, which is read if it was not within a minute; whatever `read` raises leaves.

        Who finds another reading waits for that. If that is cancelled, the next one reads; if it fails, each of those
        who waited reads for itself, since a failure may take long and is not to be waited for time and again.
        """
        has_seen_failure = False
        while True:
            known = self._memories.get(flow_id)
            if known is not None and trio.current_time() < known.until:
                return known.flow
            reading = self._readings.get(flow_id)
            if reading is None or has_seen_failure:
                return await self._read(flow_id, read)
            await reading.over.wait()
            has_seen_failure = reading.failed

    async def _read(self, flow_id: UUID, read: Callable[[], Awaitable[Flow]]) -> Flow:
        reading = self._readings[flow_id] = _Reading()
        try:
            flow = await read()
            self._remember(flow_id, flow)
        except Exception:
            reading.failed = True
            raise
        finally:
            # Of several who read for themselves, the others wait for the latest.
            if self._readings.get(flow_id) is reading:
                del self._readings[flow_id]
            reading.over.set()
        return flow

    def _remember(self, flow_id: UUID, flow: Flow) -> None:
        if len(self._memories) >= _MOST:
            self._memories.clear()
        self._memories[flow_id] = _Memory(flow, trio.current_time() + _GOOD_FOR)
