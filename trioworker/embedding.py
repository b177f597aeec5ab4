"""A worker as a context manager, for Trio programs that have one inside.

The program may be a guest (`trio.lowlevel.start_guest_run`), and its thread any thread. The one thing that a host
must not do is reap children that are not its own, as asyncio's `FastChildWatcher` does: then nobody knows how the
process of a flow run has ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

import trio

from trioworker.config import WorkerConfig, WorkerOptions
from trioworker.errors import sole_errors_bare
from trioworker.event_loop import require_trio
from trioworker.notices import Notify, log_notice
from trioworker.surroundings import Surroundings
from trioworker.worker import Worker


@asynccontextmanager
async def open_worker(
    *,
    notify: Notify = log_notice,
    surroundings: Surroundings | None = None,
    **options: Unpack[WorkerOptions],
) -> AsyncIterator[Worker]:
    """Run a worker of a Prefect work pool for the length of a block.

    ```python
    async with trioworker.open_worker(pool="my-pool", limit=4) as worker:
        ...
    ```

    The block is entered once the worker is polling. Its normal end drains the worker; an exception in it is
    the hard stop, and leaves as it is. An error of the worker itself cancels the block and leaves in its place.
    Where both have failed, the two leave in a group.

    Args:
        notify: told of changes of condition; by default they are logged.
        surroundings: what the worker touches of the world; by default the real one.
        options: the fields of `WorkerConfig`, by name; `pool` at least. Times are in seconds.

    Raises:
        WorkerError: the worker cannot start, or gave up; see `trioworker.errors`.
        SettingsError: a setting that cannot be right.
        APIError: the API cannot be used as configured.
    """
    require_trio()
    worker = Worker(WorkerConfig(**options), notify=notify, surroundings=surroundings)
    error_in_block: BaseException | None = None
    error_of_worker: BaseException | None = None
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
    except (Exception, BaseExceptionGroup) as failure:
        if error_in_block is None:
            raise
        error_of_worker = _without_cancellation(failure)
    finally:
        # In place of a cancellation at the same moment too: that is told again, an error is not.
        if error_in_block is not None:
            raise _together(error_in_block, error_of_worker)


def _together(error_in_block: BaseException, error_of_worker: BaseException | None) -> BaseException:
    if error_of_worker is None:
        return error_in_block
    return BaseExceptionGroup(
        "errors of a worker and of the block that it was opened for", [error_in_block, error_of_worker]
    )


def _without_cancellation(error: BaseException) -> BaseException | None:
    return error.split(trio.Cancelled)[1] if isinstance(error, BaseExceptionGroup) else error
