"""Changes of flow runs' states, told by Prefect's events websocket as they happen."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import attrs
import trio

from trioworker.api.errors import APIError, APIUnavailableError, NotAuthenticatedError
from trioworker.api.models import StateChange, StateType
from trioworker.api.transport import Transport, TransportConfig
from trioworker.api.websocket import WebSocket, WebSocketLostError

_logger = logging.getLogger(__name__)

_PATH = "events/out"
_REQUEST = f"GET /{_PATH}"

# How a server says goodbye to somebody whose token it does not like.
_POLICY_VIOLATION = 1008

_FLOW_RUN = "prefect.flow-run."

# Filtering begins in the past, for a worker whose clock is fast; the past itself is not asked for. It ends so late
# that no connection lasts as long: the server's own idea of an end is the moment of connecting.
_CLOCKS_DIFFER = timedelta(minutes=10)
_EVER_AFTER = timedelta(days=3650)

# Seconds; servers and proxies ask for less, if they ask.
_KEEPALIVE_SECONDS = 20.0

# Changes that may wait for whoever iterates; then the server waits, and drops what is too much for it.
_BUFFER = 256


def subscription(pool_id: UUID, state_types: Collection[StateType], now: datetime) -> dict[str, Any]:
    """The message that asks for the changes of a work pool's runs to states of some types, from now on."""
    return {
        "type": "filter",
        "backfill": False,
        "filter": {
            "occurred": {
                "since": (now - _CLOCKS_DIFFER).isoformat(),
                "until": (now + _EVER_AFTER).isoformat(),
            },
            # By type, since names are finer: a run that awaits its retry is scheduled too.
            "resource": {"labels": {"prefect.state-type": sorted(state_types)}},
            "any_resource": {"id": [f"prefect.work-pool.{pool_id}"]},
        },
    }


def read_message(message: str | bytes | bytearray) -> StateChange | None:
    """The change that a message tells of; None if it tells of something else or cannot be read."""
    match _decoded(message):
        case {
            "type": "event",
            "event": {
                "occurred": str(occurred),
                "resource": {"prefect.resource.id": str(resource), "prefect.state-type": str(state_type)},
                **rest,
            },
        } if resource.startswith(_FLOW_RUN):
            queue_name = _queue_name(rest.get("related"))
            return _state_change(resource.removeprefix(_FLOW_RUN), state_type, occurred, queue_name)
    return None


def _queue_name(related: Any) -> str | None:
    for each in related if isinstance(related, list) else ():
        match each:
            case {"prefect.resource.role": "work-queue", "prefect.resource.name": str(name)}:
                return name
    return None


def _decoded(message: str | bytes | bytearray) -> Any:
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None


def _state_change(
    flow_run_id: str, state_type: str, occurred: str, queue_name: str | None
) -> StateChange | None:
    try:
        change = StateChange(
            flow_run_id=UUID(flow_run_id),
            state_type=StateType(state_type),
            occurred=datetime.fromisoformat(occurred),
            queue_name=queue_name,
        )
    except ValueError:
        return None
    return change if change.occurred.tzinfo is not None else None


class StateChanges:
    """What is iterated over: changes as they come, and at last the error that ended it.

    Args:
        capacity: how many may wait to be taken.
    """

    def __init__(self, capacity: float = _BUFFER) -> None:
        self._send, self._receive = trio.open_memory_channel[StateChange](capacity)
        self._failure: APIError | None = None

    def __aiter__(self) -> AsyncIterator[StateChange]:
        return self

    async def __anext__(self) -> StateChange:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            assert self._failure is not None  # noqa: S101 - `fail` alone ends the channel
            # The same error may be met more than once.
            raise self._failure.with_traceback(None) from self._failure.__cause__

    async def add(self, change: StateChange) -> None:
        """Pass a change on, as soon as there is room."""
        await self._send.send(change)

    def add_nowait(self, change: StateChange) -> None:
        """Pass a change on; `trio.WouldBlock` if there is no room."""
        self._send.send_nowait(change)

    def fail(self, error: APIError) -> None:
        """Let it end with an error, once what has come has been taken."""
        self._failure = error
        self._send.close()


@asynccontextmanager
async def open_state_changes(
    transport: Transport,
    pool_id: UUID,
    state_types: Collection[StateType],
    *,
    keepalive: float = _KEEPALIVE_SECONDS,
) -> AsyncIterator[StateChanges]:
    """Connect, and be told of the changes of a work pool's runs to states of some types.

    Args:
        transport: how to connect.
        pool_id: the work pool.
        state_types: what is wanted.
        keepalive: seconds between the signs of life that the server is asked for, and to wait for one.

    Raises:
        APIError: there is no connection, or not any more; see `PrefectAPI.open_state_changes`.
    """
    feed = _Feed(
        transport=transport,
        message=subscription(pool_id, state_types, datetime.now(UTC)),
        keepalive=keepalive,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(feed.run)
            yield feed.changes
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The feed raises nothing once it has started, so what comes alone is what the block has raised.
        error = _only(group)
        if error is None:
            raise
        raise error from error.__cause__


@attrs.define(kw_only=True, eq=False, repr=False)
class _Feed:
    """One connection, from beginning to end, in a task of its own: its errors are not those of the block."""

    transport: Transport
    message: dict[str, Any]
    keepalive: float
    changes: StateChanges = attrs.field(factory=StateChanges)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started once subscribed. An error before that is raised, a later one ends `changes`."""
        config = self.transport.config
        failure: APIError | WebSocketLostError | None = None
        subscribed = False
        with trio.CancelScope(deadline=trio.current_time() + config.timeout) as connecting:
            try:
                async with self._open_websocket() as websocket:
                    await self._subscribe(websocket)
                    subscribed = True
                    connecting.deadline = math.inf
                    task_status.started()
                    await self._pass_on(websocket)
            except (APIError, WebSocketLostError) as error:
                failure = error
        explained = _explained(failure, config)
        if not subscribed:
            raise explained from failure
        self.changes.fail(explained)

    @asynccontextmanager
    async def _open_websocket(self) -> AsyncIterator[WebSocket]:
        async with self.transport.open_websocket(_PATH, subprotocol="prefect") as stream:
            websocket = WebSocket(stream, self.keepalive)
            try:
                yield websocket
            finally:
                await websocket.close()  # noqa: ASYNC102 - it shields itself, and is bounded

    async def _subscribe(self, websocket: WebSocket) -> None:
        config = self.transport.config
        await websocket.send_json({"type": "auth", "token": config.key or config.auth_string})
        await _expect_welcome(websocket)
        await websocket.send_json(self.message)

    async def _pass_on(self, websocket: WebSocket) -> None:
        while True:
            message = await websocket.receive()
            change = read_message(message)
            if change is None:
                _logger.debug("Skipped a message of the events websocket: %.200r", message)
            else:
                await self.changes.add(change)


async def _expect_welcome(websocket: WebSocket) -> None:
    try:
        answer = _decoded(await websocket.receive())
    except WebSocketLostError as goodbye:
        if goodbye.code != _POLICY_VIOLATION:
            raise
        raise NotAuthenticatedError(_REQUEST, 401, goodbye.reason or "no reason given") from goodbye
    match answer:
        case {"type": "auth_success"}:
            return
        case {"type": str(kind)} if kind.startswith("auth"):
            raise NotAuthenticatedError(_REQUEST, 401, str(answer.get("reason") or kind))
    raise APIUnavailableError("the events websocket does not speak as Prefect's does")


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    return group.exceptions[0] if len(group.exceptions) == 1 else None


def _explained(error: APIError | WebSocketLostError | None, config: TransportConfig) -> APIError:
    """What has become of a connection; without an error, there was no answer."""
    if isinstance(error, APIError):
        return error
    if error is None:
        return APIUnavailableError(f"no answer within {config.timeout:g} s from {config.shown_url}")
    return APIUnavailableError(f"events websocket lost: {error} ({config.shown_url})")
