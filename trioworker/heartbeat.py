"""The heartbeat: bring the work pool up to date, and say that the worker lives."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trioworker.api.errors import APIError, ObjectNotFoundError, RequestRefusedError
from trioworker.errors import WorkerRefusedError
from trioworker.outbox import Heartbeat, Outbox
from trioworker.registration import Registration
from trioworker.service import Rhythm, WakeUp, repeat
from trioworker.work_pool import WorkPoolKeeper


async def keep_heartbeat(
    keeper: WorkPoolKeeper,
    outbox: Outbox,
    registration: Registration,
    rhythm: Rhythm,
    *,
    wake_up: WakeUp,
    wait_for_pool: bool,
    explain: Callable[[RequestRefusedError], Exception],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Beat for ever; started once the work pool has been read for the first time.

    Args:
        keeper: keeps the work pool.
        outbox: sends the heartbeats.
        registration: whose heartbeat it is.
        rhythm: how often.
        wake_up: brings the next beat forward, when the pool is found to be gone.
        wait_for_pool: whether to wait for a pool that does not exist and may not be created.
        explain: makes the error to raise when the API refuses the work pool in the first place: what it does not
            like then, it will not like later.
        task_status: told when the first beat is done.

    Raises:
        WorkerRefusedError: there is no pool, and none is waited for.
    """
    synced = False

    async def beat() -> None:
        nonlocal synced
        try:
            pool = await keeper.sync()
        except RequestRefusedError as error:
            if synced or isinstance(error, ObjectNotFoundError):
                raise
            raise explain(error) from error
        if pool is None:
            if not wait_for_pool:
                raise WorkerRefusedError(
                    f"Work pool {registration.pool_name!r} does not exist, and this worker may not create it."
                )
            return
        outbox.heartbeat(_heartbeat(pool.name, registration, rhythm.interval))
        if not synced:
            synced = True
            task_status.started()

    await repeat("read the work pool", beat, rhythm, wake_up=wake_up)


def _heartbeat(pool_name: str, registration: Registration, interval: float) -> Heartbeat:
    return Heartbeat(
        pool_name=pool_name,
        worker_name=registration.worker.name,
        interval=interval,
        metadata=registration.metadata() if registration.wanted else None,
        on_worker_id=registration.given if registration.wanted else None,
    )


class MissingPoolAlarm:
    """Brings the next beat forward when a heartbeat was refused because its pool is gone.

    Once, until a heartbeat gets through: a server that refuses heartbeats for a pool that it shows would else be
    asked without a pause.

    Args:
        wake_up: of the heartbeat.
    """

    def __init__(self, wake_up: WakeUp) -> None:
        self._wake_up = wake_up
        self._raised = False

    def __call__(self, error: APIError | None) -> None:
        """Take note of how a heartbeat went."""
        if error is None:
            self._raised = False
        elif isinstance(error, ObjectNotFoundError) and not self._raised:
            self._raised = True
            self._wake_up()
