"""Connections from strangers: few at a time, none for long, and none of them can harm the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from trioworker.visitors import serve_visitors

Connect = Callable[[trio.SocketListener], Awaitable[trio.SocketStream]]

VISITORS = 16


async def listen() -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects, and closes all connections in the end."""
    guests: list[trio.SocketStream] = []

    async def connect_to(listener: trio.SocketListener) -> trio.SocketStream:
        host, port = listener.socket.getsockname()
        guests.append(await trio.open_tcp_stream(host, port))
        return guests[-1]

    yield connect_to
    for guest in guests:
        await trio.aclose_forcefully(guest)


async def is_over(stream: trio.SocketStream) -> bool:
    """Whether the other end has closed a connection, as soon as that or anything else comes of it."""
    try:
        return not await stream.receive_some()
    except trio.BrokenResourceError:
        return True


async def echo(stream: trio.SocketStream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def test_for_one_connection_too_many_the_oldest_has_to_go(
    nursery: trio.Nursery, connect: Connect
) -> None:
    with trio.fail_after(30):
        async with await listen() as listener:
            nursery.start_soon(serve_visitors, listener, echo)
            guests = [await connect(listener) for _ in range(VISITORS)]
            for guest in guests:
                await guest.send_all(b"x")
                assert await guest.receive_some() == b"x"
            late = await connect(listener)
            assert await is_over(guests[0])
            for guest in [*guests[1:], late]:
                await guest.send_all(b"y")
                assert await guest.receive_some() == b"y"
            nursery.cancel_scope.cancel()


async def test_one_that_has_ended_leaves_room(nursery: trio.Nursery, connect: Connect) -> None:
    with trio.fail_after(30):
        async with await listen() as listener:
            nursery.start_soon(serve_visitors, listener, echo)
            first = await connect(listener)
            await first.send_all(b"x")
            assert await first.receive_some() == b"x"
            for _ in range(3 * VISITORS):
                other = await connect(listener)
                await other.send_eof()
                assert await is_over(other)
            await first.send_all(b"y")
            assert await first.receive_some() == b"y"
            nursery.cancel_scope.cancel()


async def test_no_connection_is_for_long(
    nursery: trio.Nursery, connect: Connect, mock_clock: trio.testing.MockClock
) -> None:
    async with await listen() as listener:
        nursery.start_soon(serve_visitors, listener, echo)
        guest = await connect(listener)
        await guest.send_all(b"x")
        assert await guest.receive_some() == b"x"
        mock_clock.jump(59)
        await guest.send_all(b"y")
        assert await guest.receive_some() == b"y"
        mock_clock.jump(1)
        assert await is_over(guest)
        nursery.cancel_scope.cancel()


async def test_error_ends_the_connection_alone(nursery: trio.Nursery, connect: Connect) -> None:
    async def serve_or_fail(stream: trio.SocketStream) -> None:
        word = await stream.receive_some()
        if word == b"fail":
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                raise KeyError(word)
        await stream.send_all(word)

    with trio.fail_after(30):
        async with await listen() as listener:
            nursery.start_soon(serve_visitors, listener, serve_or_fail)
            for _ in range(2):
                guest = await connect(listener)
                await guest.send_all(b"fail")
                assert await is_over(guest)
            guest = await connect(listener)
            await guest.send_all(b"x")
            assert await guest.receive_some() == b"x"
            nursery.cancel_scope.cancel()


async def test_end_waits_for_nobody_who_has_shielded_himself(connect: Connect) -> None:
    sending = trio.Event()

    async def send_in_a_shield(stream: trio.SocketStream) -> None:
        with trio.CancelScope(shield=True):
            sending.set()
            while True:
                await stream.send_all(bytes(1_000_000))

    with trio.fail_after(30):
        async with await listen() as listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve_visitors, listener, send_in_a_shield)
            await connect(listener)
            await sending.wait()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
