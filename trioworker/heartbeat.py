"""The heartbeat: bring the work pool up to date, and say that the worker lives."""

from __future__ import annotations

import trio

from trioworker.api.errors import APIError, ObjectNotFoundError, RequestRefusedError, is_outage
from trioworker.errors import ConfigurationError
from trioworker.outbox import Heartbeat, Outbox
from trioworker.service import Rhythm, WakeUp, repeat
from trioworker.work_pool import WorkPoolKeeper


async def keep_heartbeat(
    keeper: WorkPoolKeeper,
    outbox: Outbox,
    worker_name: str,
    rhythm: Rhythm,
    *,
    wake_up: WakeUp,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Beat for ever; started once the work pool has been read for the first time.

    Args:
        keeper: keeps the work pool.
        outbox: sends the heartbeats.
        worker_name: whose heartbeat it is.
        rhythm: how often.
        wake_up: brings the next beat forward, when the pool is found to be gone.
        task_status: told when the first beat is done.

    Raises:
        ConfigurationError: the API refuses to make the work pool ready in the first place.
    """
    synced = False

    async def beat() -> None:
        nonlocal synced
        try:
            pool = await keeper.sync()
        except RequestRefusedError as error:
            if synced or is_outage(error) or isinstance(error, ObjectNotFoundError):
                raise
            # What the API does not like about the very first request, it will not like about the next.
            raise ConfigurationError(f"The work pool cannot be made ready: {error}") from error
        if pool is None:
            return
        outbox.heartbeat(Heartbeat(pool_name=pool.name, worker_name=worker_name, interval=rhythm.interval))
        if not synced:
            synced = True
            task_status.started()

    await repeat("read the work pool", beat, rhythm, wake_up=wake_up)


def wake_when_pool_is_gone(wake_up: WakeUp, error: APIError | None) -> None:
    """Bring the next beat forward when a heartbeat was refused because its pool is gone."""
    if isinstance(error, ObjectNotFoundError):
        wake_up()
