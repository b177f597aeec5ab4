"""The health server: `GET /health`, as Prefect's worker answers it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import trio

from trioworker.api.condition import Condition
from trioworker.errors import HealthServerError
from trioworker.visitors import serve_visitors

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
    from hypercorn.app_wrappers import ASGIWrapper  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from hypercorn.trio.tcp_server import TCPServer  # noqa: PLC0415
    from hypercorn.trio.worker_context import WorkerContext  # noqa: PLC0415
    from hypercorn.typing import ConnectionState  # noqa: PLC0415

    config = Config()
    config.accesslog = None
    config.errorlog = None
    # Over HTTP/2, whoever asks more than that at a time wants something else.
    config.h2_max_concurrent_streams = 4
    app, context = ASGIWrapper(_application(health)), WorkerContext(None)

    # Not by `hypercorn.trio.serve`, which takes any number of connections, lets an error in one of them end the
    # server, and waits without end, shielded, for whoever asks and does not read the answers.
    async def serve(stream: trio.SocketStream) -> None:
        # It serves plain connections too, whatever its type says.
        await TCPServer(app, config, context, ConnectionState({}), cast("Any", stream)).run()

    with bound:
        task_status.started(_url_of(bound))
        await serve_visitors(trio.SocketListener(trio.socket.from_stdlib_socket(bound)), serve)


def _url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _application(health: PollingHealth) -> ASGIFramework:
    async def application(scope: Any, _receive: object, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] == "http":
            await _answer(scope["method"], scope["path"], health, send)

    return application


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
