"""The test kit in somebody's test suite, as a type checker sees it. Checked, never run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_type
from uuid import UUID

import pytest
import trio

import trioworker
from trioworker.api.errors import APIUnavailableError
from trioworker.testing import (
    Call,
    CalledHooks,
    Execution,
    FakeInfrastructure,
    FakeJob,
    FakePrefect,
    FakePrefectAPI,
    Heartbeat,
    Kill,
    LeaseRenewal,
    PrefectServer,
    ScheduleError,
    Script,
    ServerStartError,
    occurrences,
)

app = trioworker.TrioFlows()


async def test_with_a_fake(prefect_api: FakePrefect) -> None:
    prefect_api.add_work_pool("pool", pool_type="process", concurrency_limit=3)
    prefect_api.add_work_queue("pool", "fast", priority=1)
    deployment = prefect_api.add_deployment("flow", "pool", schedules=[trioworker.Cron("@daily")])
    assert_type(deployment.id, UUID)
    run = prefect_api.schedule(deployment, at=60, parameters={"width": 3})
    prefect_api.script(run, Script(seconds=3, ends="Failed", status=1))
    async with prefect_api.open_worker("pool", limit=4) as worker:
        assert_type(worker, trioworker.Worker)
        done = await prefect_api.wait_for(run, "Completed", "Failed")
        assert_type(done.id, UUID)
        if done.state is not None:
            assert_type(done.state.type, trioworker.StateType)
    assert_type(prefect_api.states(run), list[str])
    assert_type(prefect_api.history(run.id), list[tuple[str, float]])
    assert_type(prefect_api.delay(run.id), float)
    assert_type(prefect_api.scheduled_time(run), datetime)
    assert_type(prefect_api.logs_of(run), list[str])
    assert_type(prefect_api.runs_of("flow")[0].id, UUID)
    assert_type(prefect_api.notices, list[trioworker.Notice])
    assert_type(prefect_api.infrastructure, FakeInfrastructure)
    assert_type(prefect_api.settings, trioworker.Settings)
    assert_type(prefect_api.surroundings, trioworker.Surroundings)
    assert_type(prefect_api.seconds(), float)
    assert_type(prefect_api.now(), datetime)


async def test_of_a_program(prefect_api: FakePrefect) -> None:
    [deployed] = await app.deploy(pool="pool", **prefect_api.worker_options)
    assert_type(deployed, trioworker.FlowDeployment)
    prefect_api.schedule(deployed)
    prefect_api.schedule(deployed.id, at=datetime.now(UTC))
    prefect_api.schedule("flow")
    async with trioworker.open_worker(pool="pool", flows=app, **prefect_api.worker_options) as worker:
        assert_type(worker, trioworker.Worker)


async def test_of_trouble(prefect_api: FakePrefect) -> None:
    with prefect_api.outage("no route"):
        await trio.sleep(3600)
    with prefect_api.rate_limit(30):
        await trio.sleep(1)
    prefect_api.drop_state_changes()
    prefect_api.refuse_state_changes()
    prefect_api.accept_state_changes()
    prefect_api.fail("read_flow", APIUnavailableError("no answer"), times=2)
    prefect_api.lose_answer("set_flow_run_state")
    prefect_api.malform_answer("read_deployment")
    prefect_api.latency = 0.5
    assert_type(prefect_api.count("read_flow"), int)
    assert_type(prefect_api.calls, list[Call])
    assert_type(prefect_api.calls[0].at, float)
    assert_type(prefect_api.heartbeats, list[Heartbeat])
    assert_type(prefect_api.heartbeats[0].interval_seconds, int)
    assert_type(prefect_api.lease_renewals, list[LeaseRenewal])
    assert_type(prefect_api.lease_renewals[0].lease_seconds, float)


def used_wrongly(prefect_api: FakePrefect, run: UUID) -> None:
    prefect_api.add_work_pool()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    prefect_api.add_deployment("flow")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    prefect_api.schedule(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    prefect_api.script(run, seconds=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    prefect_api.wait_for(run, 3)  # type: ignore[arg-type,unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]
    prefect_api.fail("read_flow", "no answer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    prefect_api.open_worker("pool", limit="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    prefect_api.open_worker("pool", limits=4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    prefect_api.open_worker()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Script(duration=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Script(cannot_start="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def executions(infrastructure: FakeInfrastructure, run: UUID) -> None:
    infrastructure.script = Script(seconds=60, ignores_terminate=True)
    infrastructure.scripts[run] = Script(cannot_start=OSError("no such file"))
    execution = infrastructure.execution(run)
    assert_type(execution, Execution)
    assert_type(execution.started_at, float)
    assert_type(execution.ended_at, float | None)
    assert_type(execution.status, int | None)
    assert_type(execution.kills, list[Kill])
    assert_type(execution.kills[0].grace, float)
    assert_type(execution.hooks, list[CalledHooks])
    assert_type(execution.hooks[0].state_name, str | None)
    assert_type(infrastructure.executions, list[Execution])
    assert_type(infrastructure.running, list[Execution])
    assert_type(infrastructure.prepare(execution.assignment), FakeJob)
    assert_type(FakeJob(execution.assignment, Script()).script, Script)


def a_fake_of_ones_own() -> None:
    api = FakePrefectAPI(epoch=datetime(2026, 1, 1, tzinfo=UTC), latency=0.1, max_retries=5)
    assert_type(FakeInfrastructure(api, Script(), kill_grace=1).script, Script)
    FakePrefect(epoch=datetime(2026, 1, 1, tzinfo=UTC), latency=0.1, max_retries=5)

    FakePrefectAPI(latency="slow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FakePrefect(condition=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def test_with_a_server(prefect_server: PrefectServer) -> None:
    assert_type(prefect_server.url, str)
    assert_type(prefect_server.environment, dict[str, str])
    assert_type(prefect_server.log, Path)
    assert_type(prefect_server.settings, trioworker.Settings)
    [pool] = await prefect_server.acall("POST", "work_pools/filter", {})
    assert pool == prefect_server.call("GET", f"work_pools/{pool['name']}")
    async with trioworker.open_worker(pool="pool", settings=prefect_server.settings):
        pass


def times_of_schedules() -> datetime:
    try:
        times = occurrences({"cron": "@daily"}, datetime.now(UTC))
        assert_type(times, Iterator[datetime])
        return next(times)
    except ScheduleError as error:
        as_value_error: ValueError = error
        raise as_value_error from None
    except ServerStartError as error:
        as_worker_error: trioworker.WorkerError = error
        raise as_worker_error from None


@pytest.fixture
def prefilled_api(prefect_api: FakePrefect) -> FakePrefect:
    prefect_api.add_work_pool("pool")
    return prefect_api
