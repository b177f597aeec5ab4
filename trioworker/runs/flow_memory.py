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


class FlowMemory:
    """Reads each flow once a minute."""

    def __init__(self) -> None:
        self._memories: dict[UUID, _Memory] = {}

    def __len__(self) -> int:
        """How many flows are remembered."""
        return len(self._memories)

    async def get(self, flow_id: UUID, read: Callable[[], Awaitable[Flow]]) -> Flow:
        """The flow, which is read if it was not within a minute; whatever `read` raises leaves."""
        known = self._memories.get(flow_id)
        if known is not None and trio.current_time() < known.until:
            return known.flow
        flow = await read()
        if len(self._memories) >= _MOST:
            self._memories.clear()
        self._memories[flow_id] = _Memory(flow, trio.current_time() + _GOOD_FOR)
        return flow
