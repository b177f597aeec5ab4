"""How long a worker takes to start, and to stop when it has nothing to do."""

from __future__ import annotations

import trio

from benchmarks.apparatus.gate import open_gate
from benchmarks.apparatus.request_kinds import POLL
from benchmarks.apparatus.sides import Side
from benchmarks.apparatus.stage import Stage
from benchmarks.apparatus.worker import open_worker
from benchmarks.report.samples import Samples

# Seconds that a start may take on a machine that is busy with other things.
START_SECONDS = 120

_IDLE_SECONDS = 2


async def start_and_stop(stage: Stage, side: Side, samples: Samples) -> str:
    """Start a worker and stop it; returns what is to be told of it."""
    async with (
        open_gate(stage.rest.url) as gate,
        open_worker(side, environment=side.environment(gate.url)) as worker,
    ):
        gate.worker = worker.pid
        with worker.patience("to start", START_SECONDS):
            poll = await gate.first(POLL)
            await worker.says("started!")
        await trio.sleep(_IDLE_SECONDS)
        starting, stopping = (poll.at - worker.begun) / 1e9, await worker.stop()
    samples.add("first_poll", side.name, starting)
    samples.add("stop", side.name, stopping)
    return f"first poll after {starting:.2f} s, stopped in {stopping:.2f} s"
