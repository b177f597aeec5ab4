"""What the tests of the worker share: a worker on a fake API and fake infrastructure, in virtual time."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

from trioworker import Notice, Settings, Surroundings, Worker, WorkerConfig
from trioworker.api.client import PrefectAPI
from trioworker.api.condition import Condition
from trioworker.api.models import Deployment, FlowRun
from trioworker.testing import FakeInfrastructure, FakePrefectAPI, Script
from trioworker.testing.fake_prefect import Relay
from trioworker.testing.memory_ledger import open_memory_ledger

POOL = "pool"
URL = "http://fake/api"

# With this, delays are what they are without jitter.
NO_JITTER = 0.5


def settings(values: Mapping[str, str], directory: Path) -> Settings:
    """Settings of an environment that has nothing but what is given, and the URL of the fake API."""
    return Settings.load({"PREFECT_API_URL": URL, "HOME": str(directory), **values}, directory)


@attrs.define(eq=False)
class World:
    """A fake API with a pool and a deployment, and infrastructure to go with it.

    Times are in seconds since it was made. The API tells nothing by itself unless a test lets it, so that times are
    those of the polls.

    Attributes:
        make_api: makes the fake API; what it makes may have faults of its own.
        skew: seconds by which the worker's clock is ahead of the API's.
    """

    directory: Path
    make_api: Callable[..., FakePrefectAPI] = FakePrefectAPI
    relay: Relay = attrs.field(factory=Relay)
    api: FakePrefectAPI = attrs.field(init=False)
    infrastructure: FakeInfrastructure = attrs.field(init=False)
    deployment: Deployment = attrs.field(init=False)
    notices: list[Notice] = attrs.field(factory=list)
    notice_times: list[float] = attrs.field(factory=list)
    skew: float = 0

    def __attrs_post_init__(self) -> None:
        self.api = self.make_api(condition=self.relay)
        self.api.refuse_state_changes()
        self.infrastructure = FakeInfrastructure(self.api)
        self.api.add_work_pool(POOL, base_job_template=self.infrastructure.default_base_job_template)
        self.deployment = self.api.add_deployment("flow", POOL)

    @property
    def messages(self) -> list[str]:
        """What the worker has told the person who watches it."""
        return [notice.message for notice in self.notices]

    @property
    def now(self) -> float:
        return self.api.seconds()

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)
        self.notice_times.append(self.now)

    def notified_at(self, beginning: str) -> list[float]:
        """When the notices came that begin so."""
        return [
            at
            for at, message in zip(self.notice_times, self.messages, strict=True)
            if message.startswith(beginning)
        ]

    def schedule(self, script: Script | None = None, **options: Any) -> FlowRun:
        """A flow run that is due now and does what the script says."""
        run = self.api.schedule(self.deployment, **options)
        if script is not None:
            self.infrastructure.scripts[run.id] = script
        return run

    def states(self, run: FlowRun) -> list[str]:
        """The names of a run's states so far."""
        return [name for name, _ in self.api.history(run.id)]

    def message(self, run: FlowRun) -> str | None:
        """The message of the state that a run has now."""
        state = self.api.flow_run(run.id).state
        assert state is not None
        return state.message

    def log(self, run: FlowRun) -> list[str]:
        """The lines that the server has of a run."""
        return [line.message for line in self.api.logs if line.flow_run_id == run.id]

    @property
    def surroundings(self) -> Surroundings:
        return Surroundings(
            open_api=self._open_api,
            infrastructure=lambda _, __: self.infrastructure,
            open_ledger=open_memory_ledger,
            now=lambda: self.api.moment(self.now + self.skew),
            chance=lambda: NO_JITTER,
        )

    @asynccontextmanager
    async def _open_api(self, _: WorkerConfig, condition: Condition) -> AsyncIterator[PrefectAPI]:
        self.relay.listeners.append(condition)
        try:
            yield self.api
        finally:
            self.relay.listeners.remove(condition)

    def config(self, values: Mapping[str, str] | None = None, **options: Any) -> WorkerConfig:
        chosen = {"pool": POOL, "name": "worker", "settings": settings(values or {}, self.directory)}
        return WorkerConfig(**{**chosen, **options})

    def worker(self, values: Mapping[str, str] | None = None, **options: Any) -> Worker:
        """A worker in this world.

        Args:
            values: its settings, by Prefect's names.
            options: fields of `WorkerConfig`.
        """
        return Worker(self.config(values, **options), notify=self.notify, surroundings=self.surroundings)

    @asynccontextmanager
    async def working(self, values: Mapping[str, str] | None = None, **options: Any) -> AsyncIterator[Worker]:
        """A worker that works for the length of a block, at the end of which it is drained."""
        worker = self.worker(values, **options)
        # Virtual hours, so that a worker that does not end fails the test.
        with trio.fail_after(100_000):
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                yield worker
                worker.shutdown()


FOREVER = math.inf


async def settle() -> None:
    """Let every task do what it can do at this moment of virtual time."""
    await trio.testing.wait_all_tasks_blocked()
