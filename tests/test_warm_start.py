"""Warm starts as a program that embeds a worker chooses them, with Prefect itself. Each run costs seconds."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import command
import pytest
import trio
from command import Prefect
from conftest import PrefectServer
from template_support import children, lines_of

from trioworker import Settings, open_worker

prefect = command.prefect

pytestmark = [pytest.mark.process]

# No module of Prefect's needs the one that is looked for.
FLOW = """
import json, sys
was_there = "tabnanny" in sys.modules
from prefect import flow

@flow
def hello(into: str):
    with open(into, "w") as file:
        json.dump(was_there, file)
"""


@pytest.mark.parametrize("warm", [True, False])
async def test_flow_is_executed_with_or_without_a_template_as_the_program_says(
    prefect: Prefect,
    prefect_server: PrefectServer,
    process_environment: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    warm: bool,
) -> None:
    caplog.set_level(logging.DEBUG, "trioworker")
    before = children()
    values = {
        "PREFECT_API_URL": prefect_server.url,
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "NO_PROXY": "127.0.0.1",
        # What the program says goes over it.
        "TRIOWORKER_WARM_START": str(not warm),
        "TRIOWORKER_PRELOAD": "there_is_no_such_module",
    }
    settings = Settings.load(process_environment | values, tmp_path)
    (tmp_path / "flow.py").write_text(FLOW)
    said = tmp_path / "said"
    pool = await prefect.pool()
    deployment = await prefect.deployment(
        pool, entrypoint="flow.py:hello", path=str(tmp_path), parameters={"into": str(said)}
    )
    run = await prefect.run(deployment)
    with trio.fail_after(180):
        async with open_worker(pool=pool, settings=settings, warm_start=warm, preload=["tabnanny"]) as worker:
            await prefect.reached(run, "Completed")
            worker.shutdown()
    lines = lines_of(caplog)
    assert any("was forked from template" in line for line in lines) is warm
    assert lines_of(caplog, logging.WARNING) == []
    was_there = json.loads(said.read_text())
    assert was_there is warm
    assert children() <= before
