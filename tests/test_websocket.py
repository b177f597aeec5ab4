"""The client's end of a websocket: what keeps it alive, and how it ends. In virtual time, over streams in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import httpcore
import pytest
import trio
import trio.testing
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trioworker.api.websocket import WebSocket, WebSocketLostError

KEEPALIVE = 20.0


@attrs.define
class MemoryStream(httpcore.AsyncNetworkStream):
    """What httpcore makes of a connection, over a stream in memory."""

    stream: trio.abc.Stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            with trio.fail_after(timeout or 0):
                return bytes(await self.stream.receive_some(max_bytes))
        except trio.TooSlowError as error:
            raise httpcore.ReadTimeout from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            with trio.fail_after(timeout or 0):
                await self.stream.send_all(buffer)
        except trio.TooSlowError as error:
            raise httpcore.WriteTimeout from error
        except trio.BrokenResourceError as error:
            raise httpcore.WriteError from error

    async def aclose(self) -> None:
        await self.stream.aclose()


@attrs.define
class Peer:
    """The other end."""

    stream: trio.abc.Stream
    frames: Connection = attrs.field(factory=lambda: Connection(ConnectionType.SERVER))
    received: list[tuple[float, Event]] = attrs.field(factory=list)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.frames.send(event))

    async def receive_all(self, answer: Callable[[Event], Awaitable[None]] | None = None) -> None:
        """Take note of what comes, and when, until the end."""
        async for chunk in self.stream:
            self.frames.receive_data(bytes(chunk))
            for event in self.frames.events():
                self.received.append((trio.current_time(), event))
                if answer is not None:
                    await answer(event)

    async def answer_pings(self, event: Event) -> None:
        if isinstance(event, Ping):
            await self.send(event.response())


@asynccontextmanager
async def connected(*, buffered: bool = True) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """Both ends; without a buffer, what is sent waits until the other end reads it."""
    pair = trio.testing.memory_stream_pair if buffered else trio.testing.lockstep_stream_pair
    ours, theirs = pair()
    yield WebSocket(MemoryStream(ours), KEEPALIVE), Peer(theirs)


async def test_messages_of_both_kinds_are_received_whole() -> None:
    async with connected() as (websocket, peer):
        await peer.send(TextMessage(data="first ", message_finished=False))
        await peer.send(Ping(payload=b"between"))
        await peer.send(TextMessage(data="half"))
        await peer.send(BytesMessage(data=b"bytes"))
        assert [await websocket.receive(), await websocket.receive()] == ["first half", b"bytes"]


async def test_ping_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive_all)
        await peer.send(Ping(payload=b"here?"))
        await peer.send(TextMessage(data="hello"))
        await websocket.receive()
        await websocket.close()
    assert [event for _, event in peer.received] == [
        Pong(payload=b"here?"),
        CloseConnection(code=1000, reason=""),
    ]


async def test_silence_is_asked_for_a_sign_of_life_and_then_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive_all)
        with pytest.raises(WebSocketLostError, match="no sign of life for 40 s"):
            await websocket.receive()
        assert trio.current_time() == 2 * KEEPALIVE
        await websocket.close()
    assert [(when, type(event)) for when, event in peer.received] == [
        (KEEPALIVE, Ping),
        (2 * KEEPALIVE, CloseConnection),
    ]


async def test_peer_that_answers_is_not_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive_all, peer.answer_pings)
        with trio.move_on_after(10.5 * KEEPALIVE) as scope:
            await websocket.receive()
        assert scope.cancelled_caught
        await websocket.close()
    assert [when for when, event in peer.received if isinstance(event, Ping)] == [
        number * KEEPALIVE for number in range(1, 11)
    ]


async def test_peer_that_speaks_is_not_asked_for_a_sign_of_life(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive_all)
        nursery.start_soon(speak_every, peer, 0.9 * KEEPALIVE, 10)
        for _ in range(10):
            await websocket.receive()
        await websocket.close()
    assert [type(event) for _, event in peer.received] == [CloseConnection]


async def speak_every(peer: Peer, seconds: float, times: int) -> None:
    for _ in range(times):
        await trio.sleep(seconds)
        await peer.send(TextMessage(data="hello"))


async def test_peer_that_reads_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(buffered=False) as (websocket, _):
        with pytest.raises(WebSocketLostError, match="WriteTimeout"):
            await websocket.send_json({})
    assert trio.current_time() == KEEPALIVE


@pytest.mark.parametrize(
    "event", [CloseConnection(code=1012, reason="restarting"), CloseConnection(code=1000)]
)
async def test_leave_that_is_taken_is_answered(event: CloseConnection) -> None:
    async with connected() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive_all)
        await peer.send(event)
        with pytest.raises(WebSocketLostError) as caught:
            await websocket.receive()
        assert (caught.value.code, caught.value.reason) == (event.code, event.reason or "")
        await websocket.close()
    assert [type(event) for _, event in peer.received] == [CloseConnection]


async def test_closed_connection_is_lost_and_can_be_closed() -> None:
    async with connected() as (websocket, peer):
        await peer.stream.aclose()
        with pytest.raises(WebSocketLostError, match="the connection was closed"):
            await websocket.receive()
        with pytest.raises(WebSocketLostError, match="WriteError"):
            await websocket.send_json({})
        await websocket.close()


async def test_closing_has_a_bound(autojump_clock: trio.testing.MockClock) -> None:
    """As when a peer reads nothing, and what is sent has filled all that lies between."""
    async with connected(buffered=False) as (websocket, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await websocket.close()
        assert trio.current_time() == 1
        with trio.fail_after(1):
            await peer.receive_all()
