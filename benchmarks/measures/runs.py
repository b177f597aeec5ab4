"""Runs of deployments, watched from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from benchmarks.apparatus.rest import Rest
from benchmarks.apparatus.verdicts import expect, seconds_between
from benchmarks.apparatus.worker import Worker

FINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
"""The types of states in which a run has ended."""

RUN_SECONDS: Final = 120
"""Seconds that a single run may take; none needs nearly as long."""

AFTERMATH_SECONDS: Final = 6
"""What a worker leaves for later about its runs, it has begun to do within these seconds."""

_LOOK_AGAIN = 0.5


async def reached(rest: Rest, runs: Sequence[str], types: frozenset[str]) -> None:
    """Wait until all runs are in states of these types."""
    while True:
        await trio.sleep(_LOOK_AGAIN)
        if await rest.count(runs, types) == len(runs):
            return


async def run_single(rest: Rest, worker: Worker, deployment: str, what: str) -> float:
    """Have a single run executed; returns the seconds from scheduled to running."""
    run = await rest.create_run(deployment)
    with worker.patience(f"for {what}", RUN_SECONDS):
        await reached(rest, [run], FINAL)
    history = await rest.history(run)
    expect(worker.side.name, what, history, "Completed")
    return seconds_between(history, "Scheduled", "Running")
