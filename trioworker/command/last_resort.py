"""The end of a process whose functions do not end: Trio can abandon neither a thread nor code that is shielded."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from trioworker.notices import Notice, Notify

# Seconds by which a worker may be late that ends by itself, which is always better.
_MARGIN = 0.5

# Seconds after which a wake-up is late: something has held up the event loop, and the worker with it.
_LATE = 0.25

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

    If that time passes while a function holds up the event loop, the worker could not stop either: it gets the
    shortest time that was asked for once more, and no more than once.

    Args:
        notify: told before.
        leave: ends the process.
    """

    def __init__(self, notify: Notify, leave: Callable[[], None] = leave) -> None:
        self._notify = notify
        self._leave = leave
        self._patience = trio.CancelScope()
        self._shortest = math.inf

    def expect_end(self, seconds: float) -> None:
        """Take note that the worker ought to be gone within so many seconds; the earliest such moment counts."""
        self._shortest = min(self._shortest, seconds)
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + seconds + _MARGIN)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Be ready for as long as a block lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            yield
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        await self._wait()
        if trio.current_time() > self._patience.deadline + _LATE:
            # The worker's own deadlines have passed just now as well, and it acts on them in this same moment.
            # If that cuts its runs off, it says how little time that takes, which is what counts from then on.
            self._patience = trio.CancelScope()
            self.expect_end(self._shortest)
            await self._wait()
        words = "Leaving with functions still going on, which only the end of the process ends."
        self._notify(Notice(words, warning=True))
        self._leave()

    async def _wait(self) -> None:
        """Wait until patience is over."""
        with self._patience:
            await trio.sleep_forever()
