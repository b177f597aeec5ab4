"""The health server of a real worker, asked by those who mean no good."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import command
import httpx
import pytest
import trio
from command import AT_ONCE, COMPLETES, Launcher, Prefect, free_port, open_http, patience_for
from process_support import descriptors

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

# What the health server may have open at a time, and what a worker opens for a moment beside it.
CONNECTIONS: Final = 16
OTHERS: Final = 20

MEGABYTE: Final = 2**20

HEAD: Final = b"GET /health HTTP/1.1\r\nHost: worker\r\n"

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_PING: Final = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"


async def says_nothing(stream: trio.SocketStream) -> None:
    await until_closed(stream)


async def sends_a_letter_a_second(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD)
    while True:
        await stream.send_all(b"x")
        await trio.sleep(1)


async def sends_a_head_without_end(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + b"X-Long: ")
    while True:
        await stream.send_all(b"x" * MEGABYTE)


async def sends_a_body_without_end(stream: trio.SocketStream) -> None:
    await stream.send_all(b"POST /health HTTP/1.1\r\nHost: worker\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        await stream.send_all(b"x" * MEGABYTE)


async def sends_a_body_in_many_pieces(stream: trio.SocketStream) -> None:
    await stream.send_all(b"POST /health HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"1\r\nx\r\n" * 1000)


async def sends_garbage(stream: trio.SocketStream) -> None:
    await stream.send_all(bytes(range(256)) * 1000)
    await until_closed(stream)


async def speaks_tls(stream: trio.SocketStream) -> None:
    await stream.send_all(bytes.fromhex("16030100050100000100"))
    await until_closed(stream)


async def contradicts_itself(stream: trio.SocketStream) -> None:
    await stream.send_all(
        HEAD + b"Content-Length: 5\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n\0"
    )
    await until_closed(stream)


async def asks_without_end_and_reads_nothing(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all((HEAD + b"\r\n") * 1000)


async def pings_without_end_and_reads_nothing(stream: trio.SocketStream) -> None:
    await stream.send_all(_PREFACE)
    while True:
        await stream.send_all(_PING * 1000)


async def wants_a_websocket(stream: trio.SocketStream) -> None:
    await stream.send_all(
        HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    while True:
        await stream.send_all(b"x" * MEGABYTE)


async def hangs_up_before_the_answer(stream: trio.SocketStream) -> None:
    # With a reset, not in good order.
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    await stream.send_all(HEAD + b"\r\n")


ABUSE: Final[tuple[Callable[[trio.SocketStream], Awaitable[None]], ...]] = (
    says_nothing,
    sends_a_letter_a_second,
    sends_a_head_without_end,
    sends_a_body_without_end,
    sends_a_body_in_many_pieces,
    sends_garbage,
    speaks_tls,
    contradicts_itself,
    asks_without_end_and_reads_nothing,
    pings_without_end_and_reads_nothing,
    wants_a_websocket,
    hangs_up_before_the_answer,
)


async def until_closed(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


class Abuse:
    """All kinds of abuse at once, again and again.

    Attributes:
        times: how often each kind was tried.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.times = dict.fromkeys(ABUSE, 0)

    async def go_on(self, how: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        """Do it until cancelled, or until nobody listens any more."""
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            except OSError:
                return
            self.times[how] += 1
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await how(stream)
            await trio.sleep(0.05)


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def healthy(client: httpx.AsyncClient, port: int) -> None:
    """Ask until the answer is that all is well: whoever has just connected may have to make room for others."""
    with patience_for("an answer of the health server"):
        while True:
            with suppress(httpx.TransportError):
                answer = await client.get(f"http://127.0.0.1:{port}/health")
                if answer.status_code == 200:
                    return
            await trio.sleep(0.05)


async def test_no_abuse_of_the_health_server_harms_the_worker(
    launch: Launcher, prefect: Prefect, nursery: trio.Nursery
) -> None:
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, COMPLETES)
    port = free_port()
    worker = await launch.worker(
        *("-p", pool, "--with-healthcheck"),
        api=prefect.url,
        PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
        PREFECT_WORKER_WEBSERVER_PORT=str(port),
    )
    await prefect.online(pool)
    async with open_http() as client:
        await healthy(client, port)
        descriptors_before, memory_before = len(descriptors(worker.pid)), memory(worker.pid)
        abuse = Abuse(port)
        for how in ABUSE * 4:
            nursery.start_soon(abuse.go_on, how)
        with patience_for("all of the abuse", worker):
            while min(abuse.times.values()) < 20:
                assert len(descriptors(worker.pid)) <= descriptors_before + CONNECTIONS + OTHERS
                await trio.sleep(0.05)
        await prefect.next_heartbeat(pool)
        await healthy(client, port)
        await prefect.reached(await prefect.run(deployment), "Completed", worker)
        assert len(descriptors(worker.pid)) <= descriptors_before + CONNECTIONS + OTHERS
        assert memory(worker.pid) - memory_before < 40 * MEGABYTE
    with trio.fail_after(AT_ONCE):
        assert await worker.stop() == 0
    nursery.cancel_scope.cancel()


async def test_worker_can_be_stopped_though_somebody_does_not_read_the_answers(
    launch: Launcher, prefect: Prefect
) -> None:
    pool = await prefect.pool()
    port = free_port()
    worker = await launch.worker(
        *("-p", pool, "--with-healthcheck"),
        api=prefect.url,
        PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
        PREFECT_WORKER_WEBSERVER_PORT=str(port),
    )
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        # Until nothing goes through any more in either direction.
        with trio.move_on_after(1):
            await pings_without_end_and_reads_nothing(stream)
        with trio.fail_after(AT_ONCE):
            assert await worker.stop() == 0
