"""What Ctrl-C does to a measurement: everything is cleaned up, and nothing is reported."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from trioworker.errors import sole_errors_bare

INTERRUPTED: Final = 130
"""The exit code then: as of a shell, for a program that was ended by Ctrl-C."""

Result = TypeVar("Result")


async def unless_interrupted(measure: Callable[[], Awaitable[Result]]) -> Result | None:
    """Measure, unless SIGINT or SIGTERM comes before the end; then None, after all was cleaned up."""
    result: Result | None = None

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            await anext(signals)
            measuring.cancel()
            # Whoever presses the keys twice gets no more than that.
            await trio.sleep_forever()

    with sole_errors_bare():
        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            with trio.CancelScope() as measuring:
                result = await measure()
            nursery.cancel_scope.cancel()
    return result
