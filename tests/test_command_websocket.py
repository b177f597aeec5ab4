"""A cancelled run ends at once where websockets get through, and at the next poll where they do not."""

from __future__ import annotations

import time
from functools import partial

import command
import pytest
import trio
from command import AT_ONCE, Command, Launcher, Prefect
from proxy import Proxy, Websockets, serve_proxy

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

# Ends with the SIGTERM of its cancellation.
RUNS_ON = "become('RUNNING')\ntime.sleep(300)"

# So that nothing but the websocket can tell of a cancellation.
AN_HOUR = "3600"


async def start_running(launch: Launcher, prefect: Prefect, api: str, **settings: str) -> tuple[Command, str]:
    """A worker with a run that is Running."""
    pool = await prefect.pool()
    worker = await launch.worker("-p", pool, api=api, **settings)
    run = await prefect.run(await prefect.deployment(pool, RUNS_ON))
    await prefect.reached(run, "Running", worker)
    return worker, run


async def asked_for_a_websocket(proxy: Proxy, times: int = 1) -> None:
    with command.patience_for(f"{times} requests for a websocket"):
        while proxy.websockets_asked_for() < times:  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.02)


async def test_cancellation_is_told_by_the_websocket(launch: Launcher, prefect: Prefect) -> None:
    worker, run = await start_running(
        launch, prefect, prefect.url, PREFECT_WORKER_CANCELLATION_POLL_SECONDS=AN_HOUR
    )
    begin = time.monotonic()
    await prefect.cancel(run)
    await worker.line_with("Cancelling flow run")
    assert time.monotonic() - begin < AT_ONCE
    await prefect.reached(run, "Cancelled", worker)
    assert await worker.stop() == 0


async def test_cancellation_is_told_by_the_websocket_through_a_proxy(
    launch: Launcher, prefect: Prefect
) -> None:
    async with trio.open_nursery() as nursery:
        proxy: Proxy = await nursery.start(serve_proxy, prefect.url)
        worker, run = await start_running(
            launch, prefect, proxy.api_url, PREFECT_WORKER_CANCELLATION_POLL_SECONDS=AN_HOUR
        )
        await asked_for_a_websocket(proxy)
        await prefect.cancel(run)
        await prefect.reached(run, "Cancelled", worker)
        assert await worker.stop() == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", [Websockets.CLOSE, Websockets.REFUSE])
async def test_cancellation_is_found_by_polling_where_websockets_are_dropped(
    launch: Launcher, prefect: Prefect, what: Websockets
) -> None:
    async with trio.open_nursery() as nursery:
        proxy: Proxy = await nursery.start(partial(serve_proxy, prefect.url, websockets=what))
        worker, run = await start_running(
            launch, prefect, proxy.api_url, PREFECT_WORKER_CANCELLATION_POLL_SECONDS="0.5"
        )
        await asked_for_a_websocket(proxy)
        await prefect.cancel(run)
        await prefect.reached(run, "Cancelled", worker)
        assert await worker.stop() == 0
        # That there is no websocket is no reason to trouble anybody.
        assert "websocket" not in worker.output
        assert "The Prefect API does not answer" not in worker.output
        nursery.cancel_scope.cancel()


async def test_connection_that_was_cut_is_made_again_and_what_was_missed_is_found(
    launch: Launcher, prefect: Prefect
) -> None:
    """The cancellation falls into the time without a websocket: the poll after the next connecting finds it."""
    async with trio.open_nursery() as nursery:
        proxy: Proxy = await nursery.start(partial(serve_proxy, prefect.url, websockets=Websockets.CLOSE))
        worker, run = await start_running(
            launch, prefect, proxy.api_url, PREFECT_WORKER_CANCELLATION_POLL_SECONDS=AN_HOUR
        )
        await asked_for_a_websocket(proxy)
        await prefect.cancel(run)
        proxy.websockets = Websockets.PASS
        await prefect.reached(run, "Cancelled", worker)
        assert await worker.stop() == 0
        nursery.cancel_scope.cancel()
