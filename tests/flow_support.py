"""What the tests of functions as flows share: a worker that serves some, in virtual time."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import trio
from support import World

from trioworker import TrioFlows, Worker
from trioworker.api.models import Deployment, FlowRun, LogLine
from trioworker.infrastructure.protocol import Assignment
from trioworker.infrastructure.trio_flows.infrastructure import FlowJob, TrioInfrastructure
from trioworker.infrastructure.trio_flows.services import Services
from trioworker.service import Rhythm

POOL = "functions"


@attrs.define(eq=False)
class Stage:
    """A world with a work pool of type `trio`, and the functions that are served there.

    State changes are told at once, so that a cancellation arrives at the moment at which it is asked for.
    """

    world: World
    app: TrioFlows = attrs.field(factory=TrioFlows)
    deployments: dict[str, Deployment] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.world.api.add_work_pool(POOL, pool_type="trio")
        self.world.api.accept_state_changes()

    def deployment(self, flow_name: str, **options: Any) -> Deployment:
        """The deployment of a flow, made at first."""
        if flow_name not in self.deployments:
            self.deployments[flow_name] = self.world.api.add_deployment(flow_name, POOL, **options)
        return self.deployments[flow_name]

    def schedule(self, flow_name: str = "work", **options: Any) -> FlowRun:
        """A run of a flow, due now; the options are those of `FakePrefectAPI.schedule`."""
        return self.world.api.schedule(self.deployment(flow_name), **options)

    def working(self, **options: Any) -> AbstractAsyncContextManager[Worker]:
        return self.world.working(pool=POOL, flows=self.app, **options)

    def worker(self, **options: Any) -> Worker:
        return self.world.worker(pool=POOL, flows=self.app, **options)

    def claimed(self, run: FlowRun) -> tuple[TrioInfrastructure, FlowJob]:
        """The infrastructure without a worker, with five seconds of grace, and a run that is claimed for it."""
        services = Services(
            api=self.world.api,
            patience=Rhythm(interval=1, chance=lambda: 0.5),
            send_log=None,
            send_event=self.world.api.events.append,
            heartbeat_seconds=None,
            now=self.world.api.now,
            stopping=lambda: False,
            wait_stopping=trio.sleep_forever,
        )
        infrastructure = TrioInfrastructure(self.app, services, 5)
        self.world.api.set_state(run.id, "Pending")
        assignment = Assignment(
            flow_run=run, flow_name="work", name=run.name, labels={}, configuration={}, environment={}
        )
        return infrastructure, infrastructure.prepare(assignment)

    async def finish(self, *runs: FlowRun, **options: Any) -> None:
        """Work until these runs have ended."""
        async with self.working(**options):
            for run in runs:
                await self.ended(run)

    async def ended(self, run: FlowRun) -> None:
        await self.world.api.wait_for_state(run.id, "Completed", "Failed", "TimedOut", "Crashed", "Cancelled")

    def states(self, run: FlowRun) -> list[str]:
        return self.world.states(run)

    def history(self, run: FlowRun) -> list[tuple[str, float]]:
        return self.world.api.history(run.id)

    def message(self, run: FlowRun) -> str | None:
        return self.world.message(run)

    def lines(self, run: FlowRun, *, of_engine: bool = False) -> list[LogLine]:
        """What the function has logged; or what its engine has."""
        return [
            line
            for line in self.world.api.logs
            if line.flow_run_id == run.id
            and (line.name == "prefect.flow_runs") == of_engine
            and line.name != "prefect.flow_runs.worker"
        ]

    def said(self, run: FlowRun) -> str:
        """What the engine has said of a run on the server."""
        return "\n".join(line.message for line in self.lines(run, of_engine=True))


class Counter:
    """Counts, for functions that behave in another way each time."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


async def sleep_until(world: World, seconds: float) -> None:
    """Sleep until so many seconds after the world was made."""
    await trio.sleep(max(0.0, seconds - world.now))
