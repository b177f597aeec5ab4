"""A gate between a worker and the server: it lets everything pass unchanged, and remembers who asked for what.

The processes of the runs come through the same gate, since they inherit the worker's settings. Who a connection is
from, the kernel says: the one whose descriptors have the other end of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import httpx
import trio

from benchmarks.apparatus import proc
from benchmarks.apparatus.http_requests import Request, RequestReader
from benchmarks.apparatus.request_kinds import kind_of


@attrs.define(eq=False)
class Peer:
    """Who has the other end of a connection.

    Attributes:
        is_worker: whether that is the worker's own process, and not that of a run; None if nobody has looked yet.
    """

    is_worker: bool | None = None


@attrs.frozen
class Passage:
    """A request that has come to the gate.

    Attributes:
        at: when it was whole, in nanoseconds of the monotonic clock.
        request: the request.
        peer: who made it.
    """

    at: int
    request: Request
    peer: Peer


@attrs.define(eq=False)
class Gate:
    """A gate at work.

    Attributes:
        server: the address of the server behind it.
        port: where it listens.
        worker: the process that is the worker, once it is there.
        passages: what came, in order.
    """

    server: httpx.URL
    port: int = 0
    worker: int | None = None
    passages: list[Passage] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(factory=trio.Event)

    @property
    def url(self) -> str:
        """The API as it is reached through the gate."""
        return f"http://127.0.0.1:{self.port}/api"

    async def first(self, kind: str) -> Passage:
        """The first passage of a kind, as soon as there is one."""
        while True:
            for passage in self.passages:
                if kind_of(passage.request) == kind:
                    return passage
            await self._more.wait()

    def of_worker(self, begin: int) -> list[Request]:
        """What the worker itself has asked for since there were this many passages."""
        return [passage.request for passage in self.passages[begin:] if passage.peer.is_worker]

    def of_runs(self, begin: int) -> list[Request]:
        """What others have asked for since then."""
        return [passage.request for passage in self.passages[begin:] if not passage.peer.is_worker]

    async def serve(self, stream: trio.SocketStream) -> None:
        """Pass on whatever comes over one connection."""
        upstream = trio.SocketStream(trio.socket.socket())
        async with stream, upstream:
            try:
                # Not `trio.open_tcp_stream`, whose search for addresses takes its time.
                await upstream.socket.connect((self.server.host, self.server.port or 80))
            except OSError:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_requests, stream, upstream, nursery.cancel_scope)
                nursery.start_soon(pass_on, upstream, stream, nursery.cancel_scope)

    def _is_of_worker(self, stream: trio.SocketStream) -> bool:
        peer: int = stream.socket.getpeername()[1]
        inode = proc.socket_between(peer, self.port)
        return self.worker is not None and inode is not None and proc.owns_socket(self.worker, inode)

    async def _pass_requests(
        self, stream: trio.SocketStream, upstream: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        reader, peer = RequestReader(), Peer()
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                for request in reader.feed(bytes(data)):
                    self._note(Passage(time.monotonic_ns(), request, peer))
                await upstream.send_all(data)
                if peer.is_worker is None:
                    # Looked up while the server is at work, since that takes a millisecond; nobody has gone by then.
                    peer.is_worker = self._is_of_worker(stream)
        both.cancel()

    def _note(self, passage: Passage) -> None:
        self.passages.append(passage)
        self._more.set()
        self._more = trio.Event()


async def pass_on(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    """Copy from one connection to the other until either ends; then cancel what serves both."""
    with suppress(trio.BrokenResourceError):
        async for data in source:
            await sink.send_all(data)
    both.cancel()


@asynccontextmanager
async def open_gate(server: str) -> AsyncIterator[Gate]:
    """A gate before a server, for the length of a block."""
    gate = Gate(httpx.URL(server))
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, gate.serve, 0, host="127.0.0.1"))
        gate.port = listener.socket.getsockname()[1]
        yield gate
        nursery.cancel_scope.cancel()
