"""Functions as flows, with a real server: what it has of their runs is what Prefect's own engine would leave."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import trio
from conftest import PrefectServer

from trioworker import Settings, TrioFlows, Worker, open_worker
from trioworker.api.client import PrefectClient, open_client
from trioworker.api.condition import Condition
from trioworker.api.models import DeploymentDraft, FlowRun, State
from trioworker.config import WorkerConfig
from trioworker.flows.pool import TRIO_BASE_JOB_TEMPLATE
from trioworker.infrastructure.trio_flows.current import current_flow_run

PATIENCE = 60.0

_logger = logging.getLogger("of_a_program")


@attrs.define(eq=False)
class Stage:
    """A work pool of its own on the server, and the functions that are served there."""

    config: WorkerConfig
    api: PrefectClient
    server: PrefectServer
    app: TrioFlows

    async def schedule(self, flow_name: str, *, limit: int | None = None, **parameters: Any) -> FlowRun:
        """A run of a flow, due now."""
        served = self.app.get(flow_name)
        assert served is not None
        draft = DeploymentDraft(
            name="default",
            flow_id=(await self.api.create_flow(flow_name)).id,
            work_pool_name=self.config.pool,
            # As if it were an older program's.
            enforce_parameter_schema=False,
            concurrency_limit=limit,
        )
        deployment = await self.api.create_deployment(draft)
        return await self.api.create_flow_run(deployment.id, parameters=parameters)

    def working(self, **options: Any) -> AbstractAsyncContextManager[Worker]:
        return open_worker(pool=self.config.pool, flows=self.app, settings=self.config.settings, **options)

    async def wait_for(self, run: FlowRun, *names: str) -> FlowRun:
        with trio.fail_after(PATIENCE):
            while True:
                found = await self.api.read_flow_run(run.id)
                if found.state is not None and found.state.label in names:
                    return found
                await trio.sleep(0.1)

    async def ended(self, run: FlowRun) -> FlowRun:
        return await self.wait_for(run, "Completed", "Failed", "TimedOut", "Crashed", "Cancelled")

    async def history(self, run: FlowRun) -> list[tuple[str, str | None]]:
        """The names and messages of the states from `Running` on."""
        return _from_running_on(await self.api.read_flow_run_states(run.id))

    async def log(self, run: FlowRun) -> list[tuple[str, str]]:
        lines = await self.server.acall(
            "POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [str(run.id)]}}, "sort": "TIMESTAMP_ASC"}
        )
        return [(line["name"], line["message"]) for line in lines]


def _from_running_on(states: list[State]) -> list[tuple[str, str | None]]:
    history = [(state.label, state.message or None) for state in states]
    begun = [name for name, _ in history].index("Running")
    return history[begun:]


@pytest.fixture
async def stage(prefect_server: PrefectServer, tmp_path: Path) -> AsyncIterator[Stage]:
    settings = Settings.load(
        {"PREFECT_API_URL": prefect_server.url, "HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "2"},
        tmp_path,
    )
    app = TrioFlows()
    config = WorkerConfig(pool=f"trio-{uuid4().hex[:8]}", flows=app, settings=settings)
    async with open_client(config.transport_config(), Condition()) as api:
        await api.create_work_pool(config.pool, pool_type="trio", base_job_template=TRIO_BASE_JOB_TEMPLATE)
        yield Stage(config, api, prefect_server, app)


# The same three flows, for Prefect's own engine.
WITH_PREFECT = """
import json, time
from prefect import flow
from prefect.runtime import flow_run

ids = {}

def note(name):
    ids[name] = str(flow_run.id)

@flow(retries=1)
def fails():
    note("fails")
    raise ValueError("no luck")

@flow
def works():
    note("works")

@flow(timeout_seconds=1)
def slow():
    note("slow")
    time.sleep(2)

for each in (fails, works, slow):
    each(return_state=True)
print(json.dumps(ids))
"""


@pytest.mark.process
async def test_states_are_those_of_prefects_own_engine(stage: Stage) -> None:
    @stage.app.flow(retries=1)
    async def fails() -> None:
        raise ValueError("no luck")

    @stage.app.flow()
    async def works() -> None: ...

    @stage.app.flow(timeout=1)
    async def slow() -> None:
        await trio.sleep_forever()

    script = await trio.run_process(
        [sys.executable, "-c", WITH_PREFECT], capture_stdout=True, env=stage.server.environment
    )
    theirs = json.loads(script.stdout.splitlines()[-1])
    ours = {name: await stage.schedule(name) for name in theirs}
    async with stage.working():
        for run in ours.values():
            await stage.ended(run)
    for name, flow_run_id in theirs.items():
        wanted = _from_running_on(await stage.api.read_flow_run_states(UUID(flow_run_id)))
        assert await stage.history(ours[name]) == wanted
        its, own = [await stage.api.read_flow_run(UUID(each)) for each in (flow_run_id, str(ours[name].id))]
        assert own.run_count == its.run_count


@pytest.mark.process
async def test_run_that_fails_once_is_called_again_and_its_log_tells_why(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    attempts: list[int] = []

    @stage.app.flow(retries=2, retry_delay=1)
    async def work(n: int) -> None:
        attempts.append(current_flow_run().attempt)
        _logger.info("attempt with %d", n)
        if len(attempts) == 1:
            raise ValueError("no luck")

    run = await stage.schedule("work", n="5")
    async with stage.working():
        await stage.ended(run)
    assert attempts == [1, 2]
    assert [name for name, _ in await stage.history(run)] == [
        "Running",
        "AwaitingRetry",
        "Running",
        "Completed",
    ]
    log = await stage.log(run)
    assert [message for name, message in log if name == "of_a_program"] == [
        "attempt with 5",
        "attempt with 5",
    ]
    [failure] = [message for _, message in log if message.startswith("Encountered exception")]
    assert 'raise ValueError("no luck")' in failure
    assert log[-1] == ("prefect.flow_runs", "Finished in state Completed()")


@pytest.mark.process
async def test_parameters_that_do_not_fit_fail_the_run(stage: Stage) -> None:
    @stage.app.flow(retries=1)
    async def work(n: int) -> None: ...

    run = await stage.schedule("work", n="many")
    async with stage.working():
        ended = await stage.ended(run)
    assert ended.state is not None
    assert ended.state.label == "Failed"
    assert ended.run_count == 0
    assert "`n`" in (ended.state.message or "") or " n" in (ended.state.message or "")


@pytest.mark.process
async def test_run_that_is_cancelled_cleans_up(stage: Stage) -> None:
    done: list[str] = []

    @stage.app.flow()
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            done.append("cleaned up")

    run = await stage.schedule("work")
    async with stage.working():
        await stage.wait_for(run, "Running")
        await stage.server.acall(
            "POST", f"flow_runs/{run.id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        )
        await stage.ended(run)
    assert done == ["cleaned up"]
    assert [name for name, _ in await stage.history(run)] == ["Running", "Cancelling", "Cancelled"]


@pytest.mark.process
async def test_slot_of_a_deployment_is_kept_and_given_back(stage: Stage) -> None:
    called: list[UUID] = []
    may_end = trio.Event()

    @stage.app.flow()
    async def work() -> None:
        called.append(current_flow_run().id)
        await may_end.wait()

    first = await stage.schedule("work", limit=1)
    async with stage.working():
        running = await stage.wait_for(first, "Running")
        assert running.state is not None
        lease_id = running.state.state_details.deployment_concurrency_lease_id
        assert lease_id is not None
        # It is still there, and so it was renewed or is new.
        await stage.api.renew_concurrency_lease(lease_id, 300)
        second = await stage.api.create_flow_run(_deployment(first))
        await stage.wait_for(second, "AwaitingConcurrencySlot")
        assert called == [first.id]
        may_end.set()
        await stage.ended(first)
        # The server would have it wait for half a minute.
        await stage.server.acall(
            "POST",
            f"flow_runs/{second.id}/set_state",
            {"state": {"type": "SCHEDULED", "name": "Scheduled"}, "force": True},
        )
        await stage.ended(second)
    assert called == [first.id, second.id]


def _deployment(run: FlowRun) -> UUID:
    assert run.deployment_id is not None
    return run.deployment_id


@pytest.mark.process
async def test_function_that_ends_during_the_drain_is_completed(stage: Stage) -> None:
    running = trio.Event()

    @stage.app.flow()
    async def work() -> None:
        running.set()
        await trio.sleep(1)

    run = await stage.schedule("work")
    async with stage.working():
        await running.wait()
    assert [name for name, _ in await stage.history(run)] == ["Running", "Completed"]


@pytest.mark.process
async def test_function_that_is_stopped_with_its_worker_is_crashed(stage: Stage) -> None:
    running = trio.Event()

    @stage.app.flow()
    async def work() -> None:
        running.set()
        await trio.sleep_forever()

    run = await stage.schedule("work")
    async with stage.working() as worker:
        await running.wait()
        worker.stop()
    [*_, (name, message)] = await stage.history(run)
    assert name == "Crashed"
    assert message == f"Worker '{worker.name}' was stopped before the flow run had ended."


@pytest.mark.process
async def test_run_that_waits_for_its_time_is_given_back(stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    first = await stage.schedule("work")
    later = (await stage.api.read_flow_run(first.id)).state
    assert later is not None
    assert later.timestamp is not None

    run = await stage.api.create_flow_run(
        _deployment(first), scheduled_time=later.timestamp + timedelta(seconds=30)
    )
    async with stage.working(prefetch_seconds=60) as worker:
        await stage.wait_for(run, "Pending")
        await stage.ended(first)
        worker.stop()
    names = [state.label for state in await stage.api.read_flow_run_states(run.id)]
    assert names == ["Scheduled", "Pending", "Scheduled"]
