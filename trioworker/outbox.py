"""The emitter: what the worker has to say to the API, sent by a task of its own.

Whoever has something to say puts it into a memory channel and goes on at once; only the emitter waits for
the API. Four lanes keep a slow batch of logs from starving a heartbeat:

- heartbeats: only the newest counts; how it went is told to `on_heartbeat`
- events: in order
- logs: in batches
- labels of runs: one by one, some seconds later

An outage holds a lane up and loses nothing. What does get lost is counted and said: entries that find
their lane full, entries that cannot be sent or that the API refuses for good, what comes while the rest is being
flushed, and what is left when the time for that is over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar
from uuid import UUID

import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.condition import Condition
from trioworker.api.errors import APIError, ObjectNotFoundError, RequestRefusedError, is_outage
from trioworker.api.models import Event, LogLine, WorkerMetadata
from trioworker.lean_attrs import frozen
from trioworker.service import Rhythm, patiently

_logger = logging.getLogger(__name__)

# Each failure is several attempts on the wire already; the second in a row is not by chance.
_FAILURES_TO_MENTION = 2

T = TypeVar("T")


@frozen(kw_only=True)
class Heartbeat:
    """A sign of life.

    Attributes:
        pool_name: the work pool that the worker serves.
        worker_name: whose sign of life it is.
        interval: seconds until the next one.
        metadata: what the API is told of the worker.
        on_worker_id: told the id by which the API knows the worker; None if no id is wanted.
    """

    pool_name: str
    worker_name: str
    interval: float
    metadata: WorkerMetadata | None = None
    on_worker_id: Callable[[UUID], None] | None = None


@frozen
class RunLabels:
    """Labels for a flow run.

    Attributes:
        flow_run_id: the run.
        labels: what is added to those that it has.
    """

    flow_run_id: UUID
    labels: Mapping[str, str]


@frozen(kw_only=True)
class _Pace:
    """How many entries a lane holds, and when it sends them.

    Attributes:
        held: entries that wait at most.
        batch: entries that make a batch at most.
        seconds: for how long a batch waits for more entries.
        one_by_one: whether the API takes one entry a request, not a batch.
        strikes: after how many failures, while the API answers others, an entry is given up.
    """

    held: int
    batch: int
    seconds: float
    one_by_one: bool = False
    strikes: float = math.inf


# In a burst of runs a batch waits behind the requests of all of them, during which new events come.
_EVENT_PACE = _Pace(held=1_000, batch=500, seconds=0.05)
_LOG_PACE = _Pace(held=5_000, batch=500, seconds=0.5)
# A run's start is what keeps the server busy, and a server on SQLite turns away whoever reads and writes meanwhile,
# as labels do. Nobody waits for them; and what is wrong may be so with a single run, which is not to hold up others.
_LABEL_PACE = _Pace(held=5_000, batch=500, seconds=5.0, one_by_one=True, strikes=3)


class _BatchLane(Generic[T]):
    """Entries that are kept in order and sent in batches, or gathered and sent one by one."""

    def __init__(
        self,
        what: str,
        send: Callable[[list[T]], Awaitable[None]],
        pace: _Pace,
        rhythm: Rhythm,
        condition: Condition,
    ) -> None:
        self.what = what
        self._send = send
        self._pace = pace
        self._rhythm = rhythm
        self._condition = condition
        self._put, self._take = trio.open_memory_channel[T](pace.held)
        self._overflowed = 0
        self._late = 0
        self._dropped: list[APIError] = []
        self._in_hand = 0
        self._failures = 0

    def put(self, entry: T) -> None:
        try:
            self._put.send_nowait(entry)
        except trio.WouldBlock:
            if not self._overflowed:
                _logger.warning(
                    "The API does not take %s as fast as they come; newer ones are dropped until it does",
                    self.what,
                )
            self._overflowed += 1
        except trio.ClosedResourceError:
            # From a thread that outlives the worker. One that comes after `discard`, too, has nobody left to tell.
            self._late += 1

    def close(self) -> None:
        """Take no more; what is there is still sent."""
        self._put.close()

    def discard(self) -> int:
        """Forget what has not been sent; returns how many entries that are."""
        self._say_dropped()
        self._say_overflow()
        undelivered = self._in_hand + self._take.statistics().current_buffer_used + self._late
        self._take.close()
        return undelivered

    async def run(self) -> None:
        async for first in self._take:
            batch = await self._batch(first)
            for part in [[entry] for entry in batch] if self._pace.one_by_one else [batch]:
                await self._deliver(part)
            self._say_dropped()
            if not self._take.statistics().current_buffer_used:
                self._say_overflow()

    async def _batch(self, first: T) -> list[T]:
        """The first entry and whatever joins it in time."""
        batch = [first]
        self._in_hand = 1
        with trio.move_on_after(self._pace.seconds), suppress(trio.EndOfChannel):
            while len(batch) < self._pace.batch:
                batch.append(await self._take.receive())
                self._in_hand = len(batch)
        return batch

    async def _deliver(self, batch: list[T]) -> None:
        """Send a batch; halve it until the entry that cannot be sent stands alone, and drop that.

        Whatever an entry contains, it ends neither its lane nor, with that, the worker.
        """
        try:
            await patiently(
                lambda: self._send(batch),
                self._rhythm,
                self._condition,
                strikes=self._pace.strikes,
                on_failure=self._say_held_up,
            )
        except APIError as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._deliver(batch[:middle])
                await self._deliver(batch[middle:])
                return
            self._dropped.append(error)
        self._in_hand -= len(batch)
        if self._failures >= _FAILURES_TO_MENTION:
            _logger.info("The API takes %s again", self.what)
        self._failures = 0

    def _say_held_up(self, error: APIError) -> None:
        """Say once that this lane is stuck; of an API that takes nothing at all others speak."""
        self._failures += self._condition.reachable
        if self._condition.reachable and self._failures == _FAILURES_TO_MENTION:
            _logger.warning("The API does not take %s for now: %s", self.what, error)

    def _say_dropped(self) -> None:
        """Say how many entries of a batch were dropped, and why the first one of them was."""
        if not self._dropped:
            return
        error, count = self._dropped[0], len(self._dropped)
        why = (
            f", which the API refuses: {error.detail}"
            if isinstance(error, RequestRefusedError)
            else f": {error}"
        )
        _logger.warning("Dropped %s of the %s%s", count if count > 1 else "one", self.what, why)
        self._dropped.clear()

    def _say_overflow(self) -> None:
        if self._overflowed:
            _logger.warning("%d %s were dropped while the API did not take them", self._overflowed, self.what)
            self._overflowed = 0


class _LatestLane:
    """Heartbeats: a newer one takes the place of one that is still waiting."""

    def __init__(self, api: PrefectAPI, on_result: Callable[[APIError | None], None]) -> None:
        self._api = api
        self._on_result = on_result
        self._put, self._take = trio.open_memory_channel[Heartbeat](1)

    def put(self, heartbeat: Heartbeat) -> None:
        if self._take.statistics().current_buffer_used:
            self._take.receive_nowait()
        self._put.send_nowait(heartbeat)

    def close(self) -> None:
        self._put.close()

    def discard(self) -> None:
        self._take.close()

    async def run(self) -> None:
        async for heartbeat in self._take:
            error: APIError | None = None
            try:
                await self._send(heartbeat)
            except APIError as caught:
                # Not sent again: the next heartbeat says the same, and later.
                error = caught
                if not is_outage(error):
                    _logger.debug("Heartbeat refused: %s", error)
            self._on_result(error)

    async def _send(self, heartbeat: Heartbeat) -> None:
        worker_id = await self._api.send_worker_heartbeat(
            heartbeat.pool_name,
            heartbeat.worker_name,
            heartbeat.interval,
            metadata=heartbeat.metadata,
            wants_id=heartbeat.on_worker_id is not None,
        )
        if worker_id is not None and heartbeat.on_worker_id is not None:
            heartbeat.on_worker_id(worker_id)


class Outbox:
    """Where the worker leaves what the API shall hear. Made by `open_outbox`; no method waits."""

    def __init__(
        self,
        api: PrefectAPI,
        rhythm: Rhythm,
        on_heartbeat: Callable[[APIError | None], None],
    ) -> None:
        self._api = api
        self._heartbeats = _LatestLane(api, on_heartbeat)
        self._events = _BatchLane("events", api.send_events, _EVENT_PACE, rhythm, api.condition)
        self._logs = _BatchLane("log lines", api.send_logs, _LOG_PACE, rhythm, api.condition)
        self._labels = _BatchLane("labels of flow runs", self._put_labels, _LABEL_PACE, rhythm, api.condition)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Send a sign of life, in place of any that is still waiting."""
        self._heartbeats.put(heartbeat)

    def event(self, event: Event) -> None:
        """Send an event after those that came before it."""
        self._events.put(event)

    def log(self, line: LogLine) -> None:
        """Send a log line with the next batch."""
        self._logs.put(line)

    def label(self, flow_run_id: UUID, labels: Mapping[str, str]) -> None:
        """Put labels on a run, within some seconds; where it was deleted meanwhile, there is nothing to label."""
        self._labels.put(RunLabels(flow_run_id, labels))

    async def _put_labels(self, entries: list[RunLabels]) -> None:
        for entry in entries:
            try:
                await self._api.update_flow_run_labels(entry.flow_run_id, entry.labels)
            except ObjectNotFoundError:
                _logger.debug("Flow run %s was deleted before it was labelled", entry.flow_run_id)

    async def _emit(self) -> None:
        async with trio.open_nursery() as lanes:
            lanes.start_soon(self._heartbeats.run)
            for lane in self._batch_lanes:
                lanes.start_soon(lane.run)

    def _close(self) -> None:
        self._heartbeats.close()
        for lane in self._batch_lanes:
            lane.close()

    def _discard(self) -> None:
        """Forget what has not been sent, and say how much that is."""
        self._heartbeats.discard()
        left = [(lane.discard(), lane.what) for lane in self._batch_lanes]
        lost = " and ".join(f"{count} {what}" for count, what in left if count)
        if lost:
            _logger.warning("%s did not reach the API in time; they are lost", lost)

    @property
    def _batch_lanes(self) -> tuple[_BatchLane[Event], _BatchLane[LogLine], _BatchLane[RunLabels]]:
        return self._events, self._logs, self._labels


@asynccontextmanager
async def open_outbox(
    api: PrefectAPI,
    rhythm: Rhythm,
    *,
    shield: trio.CancelScope | None = None,
    flush_deadline: Callable[[], float],
    on_heartbeat: Callable[[APIError | None], None] = lambda _: None,
) -> AsyncIterator[Outbox]:
    """Run the emitter around a block; leaving the block flushes.

    Args:
        api: where everything goes.
        rhythm: the delays between attempts of a lane that the API holds up.
        shield: a shielded scope for the emitter, by which it can be ended early; one of its own if not given.
        flush_deadline: asked when the block is left; the time on Trio's clock until which to go on sending.
        on_heartbeat: told how each heartbeat went: None, or what went wrong.
    """
    outbox = Outbox(api, rhythm, on_heartbeat)
    shield = shield or trio.CancelScope(shield=True)

    async def emit() -> None:
        # Around the emitter task alone. Around the nursery the shield would keep an outer cancellation from ever
        # reaching the block.
        with shield:
            await outbox._emit()  # noqa: SLF001 - one file, one idea: this context manager is Outbox's other half

    try:
        async with trio.open_nursery() as emitter:
            emitter.start_soon(emit)
            try:
                yield outbox
            finally:
                shield.deadline = flush_deadline()
                outbox._close()  # noqa: SLF001
    finally:
        outbox._discard()  # noqa: SLF001
