"""What a worker touches of the world: the API, the machine, the time of day, and chance.

All of it is handed in, so that a whole worker runs in a test on a clock of its own.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import attrs
import trio

from trioworker.api.client import PrefectAPI, open_client
from trioworker.api.condition import Condition
from trioworker.config import WorkerConfig
from trioworker.errors import WorkerRefusedError
from trioworker.infrastructure.protocol import Infrastructure
from trioworker.infrastructure.registry import BrokenKindError, available_types, make_infrastructure
from trioworker.ledger.ledger import Ledger
from trioworker.ledger.location import directory_name, open_ledger
from trioworker.notices import Notify
from trioworker.unavailable_type import UnavailableTypeError
from trioworker.work_pool import Discovery, ProvideType, ReadPackages


def _real_api(config: WorkerConfig, condition: Condition) -> AbstractAsyncContextManager[PrefectAPI]:
    return open_client(config.transport_config(), condition)


def _installed_infrastructure(worker_type: str, config: WorkerConfig) -> Infrastructure[Any]:
    try:
        infrastructure = make_infrastructure(worker_type, config.effective_settings, config.kill_grace)
    except BrokenKindError as error:
        raise WorkerRefusedError(str(error)) from error
    if infrastructure is None:
        raise UnavailableTypeError(config.pool, worker_type, available_types())
    return infrastructure


@asynccontextmanager
async def _ledger_on_disk(
    config: WorkerConfig, pool_id: UUID | None, notify: Notify
) -> AsyncIterator[Ledger]:
    if config.ledger is False:
        yield Ledger()
        return
    directory = config.ledger_directory / directory_name(config.name, config.pool, pool_id)
    async with open_ledger(directory, notify) as ledger:
        yield ledger


async def _nothing_provided(discovery: Discovery, _: ReadPackages) -> Discovery:
    await trio.lowlevel.checkpoint()
    return discovery


def _nothing() -> None:
    """A program in which the worker is a guest sees to its own imports and its own memory."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Surroundings:
    """What a worker touches of the world; for tests, each part of it by itself.

    Attributes:
        open_api: opens the Prefect API that a configuration names.
        provide_type: sees to it that the worker's type is there; awaited before `infrastructure` is called. The
            command line installs packages in it, the library nothing.
        infrastructure: makes the infrastructure of a type; raises `WorkerRefusedError` if there is none.
        open_ledger: opens the ledger of a worker whose work pool has this id, and tells what goes wrong.
        now: the time of day, with its time zone.
        chance: random numbers from 0 to 1, for jitter.
        while_api_is_asked: called once, while the API is asked for the work pool, for what takes some time itself.
        after_first_poll: called once, when there is time for what the start has left.
    """

    open_api: Callable[[WorkerConfig, Condition], AbstractAsyncContextManager[PrefectAPI]] = _real_api
    provide_type: ProvideType = _nothing_provided
    infrastructure: Callable[[str, WorkerConfig], Infrastructure[Any]] = _installed_infrastructure
    open_ledger: Callable[[WorkerConfig, UUID | None, Notify], AbstractAsyncContextManager[Ledger]] = (
        _ledger_on_disk
    )
    now: Callable[[], datetime] = _utc_now
    chance: Callable[[], float] = random.random
    while_api_is_asked: Callable[[], None] = _nothing
    after_first_poll: Callable[[], None] = _nothing
