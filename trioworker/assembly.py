"""Gets together what the flow runs of a worker will need, once its work pool is known."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trioworker.api.client import PrefectAPI
from trioworker.config import WorkerConfig
from trioworker.errors import WorkerRefusedError
from trioworker.events import WorkerIdentity
from trioworker.flows.pool import TRIO_TYPE, refuse_other_type
from trioworker.infrastructure.interpreter import installed_prefect_version
from trioworker.infrastructure.protocol import Infrastructure
from trioworker.notices import Notify
from trioworker.outbox import Outbox
from trioworker.registration import Registration
from trioworker.runs.active import ActiveRuns
from trioworker.runs.flow_run import FlowRunner
from trioworker.runs.preparation import Preparation
from trioworker.service import Rhythm
from trioworker.shutdown import Shutdown
from trioworker.start_up import discover_patiently
from trioworker.surroundings import Surroundings
from trioworker.work_pool import Discovery, WorkPoolKeeper

if TYPE_CHECKING:
    from trioworker.flows.declaration import FlowDeclarations


async def assemble(
    api: PrefectAPI,
    outbox: Outbox,
    *,
    config: WorkerConfig,
    surroundings: Surroundings,
    active: ActiveRuns,
    shutdown: Shutdown,
    patience: Rhythm,
    notify: Notify,
) -> FlowRunner:
    """Find out what the work pool wants, and make what will live the lives of its runs.

    Raises:
        ConfigurationError: the API refuses the worker, or something that runs need is not there.
        WorkerRefusedError: the pool's runs are not for this worker.
    """
    discovery = await discover_patiently(api, config, patience, surroundings.while_api_is_asked)
    refuse_mismatch(discovery, config)
    if config.flows is None:
        discovery = await surroundings.provide_type(discovery, api.read_worker_packages)
    for notice in discovery.notices:
        notify(notice)
    infrastructure: Infrastructure[Any]
    if config.flows is None:
        infrastructure = surroundings.infrastructure(discovery.worker_type, config)
    else:
        infrastructure = _serving(
            config.flows,
            api,
            outbox,
            config=config,
            shutdown=shutdown,
            patience=patience,
            now=surroundings.now,
        )
    registration = _registration(infrastructure, config)
    keeper = WorkPoolKeeper(
        api,
        config.pool,
        worker_type=discovery.worker_type,
        base_job_template=config.base_job_template,
        default_base_job_template=infrastructure.default_base_job_template,
        found=discovery.pool,
        create=config.create_pool_if_not_found,
        wait=not config.run_once,
        notify=notify,
    )
    return FlowRunner(
        api=api,
        active=active,
        infrastructure=infrastructure,
        preparation=Preparation(
            infrastructure=infrastructure,
            registration=registration,
            worker_environment=config.settings.environment,
            shutdown_policy=lambda: shutdown.policy,
        ),
        keeper=keeper,
        registration=registration,
        outbox=outbox,
        logs_to_api=config.settings.logging_to_api_enabled,
        shutdown=shutdown,
        patience=patience,
        now=surroundings.now,
    )


def refuse_mismatch(discovery: Discovery, config: WorkerConfig) -> None:
    """Refuse to serve functions to a pool of another type, and a pool that wants functions without any.

    Raises:
        WorkerRefusedError: says what to do about it.
    """
    pool_type = None if discovery.pool is None else discovery.pool.type
    if config.flows is not None and pool_type is not None:
        refuse_other_type(config.pool, pool_type)
    if config.flows is None and TRIO_TYPE in {discovery.worker_type, pool_type}:
        raise WorkerRefusedError(
            f"The flow runs of work pool {config.pool!r} are calls of functions, which have to be given: with"
            f" `trioworker start --pool {shlex.quote(config.pool)} --flows MODULE:ATTR` on the command line, with"
            " `open_worker(pool=..., flows=...)` in a program."
        )


def _serving(
    flows: FlowDeclarations,
    api: PrefectAPI,
    outbox: Outbox,
    *,
    config: WorkerConfig,
    shutdown: Shutdown,
    patience: Rhythm,
    now: Callable[[], datetime],
) -> Infrastructure[Any]:
    """What calls functions."""
    # Here, since most workers serve none.
    from trioworker.infrastructure.trio_flows.infrastructure import TrioInfrastructure  # noqa: PLC0415
    from trioworker.infrastructure.trio_flows.services import Services  # noqa: PLC0415

    services = Services(
        api=api,
        patience=patience,
        send_log=outbox.log if config.settings.logging_to_api_enabled else None,
        send_event=outbox.event,
        heartbeat_seconds=config.settings.flow_heartbeat_seconds,
        now=now,
        stopping=lambda: shutdown.requested,
        wait_stopping=shutdown.wait_requested,
    )
    return TrioInfrastructure(flows, services, config.kill_grace)


def _registration(infrastructure: Infrastructure[Any], config: WorkerConfig) -> Registration:
    identity = WorkerIdentity(
        name=config.name, type=infrastructure.type, prefect_version=installed_prefect_version()
    )
    return Registration(
        worker=identity,
        pool_name=config.pool,
        on_cloud=config.settings.connected_to_cloud,
        ui_url=config.settings.ui_url,
    )
