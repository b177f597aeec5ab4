"""A worker's way to the disk: the ledgers of a directory, each of which has an owner as long as that lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import attrs
import trio

from trioworker.config import WorkerConfig
from trioworker.ledger.entry import Entry
from trioworker.ledger.ledger import Ledger, LedgerError
from trioworker.notices import Notify

from . import steps
from .fence import Fence
from .network import Passing

__all__ = ["Directory", "Owner"]


@attrs.define(eq=False)
class _File:
    """A ledger file.

    Attributes:
        owner: the fence of the worker that holds its lock; the kernel takes the lock from one that has crashed.
        entries: what is in it.
    """

    owner: Fence | None = None
    entries: dict[UUID, Entry] = attrs.field(factory=dict)

    @property
    def is_free(self) -> bool:
        return self.owner is None or self.owner.fallen


@attrs.define(eq=False)
class Directory:
    """The ledgers of all workers of one name on one machine.

    Attributes:
        full: whether nothing can be written.
        files: the ledgers.
    """

    full: bool = False
    files: list[_File] = attrs.field(factory=list)

    @property
    def entries(self) -> list[Entry]:
        """All that is written down."""
        return [entry for file in self.files for entry in file.entries.values()]

    def take(self, owner: Fence) -> _File | None:
        """Own a file that nobody owns; None if that would have to be made, and cannot."""
        for file in self.files:
            if file.is_free:
                file.owner = owner
                return file
        if self.full:
            return None
        file = _File(owner)
        self.files.append(file)
        return file


class Owner:
    """One worker that keeps a ledger.

    Args:
        directory: where.
        fence: of the worker.
        pass_step: lets it come to a step.
        keeps: whether there is a ledger at all.

    Attributes:
        ledger: the worker's, once it has one.
    """

    def __init__(self, directory: Directory, fence: Fence, pass_step: Passing, *, keeps: bool) -> None:
        self.ledger: Ledger | None = None
        self._directory = directory
        self._fence = fence
        self._pass_step = pass_step
        self._keeps = keeps
        self._own = _File()
        self._orphaned: list[_File] = []

    @asynccontextmanager
    async def open(self, _: WorkerConfig, __: UUID | None, notify: Notify) -> AsyncIterator[Ledger]:
        """See `Surroundings.open_ledger`; as `trioworker.ledger.location.open_ledger` does it."""
        await self._pass_step("before open ledger")
        own = self._directory.take(self._fence) if self._keeps else None
        if own is None:
            self.ledger = Ledger()
            yield self.ledger
            return
        self._own = own
        await self._pass_step("after open ledger")
        self.ledger = ledger = Ledger(self, self._own.entries.values(), notify=notify)
        try:
            await ledger.adopt_orphaned()
            yield ledger
        finally:
            if not self._fence.fallen:
                self._let_go(remove=False)
                self._own.owner = None
                if not ledger.entries and self._own in self._directory.files:
                    self._directory.files.remove(self._own)

    @property
    def is_without(self) -> bool:
        """Whether the worker goes on without the ledger that it was to keep."""
        return self._keeps and self.ledger is not None and self._own not in self._directory.files

    @property
    def unwritten(self) -> set[UUID]:
        """The runs of which no disk knows what the worker knows, though it has tried to write that down."""
        if self.ledger is None or self.ledger.lasts:
            return set()
        known = {entry.attempt: entry for entry in self.ledger.entries}
        written = {entry.attempt: entry for entry in self._directory.entries}
        return {
            (known.get(attempt) or written[attempt]).flow_run_id
            for attempt in known.keys() | self._own.entries.keys()
            if known.get(attempt) != written.get(attempt)
        }

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        """See `Storage.write`."""
        what = steps.of_write(kept, self._own.entries)
        await self._in_thread(what, lambda: self._write(kept, dropped))

    def _write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        if self._directory.full:
            raise LedgerError("database or disk is full")
        self._own.entries.update({entry.attempt: entry for entry in kept})
        for attempt in dropped:
            self._own.entries.pop(attempt, None)

    async def take_orphaned(self, here: Collection[UUID]) -> Sequence[Entry]:
        """See `Storage.take_orphaned`."""
        found: list[Entry] = []

        def take() -> None:
            self._let_go(remove=False)
            for file in self._directory.files:
                if file is not self._own and file.is_free:
                    file.owner = self._fence
                    self._orphaned.append(file)
                    found.extend(file.entries.values())

        await self._in_thread("take over ledgers", take)
        return [entry for entry in found if entry.attempt not in here]

    async def let_orphaned_go(self) -> None:
        """See `Storage.let_orphaned_go`."""
        if self._orphaned:
            await self._in_thread("let ledgers go", lambda: self._let_go(remove=True))

    def _let_go(self, *, remove: bool) -> None:
        for file in self._orphaned:
            file.owner = None
            if remove and file in self._directory.files:
                self._directory.files.remove(file)
        self._orphaned.clear()

    async def _in_thread(self, what: str, action: Callable[[], None]) -> None:
        """Do what is done in a thread: whoever waits for it cannot be interrupted, but in a crash."""
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            await self._pass_step(f"before {what}")
            action()
            await self._pass_step(f"after {what}")
