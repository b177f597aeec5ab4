"""How many changes are asked of the server at once: the turns by themselves, and what the transport makes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio
import trio.testing

from trioworker.api.condition import Condition
from trioworker.api.errors import APIUnavailableError
from trioworker.api.transport import Transport, TransportConfig
from trioworker.api.write_turns import PATIENCE_SECONDS, QUIET_SECONDS, WriteTurns

URL = "http://api.test/api"


async def at_once(turns: WriteTurns, requests: int = 20) -> int:
    """How many of some requests are under way together at most."""
    now = most = 0

    async def request() -> None:
        nonlocal now, most
        async with turns.turn():
            now += 1
            most = max(most, now)
            await trio.sleep(0.1)
            now -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(requests):
            nursery.start_soon(request)
    return most


async def test_many_go_at_once_as_long_as_none_is_turned_away(autojump_clock: trio.testing.MockClock) -> None:
    assert await at_once(WriteTurns(12)) == 12


async def test_one_that_is_turned_away_makes_them_go_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns = WriteTurns(12)
    turns.turned_away()
    assert await at_once(turns) == 1


async def test_width_comes_back_step_by_step_while_none_is_turned_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns = WriteTurns(12)
    turns.turned_away()
    widths = []
    for _ in range(6):
        widths.append(await at_once(turns))
        await trio.sleep(QUIET_SECONDS)
    assert widths == [1, 2, 4, 8, 12, 12]
    turns.turned_away()
    assert await at_once(turns) == 1


async def test_those_under_way_count_when_it_becomes_narrow(autojump_clock: trio.testing.MockClock) -> None:
    turns = WriteTurns(4)
    under_way = trio.Event()
    began: list[float] = []

    async def first() -> None:
        async with turns.turn():
            under_way.set()
            await trio.sleep(3)

    async def second() -> None:
        async with turns.turn():
            began.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await under_way.wait()
        turns.turned_away()
        nursery.start_soon(second)
    assert began == [start + 3]


async def test_nobody_waits_for_ever_behind_one_that_is_stuck(autojump_clock: trio.testing.MockClock) -> None:
    turns = WriteTurns(12)
    turns.turned_away()
    start = trio.current_time()
    async with turns.turn():
        async with turns.turn():
            assert trio.current_time() == start + PATIENCE_SECONDS
        async with turns.turn():
            assert trio.current_time() == start + 2 * PATIENCE_SECONDS
    async with turns.turn():
        assert trio.current_time() == start + 2 * PATIENCE_SECONDS


async def test_turn_is_given_back_whatever_happens_in_it(autojump_clock: trio.testing.MockClock) -> None:
    turns = WriteTurns(1)
    start = trio.current_time()
    with pytest.raises(ValueError, match="oops"):
        async with turns.turn():
            raise ValueError("oops")
    with trio.move_on_after(1):
        async with turns.turn():
            await trio.sleep_forever()
    async with turns.turn():
        assert trio.current_time() == start + 1


# The transport


@attrs.define
class OneAtATime:
    """A server on SQLite: it turns away whoever wants to change something while another does."""

    writing: int = 0
    turned_away: int = 0
    answered: int = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.writing:
            self.turned_away += 1
            await trio.sleep(0.001)
            return httpx.Response(503)
        self.writing += 1
        await trio.sleep(0.02)
        self.writing -= 1
        self.answered += 1
        return httpx.Response(200, json={})


Answering = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


@asynccontextmanager
async def transport_to(server: Answering, *, max_retries: int = 5) -> AsyncIterator[Transport]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url=f"{URL}/") as http:
        config = TransportConfig(url=URL, max_retries=max_retries)
        yield Transport(http, config, Condition(), lambda: 0.5)


async def test_crowd_of_changes_gets_through_a_server_that_takes_one_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = OneAtATime()
    async with transport_to(server) as transport, trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(lambda: transport.request("PATCH", "x", {}, vital=False))
    assert server.answered == 200
    # Only those that were on their way before the first was turned away.
    assert server.turned_away < 12


async def test_reads_and_vital_requests_wait_for_no_turn(autojump_clock: trio.testing.MockClock) -> None:
    waiting = 0

    async def server(request: httpx.Request) -> httpx.Response:
        nonlocal waiting
        if request.method != "PATCH":
            await trio.sleep(0.01)
            return httpx.Response(200, json={})
        waiting += 1
        if waiting > 1:
            await trio.sleep_forever()
        return httpx.Response(503)

    async with transport_to(server, max_retries=0) as transport, trio.open_nursery() as nursery:
        with pytest.raises(APIUnavailableError):
            await transport.request("PATCH", "x", {}, vital=False)
        for _ in range(100):
            nursery.start_soon(lambda: transport.request("PATCH", "x", {}, vital=False))
        await trio.testing.wait_all_tasks_blocked()
        assert waiting == 2
        start = trio.current_time()
        await transport.request("GET", "x", vital=False)
        await transport.request("GET", "x", vital=True)
        await transport.request("POST", "x", {}, vital=True)
        assert trio.current_time() - start == pytest.approx(0.03)
        nursery.cancel_scope.cancel()
