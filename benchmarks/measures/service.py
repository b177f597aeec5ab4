"""A worker in service: idle, single runs, cancellations, a burst. All with the default settings."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import attrs
import trio

from benchmarks.apparatus import proc
from benchmarks.apparatus.gate import Gate, open_gate
from benchmarks.apparatus.request_kinds import POLL, count
from benchmarks.apparatus.rest import Rest
from benchmarks.apparatus.sides import Side
from benchmarks.apparatus.stage import Deployments, Stage
from benchmarks.apparatus.verdicts import entered, expect, seconds_between
from benchmarks.apparatus.worker import Worker, open_worker
from benchmarks.measures.runs import AFTERMATH_SECONDS, FINAL, RUN_SECONDS, reached, run_single
from benchmarks.measures.start_up import START_SECONDS
from benchmarks.plan import Plan
from benchmarks.report.samples import Samples

_SETTLE_SECONDS = 3

# Seconds that a burst may take, which needs not nearly as long.
_BURST_SECONDS = 600

# Between two polls with the default settings. The time at which a run is scheduled is drawn from this much.
_POLL_SECONDS = 10.0


@attrs.frozen
class Service:
    """A worker that serves.

    Attributes:
        side: whose it is.
        stage: what it plays on.
        gate: before the server.
        worker: the worker.
        samples: where the values go.
    """

    side: Side
    stage: Stage
    gate: Gate
    worker: Worker
    samples: Samples

    @property
    def rest(self) -> Rest:
        """The server."""
        return self.stage.rest

    @property
    def deployments(self) -> Deployments:
        """What is deployed in the worker's pool."""
        return self.stage.deployments[self.side.name]

    def add(self, figure: str, value: float) -> None:
        """Take note of a value."""
        self.samples.add(figure, self.side.name, value)

    async def idle(self, seconds: float) -> None:
        """Watch the worker that has not had a run; in less time than between two polls, it need not do anything."""
        await trio.sleep(_SETTLE_SECONDS)
        time, begun = self.worker.time(), trio.current_time()
        await trio.sleep(seconds)
        minutes = (trio.current_time() - begun) / 60
        if seconds > _POLL_SECONDS:
            self.add("idle_cpu", (self.worker.time() - time) / minutes)
        self.add("idle_rss", proc.resident(self.worker.pid) / 1e6)

    async def run_single(self, what: str) -> float:
        """Have a single run executed; returns the seconds from scheduled to running."""
        return await run_single(self.rest, self.worker, self.deployments.hello, what)

    async def cancel(self, what: str) -> None:
        """Have a run cancelled that sleeps."""
        run = await self.rest.create_run(self.deployments.nap)
        await self._reached([run], FINAL | {"RUNNING"}, what, RUN_SECONDS)
        await trio.sleep(1)
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        await self.rest.call("POST", f"flow_runs/{run}/set_state", state)
        await self._reached([run], FINAL, what, RUN_SECONDS)
        history = await self.rest.history(run)
        expect(self.side.name, what, history, "Cancelled")
        self.add("cancel", seconds_between(history, "Cancelling", "Cancelled"))

    def memory(self) -> None:
        """See what the worker, and what it keeps ready, takes between runs."""
        kept = self.worker.kept()
        self.add("pss", proc.pss(kept) / 1e6)
        self.add("processes", len(kept))

    async def burst(self, runs: int, what: str) -> float:
        """Have many runs at once executed; returns the seconds from the first claim to the last end.

        They are created while the pool is paused, so that they are all there when the worker comes to know of them.
        """
        await self.stage.pause(self.side, paused=True)
        ids = [await self.rest.create_run(self.deployments.hello) for _ in range(runs)]
        await self.worker.is_quiet(_SETTLE_SECONDS)
        time, passages = self.worker.time(), len(self.gate.passages)
        await self.stage.pause(self.side, paused=False)
        await self._reached(ids, FINAL, what, _BURST_SECONDS)
        await self.worker.is_quiet(AFTERMATH_SECONDS)
        asked = self.gate.of_worker(passages), self.gate.of_runs(passages)
        self.add("burst_cpu", self.worker.time() - time)
        histories = [await self.rest.history(run) for run in ids]
        for number, history in enumerate(histories, start=1):
            expect(self.side.name, f"run {number} of {what}", history, "Completed")
        begun = min(entered(history, "Pending") for history in histories)
        ended = max(history[-1].at for history in histories)
        seconds = (ended - begun) / timedelta(seconds=1)
        self.add("burst", seconds)
        self.add("requests", count(asked[0]).total() / runs)
        self.add("requests_of_runs", count(asked[1]).total() / runs)
        self.samples.requests.append(
            {"side": self.side.name, "runs": runs, "worker": dict(sorted(count(asked[0]).items()))}
        )
        return seconds

    async def _reached(self, runs: Sequence[str], types: frozenset[str], what: str, seconds: float) -> None:
        with self.worker.patience(f"for {what}", seconds):
            await reached(self.rest, runs, types)


async def serve(stage: Stage, side: Side, plan: Plan, number: int, samples: Samples) -> str:
    """Have a worker serve for a while; returns what is to be told of it."""
    # Not in step with the worker's polls, and the same for both sides.
    pauses = random.Random(number)  # noqa: S311
    of_round = f"of round {number}"
    async with open_service(stage, side, samples) as service:
        await service.idle(plan.idle_seconds)
        first = await service.run_single(f"the first run {of_round}")
        service.add("first_run", first)
        singles: list[float] = []
        for single in range(1, plan.singles + 1):
            await trio.sleep(1 + pauses.uniform(0, _POLL_SECONDS))
            singles.append(await service.run_single(f"single run {single} {of_round}"))
            service.add("single_run", singles[-1])
        for each in range(1, plan.cancellations + 1):
            await service.cancel(f"cancellation {each} {of_round}")
        await service.worker.is_quiet(_SETTLE_SECONDS)
        service.memory()
        seconds = await service.burst(plan.burst, f"the burst {of_round}")
        await service.worker.stop()
    told = ", ".join(f"{single:.2f}" for single in singles)
    return f"Running after {first:.2f} (first), {told} s; {plan.burst} at once in {seconds:.1f} s"


@asynccontextmanager
async def open_service(stage: Stage, side: Side, samples: Samples) -> AsyncIterator[Service]:
    """A worker that serves for the length of a block."""
    async with (
        open_gate(stage.rest.url) as gate,
        open_worker(side, environment=side.environment(gate.url)) as worker,
    ):
        gate.worker = worker.pid
        with worker.patience("to start", START_SECONDS):
            await gate.first(POLL)
        yield Service(side, stage, gate, worker, samples)
