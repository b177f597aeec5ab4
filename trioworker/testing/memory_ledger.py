"""A ledger without a file, for workers in virtual time: no thread may be waited for there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import trio

from trioworker.config import WorkerConfig
from trioworker.ledger.entry import Entry
from trioworker.ledger.ledger import Ledger
from trioworker.notices import Notify

__all__ = ["MemoryStorage", "open_memory_ledger"]


class MemoryStorage:
    """Keeps entries as a file would, for one worker after the other.

    Attributes:
        entries: what is kept, by attempts.
    """

    def __init__(self) -> None:
        self.entries: dict[UUID, Entry] = {}

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        """See `Storage.write`."""
        await trio.lowlevel.checkpoint()
        self.entries.update({entry.attempt: entry for entry in kept})
        for attempt in dropped:
            self.entries.pop(attempt, None)

    async def take_orphaned(self, here: Collection[UUID]) -> Sequence[Entry]:  # noqa: ARG002 - see the protocol
        """See `Storage.take_orphaned`; there are no others."""
        await trio.lowlevel.checkpoint()
        return ()

    async def let_orphaned_go(self) -> None:
        """See `Storage.let_orphaned_go`."""
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_memory_ledger(
    config: WorkerConfig,  # noqa: ARG001 - see `Surroundings.open_ledger`
    pool_id: UUID | None,  # noqa: ARG001
    notify: Notify,
) -> AsyncIterator[Ledger]:
    """A ledger that ends with its worker, to be given as `Surroundings.open_ledger`."""
    await trio.lowlevel.checkpoint()
    yield Ledger(MemoryStorage(), notify=notify)
