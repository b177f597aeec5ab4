"""A proxy between a worker with its runs and the server, which can be shut, can refuse, and can lose an answer."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Final

import attrs
import httpx
import trio

from benchmarks.apparatus.http_requests import Request, RequestReader
from benchmarks.apparatus.request_kinds import kind_of

_UNAUTHORIZED: Final = b'{"exception_message":"Unauthorized"}'

UNAUTHORIZED: Final = (
    f"HTTP/1.1 {HTTPStatus.UNAUTHORIZED.value} Unauthorized\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_UNAUTHORIZED)}\r\n\r\n"
).encode() + _UNAUTHORIZED
"""What a Prefect server answers to who has no valid key."""

UNAVAILABLE: Final = (
    f"HTTP/1.1 {HTTPStatus.SERVICE_UNAVAILABLE.value} Service Unavailable\r\n"
    "Retry-After: 2\r\nContent-Length: 0\r\n\r\n"
).encode()
"""What a server answers that has too much to do."""

# A connection that is closed with this is reset, and what was on its way is lost.
_RESET: Final = struct.pack("ii", 1, 0)


@attrs.define(eq=False)
class _Loss:
    """An answer that is going to be lost.

    Attributes:
        of: tells its request from others.
        then: what happens at the moment when the server has answered.
        is_caught: whether the request has come.
    """

    of: Callable[[Request], bool]
    then: Callable[[], None]
    is_caught: bool = False


@attrs.define(eq=False)
class _Connection:
    """A connection through the valve.

    Attributes:
        near: its end at the client.
        far: its end at the server.
        scope: around all that serves it.
        loss: what is lost of it, from its next answer on.
    """

    near: trio.SocketStream
    far: trio.SocketStream
    scope: trio.CancelScope
    loss: _Loss | None = None
    _answering: trio.Lock = attrs.field(factory=trio.Lock)

    async def answer(self, data: bytes | bytearray) -> None:
        """Send something to the client, be it from the server or not."""
        async with self._answering:
            await self.near.send_all(data)


@attrs.define(eq=False)
class Valve:
    """A valve at work: whatever comes passes unchanged, unless it was told otherwise.

    Attributes:
        server: the address of the server behind it.
        port: where it listens.
        kinds: how many requests came, by kind.
    """

    server: httpx.URL
    port: int = 0
    kinds: Counter[str] = attrs.field(factory=Counter)
    _is_shut: bool = False
    _refusal: bytes | None = None
    _unmuted: trio.Event | None = None
    _loss: _Loss | None = None
    _connections: set[_Connection] = attrs.field(factory=set)
    _more: trio.Event = attrs.field(factory=trio.Event)

    @property
    def url(self) -> str:
        """The API as it is reached through the valve."""
        return f"http://127.0.0.1:{self.port}/api"

    async def sees(self, kind: str) -> None:
        """Wait for the first request of a kind."""
        while not self.kinds[kind]:
            await self._more.wait()

    def shut(self) -> None:
        """Reset all connections, and from now on each one that is made, until it is opened."""
        self._is_shut = True
        for connection in self._connections:
            connection.scope.cancel()

    def open(self) -> None:
        """Let connections pass again."""
        self._is_shut = False

    def mute(self) -> None:
        """Let nothing pass any more, though all connections stay open, until it is unmuted."""
        self._unmuted = trio.Event()

    def unmute(self) -> None:
        """Let everything pass again, what came meanwhile first."""
        if self._unmuted is not None:
            self._unmuted.set()
        self._unmuted = None

    def refuse(self, answer: bytes) -> None:
        """Give this answer to each request that comes, until they are admitted; websockets that are open stay so."""
        self._refusal = answer

    def admit(self) -> None:
        """Pass requests on again."""
        self._refusal = None

    def lose_answer(self, of: Callable[[Request], bool], then: Callable[[], None]) -> None:
        """Pass a request on, but not its answer: instead of that, reset the connection.

        Args:
            of: tells the request from others; the first one counts.
            then: called when the server has answered, before the connection is reset.
        """
        self._loss = _Loss(of, then)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        upstream = trio.SocketStream(trio.socket.socket())
        async with stream, upstream:
            if not self._is_shut:
                await self._join(stream, upstream)
            if self._is_shut:
                _reset_when_closed(stream)

    async def _join(self, stream: trio.SocketStream, upstream: trio.SocketStream) -> None:
        await upstream.socket.connect((self.server.host, self.server.port or 80))
        async with trio.open_nursery() as nursery:
            connection = _Connection(stream, upstream, nursery.cancel_scope)
            self._connections.add(connection)
            try:
                nursery.start_soon(self._pass_requests, connection)
                nursery.start_soon(self._pass_answers, connection)
                await trio.sleep_forever()
            finally:
                self._connections.remove(connection)

    async def _pass_requests(self, connection: _Connection) -> None:
        reader = RequestReader()
        with suppress(trio.BrokenResourceError):
            async for data in connection.near:
                if reader.is_websocket:
                    await connection.far.send_all(data)
                for request in reader.feed(bytes(data)):
                    await self._pass_request(request, connection)
        connection.scope.cancel()

    async def _pass_request(self, request: Request, connection: _Connection) -> None:
        self.kinds[kind_of(request)] += 1
        self._more.set()
        self._more = trio.Event()
        if self._refusal is not None:
            await connection.answer(self._refusal)
            return
        if self._loss is not None and not self._loss.is_caught and self._loss.of(request):
            self._loss.is_caught = True
            connection.loss = self._loss
        if self._unmuted is not None:
            await self._unmuted.wait()
        await connection.far.send_all(request.head + request.body)

    async def _pass_answers(self, connection: _Connection) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in connection.far:
                if connection.loss is not None:
                    connection.loss.then()
                    _reset_when_closed(connection.near)
                    break
                if self._unmuted is not None:
                    await self._unmuted.wait()
                await connection.answer(data)
        connection.scope.cancel()


def _reset_when_closed(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


@asynccontextmanager
async def open_valve(server: str) -> AsyncIterator[Valve]:
    """A valve before a server, for the length of a block."""
    valve = Valve(httpx.URL(server))
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, valve.serve, 0, host="127.0.0.1"))
        valve.port = listener.socket.getsockname()[1]
        yield valve
        nursery.cancel_scope.cancel()
