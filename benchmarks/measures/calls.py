"""How soon a plain function runs that trioworker serves; Prefect's worker has no such thing."""

from __future__ import annotations

import random
import statistics

import attrs
import trio

from benchmarks.apparatus.sides import Side
from benchmarks.apparatus.stage import FLOWS, Deployments, Stage
from benchmarks.flows.functions import app
from benchmarks.measures.service import open_service
from benchmarks.report.samples import Samples
from trioworker import Settings

_PAUSE_SECONDS = 3.0


async def call(stage: Stage, side: Side, calls: int, samples: Samples) -> str:
    """Have a function called by a worker that is idle; returns what is to be told of it."""
    side = attrs.evolve(side, pool="benchmark-functions")
    settings = Settings.load(side.environment(stage.rest.url), side.directory)
    (deployment,) = await app.deploy(pool=side.pool, settings=settings)
    stage = attrs.evolve(
        stage, deployments={side.name: Deployments(hello=str(deployment.id), nap="", command="")}
    )
    # Not in step with the worker's polls.
    pauses = random.Random(calls)  # noqa: S311
    times: list[float] = []
    async with open_service(
        stage, side, samples, "--flows", "functions:app", PYTHONPATH=str(FLOWS)
    ) as service:
        for number in range(1, calls + 1):
            await trio.sleep(1 + pauses.uniform(0, _PAUSE_SECONDS))
            times.append(1000 * await service.run_single(f"call {number}"))
        await service.worker.stop()
    for milliseconds in times:
        samples.add("call", side.name, milliseconds)
    return f"a plain function is Running after {statistics.median(times):.0f} ms"
