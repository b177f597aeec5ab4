"""The health server: `GET /health`, as Prefect's worker answers it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trioworker.api.condition import Condition
from trioworker.errors import HealthServerError

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

_INTERVALS_UNTIL_UNHEALTHY = 30


class PollingHealth:
    """Whether the worker polls as it should.

    It is healthy as long as the last good poll is no older than 30 poll intervals. Until the first one the
    start counts, and time that the API asked to be left alone does not. A worker that drains no longer polls
    and is well.

    Args:
        query_interval: seconds between polls.
        condition: knows what the API asked for.
    """

    def __init__(self, query_interval: float, condition: Condition) -> None:
        self._window = query_interval * _INTERVALS_UNTIL_UNHEALTHY
        self._condition = condition
        self._last_polled = trio.current_time()
        self._draining = False

    def polled(self) -> None:
        """Take note of a good poll."""
        self._last_polled = trio.current_time()

    def draining(self) -> None:
        """Take note that polling has ended for good."""
        self._draining = True

    @property
    def healthy(self) -> bool:
        """Whether all is well."""
        if self._draining:
            return True
        window_start = max(self._last_polled, self._condition.back_off_until)
        return trio.current_time() - window_start <= self._window


def bind_health_socket(host: str, port: int) -> socket.socket:
    """Take the health server's address before anything else is begun.

    Args:
        host: an address of this machine.
        port: the port; 0 for any that is free.

    Raises:
        HealthServerError: it is in use, or not of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(100)
    except OSError as error:
        bound.close()
        raise HealthServerError(
            f"The health server cannot listen on {host}:{port}: {error.strerror or error}."
            " Set PREFECT_WORKER_WEBSERVER_HOST and PREFECT_WORKER_WEBSERVER_PORT to an address that is free."
        ) from error
    return bound


async def serve_health(
    bound: socket.socket,
    health: PollingHealth,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on a bound socket until cancelled, then close it; reports its URL through `task_status`."""
    # Most workers have no health server, and importing one takes longer than the rest of the worker.
    from hypercorn.config import Config, Sockets  # noqa: PLC0415
    from hypercorn.trio import serve  # noqa: PLC0415

    class BoundConfig(Config):
        def create_sockets(self) -> Sockets:
            # Given by number, it would stay open when we are cancelled before it is asked for.
            return Sockets([], [bound], [])

    config = BoundConfig()
    config.loglevel = "ERROR"
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 0.5

    with bound:
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(partial(serve, _application(health), config, mode="asgi"))
            task_status.started(urls[0])


def _application(health: PollingHealth) -> ASGIFramework:
    async def application(
        scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await _answer(scope["method"], scope["path"], health, send)

    return application


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _answer(
    method: str, path: str, health: PollingHealth, send: Callable[[Any], Awaitable[None]]
) -> None:
    if path != "/health":
        status, body = 404, b'{"detail":"Not Found"}'
    elif method not in {"GET", "HEAD"}:
        status, body = 405, b'{"detail":"Method Not Allowed"}'
    elif health.healthy:
        status, body = 200, b'{"message":"OK"}'
    else:
        status, body = 503, b'{"message":"Worker may be unresponsive at this time"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # Whoever asked may be gone before the answer.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
