"""What a worker touches of the world: the API, the machine, the time of day, and chance.

All of it is handed in, so that a whole worker runs in a test on a clock of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

import attrs

from trioworker.api.client import PrefectAPI, open_client
from trioworker.api.condition import Condition
from trioworker.config import WorkerConfig
from trioworker.errors import WorkerRefusedError
from trioworker.infrastructure.protocol import Infrastructure
from trioworker.infrastructure.registry import available_types, find_infrastructure


def _real_api(config: WorkerConfig, condition: Condition) -> AbstractAsyncContextManager[PrefectAPI]:
    return open_client(config.transport_config(), condition)


def _installed_infrastructure(worker_type: str, config: WorkerConfig) -> Infrastructure[Any]:
    factory = find_infrastructure(worker_type)
    if factory is None:
        message = (
            "Unable to start worker. Please ensure you have the necessary dependencies installed to run your"
            f" desired worker type. Available here: {', '.join(available_types())}."
        )
        if config.worker_type is None:
            message += (
                " Prefect's own worker may serve the pool meanwhile:"
                f" prefect worker start --pool '{config.pool}' --type {worker_type}"
            )
        raise WorkerRefusedError(message)
    return factory(config.settings, config.kill_grace)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a worker touches of the world.

    Attributes:
        open_api: opens the API that a configuration names.
        infrastructure: makes the infrastructure of a type; raises `WorkerRefusedError` if there is none.
        now: the time of day, with its time zone.
        chance: random numbers from 0 to 1, for jitter.
    """

    open_api: Callable[[WorkerConfig, Condition], AbstractAsyncContextManager[PrefectAPI]] = _real_api
    infrastructure: Callable[[str, WorkerConfig], Infrastructure[Any]] = _installed_infrastructure
    now: Callable[[], datetime] = _utc_now
    chance: Callable[[], float] = random.random
