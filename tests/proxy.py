"""An HTTP proxy on loopback: in front of a server, or where HTTP_PROXY and HTTPS_PROXY point to.

Plain requests are passed on. What becomes of websockets is what tests are about.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from contextlib import suppress

import attrs
import httpx
import trio

_HEAD_END = b"\r\n\r\n"

# What a client sends over a websocket until it has asked for something: who it is, and what it wants.
_ASKED = 2


class Websockets(enum.Enum):
    """What is done with a request for a websocket."""

    PASS = "passed on"
    CLOSE = "the connection is closed without an answer"
    REFUSE = "answered with 403"
    CUT = "passed on, and cut after a second"
    HANG = "never answered"
    MUTE = "passed on until something is asked for over it; from then on nothing comes back, though it stays open"


@attrs.frozen
class Passage:
    """A request that came to the proxy.

    Attributes:
        method: the HTTP method; CONNECT asks for a tunnel.
        target: as it was sent: a path, a URL, or a host and a port.
        websocket: whether it asked for one.
        headers: the lines of its head.
    """

    method: str
    target: str
    websocket: bool
    headers: tuple[str, ...]


@attrs.define(eq=False)
class Proxy:
    """A proxy at work.

    Attributes:
        port: where it listens.
        upstream: the server behind it.
        websockets: what is done with them; may be changed at any time.
        instead: what other requests are answered with, in place of being passed on, and then closed; None to pass
            them on, and no bytes at all for no answer ever. May be changed at any time.
        passages: what came, in order.
    """

    port: int
    upstream: httpx.URL | None
    websockets: Websockets
    instead: bytes | None = None
    passages: list[Passage] = attrs.field(factory=list)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def url(self) -> str:
        """The proxy itself, for HTTP_PROXY."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """The server behind it, by way of the proxy."""
        assert self.upstream is not None, "this proxy is in front of no server"
        return f"{self.url}{self.upstream.path}"

    def websockets_asked_for(self) -> int:
        return sum(passage.websocket for passage in self.passages)

    def vanish(self) -> None:
        """Drop all connections, and take no more."""
        self._scope.cancel()

    async def serve_all(self, listeners: list[trio.SocketListener]) -> None:
        """Serve until it vanishes."""
        with self._scope:
            await trio.serve_listeners(self.serve, listeners)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection, which is good for one request."""
        with suppress(trio.BrokenResourceError):
            head, rest = await _read_head(stream)
            if not head:
                return
            passage = _passage(head)
            self.passages.append(passage)
            if passage.method == "CONNECT":
                host, _, port = passage.target.partition(":")
                await _join(stream, host, int(port), first=rest, answer=b"HTTP/1.1 200 OK\r\n\r\n")
            elif not passage.websocket and self.instead is not None:
                await stream.send_all(self.instead)
                if not self.instead:
                    await trio.sleep_forever()
            elif passage.websocket and self.websockets is Websockets.REFUSE:
                await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            elif passage.websocket and self.websockets is Websockets.HANG:
                await trio.sleep_forever()
            elif not passage.websocket or self.websockets is not Websockets.CLOSE:
                to = self._destination(passage)
                with trio.move_on_after(
                    1 if passage.websocket and self.websockets is Websockets.CUT else math.inf
                ):
                    await _join(
                        stream,
                        to.host,
                        to.port or 80,
                        first=_onward(head, passage, to) + rest,
                        heard=_ASKED
                        if passage.websocket and self.websockets is Websockets.MUTE
                        else math.inf,
                    )

    def _destination(self, passage: Passage) -> httpx.URL:
        if passage.target.startswith("http://"):
            return httpx.URL(passage.target)
        assert self.upstream is not None, f"{passage.target} is for nobody"
        return self.upstream.copy_with(raw_path=passage.target.encode())


def _passage(head: bytes) -> Passage:
    first, *headers = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    websocket = any(header.lower().replace(" ", "") == "upgrade:websocket" for header in headers)
    return Passage(method, target, websocket, tuple(headers))


def _onward(head: bytes, passage: Passage, to: httpx.URL) -> bytes:
    """The request as the server behind gets it; a plain one is the last of its connection."""
    headers = [
        header
        for header in passage.headers
        if passage.websocket or not header.lower().startswith(("connection:", "proxy-"))
    ]
    if not passage.websocket:
        headers.append("Connection: close")
    lines = [f"{passage.method} {to.raw_path.decode()} HTTP/1.1", *headers]
    return "\r\n".join(lines).encode("latin-1") + _HEAD_END


async def _read_head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    head = b""
    while _HEAD_END not in head:
        chunk = await stream.receive_some()
        if not chunk:
            return b"", b""
        head += chunk
    before, end, rest = head.partition(_HEAD_END)
    return before + end, rest


async def _join(
    near: trio.SocketStream,
    host: str,
    port: int,
    *,
    first: bytes,
    answer: bytes = b"",
    heard: float = math.inf,
) -> None:
    """Copy between a connection and another one to be made, until either ends.

    Args:
        near: the connection.
        host: where the other one goes.
        port: likewise.
        first: what is sent to it first.
        answer: what is answered first.
        heard: how many pieces may come from `near` until nothing is copied to it any more.
    """
    try:
        far = await trio.open_tcp_stream(host, port)
    except OSError:
        await near.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    async with far:
        await near.send_all(answer)
        await far.send_all(first)
        async with trio.open_nursery() as nursery:
            pieces = 0

            def note() -> bool:
                nonlocal pieces
                pieces += 1
                return True

            nursery.start_soon(_copy, near, far, nursery.cancel_scope, note)
            nursery.start_soon(_copy, far, near, nursery.cancel_scope, lambda: pieces < heard)


async def _copy(
    source: trio.SocketStream,
    sink: trio.SocketStream,
    until: trio.CancelScope,
    wanted: Callable[[], bool],
) -> None:
    with suppress(trio.BrokenResourceError):
        async for chunk in source:
            if wanted():
                await sink.send_all(chunk)
    until.cancel()


async def serve_proxy(
    upstream: str | None = None,
    *,
    websockets: Websockets = Websockets.PASS,
    task_status: trio.TaskStatus[Proxy] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be a proxy; started with it once it listens.

    Args:
        upstream: the server that it stands in front of, for requests that name none.
        websockets: what is done with requests for a websocket.
        task_status: told of the proxy.
    """
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    proxy = Proxy(port, None if upstream is None else httpx.URL(upstream), websockets)
    task_status.started(proxy)
    await proxy.serve_all(listeners)
