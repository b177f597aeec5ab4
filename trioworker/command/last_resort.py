"""The end of a process whose functions do not end: Trio can abandon neither a thread nor code that is shielded."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from trioworker.notices import Notice, Notify

# Seconds by which a worker may be late that ends by itself, which is always better.
_MARGIN = 0.5

# Seconds to write what has been said.
_FLUSH = 1.0

_CUT_OFF = 1


def leave() -> None:
    """End this process at once, with the exit code for runs that were cut off; what was written is flushed.

    Of files that functions have open, and of what they registered for the end of the program, nobody takes care.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        # A thread that is stuck in writing would hold up the flushing.
        faulthandler.dump_traceback_later(_FLUSH, exit=True, file=nowhere)
        with suppress(OSError, ValueError):
            logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(_CUT_OFF)


class LastResort:
    """Leaves with the whole process if a worker that was told to stop is not gone in time.

    Args:
        notify: told before.
        leave: ends the process.
    """

    def __init__(self, notify: Notify, leave: Callable[[], None] = leave) -> None:
        self._notify = notify
        self._leave = leave
        self._patience = trio.CancelScope()

    def expect_end(self, seconds: float) -> None:
        """Take note that the worker ought to be gone within so many seconds; the earliest such moment counts."""
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + seconds + _MARGIN)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Be ready for as long as a block lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            yield
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        with self._patience:
            await trio.sleep_forever()
        if self._patience.cancelled_caught:
            words = "Leaving with functions still going on, which only the end of the process ends."
            self._notify(Notice(words, warning=True))
            self._leave()
