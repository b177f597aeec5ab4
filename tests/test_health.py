"""The health server, and what it says when."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from support import World

from trioworker import HealthServerError
from trioworker.api.condition import Condition
from trioworker.health import PollingHealth, _application, bind_health_socket, serve_health

Clock = trio.testing.MockClock


# PollingHealth


async def test_worker_is_healthy_for_thirty_intervals_after_a_poll(autojump_clock: Clock) -> None:
    health = PollingHealth(10, Condition())
    await trio.sleep(100)
    health.polled()
    await trio.sleep(300)
    assert health.healthy
    await trio.sleep(0.1)
    assert not health.healthy


async def test_start_counts_as_a_poll(autojump_clock: Clock) -> None:
    health = PollingHealth(10, Condition())
    await trio.sleep(300)
    assert health.healthy
    await trio.sleep(1)
    assert not health.healthy


async def test_poll_makes_it_healthy_again(autojump_clock: Clock) -> None:
    health = PollingHealth(10, Condition())
    await trio.sleep(1000)
    assert not health.healthy
    health.polled()
    assert health.healthy


async def test_time_that_the_api_asked_to_be_left_alone_does_not_count(autojump_clock: Clock) -> None:
    condition = Condition()
    health = PollingHealth(10, condition)
    await trio.sleep(100)
    condition.failed("busy", retry_after=1000)
    await trio.sleep(1300)
    assert health.healthy
    await trio.sleep(1)
    assert not health.healthy


async def test_drain_is_healthy_however_long_it_takes(autojump_clock: Clock) -> None:
    health = PollingHealth(10, Condition())
    health.draining()
    await trio.sleep(80_000)
    assert health.healthy


# The answers


async def answer(health: PollingHealth, method: str, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Ask the application itself, without a server around it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    application: Callable[..., Any] = _application(health)
    await application({"type": "http", "method": method, "path": path}, receive, send)
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


async def test_good_health_is_200(autojump_clock: Clock) -> None:
    status, headers, body = await answer(PollingHealth(10, Condition()), "GET", "/health")
    assert status == 200
    assert json.loads(body) == {"message": "OK"}
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == str(len(body)).encode()


async def test_bad_health_is_503(autojump_clock: Clock) -> None:
    health = PollingHealth(10, Condition())
    await trio.sleep(1000)
    status, _, body = await answer(health, "GET", "/health")
    assert status == 503
    assert json.loads(body) == {"message": "Worker may be unresponsive at this time"}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/health", 405)])
async def test_anything_else_is_refused(autojump_clock: Clock, method: str, path: str, status: int) -> None:
    assert (await answer(PollingHealth(10, Condition()), method, path))[0] == status


async def test_head_has_no_body_but_its_length(autojump_clock: Clock) -> None:
    status, headers, body = await answer(PollingHealth(10, Condition()), "HEAD", "/health")
    assert (status, body) == (200, b"")
    assert headers[b"content-length"] == b"16"


async def test_asker_that_is_gone_does_no_harm(autojump_clock: Clock) -> None:
    async def send(_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    application: Callable[..., Any] = _application(PollingHealth(10, Condition()))
    await application({"type": "http", "method": "GET", "path": "/health"}, None, send)


# The address


def test_address_in_use_is_said_with_what_to_set() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            HealthServerError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            bind_health_socket("127.0.0.1", port)


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(HealthServerError, match="PREFECT_WORKER_WEBSERVER_HOST"):
        bind_health_socket("192.0.2.1", 0)


def test_host_that_is_no_address_is_refused() -> None:
    with pytest.raises(HealthServerError, match="cannot listen on no such host"):
        bind_health_socket("no such host", 0)


async def test_worker_whose_health_address_is_taken_does_not_start(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    world = World(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = {
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(taken.getsockname()[1]),
        }
        with pytest.raises(HealthServerError):
            await world.worker(address, with_healthcheck=True).run()
    assert world.api.calls == []


# A real server


async def test_server_answers_over_a_real_socket() -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            bound = bind_health_socket("127.0.0.1", 0)
            url = await nursery.start(serve_health, bound, PollingHealth(10, Condition()))
            async with httpx.AsyncClient(trust_env=False) as client:
                good = await client.get(f"{url}/health")
                missing = await client.get(f"{url}/nothing")
            nursery.cancel_scope.cancel()
    assert (good.status_code, good.json()) == (200, {"message": "OK"})
    assert missing.status_code == 404
