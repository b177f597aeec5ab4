"""`trioworker start` while its server goes away and comes back."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import attrs
import command
import pytest
from command import COMPLETES, Launcher, Prefect, free_port, open_http

from trioworker.command.local_server import LocalServer, open_local_server

launch = command.launch

pytestmark = [pytest.mark.process, pytest.mark.server]


@attrs.frozen
class OwnServer:
    """A server that this test alone uses, so that it may come and go; the same one each time it is started."""

    prefect: Prefect
    start: Callable[[], AbstractAsyncContextManager[LocalServer]]


@pytest.fixture
async def own_server(process_environment: dict[str, str], tmp_path: Path) -> AsyncIterator[OwnServer]:
    port = free_port()
    start = partial(
        open_local_server,
        python=sys.executable,
        home=tmp_path / "home",
        environment=process_environment,
        port=port,
    )
    (tmp_path / "prefect").mkdir()
    async with open_http() as client:
        yield OwnServer(Prefect(client, f"http://127.0.0.1:{port}/api", tmp_path / "prefect"), start)


async def test_server_that_comes_back_is_worked_for_again(launch: Launcher, own_server: OwnServer) -> None:
    """One line when it is lost, one when it is back, and the next run is executed."""
    prefect = own_server.prefect
    async with own_server.start():
        pool = await prefect.pool()
        deployment = await prefect.deployment(pool, COMPLETES)
        worker = await launch.worker("-p", pool, api=prefect.url)
    await worker.line_with("The Prefect API does not answer")
    async with own_server.start():
        await worker.line_with("is back after")
        run = await prefect.run(deployment)
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
    assert len(worker.lines_with("The Prefect API does not answer")) == 1
    assert len(worker.lines_with("is back after")) == 1


async def test_run_that_ends_during_an_outage_is_reported_when_the_server_is_back(
    launch: Launcher, own_server: OwnServer
) -> None:
    """A process that dies while nobody can be told is Crashed as soon as somebody can."""
    prefect = own_server.prefect
    async with own_server.start():
        pool = await prefect.pool()
        run = await prefect.run(
            await prefect.deployment(pool, "become('RUNNING')\nwait_for('go')\nos._exit(7)")
        )
        worker = await launch.worker("-p", pool, api=prefect.url)
        await prefect.reached(run, "Running", worker)
    prefect.go()
    await worker.line_with("status code: 7")
    async with own_server.start():
        assert "status code: 7" in await prefect.reached(run, "Crashed", worker)
        assert await worker.stop() == 0
