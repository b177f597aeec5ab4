"""A whole Prefect in memory: the fake API, and the workers and programs that use it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.condition import Condition
from trioworker.api.models import Event, FlowRun, LogLine, State, StateType
from trioworker.config import OptionalWorkerOptions, WorkerConfig
from trioworker.embedding import open_worker
from trioworker.flows.pool import TRIO_TYPE
from trioworker.infrastructure.protocol import Infrastructure
from trioworker.notices import Notice
from trioworker.settings import Settings
from trioworker.surroundings import Surroundings
from trioworker.testing.fake_api import FakePrefectAPI
from trioworker.testing.fake_infrastructure import FakeInfrastructure, Script
from trioworker.testing.fake_server import EPOCH, STATE_TYPES, HasId
from trioworker.testing.memory_ledger import open_memory_ledger
from trioworker.testing.records import Run
from trioworker.worker import Worker

URL = "http://prefect.test/api"

# No settings are in there, and nothing is ever written to it.
_NOWHERE = Path("/nonexistent")

# With this, delays are what they are without jitter.
_NO_JITTER = 0.5

# For how long a run is waited for that neither ends nor gets where it is to get: under a clock that jumps, whoever
# waits for ever keeps the processor busy for ever.
_LONGEST_WAIT = 24 * 60 * 60

# Workers send log lines in batches, each within half a second.
_LOG_SECONDS = 1

_ENGINE_LOGGER = "prefect.flow_runs"
_LAST_LINE = "Finished in state "


class Relay(Condition):
    """Tells of the one API to every worker that uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Condition] = []

    def answered(self) -> None:
        """See `Condition.answered`."""
        super().answered()
        for listener in self.listeners:
            listener.answered()

    def failed(self, reason: str, *, retry_after: float | None = None, refused: bool = False) -> None:
        """See `Condition.failed`."""
        super().failed(reason, retry_after=retry_after, refused=refused)
        for listener in self.listeners:
            listener.failed(reason, retry_after=retry_after, refused=refused)


class FakePrefect(FakePrefectAPI):
    """A Prefect server in memory with its workers; what the fixture `prefect_api` gives.

    ```python
    async def test_a_run_completes(prefect_api, autojump_clock):
        prefect_api.add_work_pool("pool")
        run = prefect_api.schedule(prefect_api.add_deployment("flow", "pool"))
        async with prefect_api.open_worker("pool"):
            await prefect_api.wait_for(run, "Completed")
    ```

    A program that is to be tested gets `**prefect_api.worker_options` through to its `trioworker.open_worker` and
    `TrioFlows.deploy`: then it works on this Prefect, and by its clock.

    Functions that a worker serves with `flows=` are called as they would be; the runs of other work pools are played
    by `infrastructure`.

    Args:
        epoch: what the clock shows at the start.
        latency: seconds that every request takes.
        max_retries: how often a request that finds no API is repeated before a worker gets the error.

    Attributes:
        infrastructure: where the runs of pools run that are not of type `trio`; its `script` and `scripts` say what
            they do, its `executions` what they did.
        notices: what the workers of `open_worker` have told whoever watches them.
    """

    def __init__(self, *, epoch: datetime = EPOCH, latency: float = 0, max_retries: int = 0) -> None:
        self._relay = Relay()
        super().__init__(epoch=epoch, latency=latency, max_retries=max_retries, condition=self._relay)
        self.infrastructure: FakeInfrastructure = FakeInfrastructure(self)
        self.notices: list[Notice] = []
        # How many workers there are at the moment that call functions.
        self._serving = 0
        self._logged = trio.Event()

    @property
    def settings(self) -> Settings:
        """Prefect's settings for whoever uses this Prefect: nothing but its URL; the environment has no part."""
        return self.settings_with({})

    def settings_with(self, values: Mapping[str, str]) -> Settings:
        """The same with more.

        Args:
            values: by Prefect's names, such as `PREFECT_WORKER_QUERY_SECONDS`; times in seconds.

        Raises:
            SettingsError: a value that cannot be right.
        """
        environment = {"HOME": str(_NOWHERE), "PREFECT_HOME": str(_NOWHERE / ".prefect")}
        return Settings.load({**environment, "PREFECT_API_URL": URL, **values}, _NOWHERE)

    @property
    def surroundings(self) -> Surroundings:
        """A world for workers, whose API and whose clock are those of this Prefect, and without jitter."""
        return Surroundings(
            open_api=self._open_api,
            infrastructure=self._infrastructure,
            open_ledger=open_memory_ledger,
            now=self.now,
            chance=lambda: _NO_JITTER,
        )

    @property
    def worker_options(self) -> dict[str, Any]:
        """What `trioworker.open_worker` and `TrioFlows.deploy` need to use this Prefect, to be given with `**`."""
        return {"settings": self.settings, "surroundings": self.surroundings}

    def open_worker(
        self, pool: str, **options: Unpack[OptionalWorkerOptions]
    ) -> AbstractAsyncContextManager[Worker]:
        """Run a worker on this Prefect for the length of a block, as `trioworker.open_worker` does.

        What it has to tell goes to `notices`.

        Args:
            pool: the work pool; created if there is none.
            options: further fields of `WorkerConfig`, such as `flows` or `limit`; times are in seconds.

        Raises:
            WorkerError: as by `trioworker.open_worker`.
        """
        return open_worker(pool=pool, notify=self.notices.append, **{**self.worker_options, **options})

    def script(self, run: HasId | UUID, script: Script) -> None:
        """Say what a run does, in place of `infrastructure.script`; before a worker takes it.

        Args:
            run: the run, or its id.
            script: what it does.
        """
        self.infrastructure.scripts[_id(run)] = script

    async def wait_for(self, run: HasId | UUID, *names: str) -> FlowRun:
        """Wait until a run is in a state of one of these names, or is already; in virtual time as in real.

        If the run has ended by then and a worker of functions has run it, this waits for the end of its log, too: at
        most one second more.

        It does not wait for ever: it fails when the run has ended otherwise, or has not come so far a day (of
        Trio's time) from now, or from when it is due if that is later. `wait_for_state` has no such limits, and takes
        names that are not Prefect's.

        Args:
            run: the run, or its id.
            names: Prefect's names of states, such as `Running` or `Completed`.

        Returns:
            The run as it was when it had come to that state.

        Raises:
            AssertionError: the run has ended in another state, or is still in another one after a day.
            LookupError: there is no such flow run.
            ValueError: Prefect has no state of such a name, or none is given; the message lists those there are.
        """
        _check_names(names)
        flow_run_id = _id(run)
        waits_for_due = max(0, (self.scheduled_time(run) - self.now()).total_seconds())
        reached: FlowRun | None = None
        with trio.move_on_after(waits_for_due + _LONGEST_WAIT):
            reached = await self._reach(flow_run_id, names)
        if reached is None:
            raise AssertionError(_stuck(self._known_run(flow_run_id), names))
        if reached.state is not None and reached.state.type.is_final:
            await self._wait_for_last_line(flow_run_id)
        return reached

    def states(self, run: HasId | UUID) -> list[str]:
        """The names of the states that a run has been in, in order.

        Args:
            run: the run, or its id.

        Raises:
            LookupError: there is no such flow run.
        """
        return [name for name, _ in self.history(_id(run))]

    def scheduled_time(self, run: HasId | UUID) -> datetime:
        """When a run was due at first, whatever has become of it; in UTC for a run of a schedule.

        Args:
            run: the run, or its id.

        Raises:
            LookupError: there is no such flow run.
        """
        first = self._known_run(_id(run)).states[0].state_details.scheduled_time
        assert first is not None  # noqa: S101 - a run begins as scheduled
        return first

    def delay(self, run: HasId | UUID) -> float:
        """Seconds from the time at which a run was due until it was `Running`; `math.inf` if it never was.

        Args:
            run: the run, or its id.

        Raises:
            LookupError: there is no such flow run.
        """
        started = [at for name, at in self.history(_id(run)) if name == "Running"]
        due = (self.scheduled_time(run) - self.moment(0)).total_seconds()
        return started[0] - due if started else math.inf

    def logs_of(self, run: HasId | UUID) -> list[str]:
        """The lines of a run's log.

        Args:
            run: the run, or its id.
        """
        return [line.message for line in self.logs if line.flow_run_id == _id(run)]

    def events_of(self, run: HasId | UUID) -> list[Event]:
        """The events that are about a run or name it.

        Args:
            run: the run, or its id.
        """
        resource = f"prefect.flow-run.{_id(run)}"
        return [
            event
            for event in self.events
            if resource in {each.get("prefect.resource.id") for each in (event.resource, *event.related)}
        ]

    def runs_of(self, deployment: HasId | UUID | str) -> list[FlowRun]:
        """The runs of a deployment, oldest first.

        Args:
            deployment: the deployment, its id, or the name of a flow for the runs of all its deployments.

        Raises:
            LookupError: there is no flow of this name; the message lists those there are.
        """
        if isinstance(deployment, str):
            flow = self._known_flow(deployment)
            return [run for run in self.flow_runs if run.flow_id == flow.id]
        deployment_id = deployment if isinstance(deployment, UUID) else deployment.id
        return [run for run in self.flow_runs if run.deployment_id == deployment_id]

    async def send_logs(self, lines: Sequence[LogLine]) -> None:
        """See `PrefectAPI.send_logs`."""
        await super().send_logs(lines)
        logged, self._logged = self._logged, trio.Event()
        logged.set()

    async def _reach(self, flow_run_id: UUID, names: Sequence[str]) -> FlowRun:
        while True:
            run = self._known_run(flow_run_id)
            if run.state.label in names:
                await trio.lowlevel.checkpoint()
                return self.flow_run(flow_run_id)
            if _has_ended(run):
                raise AssertionError(
                    f"run {run.public.name!r} ended {_described(run.state)}; waited for {' or '.join(names)}"
                )
            await self._changed.wait()

    async def _wait_for_last_line(self, flow_run_id: UUID) -> None:
        """Wait for what the engine says of a run's end, if a worker of this process was that engine."""
        run = self._known_run(flow_run_id)
        was_called = any(state.type is StateType.PENDING for state in run.states)
        if not (self._serving and was_called and run.pool.public.type == TRIO_TYPE):
            return
        # One that was tried again by hand has such a line of each time.
        ended = self.moment(run.history[-1][1])
        with trio.move_on_after(_LOG_SECONDS):
            while not any(_is_last(line, flow_run_id) and line.timestamp >= ended for line in self.logs):
                await self._logged.wait()

    @asynccontextmanager
    async def _open_api(self, config: WorkerConfig, condition: Condition) -> AsyncIterator[PrefectAPI]:
        serves = config.flows is not None
        self._relay.listeners.append(condition)
        self._serving += serves
        try:
            yield self
        finally:
            self._serving -= serves
            self._relay.listeners.remove(condition)

    def _infrastructure(self, worker_type: str, config: WorkerConfig) -> Infrastructure[Any]:
        if config.flows is None:
            return self.infrastructure
        make: Callable[[str, WorkerConfig], Infrastructure[Any]] = Surroundings().infrastructure
        return make(worker_type, config)


def _check_names(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in STATE_TYPES]
    if unknown or not names:
        wrong = f"no states of Prefect's: {', '.join(map(repr, unknown))}" if unknown else "no state is given"
        raise ValueError(f"{wrong}; there are {', '.join(STATE_TYPES)}")


def _has_ended(run: Run) -> bool:
    """Whether a run stays in the state that it is in, unless somebody tries it again by hand.

    A crash that comes right after these is a worker's way to hand a retry on, or to a cancellation.
    """
    if run.state.type is StateType.CRASHED and len(run.states) > 1:
        before = run.states[-2]
        return before.name != "AwaitingRetry" and before.type is not StateType.CANCELLING
    return run.state.type.is_final


def _stuck(run: Run, names: Sequence[str]) -> str:
    said = f"run {run.public.name!r} is still {_described(run.state)}; waited a day for {' or '.join(names)}"
    if run.state.type is StateType.SCHEDULED:
        return f"{said}: is there a worker for its work pool {run.pool.public.name!r}?"
    return said


def _described(state: State) -> str:
    return f"{state.label}: {state.message}" if state.message else state.label


def _is_last(line: LogLine, flow_run_id: UUID) -> bool:
    is_of_engine = line.flow_run_id == flow_run_id and line.name == _ENGINE_LOGGER
    return is_of_engine and line.message.startswith(_LAST_LINE)


def _id(run: HasId | UUID) -> UUID:
    return run if isinstance(run, UUID) else run.id
