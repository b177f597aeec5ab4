"""Listens to the events websocket: a hint that comes at once, beside the polling that finds everything in time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from uuid import UUID

import attrs
import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError, APIUnavailableError
from trioworker.api.models import StateChange, StateType
from trioworker.service import Rhythm

_logger = logging.getLogger(__name__)

# Seconds of failures, while other requests count as answered, before it is said that only the websocket is missing.
# An outage of the whole API is found out by then, and said by others: a request that is never answered is given
# up after 60 s, and so is the one that repeats it.
SURE_AFTER = 150.0

# Seconds that a connection must last before the failures before it are forgotten. One that is cut as soon as it
# is there would else be opened, and followed by a poll, without a pause.
PROVEN_AFTER = 60.0

# Seconds between looks at whether the work pool is still the same one.
_LOOK_AGAIN = 60.0


async def keep_listening(
    api: PrefectAPI,
    pool_id: Callable[[], UUID | None],
    on_connected: Callable[[], None],
    on_change: Callable[[StateChange], None],
    rhythm: Rhythm,
    *,
    state_types: Collection[StateType] = frozenset({StateType.SCHEDULED, StateType.CANCELLING}),
    poll_interval: float | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen for ever; started at once, since nothing depends on it.

    Whatever goes wrong with the websocket, it is tried again. No note of it goes to the condition of the API.

    Args:
        api: the API.
        pool_id: the id of the work pool as it is now; None while there is none.
        on_connected: called after each connecting: what has happened until then is found by a poll only.
        on_change: called with each change of a run of the pool to a state of one of these types.
        rhythm: the pauses between attempts, which grow with each failure.
        state_types: what to listen for.
        poll_interval: seconds between polls, for the line that says that there is nothing but polling.
        task_status: told at once.
    """
    task_status.started()
    listener = _Listener(
        api=api,
        pool_id=pool_id,
        on_connected=on_connected,
        on_change=on_change,
        rhythm=rhythm,
        state_types=state_types,
        absence=Absence(poll_interval),
    )
    while True:
        await listener.listen()


class Absence:
    """Says once that there is no websocket though there is an API, and once that it is back.

    Args:
        poll_interval: seconds between polls, if known.
    """

    def __init__(self, poll_interval: float | None) -> None:
        self._meanwhile = "Polling" if poll_interval is None else f"Polling every {poll_interval:g} s"
        self._since: float | None = None
        self._said = False

    def failed(self, error: APIError, *, now: float, api_is_there: bool) -> None:
        """Take note of a failure to connect, or of a lost connection."""
        if not api_is_there:
            # That is said by others, and what comes after it is another matter.
            self._since = None
        elif self._since is None:
            self._since = now
        elif not self._said and now - self._since >= SURE_AFTER:
            self._said = True
            _logger.info(
                "The Prefect API can tell nothing by itself, for want of its events websocket: %s. %s meanwhile.",
                error,
                self._meanwhile,
            )

    def connected(self) -> None:
        """Take note of a connection."""
        self._since = None
        if self._said:
            self._said = False
            _logger.info("The events websocket of the Prefect API is back.")


@attrs.define(kw_only=True, eq=False, repr=False)
class _Listener:
    api: PrefectAPI
    pool_id: Callable[[], UUID | None]
    on_connected: Callable[[], None]
    on_change: Callable[[StateChange], None]
    rhythm: Rhythm
    state_types: Collection[StateType]
    absence: Absence
    failures: int = 0

    async def listen(self) -> None:
        """Have one connection, or one failure and the pause after it."""
        pool_id = self.pool_id()
        if pool_id is None:
            await trio.sleep(self.rhythm.delay(0))
            return
        try:
            await self._follow(pool_id)
        except APIError as error:
            await self._pause(error)

    async def _follow(self, pool_id: UUID) -> None:
        """Pass on what comes, until the connection is lost or the pool is another one."""
        async with self.api.open_state_changes(pool_id, self.state_types) as changes:
            _logger.debug("Listening for state changes of work pool %s", pool_id)
            self.absence.connected()
            self.on_connected()
            proven_at = trio.current_time() + PROVEN_AFTER
            while self.pool_id() == pool_id:
                with trio.move_on_after(_LOOK_AGAIN):
                    self.on_change(await anext(changes))
                if trio.current_time() >= proven_at:
                    self.failures = 0

    async def _pause(self, error: APIError) -> None:
        condition = self.api.condition
        self.failures += 1
        self.absence.failed(error, now=trio.current_time(), api_is_there=condition.reachable)
        retry_after = error.retry_after if isinstance(error, APIUnavailableError) else None
        delay = self.rhythm.delay(self.failures, retry_after)
        _logger.debug("No state changes are told: %s; next attempt in %.1f s", error, delay)
        await condition.sleep(delay, at_least=retry_after or 0)
