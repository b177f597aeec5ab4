"""Connections from strangers, served in a way that none of them can harm the worker."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

__all__ = ["accept", "serve_visitors"]

_logger = logging.getLogger(__name__)

_VISITORS: Final = 16
"""How many connections there are at most; for one more, the oldest has to go."""

_VISIT: Final = 60.0
"""Seconds after which a connection is closed, whatever it is about."""

_ACCEPT_PAUSE: Final = 0.1
"""Seconds until the next try when no connection can be accepted, for want of descriptors mostly."""


async def accept(listener: trio.SocketListener, explain: Callable[[str], None]) -> trio.SocketStream:
    """The next connection, also if none can be accepted just now.

    Args:
        listener: where they come.
        explain: told why one could not be accepted.
    """
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            explain(f"cannot accept a connection just now: {error}")
            await trio.sleep(_ACCEPT_PAUSE)


async def serve_visitors(
    listener: trio.SocketListener, serve: Callable[[trio.SocketStream], Awaitable[object]]
) -> NoReturn:
    """Serve connections until cancelled: few at a time, none for long. Whatever goes wrong with one ends it alone.

    Args:
        listener: where they come.
        serve: serves one. It may shield itself from a cancellation while it sends or receives: the connection is
            closed under it then.
    """
    visits: dict[trio.CancelScope, None] = {}

    async def visit(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(_close_at_end, stream)
                    await serve(stream)
                    nursery.cancel_scope.cancel()
        except* Exception as errors:  # noqa: BLE001 - the failure boundary of a connection
            _debug(f"a connection was ended by {errors.exceptions[0]!r}")
        finally:
            visits.pop(scope, None)

    async with trio.open_nursery() as nursery:
        while True:
            stream = await accept(listener, _debug)
            if len(visits) >= _VISITORS:
                oldest = next(iter(visits))
                oldest.cancel()
                del visits[oldest]
            scope = trio.CancelScope(deadline=trio.current_time() + _VISIT)
            visits[scope] = None
            nursery.start_soon(visit, stream, scope)


async def _close_at_end(
    stream: trio.SocketStream, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        # At once, and not `aclose`: that also wakes up whoever has shielded itself as it sends.
        stream.socket.close()


def _debug(message: str) -> None:
    _logger.debug("%s", message)
