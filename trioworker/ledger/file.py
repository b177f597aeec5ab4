"""One ledger file: SQLite, with a lock beside it that tells whether its owner lives.

The lock is the kernel's: it goes with the process that holds it, however that ends. The file is there only while
something is in it, so that a worker with nothing in hand neither reads nor keeps anything, SQLite included.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args
from uuid import UUID

from trioworker.infrastructure.protocol import Trace
from trioworker.ledger.entry import Entry, Fate, Stage
from trioworker.ledger.ledger import LedgerError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["LedgerFile"]

T = TypeVar("T")

_FORMAT: Final = 1
"""Goes up when files of today could be misread by the worker of yesterday."""

_SUFFIXES: Final = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal")

_BUSY_SECONDS: Final = 5.0


class LedgerFile:
    """A ledger file that this process owns; `take` makes one. All of this blocks, and belongs into a thread."""

    def __init__(self, base: Path, lock: int) -> None:
        self._base = base
        self._lock = lock
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def take(cls, base: Path) -> LedgerFile | None:
        """Own a file, if nobody else does.

        Args:
            base: its path, without suffix.

        Raises:
            OSError: the lock cannot be had.
        """
        path = base.with_suffix(".lock")
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last owner may have removed it since we have opened it.
                if _is_file_of(lock, path):
                    return cls(base, lock)
            except BlockingIOError:
                os.close(lock)
                return None
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    @property
    def path(self) -> Path:
        """Of the file itself, which need not be there."""
        return self._base.with_suffix(".sqlite")

    def read(self) -> Sequence[Entry]:
        """All entries, oldest first. What is no ledger is put aside, and told.

        Raises:
            LedgerError: they cannot be read.
        """
        if not self.path.exists():
            return ()
        with self._errors_explained():
            rows = self._open().execute("SELECT document FROM entries ORDER BY rowid").fetchall()
            return [_decoded(document) for (document,) in rows]

    def put_aside(self) -> Path:
        """Give a file that cannot be read another name; what that is.

        Raises:
            LedgerError: it cannot be done.
        """
        self._close()
        moment = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        damaged = self._base.with_name(f"{self._base.name}-damaged-{moment}")
        with self._errors_explained():
            for suffix in _SUFFIXES:
                with suppress(FileNotFoundError):
                    os.replace(self._base.with_suffix(suffix), damaged.with_suffix(suffix))  # noqa: PTH105
        return damaged.with_suffix(".sqlite")

    def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        """Keep entries and drop others: all of it or nothing; it lasts when this returns.

        Raises:
            LedgerError: it cannot be done.
        """
        with self._errors_explained():
            connection = self._open()
            with _transaction(connection):
                connection.executemany(
                    "INSERT INTO entries (attempt, flow_run_id, stage, document) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (attempt) DO UPDATE SET stage = excluded.stage, document = excluded.document",
                    [
                        (str(entry.attempt), str(entry.flow_run_id), entry.stage.value, _encoded(entry))
                        for entry in kept
                    ],
                )
                connection.executemany(
                    "DELETE FROM entries WHERE attempt = ?", [(str(attempt),) for attempt in dropped]
                )

    def let_go(self, *, remove: bool) -> None:
        """Own it no more.

        Args:
            remove: whether nothing in it is needed any more.
        """
        self._close()
        # What is left is looked at by the next worker; nothing is in it then but what is settled.
        with suppress(OSError):
            if remove:
                for suffix in (*_SUFFIXES, ".lock"):
                    self._base.with_suffix(suffix).unlink(missing_ok=True)
        os.close(self._lock)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            import sqlite3  # noqa: PLC0415 - see above

            with suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        import sqlite3  # noqa: PLC0415 - see above

        is_new = not self.path.exists()
        if is_new:
            # For nobody else to read, whatever the umask is.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        # No two threads use it at once, but not always the same one.
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # Nobody but us opens it, so that no memory has to be shared; and what is written lasts.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # In pages of 4 kB: what is needed of it is small.
            connection.execute("PRAGMA wal_autocheckpoint = 128")
            connection.execute("PRAGMA journal_size_limit = 524288")
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            import sqlite3  # noqa: PLC0415 - see above
        except ImportError as error:
            raise LedgerError(f"this Python has no SQLite ({error})") from error
        try:
            yield
        except sqlite3.DatabaseError as error:
            # After an error in the middle of it, nothing is certain of a connection but what the file says.
            self._close()
            raise LedgerError(str(error)) from error
        except OSError as error:
            raise LedgerError(error.strerror or str(error)) from error


def _prepare(connection: sqlite3.Connection) -> None:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version == 0:
        with _transaction(connection):
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entries"
                " (attempt TEXT PRIMARY KEY, flow_run_id TEXT NOT NULL, stage TEXT NOT NULL, document TEXT NOT NULL)"
            )
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
    elif version != _FORMAT:
        raise LedgerError(f"it is of format {version}, and this trioworker knows only format {_FORMAT}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors, as for want of room, SQLite has done so itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _encoded(entry: Entry) -> str:
    return json.dumps(
        {
            "attempt": str(entry.attempt),
            "flow_run_id": str(entry.flow_run_id),
            "flow_run_name": entry.flow_run_name,
            "flow_id": str(entry.flow_id),
            "deployment_id": None if entry.deployment_id is None else str(entry.deployment_id),
            "worker_name": entry.worker_name,
            "due": None if entry.due is None else entry.due.isoformat(),
            "found_as": None if entry.found_as is None else str(entry.found_as),
            "found_at": entry.found_at,
            "stage": entry.stage.value,
            "transition_ids": sorted(map(str, entry.transition_ids)),
            "trace": None if entry.trace is None else [entry.trace.identifier, entry.trace.details],
            "ended": entry.ended,
            "fate": entry.fate,
        }
    )


def _decoded(document: str) -> Entry:
    """The entry that a document is.

    Raises:
        LedgerError: it is none.
    """
    try:
        fields: dict[str, Any] = json.loads(document)

        def optional(name: str, convert: Callable[[Any], T]) -> T | None:
            return None if fields[name] is None else convert(fields[name])

        return Entry(
            attempt=UUID(fields["attempt"]),
            flow_run_id=UUID(fields["flow_run_id"]),
            flow_run_name=_text(fields["flow_run_name"]),
            flow_id=UUID(fields["flow_id"]),
            deployment_id=optional("deployment_id", UUID),
            worker_name=_text(fields["worker_name"]),
            due=optional("due", datetime.fromisoformat),
            found_as=optional("found_as", UUID),
            found_at=optional("found_at", _text),
            stage=Stage(fields["stage"]),
            transition_ids=frozenset(map(UUID, fields["transition_ids"])),
            trace=optional("trace", lambda trace: _trace(*trace)),
            ended=_text(fields["ended"]),
            fate=optional("fate", _fate),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(f"an entry cannot be read ({type(error).__name__}: {error})") from error


def _trace(identifier: Any, details: Any) -> Trace:
    return Trace(None if identifier is None else _text(identifier), _text(details))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of text")
    return value


def _fate(value: Any) -> Fate:
    for fate in get_args(Fate):
        if value == fate:
            known: Fate = fate
            return known
    raise ValueError("a fate that is none")
