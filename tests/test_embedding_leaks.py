"""What workers leave behind that come and go in one process: nothing, with real sockets and processes."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import attrs
import command
import pytest
import trio
from command import Prefect
from conftest import PrefectServer

from trioworker import RunEnd, RunFinished, Settings, open_worker

prefect = command.prefect

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts in /proc, which is Linux's"),
]

CYCLES = 20
# One in so many executes a flow run.
WITH_A_RUN = 5

# The latest moment at which a worker is cancelled, in seconds: by then its flow runs.
UP_TO = 1.0

# Trio keeps a thread for so many seconds after its last use; then there shall be no more of them than before.
IDLE_THREAD = 10.0


@attrs.frozen
class Left:
    tasks: int
    descriptors: list[str]

    @classmethod
    def now(cls) -> Left:
        gc.collect()
        return cls(trio.lowlevel.current_statistics().tasks_living, descriptors())


def descriptors() -> list[str]:
    """What the open file descriptors are, without the numbers that differ from one to the next of a kind."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()).partition(":")[0])
        except FileNotFoundError:  # the one for the look itself
            continue
    return sorted(found)


def threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


@pytest.fixture
def worker_settings(
    prefect_server: PrefectServer, process_environment: dict[str, str], tmp_path: Path
) -> Settings:
    values = {
        "PREFECT_API_URL": prefect_server.url,
        "PREFECT_WORKER_QUERY_SECONDS": "0.2",
        "PREFECT_WORKER_WEBSERVER_PORT": str(command.free_port()),
        "NO_PROXY": "127.0.0.1",
    }
    return Settings.load(process_environment | values, tmp_path)


async def come_and_go(prefect: Prefect, settings: Settings, number: int) -> None:
    """A worker's life: left as soon as it polls, or after a run."""
    pool = await prefect.pool()
    run = None
    if number % WITH_A_RUN == 0:
        run = await prefect.run(await prefect.deployment(pool, command.COMPLETES))
    with trio.fail_after(2 * command.PATIENCE):
        async with open_worker(pool=pool, settings=settings, with_healthcheck=True) as worker:
            if run is not None:
                with worker.watch() as watch:
                    await prefect.reached(run, "Completed")
                    worker.shutdown()
                    ends = [happening.end async for happening in watch if isinstance(happening, RunFinished)]
                assert ends == [RunEnd.EXECUTED]


async def gone_threads(most: int) -> int:
    """How many threads there are, once those that idle have gone."""
    with trio.move_on_after(IDLE_THREAD + command.PATIENCE):
        while threads() > most:  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.1)
    return threads()


async def test_workers_that_come_and_go_leave_no_task_descriptor_or_thread(
    prefect: Prefect, worker_settings: Settings
) -> None:
    before_all = threads()
    # Once for what is made on first use and kept.
    await come_and_go(prefect, worker_settings, 0)
    before = Left.now()
    for number in range(CYCLES):
        await come_and_go(prefect, worker_settings, number)
    with warnings.catch_warnings():
        # A socket that only the garbage collector closes is a leak too, and says so.
        warnings.simplefilter("error")
        assert Left.now() == before
    assert await gone_threads(before_all) <= before_all


async def test_workers_that_are_cancelled_at_any_moment_leave_nothing_either(
    prefect: Prefect, worker_settings: Settings
) -> None:
    """At the start, while the websocket connects, while a run is claimed, started, or runs."""
    before_all = threads()
    await come_and_go(prefect, worker_settings, 0)
    before = Left.now()
    for number in range(CYCLES):
        pool = await prefect.pool()
        await prefect.run(await prefect.deployment(pool, command.WAITS))
        with trio.move_on_after(number * UP_TO / CYCLES):
            async with open_worker(pool=pool, settings=worker_settings, with_healthcheck=True):
                await trio.sleep_forever()
    assert Left.now() == before
    assert await gone_threads(before_all) <= before_all
