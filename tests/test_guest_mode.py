"""A worker in Trio's guest mode: inside the loop of a host that is not Trio's."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import command
import httpx
import outcome
import pytest
import trio
import trio.testing
from command import Prefect
from conftest import PrefectServer
from support import FOREVER, World

from trioworker import (
    APILost,
    GaveUpError,
    RunEnd,
    RunFinished,
    RunStarted,
    Settings,
    WorkerPhase,
    open_worker,
)
from trioworker.testing import Script

Main = Callable[[], Awaitable[Any]]
Host = Callable[..., Any]


def queue_host(main: Main, clock: trio.abc.Clock | None = None) -> Any:
    """The least that a host needs: a queue of things to call."""
    to_do: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
    ended: list[outcome.Outcome[Any]] = []

    def done(result: outcome.Outcome[Any]) -> None:
        ended.append(result)
        to_do.put(None)

    trio.lowlevel.start_guest_run(main, run_sync_soon_threadsafe=to_do.put, done_callback=done, clock=clock)
    while (call := to_do.get()) is not None:
        call()
    return ended[0].unwrap()


def asyncio_host(main: Main, clock: trio.abc.Clock | None = None) -> Any:
    """A host that has something to do itself, and goes on with it."""

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[outcome.Outcome[Any]] = loop.create_future()
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
            clock=clock,
        )
        turns = 0
        while not ended.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 1
        return ended.result().unwrap()

    return asyncio.run(host())


def thread_host(main: Main, clock: trio.abc.Clock | None = None) -> Any:
    """A host that does not live in the main thread."""
    results: list[outcome.Outcome[Any]] = []
    thread = threading.Thread(target=lambda: results.append(outcome.capture(queue_host, main, clock)))
    thread.start()
    thread.join()
    return results[0].unwrap()


hosts = pytest.mark.parametrize("host", [queue_host, asyncio_host, thread_host])


def jumping() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


# On a fake API


@hosts
def test_guest_runs_what_is_scheduled_and_drains(host: Host, tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        run = world.schedule(Script(seconds=15))
        async with open_worker(surroundings=world.surroundings, **options(world)) as worker:
            await world.api.wait_for_state(run.id, "Running")
        assert world.api.history(run.id)[-1] == ("Completed", 15)
        assert worker.status().phase is WorkerPhase.STOPPED

    host(main, jumping())


def options(world: World, **values: str) -> dict[str, Any]:
    config = world.config(values)
    return {"pool": config.pool, "name": config.name, "settings": config.settings}


@hosts
def test_guest_is_stopped_hard_by_its_scope(host: Host, tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        run = world.schedule(Script(seconds=FOREVER))
        with trio.move_on_after(7):
            async with open_worker(surroundings=world.surroundings, **options(world)):
                await trio.sleep_forever()
        assert world.api.history(run.id)[-1] == ("Crashed", 7)

    host(main, jumping())


@hosts
def test_error_of_a_guests_worker_reaches_the_host(host: Host, tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        world.api.start_outage()
        surroundings = world.surroundings
        async with open_worker(surroundings=surroundings, **options(world, TRIOWORKER_GIVE_UP_AFTER="60")):
            pytest.fail("the block was entered")

    with pytest.raises(GaveUpError):
        host(main, jumping())


# On a real API, with real processes


def real_settings(server: PrefectServer, environment: dict[str, str], directory: Path) -> Settings:
    values = {
        "PREFECT_API_URL": server.url,
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "0.5",
        "PREFECT_WORKER_WEBSERVER_PORT": str(command.free_port()),
        "NO_PROXY": "127.0.0.1",
    }
    return Settings.load(environment | values, directory)


@pytest.mark.process
@hosts
def test_guest_works_for_a_real_server(
    host: Host, prefect_server: PrefectServer, process_environment: dict[str, str], tmp_path: Path
) -> None:
    """Requests, the websocket, the health server, processes that end by themselves or are ended."""
    chosen = real_settings(prefect_server, process_environment, tmp_path)

    async def main() -> None:
        async with command.open_http() as client:
            with trio.fail_after(2 * command.PATIENCE):
                await work(Prefect(client, prefect_server.url, tmp_path), client)

    async def work(prefect: Prefect, client: httpx.AsyncClient) -> None:
        pool = await prefect.pool()
        deployment = await prefect.deployment(pool, command.WAITS)
        completing, cancelled = [await prefect.run(deployment) for _ in range(2)]
        async with open_worker(pool=pool, settings=chosen, with_healthcheck=True) as worker:
            with worker.watch() as watch:
                await prefect.running(pool, 2)
                health = await client.get(f"http://127.0.0.1:{chosen.worker_webserver_port}/health")
                assert health.status_code == 200
                await prefect.cancel(cancelled)
                await prefect.reached(cancelled, "Cancelled")
                prefect.go()
                await prefect.reached(completing, "Completed")
                (prefect.directory / "go").unlink()
                left = await prefect.run(deployment)
                await prefect.reached(left, "Running")
                worker.stop()
                happenings = [happening async for happening in watch]
        ends = {str(each.flow_run_id): each.end for each in happenings if isinstance(each, RunFinished)}
        assert ends == {
            completing: RunEnd.EXECUTED,
            cancelled: RunEnd.EXECUTED,
            left: RunEnd.CUT_OFF,
        }
        assert not [each for each in happenings if isinstance(each, APILost)]
        started = [each.pid for each in happenings if isinstance(each, RunStarted)]
        assert len(started) == 3
        assert not [pid for pid in started if pid is None or lives(pid)]
        assert await prefect.state_name(left) == "Crashed"

    host(main)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
