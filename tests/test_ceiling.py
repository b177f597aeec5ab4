"""How many requests are under way at once: the ceiling by itself, and what the transport makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx
import pytest
import trio
import trio.testing

from trioworker.api.ceiling import PATIENCE_SECONDS, QUIET_PATIENCE_SECONDS, STEP_SECONDS, Ceiling
from trioworker.api.condition import Condition
from trioworker.api.errors import APIUnavailableError
from trioworker.api.transport import Transport, TransportConfig

Clock = trio.testing.MockClock

URL = "http://api.test/api"


async def at_once(ceiling: Ceiling, requests: int = 20) -> int:
    """How many of some requests are under way together at most."""
    now = most = 0

    async def request() -> None:
        nonlocal now, most
        async with ceiling.place():
            now += 1
            most = max(most, now)
            await trio.sleep(0.01)
            now -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(requests):
            nursery.start_soon(request)
    return most


async def test_many_go_at_once_as_long_as_none_is_turned_away(autojump_clock: Clock) -> None:
    assert await at_once(Ceiling(12)) == 12


async def test_each_that_is_turned_away_halves_the_number(autojump_clock: Clock) -> None:
    ceiling = Ceiling(12)
    numbers = []
    for _ in range(5):
        numbers.append(await at_once(ceiling))
        ceiling.turned_away()
    assert numbers == [12, 6, 3, 1, 1]


async def test_one_more_goes_after_each_quiet_while(autojump_clock: Clock) -> None:
    ceiling = Ceiling(4)
    ceiling.turned_away()
    ceiling.turned_away()
    start = trio.current_time()
    numbers = []
    for step in range(5):
        await trio.sleep_until(start + step * STEP_SECONDS)
        numbers.append(await at_once(ceiling))
    assert numbers == [1, 2, 3, 4, 4]


async def test_who_waits_goes_as_soon_as_one_more_may(autojump_clock: Clock) -> None:
    ceiling = Ceiling(2)
    ceiling.turned_away()
    start = trio.current_time()
    async with ceiling.place(), ceiling.place():
        assert trio.current_time() == start + STEP_SECONDS


async def test_those_under_way_count_when_the_number_comes_down(autojump_clock: Clock) -> None:
    ceiling = Ceiling(4)
    under_way = trio.Event()
    began: list[float] = []

    async def first() -> None:
        async with ceiling.place():
            under_way.set()
            await trio.sleep(3)

    async def second() -> None:
        async with ceiling.place():
            began.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await under_way.wait()
        ceiling.turned_away()
        ceiling.turned_away()
        nursery.start_soon(second)
    assert began == [start + 3]


async def test_whoever_comes_first_goes_first(autojump_clock: Clock) -> None:
    ceiling = Ceiling(1)
    order: list[int] = []

    async def request(number: int) -> None:
        async with ceiling.place():
            order.append(number)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(request, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(10))


async def test_nobody_waits_for_ever_behind_one_that_is_stuck(autojump_clock: Clock) -> None:
    ceiling = Ceiling(1)
    start = trio.current_time()
    async with ceiling.place():
        async with ceiling.place():
            assert trio.current_time() == start + PATIENCE_SECONDS
        async with ceiling.place():
            assert trio.current_time() == start + PATIENCE_SECONDS
    async with ceiling.place():
        assert trio.current_time() == start + PATIENCE_SECONDS


async def test_those_that_wait_behind_one_that_is_stuck_do_not_go_all_at_once(autojump_clock: Clock) -> None:
    ceiling = Ceiling(2)
    async with ceiling.place(), ceiling.place():
        assert await at_once(ceiling) == 2


async def test_request_that_cannot_bear_others_goes_alone_and_after_them(autojump_clock: Clock) -> None:
    ceiling = Ceiling(4)
    ceiling.isolates = True
    went: list[tuple[str, float]] = []

    async def request(name: str, *, alone: bool) -> None:
        async with ceiling.place(alone=alone):
            went.append((name, trio.current_time() - start))
            await trio.sleep(0.1)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(request, "first", alone=True))
        await trio.sleep(0.05)
        nursery.start_soon(partial(request, "second", alone=True))
        await trio.sleep(0.01)
        nursery.start_soon(partial(request, "other", alone=False))
    assert went == [("first", 0), ("other", pytest.approx(0.1)), ("second", pytest.approx(0.2))]


async def test_request_that_finds_no_quiet_moment_goes_all_the_same(autojump_clock: Clock) -> None:
    ceiling = Ceiling(4)
    ceiling.isolates = True
    start = trio.current_time()
    async with ceiling.place(), ceiling.place(alone=True):
        assert trio.current_time() == start + QUIET_PATIENCE_SECONDS
        async with ceiling.place():
            assert trio.current_time() == start + QUIET_PATIENCE_SECONDS


async def test_nothing_goes_alone_before_that_has_proved_to_be_necessary(autojump_clock: Clock) -> None:
    ceiling = Ceiling(4)
    start = trio.current_time()
    async with ceiling.place(alone=True), ceiling.place(), ceiling.place(alone=True):
        assert trio.current_time() == start


async def test_none_goes_while_the_server_wants_to_be_left_alone(autojump_clock: Clock) -> None:
    ceiling = Ceiling(2)
    start = trio.current_time()
    ceiling.close(30)
    ceiling.close(10)
    async with ceiling.place():
        assert trio.current_time() == start + 30


async def test_place_is_given_back_whatever_happens_in_it(autojump_clock: Clock) -> None:
    ceiling = Ceiling(1)
    start = trio.current_time()
    with pytest.raises(ValueError, match="oops"):
        async with ceiling.place():
            raise ValueError("oops")
    with trio.move_on_after(1):
        async with ceiling.place():
            await trio.sleep_forever()
    async with ceiling.place():
        assert trio.current_time() == start + 1


async def test_who_is_cancelled_while_waiting_takes_no_place(autojump_clock: Clock) -> None:
    ceiling = Ceiling(1)
    start = trio.current_time()
    async with trio.open_nursery() as nursery, ceiling.place():
        with trio.move_on_after(2):
            async with ceiling.place():
                raise AssertionError
        nursery.start_soon(at_once, ceiling, 1)
        await trio.sleep(1)
    async with ceiling.place():
        assert trio.current_time() < start + 4


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
    autojump_clock: Clock,
) -> None:
    server = OneAtATime()
    async with transport_to(server) as transport, trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(lambda: transport.request("PATCH", "x", {}, vital=False))
    assert server.answered == 200
    # Only those that were on their way before the first was turned away.
    assert server.turned_away < 12


async def test_reads_and_vital_requests_wait_for_no_change(autojump_clock: Clock) -> None:
    waiting = 0

    async def server(request: httpx.Request) -> httpx.Response:
        nonlocal waiting
        if request.method != "PATCH":
            await trio.sleep(0.01)
            return httpx.Response(200, json={})
        waiting += 1
        if waiting > 4:
            await trio.sleep_forever()
        return httpx.Response(503)

    async with transport_to(server, max_retries=0) as transport, trio.open_nursery() as nursery:
        for _ in range(4):
            with pytest.raises(APIUnavailableError):
                await transport.request("PATCH", "x", {}, vital=False)
        for _ in range(100):
            nursery.start_soon(lambda: transport.request("PATCH", "x", {}, vital=False))
        await trio.testing.wait_all_tasks_blocked()
        assert waiting == 5
        start = trio.current_time()
        await transport.request("GET", "x", vital=False)
        await transport.request("GET", "x", vital=True)
        await transport.request("POST", "x", {}, vital=True)
        assert trio.current_time() - start == pytest.approx(0.03)
        nursery.cancel_scope.cancel()


@attrs.define
class Locking:
    """A server on SQLite, as to labels: one fails if anything is changed meanwhile."""

    changes: int = 0
    turned_away: int = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        before = self.changes
        await trio.sleep(0.02)
        if request.url.path.endswith("labels") and self.changes > before:
            self.turned_away += 1
            return httpx.Response(503)
        self.changes += 1
        return httpx.Response(200, json={})


async def test_labels_go_alone_once_one_has_met_with_another_change(autojump_clock: Clock) -> None:
    server = Locking()

    async def live(transport: Transport) -> None:
        await transport.request("POST", "state", {}, vital=False)
        await transport.request("PATCH", "labels", {}, vital=False, alone=True)
        await transport.request("PATCH", "pid", {}, vital=False)

    async with transport_to(server) as transport, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(live, transport)
    assert server.changes == 300
    # No more than were on their way when it showed.
    assert 0 < server.turned_away < 12


@attrs.define
class SmallServer:
    """A server that turns away whoever comes while it has so many requests in hand."""

    capacity: int
    status: int
    at_once: int = 0
    most_at_once: int = 0
    turned_away: int = 0
    answered: int = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.at_once > self.capacity:
                self.turned_away += 1
                await trio.sleep(0.001)
                return httpx.Response(self.status)
            await trio.sleep(0.02 * self.at_once)
            self.answered += 1
            return httpx.Response(200, json={})
        finally:
            self.at_once -= 1


@pytest.mark.parametrize(("capacity", "status"), [(1, 503), (3, 429), (8, 503)])
async def test_five_hundred_runs_at_once_do_not_knock_a_small_server_over(
    autojump_clock: Clock, capacity: int, status: int
) -> None:
    server = SmallServer(capacity, status)

    async def live(transport: Transport) -> None:
        for method in ("POST", "GET", "POST", "PATCH", "PATCH"):
            await transport.request(method, "x", None if method == "GET" else {}, vital=False)

    async with transport_to(server) as transport, trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(live, transport)
    assert server.answered == 2500
    assert server.most_at_once <= 12
    assert server.turned_away < 0.05 * server.answered


async def test_vital_requests_go_while_the_rest_waits_as_long_as_the_server_said(
    autojump_clock: Clock,
) -> None:
    first = True

    async def server(request: httpx.Request) -> httpx.Response:
        nonlocal first
        await trio.lowlevel.checkpoint()
        if first:
            first = False
            return httpx.Response(429, headers={"Retry-After": "30"})
        return httpx.Response(200, json={})

    async with transport_to(server, max_retries=0) as transport:
        start = trio.current_time()
        with pytest.raises(APIUnavailableError):
            await transport.request("GET", "x", vital=False)
        await transport.request("POST", "x", {}, vital=True)
        assert trio.current_time() == start
        await transport.request("GET", "x", vital=False)
        assert trio.current_time() == start + 30


async def test_answers_that_do_not_come_let_fewer_requests_go(autojump_clock: Clock) -> None:
    at_once = most = 0

    async def server(request: httpx.Request) -> httpx.Response:
        nonlocal at_once, most
        if request.url.path.endswith("stuck"):
            await trio.sleep(60)
            raise httpx.ReadTimeout("no answer")
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(0.01)
        at_once -= 1
        return httpx.Response(200, json={})

    async with transport_to(server, max_retries=0) as transport:
        with pytest.raises(APIUnavailableError):
            await transport.request("GET", "stuck", vital=False)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(lambda: transport.request("GET", "x", vital=False))
    assert most == 6
