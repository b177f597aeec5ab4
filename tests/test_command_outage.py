"""`trioworker start` while its server goes away and comes back."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import command
import pytest
from command import COMPLETES, Launcher, Prefect, free_port, open_http

from trioworker.local_server import open_local_server

launch = command.launch

pytestmark = [pytest.mark.process, pytest.mark.server]


async def test_server_that_comes_back_is_worked_for_again(
    launch: Launcher, process_environment: dict[str, str], tmp_path: Path
) -> None:
    """One line when it is lost, one when it is back, and the next run is executed."""
    home, port = tmp_path / "home", free_port()
    (tmp_path / "prefect").mkdir()
    server = partial(
        open_local_server, python=sys.executable, home=home, environment=process_environment, port=port
    )
    async with open_http() as client:
        async with server() as first:
            prefect = Prefect(client, first.url, tmp_path / "prefect")
            pool = await prefect.pool()
            deployment = await prefect.deployment(pool, COMPLETES)
            worker = await launch.worker("-p", pool, api=first.url)
        await worker.line_with("Lost the Prefect API")
        async with server():
            await worker.line_with("is back after")
            run = await prefect.run(deployment)
            await prefect.reached(run, "Completed", worker)
            assert await worker.stop() == 0
    assert len(worker.lines_with("Lost the Prefect API")) == 1
    assert len(worker.lines_with("is back after")) == 1


async def test_run_that_ends_during_an_outage_is_reported_when_the_server_is_back(
    launch: Launcher, process_environment: dict[str, str], tmp_path: Path
) -> None:
    """A process that dies while nobody can be told is Crashed as soon as somebody can."""
    home, port = tmp_path / "home", free_port()
    (tmp_path / "prefect").mkdir()
    server = partial(
        open_local_server, python=sys.executable, home=home, environment=process_environment, port=port
    )
    async with open_http() as client:
        async with server() as first:
            prefect = Prefect(client, first.url, tmp_path / "prefect")
            pool = await prefect.pool()
            run = await prefect.run(
                await prefect.deployment(pool, "become('RUNNING')\nwait_for('go')\nos._exit(7)")
            )
            worker = await launch.worker("-p", pool, api=first.url)
            await prefect.reached(run, "Running", worker)
        prefect.go()
        await worker.line_with("status code: 7")
        async with server():
            assert "status code: 7" in await prefect.reached(run, "Crashed", worker)
            assert await worker.stop() == 0
