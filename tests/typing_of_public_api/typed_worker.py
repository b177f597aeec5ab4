"""A worker in somebody's program, as a type checker sees it. Checked, never run.

What is marked as an error is one: a mark that nothing needs is itself an error, to both checkers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type
from uuid import UUID

import trio

import trioworker
from trioworker import (
    APIError,
    ConfigurationError,
    GaveUpError,
    HealthServerError,
    Notice,
    ObjectNotFoundError,
    RequestRefusedError,
    Settings,
    SettingsError,
    Surroundings,
    Worker,
    WorkerConfig,
    WorkerError,
    WorkerRefusedError,
    open_worker,
)


def show(notice: Notice) -> None:
    assert_type(notice.message, str)
    assert_type(notice.warning, bool)


async def for_the_length_of_a_block(settings: Settings, surroundings: Surroundings) -> None:
    async with open_worker(pool="demo") as worker:
        assert_type(worker, Worker)

    async with trioworker.open_worker(
        pool="demo",
        name="mine",
        queues=["fast", "slow"],
        worker_type="process",
        prefetch_seconds=2.5,
        run_once=True,
        limit=4,
        with_healthcheck=True,
        base_job_template={"job_configuration": {}, "variables": {}},
        create_pool_if_not_found=False,
        drain_timeout=20,
        kill_grace=0.5,
        flush_timeout=3,
        settings=settings,
        surroundings=surroundings,
        notify=show,
    ) as worker:
        assert_type(worker, Worker)

    async with open_worker(pool="demo", limit=None, flows=None, worker_type=None, surroundings=None):
        pass


def options_that_open_worker_does_not_take(
    notify_wrongly: trio.MemorySendChannel[Notice], unsure: str | None
) -> None:
    open_worker()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    open_worker("demo")  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    open_worker(pool=unsure)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_worker(pool="demo", limits=4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    open_worker(pool="demo", limit="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_worker(pool="demo", queues=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    open_worker(pool="demo", drain_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_worker(pool="demo", flows=show)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_worker(pool="demo", settings={})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_worker(pool="demo", notify=notify_wrongly)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def configuration_in_hand(settings: Settings) -> None:
    config = WorkerConfig(pool="demo", limit=4, settings=settings)
    assert_type(config.pool, str)
    assert_type(config.queues, Sequence[str])
    assert_type(config.limit, int | None)
    assert_type(config.base_job_template, Mapping[str, Any] | None)
    assert_type(config.drain_timeout, float)
    assert_type(config.settings, Settings)
    assert_type(config.stop_bound, float)
    assert_type(config.effective_prefetch_seconds, float | None)
    assert_type(config.effective_worker_type, str | None)

    WorkerConfig()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WorkerConfig("demo")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WorkerConfig(pool="demo", kill_grace="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WorkerConfig(pool="demo", patience=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    config.limit = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def in_a_nursery_of_ones_own(config: WorkerConfig) -> None:
    worker = Worker(config, notify=show, surroundings=Surroundings(chance=lambda: 0.5))
    assert_type(worker.config, WorkerConfig)
    assert_type(worker.name, str)
    assert_type(worker.ready, bool)
    assert_type(worker.runs_in_hand, int)
    assert_type(worker.cut_off, bool)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await nursery.start(worker.run)
        worker.shutdown()
        worker.stop()
        worker.abandon()
    await worker.run()

    Worker(pool="demo")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Worker(config, show)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await worker.run(nursery)  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    await worker.shutdown()  # type: ignore[misc,func-returns-value]  # pyright: ignore[reportGeneralTypeIssues]


async def runs_made_by_the_host(worker: Worker, deployment_id: UUID) -> None:
    flow_run_id = await worker.create_flow_run(
        deployment_id, parameters={"width": 3}, name="big", scheduled_time=datetime.now(UTC)
    )
    assert_type(flow_run_id, UUID)
    assert_type(await worker.create_flow_run(deployment_id), UUID)

    await worker.create_flow_run("resize/media")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await worker.create_flow_run(deployment_id, scheduled_time=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def settings_of_prefect(directory: Path) -> None:
    settings = Settings.load()
    assert_type(settings, Settings)
    assert_type(Settings.load({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, directory), Settings)
    assert_type(settings.api_url, str | None)
    assert_type(settings.api_key, str | None)
    assert_type(settings.api_request_timeout, float)
    assert_type(settings.client_max_retries, int)
    assert_type(settings.client_custom_headers, Mapping[str, str])
    assert_type(settings.client_retry_extra_codes, frozenset[int])
    assert_type(settings.worker_cancellation_poll_seconds, float | None)
    assert_type(settings.flow_heartbeat_seconds, float | None)
    assert_type(settings.home, Path)
    assert_type(settings.connected_to_cloud, bool)
    assert_type(settings.source_of("api_url"), str)
    assert_type(settings.environment_for_runs(), dict[str, str])
    assert_type(settings.variables(), dict[str, str])
    assert_type(settings.with_api_url("http://127.0.0.1:4200/api"), Settings)

    Settings.load({"PREFECT_API_URL": None})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    settings.api_ulr  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def a_world_of_ones_own() -> None:
    surroundings = Surroundings(now=lambda: datetime.now(UTC))
    assert_type(surroundings.now(), datetime)
    assert_type(surroundings.chance(), float)

    Surroundings(now=lambda: "noon")  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    Surroundings(clock=lambda: 0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def errors(config: WorkerConfig) -> int:
    """The tree of errors: each `except` takes what its root promises."""
    try:
        await Worker(config).run()
    except (SettingsError, ConfigurationError) as error:
        configuration: ConfigurationError = error
        return len(str(configuration))
    except (WorkerRefusedError, HealthServerError, GaveUpError) as error:
        root: WorkerError = error
        return len(str(root))
    except ObjectNotFoundError as missing:
        assert_type(missing.detail, str)
    except RequestRefusedError as refusal:
        assert_type(refusal.status_code, int)
    except APIError as api_error:
        assert_type(api_error, APIError)
    return 0


def names_that_there_are_not() -> None:
    assert_type(trioworker.__version__, str)
    trioworker.Agent  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    from trioworker import Wroker  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
