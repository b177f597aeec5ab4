"""Where a worker's ledger is, and whose it is.

Each worker name has a directory; without a name of its own, a worker shares that of its work pool on its machine.
In there, workers that live at the same time own a file each, numbered from 1. A file that nobody owns is what a
worker has left behind, and is taken over by the next one that looks: at its start, and every minute.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from socket import gethostname
from typing import Final, TypeVar
from uuid import UUID

import attrs
import trio

from trioworker.ledger.entry import Entry
from trioworker.ledger.file import LedgerFile
from trioworker.ledger.ledger import Ledger, LedgerError
from trioworker.notices import Notice, Notify

__all__ = ["directory_name", "open_ledger"]

T = TypeVar("T")

# What Prefect's worker and this one call themselves unless they are told a name: a type, and one of a kind.
_MADE_UP: Final = re.compile(r"\w+Worker [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST: Final = 60

# Workers of one name on one machine at the same time. There are two during a rolling restart.
_MOST: Final = 1000

# How often a directory is made anew that others remove.
_TRIES: Final = 10


def directory_name(worker_name: str, pool_name: str, pool_id: UUID | None) -> str:
    """The name of the directory of a worker's ledgers.

    Args:
        worker_name: of the worker; one that was made up for it counts as none.
        pool_name: of its work pool.
        pool_id: of its work pool, by which servers are told apart, too; None if somebody has just deleted it.
    """
    name = f"{pool_name}@{gethostname()}" if _MADE_UP.fullmatch(worker_name) else worker_name
    # For people the beginning, to be one of a kind the end.
    # (A name from the command line may have bytes in it that are no text.)
    digest = hashlib.sha256(f"{pool_id}\0{name}".encode(errors="surrogatepass")).hexdigest()
    readable = _UNSAFE.sub("-", name).strip(".-")[:_LONGEST]
    return f"{readable}-{digest[:12]}" if readable else digest[:12]


@asynccontextmanager
async def open_ledger(directory: Path, notify: Notify) -> AsyncIterator[Ledger]:
    """Own a ledger for the length of a block. What others have left is in it; what is left at the end stays.

    If none can be kept, that is told, and the ledger is one in memory.

    Args:
        directory: where its file is to be.
        notify: told of what goes wrong.
    """
    files = _Files(directory, notify)
    try:
        entries = await files.take_own()
    except (LedgerError, OSError) as error:
        await files.close(remove=False)
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        notify(
            Notice(
                f"No ledger can be kept in {directory}: {reason}. Flow runs go on without it; but should this worker"
                " be killed, or the machine fail, those in hand may stay as they are, since nobody knows of them.",
                warning=True,
            )
        )
        yield Ledger()
        return
    ledger = Ledger(files, entries, notify=notify, place=str(directory))
    try:
        await ledger.adopt_orphaned()
        yield ledger
    finally:
        # Bounded by the disk, and the last thing that a worker does.
        with trio.CancelScope(shield=True):
            await ledger.write_rest()
            await files.close(remove=not ledger.entries)


@attrs.define
class _Found:
    """What is in files that are read.

    Attributes:
        entries: of them.
        put_aside: files that cannot be read, by their new names, and why.
        unread: files that are as they were, and why.
    """

    entries: list[Entry] = attrs.field(factory=list)
    put_aside: list[tuple[str, str]] = attrs.field(factory=list)
    unread: dict[str, str] = attrs.field(factory=dict)

    def add(self, other: _Found) -> None:
        """Put another file's along."""
        self.entries.extend(other.entries)
        self.put_aside.extend(other.put_aside)


class _Files:
    """The file of one ledger, and those of others that are gone."""

    def __init__(self, directory: Path, notify: Notify) -> None:
        self._directory = directory
        self._notify = notify
        self._own: LedgerFile | None = None
        self._orphaned: list[LedgerFile] = []
        self._unread: Collection[str] = ()
        # One after the other, and not in the way of other threads, nor they in its.
        self._thread = trio.CapacityLimiter(1)

    async def take_own(self) -> Sequence[Entry]:
        """Own a file that nobody owns; what is in it.

        Raises:
            LedgerError: it cannot be read, and not be put aside either.
            OSError: there can be no files here.
        """
        return self._told(await self._in_thread(self._take_own))

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        """See `Storage.write`."""
        await self._in_thread(lambda: self._owned.write(kept, dropped))

    async def take_orphaned(self, here: Collection[UUID]) -> Sequence[Entry]:
        """See `Storage.take_orphaned`."""
        try:
            entries = self._told(await self._in_thread(self._take_orphaned))
        except OSError as error:
            raise LedgerError(error.strerror or str(error)) from error
        return [entry for entry in entries if entry.attempt not in here]

    async def let_orphaned_go(self) -> None:
        """See `Storage.let_orphaned_go`."""
        if self._orphaned:
            await self._in_thread(lambda: self._let_orphaned_go(remove=True))

    async def close(self, *, remove: bool) -> None:
        """Own nothing any more.

        Args:
            remove: whether nothing is in the own file that is needed.
        """
        try:
            await self._in_thread(lambda: self._close(remove=remove))
        except LedgerError:
            # Without a thread it takes this one a moment, which is better than to own it still.
            self._close(remove=remove)

    @property
    def _owned(self) -> LedgerFile:
        assert self._own is not None  # noqa: S101 - taken when it was opened
        return self._own

    async def _in_thread(self, function: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(function, limiter=self._thread)
        except RuntimeError as error:
            raise LedgerError(f"no thread can be started just now: {error}") from error

    def _take_own(self) -> _Found:
        for is_last in [False] * _TRIES + [True]:
            _make_private(self._directory)
            try:
                self._own = self._first_free()
                break
            except FileNotFoundError:
                # A worker that has just ended may have removed the directory, which was empty.
                if is_last:
                    raise
        return _read(self._owned)

    def _first_free(self) -> LedgerFile:
        for number in range(1, _MOST):
            file = LedgerFile.take(self._directory / str(number))
            if file is not None:
                return file
        raise LedgerError("too many workers of this name live at the same time")

    def _take_orphaned(self) -> _Found:
        # Those of the last time, which could not be written down here.
        self._let_orphaned_go(remove=False)
        found = _Found()
        for lock in sorted(self._directory.glob("*.lock")):
            base = lock.with_suffix("")
            if base.with_suffix(".sqlite") == self._owned.path:
                continue
            try:
                orphaned = LedgerFile.take(base)
                if orphaned is not None:
                    self._orphaned.append(orphaned)
                    found.add(_read(orphaned))
            except (LedgerError, OSError) as error:
                # It is tried again the next time, and in the way of none of the others.
                found.unread[lock.name] = str(error) if isinstance(error, LedgerError) else _reason(error)
                if self._orphaned and self._orphaned[-1].path == base.with_suffix(".sqlite"):
                    self._orphaned.pop().let_go(remove=False)
        return found

    def _told(self, found: _Found) -> Sequence[Entry]:
        for name, reason in found.put_aside:
            self._notify(
                Notice(
                    f"A ledger in {self._directory} cannot be read ({reason}), and was put aside as {name}: flow runs"
                    " of which it told may stay as they are. A new one was begun.",
                    warning=True,
                )
            )
        for name, reason in found.unread.items():
            if name not in self._unread:
                self._notify(
                    Notice(
                        f"What a worker that is gone may have left in {self._directory} ({name}) cannot be read"
                        f" ({reason}): flow runs of which it tells stay as they are until it can.",
                        warning=True,
                    )
                )
        self._unread = found.unread.keys()
        return found.entries

    def _let_orphaned_go(self, *, remove: bool) -> None:
        while self._orphaned:
            self._orphaned.pop().let_go(remove=remove)

    def _close(self, *, remove: bool) -> None:
        self._let_orphaned_go(remove=False)
        if self._own is None:
            return
        self._own.let_go(remove=remove)
        # Where others still have something, it stays.
        with suppress(OSError):
            self._directory.rmdir()


def _read(file: LedgerFile) -> _Found:
    """What is in a file that we own; one that cannot be read gets another name.

    Raises:
        LedgerError: neither is possible.
    """
    try:
        return _Found(list(file.read()))
    except LedgerError as error:
        return _Found(put_aside=[(file.put_aside().name, str(error))])


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _make_private(directory: Path) -> None:
    """See to it that a directory is there, and that only this user may look into it."""
    # Those above it, too, or somebody could put another one in its place. What is there already is the user's.
    for above in reversed(directory.parents):
        if not above.exists():
            above.mkdir(exist_ok=True)
            above.chmod(0o700)
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise LedgerError("it belongs to another user")
    # It may have been there before, or the umask may have taken away even what we need.
    if status.st_mode & 0o777 != 0o700:
        directory.chmod(0o700)
