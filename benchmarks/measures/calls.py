"""How soon a plain function runs that trioworker serves; Prefect's worker has no such thing."""

from __future__ import annotations

import random
import statistics

import attrs
import trio

from benchmarks.apparatus.sides import Side
from benchmarks.apparatus.stage import FLOWS, Stage
from benchmarks.apparatus.worker import open_worker
from benchmarks.flows.functions import app
from benchmarks.measures.runs import run_single
from benchmarks.measures.start_up import START_SECONDS
from benchmarks.report.samples import Samples
from trioworker import Settings

_PAUSE_SECONDS = 3.0


async def call(stage: Stage, side: Side, calls: int, samples: Samples) -> str:
    """Have a function called by a worker that is idle; returns what is to be told of it."""
    side = attrs.evolve(side, pool="benchmark-functions")
    environment = side.environment(stage.rest.url, PYTHONPATH=str(FLOWS))
    (deployment,) = await app.deploy(pool=side.pool, settings=Settings.load(environment, side.directory))
    # Not in step with the worker's polls.
    pauses = random.Random(calls)  # noqa: S311
    times: list[float] = []
    async with open_worker(side, ("--flows", "functions:app"), environment=environment) as worker:
        with worker.patience("to start", START_SECONDS):
            await worker.says("started!")
        for number in range(1, calls + 1):
            await trio.sleep(1 + pauses.uniform(0, _PAUSE_SECONDS))
            seconds = await run_single(stage.rest, worker, str(deployment.id), f"call {number}")
            times.append(1000 * seconds)
        await worker.stop()
    for milliseconds in times:
        samples.add("call", side.name, milliseconds)
    return f"a plain function is Running after {statistics.median(times):.0f} ms"
