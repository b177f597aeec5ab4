"""The ledger: what a worker has claimed and not yet brought to its end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import trio

from trioworker.ledger.entry import Entry
from trioworker.notices import Notice, Notify, log_notice

__all__ = ["Ledger", "LedgerError", "Storage"]


# Seconds that a cancellation waits for others' changes to be written, and then for its own.
_PATIENCE = 10.0


class LedgerError(Exception):
    """Something cannot be written down, or be read; the message says why."""


class Storage(Protocol):
    """Where entries are kept."""

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        """Keep entries, in place of those of the same attempt, and drop others: all of it or nothing.

        It is not to be interrupted, and lasts when it returns, whatever becomes of the machine.

        Raises:
            LedgerError: it cannot be done; what was kept before still is.
        """
        ...

    async def take_orphaned(self, here: Collection[UUID]) -> Sequence[Entry]:
        """Read what workers have left behind that are gone. It stays where it is until it is let go.

        Args:
            here: attempts that are known already.

        Raises:
            LedgerError: there may be something, but it cannot be read.
        """
        ...

    async def let_orphaned_go(self) -> None:
        """Remove what `take_orphaned` has read, since it was written down here."""
        ...


class Ledger:
    """Entries in memory, and in a storage.

    Changes that are made at the same moment are written together. If they cannot be written, that is told once, and
    again when they can; whoever makes them goes on, since a flow run that is not written down is better than one that
    does not start.

    Args:
        storage: where entries are kept; None to keep them in memory alone.
        entries: what the storage has already.
        notify: told when writing fails, and when it is possible again.
        place: what the storage is called in what is told.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        entries: Iterable[Entry] = (),
        *,
        notify: Notify = log_notice,
        place: str = "the ledger",
    ) -> None:
        self._storage = storage
        self._entries = {entry.attempt: entry for entry in entries}
        self._inherited = set(self._entries)
        self._notify = notify
        self._place = place
        self._writing = trio.Lock()
        # What differs from the storage, and how many changes there were, and of which the storage knows.
        self._stored = set(self._entries)
        self._unwritten: set[UUID] = set()
        self._changes = 0
        self._written = 0
        self._trouble = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All attempts whose end is not settled, oldest first."""
        return tuple(self._entries.values())

    def is_inherited(self, attempt: UUID) -> bool:
        """Whether an attempt was another worker's, which is gone."""
        return attempt in self._inherited

    @property
    def lasts(self) -> bool:
        """Whether what is kept here outlives the worker."""
        return self._storage is not None and not self._trouble

    async def keep(self, *entries: Entry) -> None:
        """Write entries down, in place of those of the same attempt; returns when they last."""
        await self._change({entry.attempt: entry for entry in entries})

    async def drop(self, *attempts: UUID) -> None:
        """Strike attempts out whose end is settled."""
        known = [attempt for attempt in attempts if attempt in self._entries]
        await self._change(dict.fromkeys(known))

    async def adopt_orphaned(self) -> None:
        """Take over what workers have left behind that are gone, and write down what could not be written before."""
        if self._storage is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            orphaned = await self._storage.take_orphaned(self._entries.keys())
            self._inherited |= {entry.attempt for entry in orphaned}
            await self.keep(*orphaned)
            if await self.write_rest():
                await self._storage.let_orphaned_go()
        except LedgerError as error:
            self._say_trouble(str(error))

    async def write_rest(self) -> bool:
        """Try once more to write what could not be written; whether all is written that was changed by now."""
        upto = self._changes
        async with self._writing:
            if self._written < upto:
                await self._write()
        return self._written >= upto

    async def _change(self, changes: dict[UUID, Entry | None]) -> None:
        if not changes:
            await trio.lowlevel.checkpoint()
            return
        for attempt, entry in changes.items():
            if entry is None:
                del self._entries[attempt]
                self._inherited.discard(attempt)
            else:
                self._entries[attempt] = entry
        self._unwritten |= changes.keys()
        self._changes += 1
        mine = self._changes
        # Not to be interrupted, or the storage would not know of it until something else changes; but for a disk that
        # does not answer.
        with trio.move_on_after(_PATIENCE, shield=True) as waiting:
            async with self._writing:
                # Whoever was here before may have written it along.
                if self._written < mine:
                    await self._write()
        if waiting.cancelled_caught:
            self._say_trouble(f"it has not answered for {_PATIENCE:g} s")

    async def _write(self) -> None:
        upto, attempts = self._changes, self._unwritten
        self._unwritten = set()
        if self._storage is not None:
            kept = [entry for attempt, entry in self._entries.items() if attempt in attempts]
            # Of what has come and gone unwritten, the storage need never hear.
            dropped = [attempt for attempt in attempts & self._stored if attempt not in self._entries]
            try:
                if kept or dropped:
                    await self._storage.write(kept, dropped)
                    self._say_trouble("")
            except LedgerError as error:
                self._unwritten |= {entry.attempt for entry in kept} | set(dropped)
                self._say_trouble(str(error))
                return
            except BaseException:
                # Cancelled: nobody knows what was written, and whoever waits for it has to write it once more.
                self._unwritten |= attempts
                self._stored |= {entry.attempt for entry in kept}
                raise
            self._stored |= {entry.attempt for entry in kept}
            self._stored -= set(dropped)
        self._written = upto

    def _say_trouble(self, reason: str) -> None:
        had_trouble, self._trouble = bool(self._trouble), reason
        if had_trouble == bool(reason):
            return
        if not reason:
            self._notify(Notice(f"The ledger is kept again, in {self._place}."))
            return
        self._notify(
            Notice(
                f"The ledger cannot be kept in {self._place}: {reason}. Flow runs go on without it; but should this"
                " worker be killed, or the machine fail, those in hand may stay as they are, since nobody knows of"
                " them.",
                warning=True,
            )
        )
