"""A worker's way to the server: requests that get lost, answers that do, and what comes when nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, cast
from uuid import UUID

import attrs
import trio

from trioworker.api.client import VITAL_REQUESTS, PrefectAPI
from trioworker.api.condition import Condition
from trioworker.api.errors import (
    APIError,
    APIUnavailableError,
    NotAuthenticatedError,
    RequestRefusedError,
    is_outage,
)
from trioworker.api.models import StateChange, StateType
from trioworker.testing import FakePrefectAPI
from trioworker.testing.records import Run

from . import steps
from .faults import Fault, Kind

__all__ = ["Network", "Passing", "open_wire"]

# Seconds after which the client gives a request up.
_TIMEOUT = 60.0

# A request that was delayed takes effect within this time. It must be less than what a worker waits before it takes
# for granted that a dead worker's requests have had their effect (`reconciliation._IN_FLIGHT_SECONDS`).
_LONGEST_DELAY = 50.0


@attrs.define(eq=False)
class Network:
    """What is between all workers and the server.

    Attributes:
        server: the server.
        nursery: where requests are on their way that nobody may be waiting for.
        latency: seconds that a request takes before it has its effect.
        trouble: makes the error that every request meets with just now; None for none.
        requests: how many requests were made, those that met with trouble included.
        on_late: told of a run that is about to be offered by a request that comes late.
    """

    server: FakePrefectAPI
    nursery: trio.Nursery
    latency: float = 0.0
    trouble: Callable[[], APIError] | None = None
    requests: int = 0
    on_late: Callable[[Run], None] = lambda _: None

    @property
    def answers(self) -> bool:
        """Whether requests get through."""
        return self.trouble is None


class Passing(Protocol):
    """Lets a worker come to a step."""

    async def __call__(self, step: str) -> Fault | None:
        """Come to a step; what is to happen to the request that is made there.

        Raises:
            DeadError: the worker has crashed.
        """
        ...


def unreachable() -> APIError:
    """The error of a request that finds nobody."""
    return APIUnavailableError("no connection: refused")


def unavailable() -> APIError:
    """The error of a request that is answered with 503."""
    return APIUnavailableError("the API answered 503 Service Unavailable")


def rate_limited() -> APIError:
    """The error of a request that is answered with 429."""
    return APIUnavailableError("the API answered 429 Too Many Requests", retry_after=20.0)


def unauthorized() -> APIError:
    """The error of a request that is answered with 401."""
    return NotAuthenticatedError("GET /", 401, "Unauthorized")


def open_wire(network: Network, pass_step: Passing, condition: Condition) -> PrefectAPI:
    """A `PrefectAPI` for one worker."""
    return cast("PrefectAPI", _Wire(network, pass_step, condition))


class _Wire:
    """Passes every method of `PrefectAPI` on to the server, or does not."""

    def __init__(self, network: Network, pass_step: Passing, condition: Condition) -> None:
        self._network = network
        self._pass_step = pass_step
        self.condition = condition

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        request = partial(self._request, method)
        setattr(self, method, request)
        return request

    @asynccontextmanager
    async def open_state_changes(
        self, pool_id: UUID, state_types: Collection[StateType]
    ) -> AsyncIterator[AsyncIterator[StateChange]]:
        """See `PrefectAPI.open_state_changes`."""
        await self._pass_step("before listen")
        if self._network.trouble is not None:
            raise self._network.trouble()
        async with self._network.server.open_state_changes(pool_id, state_types) as changes:
            await self._pass_step("after listen")
            yield changes

    async def _request(self, method: str, *arguments: Any, **options: Any) -> Any:
        self._network.requests += 1
        try:
            result = await self._attempt(method, *arguments, **options)
        except APIError as error:
            self._note(method, error)
            raise
        self._note(method, None)
        return result

    def _note(self, method: str, error: APIError | None) -> None:
        """Tell the worker of the condition of the API, as the real client does."""
        if method not in VITAL_REQUESTS:
            return
        if error is None or not is_outage(error):
            self.condition.answered()
        else:
            self.condition.failed(
                str(error),
                retry_after=getattr(error, "retry_after", None),
                refused=isinstance(error, RequestRefusedError),
            )

    async def _attempt(self, method: str, *arguments: Any, **options: Any) -> Any:
        what = steps.of_request(method, arguments)
        fault = await self._pass_step(f"before {what}")
        # Not before: with the step itself it may have begun.
        if self._network.trouble is not None:
            await trio.lowlevel.checkpoint()
            raise self._network.trouble()
        delivery = _Delivery(partial(getattr(self._network.server, method), *arguments, **options))
        if fault is not None and fault.kind is Kind.REFUSE:
            raise unreachable()
        if fault is not None and fault.kind is Kind.DELAY:
            self._network.nursery.start_soon(self._deliver_late, delivery, what, arguments, fault.size)
            raise APIUnavailableError("connection lost: the answer never came")
        result = await self._deliver(delivery)
        if fault is not None and fault.kind is Kind.LOSE_ANSWER:
            raise APIUnavailableError("connection lost: the answer never came")
        await self._pass_step(f"after {what}")
        return result

    async def _deliver_late(
        self, delivery: _Delivery, what: str, arguments: tuple[Any, ...], part: float
    ) -> None:
        runs = self._network.server._runs
        run = runs.get(arguments[0]) if what in steps.HANDING_OVER else None
        before = None if run is None else run.state.id
        await trio.sleep(part * _LONGEST_DELAY)
        if run is not None and run.state.id != before:
            self._network.on_late(run)
        await delivery.deliver(0)

    async def _deliver(self, delivery: _Delivery) -> Any:
        latency = self._network.latency
        if not latency:
            return await delivery.request()
        # A request that is on its way arrives, also when nobody waits for its answer any more.
        self._network.nursery.start_soon(delivery.deliver, latency)
        with trio.move_on_after(_TIMEOUT):
            await delivery.arrived.wait()
            return delivery.answer()
        raise APIUnavailableError("the API did not answer in time")


@attrs.define(eq=False)
class _Delivery:
    """A request that is on its way.

    Attributes:
        request: has its effect.
        arrived: set when it had.
    """

    request: Callable[[], Awaitable[Any]]
    arrived: trio.Event = attrs.field(factory=trio.Event)
    _result: Any = None
    _error: APIError | None = None

    async def deliver(self, seconds: float) -> None:
        """Arrive after some time."""
        await trio.sleep(seconds)
        try:
            self._result = await self.request()
        except APIError as error:
            self._error = error
        self.arrived.set()

    def answer(self) -> Any:
        """The result, or the error."""
        if self._error is not None:
            raise self._error
        return self._result
