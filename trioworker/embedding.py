"""A worker as a context manager, for Trio programs that have one inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from trioworker.config import WorkerConfig
from trioworker.errors import sole_errors_bare
from trioworker.notices import Notify, log_notice
from trioworker.surroundings import Surroundings
from trioworker.worker import Worker


@asynccontextmanager
async def open_worker(
    *,
    notify: Notify = log_notice,
    surroundings: Surroundings | None = None,
    **options: Any,
) -> AsyncIterator[Worker]:
    """Run a worker for the length of a block.

    The block is entered once the worker is polling. Its normal end drains the worker; an exception in it is
    the hard stop, and leaves as it is. An error of the worker itself cancels the block and leaves in its place.

    Args:
        notify: told of changes of condition; by default they are logged.
        surroundings: what the worker touches of the world; by default the real one.
        options: the fields of `WorkerConfig`.

    Raises:
        WorkerError: the worker cannot start, or gave up.
        SettingsError: a setting that cannot be right.
    """
    worker = Worker(WorkerConfig(**options), notify=notify, surroundings=surroundings)
    error_in_block: BaseException | None = None
    try:
        with sole_errors_bare():
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                try:
                    yield worker
                except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again, once the worker is gone
                    error_in_block = error
                    nursery.cancel_scope.cancel()
                else:
                    worker.shutdown()
    finally:
        # In place of a cancellation at the same moment too: that is told again, an error is not.
        if error_in_block is not None:
            raise error_in_block
