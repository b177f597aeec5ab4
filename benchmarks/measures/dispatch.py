"""What it costs a worker to dispatch many trivial commands at once, on an API that answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import trio

from benchmarks.apparatus import proc
from benchmarks.apparatus.request_kinds import POLL
from benchmarks.apparatus.sides import Side
from benchmarks.apparatus.stage import Stage
from benchmarks.apparatus.worker import open_worker
from benchmarks.failures import FailedRunError
from benchmarks.measures.runs import AFTERMATH_SECONDS
from benchmarks.measures.start_up import START_SECONDS
from benchmarks.report.samples import Samples

_ROOT = Path(__file__).resolve().parents[2]
_LOOK_AGAIN = 0.1
_SETTLE_SECONDS = 2

# Seconds that a run may take: many times more than they do.
_RUN_SECONDS = 2

# How often the workers poll here. With the default of ten seconds they would mostly wait: a poll gives 200 at most.
QUERY_SECONDS = "1"


async def take_documents(stage: Stage, side: Side) -> dict[str, Any]:
    """Have the real server tell what the stub is to answer: its documents about a run of a trivial command."""
    rest = stage.rest
    deployment = stage.deployments[side.name].command
    run = await rest.create_run(deployment)
    now = datetime.now(UTC).isoformat()
    path = f"work_pools/{side.pool}/get_scheduled_flow_runs"
    (due,) = await rest.call("POST", path, {"scheduled_before": now, "limit": 1})
    document = await rest.call("GET", f"deployments/{deployment}")
    shown = await rest.call("GET", f"flow_runs/{run}")
    await rest.call("DELETE", f"flow_runs/{run}")
    return {
        "scheduled": due,
        "flow_runs": shown,
        "work_pools": await rest.call("GET", f"work_pools/{side.pool}"),
        "deployments": document,
        "flows": await rest.call("GET", f"flows/{document['flow_id']}"),
        "admin": await rest.call("GET", "admin/version"),
    }


async def dispatch(stage: Stage, side: Side, runs: int, samples: Samples) -> str:
    """Have a worker dispatch so many runs; returns what is to be told of it."""
    documents = await take_documents(stage, side)
    async with (
        _open_stub(documents, stage.directory) as url,
        httpx.AsyncClient(base_url=url, verify=False, trust_env=False) as client,  # noqa: S501
        open_worker(
            side, environment=side.environment(f"{url}/api", PREFECT_WORKER_QUERY_SECONDS=QUERY_SECONDS)
        ) as worker,
    ):
        with worker.patience("to start", START_SECONDS):
            while not (await _report(client))["requests"].get(POLL):  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(_LOOK_AGAIN)
        await trio.sleep(_SETTLE_SECONDS)
        proc.forget_peak(worker.pid)
        time, memory = proc.time_of(worker.pid), proc.resident(worker.pid)
        await client.post("/runs", content=str(runs))
        what = f"the dispatch of {runs:,} commands"
        with worker.patience(f"for {what}", START_SECONDS + _RUN_SECONDS * runs):
            while (report := await _report(client))["executed"] < runs:
                _judge(side, what, report)
                await trio.sleep(_LOOK_AGAIN)
        await worker.is_quiet(AFTERMATH_SECONDS)
        _judge(side, what, await _report(client))
        time, peak = proc.time_of(worker.pid) - time, proc.resident(worker.pid, peak=True)
        await worker.stop()
    samples.add(f"dispatch_rate_{runs}", side.name, runs / report["seconds"])
    samples.add(f"dispatch_cpu_{runs}", side.name, 1000 * time / runs)
    samples.add(f"dispatch_peak_{runs}", side.name, peak / 1e6)
    samples.add(f"dispatch_memory_{runs}", side.name, (peak - memory) / 1e3 / runs)
    samples.add(f"dispatch_requests_{runs}", side.name, sum(report["requests"].values()) / runs)
    return f"{runs / report['seconds']:.0f} runs/s, {1000 * time / runs:.1f} ms CPU a run, peak {peak / 1e6:.0f} MB"


def _judge(side: Side, what: str, report: dict[str, Any]) -> None:
    if report["troubles"]:
        raise FailedRunError(f"{side.name} failed in {what}: {report['troubles'][0]}")


async def _report(client: httpx.AsyncClient) -> dict[str, Any]:
    report: dict[str, Any] = (await client.get("/report")).json()
    return report


@asynccontextmanager
async def _open_stub(documents: dict[str, Any], directory: Path) -> AsyncIterator[str]:
    """A stub of the API for the length of a block; gives its address."""
    file = directory / "documents.json"
    file.write_text(json.dumps(documents))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "benchmarks.stub", str(file)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        port = await process.stdout.receive_some()
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        with trio.move_on_after(10, shield=True):
            await process.stdin.aclose()
            await process.wait()
