"""The worker's work pool: found or made at the start, and read again with every heartbeat."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import attrs

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import ObjectExistsError, ObjectNotFoundError
from trioworker.api.models import WorkPool
from trioworker.errors import WorkerRefusedError
from trioworker.lean_attrs import frozen
from trioworker.notices import Notice, Notify

_logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class Discovery:
    """What a look at the work pool says before the worker is built.

    Attributes:
        worker_type: the kind of infrastructure that the runs want.
        pool: the work pool as it was then; None if there is none yet.
        notices: what the person who starts the worker should know.
    """

    worker_type: str
    pool: WorkPool | None = None
    notices: Sequence[Notice] = ()


# Reads which package brings which worker type.
ReadPackages = Callable[[], Awaitable[Mapping[str, str]]]

# Sees to it that the worker's type is there, as far as it can; the notices of what it returns are yet to be given.
ProvideType = Callable[[Discovery, ReadPackages], Awaitable[Discovery]]


async def discover(api: PrefectAPI, pool_name: str, worker_type: str | None) -> Discovery:
    """Look at the work pool, if it is there.

    Args:
        api: the API.
        pool_name: the work pool.
        worker_type: the type that it was told to be; None for the pool's.

    Raises:
        WorkerRefusedError: the pool's runs are not for workers.
        APIError: the pool cannot be read.
    """
    try:
        pool = await api.read_work_pool(pool_name)
    except ObjectNotFoundError:
        if worker_type is None:
            notice = Notice(
                f"Work pool {pool_name!r} does not exist and no worker type was provided."
                " Starting a process worker...",
                warning=True,
            )
            return Discovery(worker_type="process", notices=(notice,))
        refuse_agent(worker_type)
        return Discovery(worker_type=worker_type)
    notices: list[Notice] = []
    if pool.is_paused:
        notices.append(
            Notice(
                f"The work pool {pool_name!r} is currently paused. This worker will not execute any flow runs"
                " until the work pool is unpaused.",
                warning=True,
            )
        )
    if worker_type is None:
        worker_type = pool.type
        notices.append(Notice(f"Discovered type {worker_type!r} for work pool {pool_name!r}."))
    refuse_agent(worker_type)
    if pool.needs_no_worker:
        raise WorkerRefusedError(
            f"Work pool {pool_name!r} is of type {pool.type!r}: Prefect itself starts its runs."
            " Workers are not required for push and managed work pools."
        )
    return Discovery(worker_type=worker_type, pool=pool, notices=notices)


async def notice_of_paused_queues(
    api: PrefectAPI, pool_name: str, queue_names: Sequence[str]
) -> Notice | None:
    """What the person who starts the worker should know if none of its queues gives it a run; else None.

    Args:
        api: the API.
        pool_name: the work pool.
        queue_names: the queues that the worker was told to serve; empty for all.

    Raises:
        APIError: the queues cannot be read.
    """
    queues = await api.read_work_queues(pool_name, queue_names)
    if not queues or not all(queue.is_paused for queue in queues):
        return None
    whose = "Specified work queue(s)" if queue_names else "All work queues"
    return Notice(
        f"{whose} in the work pool {pool_name!r} are currently paused. This worker will not execute"
        " any flow runs until the work queues are unpaused.",
        warning=True,
    )


def refuse_agent(worker_type: str) -> None:
    """Refuse to be what Prefect had before there were workers.

    Raises:
        WorkerRefusedError: that is what is wanted.
    """
    if worker_type == "prefect-agent":
        raise WorkerRefusedError(
            "'prefect-agent' typed work pools work with Prefect Agents instead of Workers. Please use the"
            " 'prefect agent start' to start a Prefect Agent. That is a command which Prefect 3 no longer has:"
            " create a work pool of type 'process' and move the deployments to it."
        )


class WorkPoolKeeper:
    """Knows the work pool as it is now, and makes it what the worker needs.

    Args:
        api: the API.
        pool_name: the work pool.
        worker_type: the worker's type, which a new pool gets.
        base_job_template: for a new pool; None for the default.
        default_base_job_template: of the infrastructure.
        found: the pool as it was just read, which need not be read again to begin with; None if it was not there.
        create: whether a missing pool is created.
        wait: whether one that is missing, and may not be created, is waited for, which is said then.
        notify: told what changes.
    """

    def __init__(
        self,
        api: PrefectAPI,
        pool_name: str,
        *,
        worker_type: str,
        base_job_template: Mapping[str, Any] | None,
        default_base_job_template: Mapping[str, Any],
        create: bool,
        notify: Notify,
        found: WorkPool | None = None,
        wait: bool = True,
    ) -> None:
        self._api = api
        self._pool_name = pool_name
        self._worker_type = worker_type
        self._base_job_template = base_job_template
        self._default_base_job_template = default_base_job_template
        self._create = create
        self._wait = wait
        self._notify = notify
        self._found = found
        self._pool: WorkPool | None = None
        self._complaint = ""

    @property
    def pool(self) -> WorkPool | None:
        """The work pool as it was last seen; None if it never was, or is gone."""
        return self._pool

    def pool_id(self) -> UUID | None:
        """The id of the pool as it is now; None while there is none."""
        return None if self._pool is None else self._pool.id

    async def sync(self) -> WorkPool | None:
        """Read the pool, creating it and filling its template where that is wanted.

        Returns:
            The pool; None if there is none and none may be created.
        """
        pool = await self._read_or_create()
        if pool is None:
            self._pool = None
            if self._wait:
                self._complain(
                    f"Work pool {self._pool_name!r} not found! Waiting for it, since this worker may not create it."
                )
            return None
        if not pool.base_job_template:
            await self._api.update_work_pool_template(pool.name, self._default_base_job_template)
            pool = attrs.evolve(pool, base_job_template=dict(self._default_base_job_template))
        if pool.type != self._worker_type:
            self._complain(
                f"Worker type mismatch! This worker is of type {self._worker_type!r}, but the work pool is of"
                f" type {pool.type!r}. Unexpected behavior may occur."
            )
        else:
            self._complaint = ""
        self._pool = pool
        return pool

    async def _read_or_create(self) -> WorkPool | None:
        found, self._found = self._found, None
        if found is not None:
            return found
        try:
            return await self._api.read_work_pool(self._pool_name)
        except ObjectNotFoundError:
            if not self._create:
                return None
        template = self._base_job_template or self._default_base_job_template
        try:
            pool = await self._api.create_work_pool(
                self._pool_name, pool_type=self._worker_type, base_job_template=template
            )
        except ObjectExistsError:
            _logger.debug("Work pool %r was created by somebody else meanwhile", self._pool_name)
            return await self._api.read_work_pool(self._pool_name)
        self._notify(Notice(f"Work pool {self._pool_name!r} created."))
        return pool

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            self._complaint = message
            self._notify(Notice(message, warning=True))
