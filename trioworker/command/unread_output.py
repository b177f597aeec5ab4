"""Standard output and error for a worker that goes on though nobody reads them.

Its flow runs write there too. When whoever reads a pipe or a terminal stands still, a talkative run fills it, and
waits. The worker, which would wait with its next line, has other things to do: heartbeats, cancellations, signals.
"""

from __future__ import annotations

import io
import logging
import os
import select
import stat
import threading
from typing import Any, Final, TextIO

__all__ = ["waiting_for_nobody"]

_logger = logging.getLogger("trioworker")

_PATIENCE: Final = 0.2
"""Seconds for which a line waits once; after that none waits until what was kept could be written."""

_LAST_PATIENCE: Final = 1.0
"""Seconds for which the end of the program waits."""

_KEPT: Final = 2**20
"""Bytes that are kept at most until they can be written."""

_PIECE: Final = select.PIPE_BUF
"""Bytes that can be written without waiting to whatever says that it can be written to."""


class _Outlet(io.RawIOBase):
    """Writes what can be written without waiting, and keeps the rest for later.

    Between the question and the writing a flow run may take the room, if somebody reads at this very moment; then the
    worker waits for that reader after all, as every program does.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._kept = bytearray()
        self._stuck = False
        self._dropped = 0
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Take everything, at once."""
        given = bytes(data)
        with self._lock:
            # For the sake of the room that this may make.
            self._write_kept(0)
            if len(self._kept) + len(given) <= _KEPT:
                self._kept += given
            else:
                self._dropped += given.count(b"\n")
            self._write_kept(0 if self._stuck else _PATIENCE)
            dropped = 0
            if not self._stuck:
                dropped, self._dropped = self._dropped, 0
        if dropped:
            _logger.warning("%d lines of the worker were dropped, since nobody read its output", dropped)
        return len(given)

    def flush(self) -> None:
        with self._lock:
            self._write_kept(0 if self._stuck else _PATIENCE)

    def close(self) -> None:
        """Write what can be written; the descriptor stays open."""
        if not self.closed:
            with self._lock:
                self._write_kept(_LAST_PATIENCE)
        super().close()

    def _write_kept(self, patience: float) -> None:
        while self._kept:
            self._stuck = not self._has_room(patience)
            if self._stuck:
                return
            try:
                written = os.write(self._descriptor, self._kept[:_PIECE])
            except BlockingIOError:
                # Whoever shares it has made it such.
                self._stuck = True
                return
            except OSError:
                # The caller hears of it; who has gone reads nothing later either.
                self._kept.clear()
                raise
            del self._kept[:written]
        self._stuck = False

    def _has_room(self, patience: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(patience * 1000))


def waiting_for_nobody(stream: object) -> Any:
    """A stream in the place of standard output or error that keeps what it cannot write at once.

    Args:
        stream: what it takes the place of. What is none of Python's own, or a file, which nobody needs to read, is
            returned as it is.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return _made_from(stream)


def _made_from(stream: TextIO) -> TextIO:
    try:
        stream.flush()
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return stream
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)):
        return stream
    # There is no buffer between them: it would keep what it could not write a second time.
    outlet: Any = _Outlet(descriptor)
    return io.TextIOWrapper(
        outlet, encoding=stream.encoding, errors=stream.errors, line_buffering=bool(stream.line_buffering)
    )
