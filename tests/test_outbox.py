"""The emitter: what it sends when, and what it says of what it could not send."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from uuid import uuid4

import attrs
import pytest
import trio
import trio.testing

from trioworker import outbox as outbox_module
from trioworker.api.errors import (
    APIError,
    APIUnavailableError,
    NotAuthenticatedError,
    NotPermittedError,
    ObjectNotFoundError,
    RequestRefusedError,
    UnsendableRequestError,
)
from trioworker.api.models import Event, LogLine
from trioworker.outbox import Heartbeat, Outbox, open_outbox
from trioworker.service import Rhythm
from trioworker.testing import FakePrefectAPI

Clock = trio.testing.MockClock

RHYTHM = Rhythm(interval=1, chance=lambda: 0.5)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = RequestRefusedError("POST /events", 422, "Invalid request received.")


@pytest.fixture
async def api() -> FakePrefectAPI:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    return fake


def within(seconds: float) -> Callable[[], float]:
    """A time to flush."""
    return lambda: trio.current_time() + seconds


def emitting(
    api: FakePrefectAPI,
    *,
    flush_deadline: Callable[[], float],
    on_heartbeat: Callable[[APIError | None], None] = lambda _: None,
    shield: trio.CancelScope | None = None,
) -> AbstractAsyncContextManager[Outbox]:
    return open_outbox(
        api,
        RHYTHM,
        shield=shield or trio.CancelScope(shield=True),
        flush_deadline=flush_deadline,
        on_heartbeat=on_heartbeat,
    )


def event(name: str = "something", *, acceptable: bool = True) -> Event:
    resource = {"prefect.resource.id": "here"} if acceptable else {}
    return Event(id=uuid4(), occurred=NOW, event=name, resource=resource)


def line(message: str) -> LogLine:
    return LogLine(name="log", level=logging.INFO, message=message, timestamp=NOW)


def beat(worker_name: str = "worker") -> Heartbeat:
    return Heartbeat(pool_name="pool", worker_name=worker_name, interval=30)


def names(api: FakePrefectAPI) -> list[str]:
    return [each.event for each in api.events]


# What is sent


async def test_events_arrive_in_order(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for number in range(800):
            outbox.event(event(str(number)))
    assert names(api) == [str(number) for number in range(800)]
    assert [len(call.arguments["events"]) for call in api.calls] == [500, 300]


async def test_no_event_is_lost_while_each_batch_waits_behind_the_requests_of_many_runs(
    autojump_clock: Clock, api: FakePrefectAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = api.send_events

    async def send_late(events: Sequence[Event]) -> None:
        await trio.sleep(10)
        await send(events)

    monkeypatch.setattr(api, "send_events", send_late)
    async with emitting(api, flush_deadline=within(30)) as outbox:
        for number in range(4_000):
            outbox.event(event(str(number)))
            await trio.sleep(0.025)
    assert names(api) == [str(number) for number in range(4_000)]


async def test_events_of_a_moment_go_out_together(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        outbox.event(event("one"))
        await trio.sleep(0.03)
        outbox.event(event("two"))
        await trio.sleep(10)
    assert api.times("send_events") == [0.05]


async def test_log_lines_of_half_a_second_go_out_together(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for _ in range(4):
            outbox.log(line("hello"))
            await trio.sleep(0.2)
        await trio.sleep(10)
    assert api.times("send_logs") == [0.5, pytest.approx(1.1)]
    assert len(api.logs) == 4


async def test_log_batch_that_is_full_does_not_wait(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for number in range(500):
            outbox.log(line(str(number)))
        await trio.sleep(10)
    assert api.times("send_logs") == [0]
    assert [entry.message for entry in api.logs] == [str(number) for number in range(500)]


async def test_labels_of_five_seconds_go_out_one_after_the_other(
    autojump_clock: Clock, api: FakePrefectAPI
) -> None:
    deployment = api.add_deployment("flow", "pool")
    runs = [api.schedule(deployment) for _ in range(3)]
    api.latencies["update_flow_run_labels"] = 1
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for run in runs:
            await trio.sleep(1)
            outbox.label(run.id, {"made": "here"})
        await trio.sleep(10)
        assert api.times("update_flow_run_labels") == [6, 7, 8]
        assert [api.labels(run.id)["made"] for run in runs] == ["here"] * 3


async def test_labels_that_are_refused_leave_out_no_others(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = api.add_deployment("flow", "pool")
    first, last = (api.schedule(deployment) for _ in range(2))
    api.fail("update_flow_run_labels", RequestRefusedError("PATCH /flow_runs", 422, "no labels today"))
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for run in (first, last):
            outbox.label(run.id, {"made": "here"})
    assert ["made" in api.labels(run.id) for run in (first, last)] == [False, True]
    assert caplog.messages == [
        "Dropped one of the labels of flow runs, which the API refuses: no labels today"
    ]


@pytest.mark.parametrize(
    "error",
    [
        NotPermittedError("PATCH /flow_runs", 403, "no labels for you"),
        APIUnavailableError("the API answered 500"),
    ],
)
async def test_run_that_cannot_be_labelled_holds_up_no_others(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture, error: APIError
) -> None:
    deployment = api.add_deployment("flow", "pool")
    first, last = (api.schedule(deployment) for _ in range(2))
    api.fail("update_flow_run_labels", error, times=3)
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for run in (first, last):
            outbox.label(run.id, {"made": "here"})
        await trio.sleep(60)
        assert ["made" in api.labels(run.id) for run in (first, last)] == [False, True]
    assert any(message.startswith("Dropped one of the labels of flow runs") for message in caplog.messages)


async def test_run_that_was_deleted_needs_no_labels(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with emitting(api, flush_deadline=within(3)) as outbox:
        outbox.label(uuid4(), {"made": "here"})
    assert api.times("update_flow_run_labels") == [0]
    assert caplog.messages == []


async def test_heartbeat_goes_out_at_once(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        outbox.heartbeat(beat())
        await trio.sleep(10)
    assert [(sent.worker_name, sent.at) for sent in api.heartbeats] == [("worker", 0)]


async def test_latest_heartbeat_takes_the_place_of_those_that_wait(
    autojump_clock: Clock, api: FakePrefectAPI
) -> None:
    api.latencies["send_worker_heartbeat"] = 5
    async with emitting(api, flush_deadline=within(30)) as outbox:
        outbox.heartbeat(beat("first"))
        await trio.sleep(1)
        for name in ("second", "third", "fourth"):
            outbox.heartbeat(beat(name))
    assert [sent.worker_name for sent in api.heartbeats] == ["first", "fourth"]


# Lanes


@pytest.mark.parametrize("stuck", ["send_logs", "send_events"])
async def test_lane_that_hangs_delays_no_heartbeat(
    autojump_clock: Clock, api: FakePrefectAPI, stuck: str
) -> None:
    api.latencies[stuck] = math.inf
    async with emitting(api, flush_deadline=within(0)) as outbox:
        outbox.event(event())
        outbox.log(line("hello"))
        await trio.sleep(60)
        outbox.heartbeat(beat())
        await trio.sleep(1)
        assert [sent.at for sent in api.heartbeats] == [60]
        assert len(api.events) == (stuck != "send_events")
        assert len(api.logs) == (stuck != "send_logs")


async def test_heartbeat_that_hangs_delays_no_event(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    api.latencies["send_worker_heartbeat"] = math.inf
    async with emitting(api, flush_deadline=within(0)) as outbox:
        outbox.heartbeat(beat())
        await trio.sleep(60)
        outbox.event(event("on time"))
        await trio.sleep(1)
        assert names(api) == ["on time"]


async def test_outage_holds_lanes_up_and_loses_nothing(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        api.start_outage()
        for number in range(100):
            outbox.event(event(str(number)))
            outbox.log(line(str(number)))
            await trio.sleep(10)
        api.end_outage()
        await trio.sleep(60)
        assert names(api) == [str(number) for number in range(100)]
        assert [entry.message for entry in api.logs] == [str(number) for number in range(100)]


# What is refused


async def test_refused_batch_is_halved_until_the_bad_item_stands_alone(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for number in range(8):
            outbox.event(event(str(number), acceptable=number != 5))
    assert names(api) == ["0", "1", "2", "3", "4", "6", "7"]
    assert caplog.messages == ["Dropped one of the events, which the API refuses: Invalid request received."]
    assert [len(call.arguments["events"]) for call in api.calls] == [8, 4, 4, 2, 1, 1, 2]


async def test_batch_is_halved_through_an_outage(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    api.fail("send_events", REFUSED)
    api.fail("send_events", APIUnavailableError("gone"), times=3)
    async with emitting(api, flush_deadline=within(100)) as outbox:
        outbox.event(event("one"))
        outbox.event(event("two"))
    assert names(api) == ["one", "two"]


async def test_entry_that_cannot_be_sent_is_dropped_and_ends_neither_lane_nor_worker(
    autojump_clock: Clock,
    api: FakePrefectAPI,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = api.send_events

    async def send_what_json_can_hold(events: Sequence[Event]) -> None:
        if any(each.event == "nan" for each in events):
            raise UnsendableRequestError("POST /events", "NaN")
        await send(events)

    monkeypatch.setattr(api, "send_events", send_what_json_can_hold)
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for name in ("0", "nan", "2", "3"):
            outbox.event(event(name))
        await trio.sleep(10)
        outbox.event(event("later"))
        outbox.heartbeat(beat())
    assert names(api) == ["0", "2", "3", "later"]
    assert len(api.heartbeats) == 1
    assert caplog.messages == ["Dropped one of the events: POST /events cannot be sent: NaN"]


async def test_dropped_entries_of_a_batch_are_counted_in_one_line(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        for number in range(8):
            outbox.event(event(str(number), acceptable=number % 2 == 0))
    assert names(api) == ["0", "2", "4", "6"]
    assert caplog.messages == ["Dropped 4 of the events, which the API refuses: Invalid request received."]


async def test_dropped_entries_are_said_though_the_rest_of_their_batch_finds_no_time(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        outbox.event(event("bad", acceptable=False))
        outbox.event(event("good"))
        # Refused together at 1.2, the first alone at 2.4; at 3 it is over.
        api.latency = 1.2
    assert caplog.messages == [
        "Dropped one of the events, which the API refuses: Invalid request received.",
        "1 events did not reach the API in time; they are lost",
    ]


async def test_key_that_has_expired_drops_nothing(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    api.fail("send_events", NotAuthenticatedError("POST /events", 401, "expired"), times=4)
    async with emitting(api, flush_deadline=within(100)) as outbox:
        outbox.event(event("one"))
    assert names(api) == ["one"]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "The API does not take events for now: POST /events was refused with 401: expired"
    ]


@pytest.mark.parametrize(
    "error", [APIUnavailableError("gone"), ObjectNotFoundError("POST /heartbeat", 404, "no such pool")]
)
async def test_result_of_each_heartbeat_is_told(
    autojump_clock: Clock, api: FakePrefectAPI, error: APIError
) -> None:
    told: list[APIError | None] = []
    api.fail("send_worker_heartbeat", error)
    async with emitting(api, flush_deadline=within(3), on_heartbeat=told.append) as outbox:
        for _ in range(2):
            outbox.heartbeat(beat())
            await trio.sleep(30)
    assert told == [error, None]


# What finds no room


async def test_overflow_is_announced_once_and_counted(
    autojump_clock: Clock,
    api: FakePrefectAPI,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "_EVENT_PACE", attrs.evolve(outbox_module._EVENT_PACE, held=10))
    async with emitting(api, flush_deadline=within(3)) as outbox:
        api.start_outage()
        outbox.event(event("in hand"))
        await trio.sleep(1)
        for number in range(25):
            outbox.event(event(str(number)))
        assert caplog.messages == [
            "The API does not take events as fast as they come; newer ones are dropped until it does"
        ]
        api.end_outage()
        await trio.sleep(60)
        assert names(api) == ["in hand", *(str(number) for number in range(10))]
        assert caplog.messages[1:] == ["15 events were dropped while the API did not take them"]
        outbox.event(event("after"))
    assert names(api)[-1] == "after"
    assert len(caplog.messages) == 2


async def test_overflow_is_said_even_if_the_api_never_returns(
    autojump_clock: Clock,
    api: FakePrefectAPI,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is lost is counted: also when the worker ends before the lane has come round."""
    monkeypatch.setattr(outbox_module, "_EVENT_PACE", attrs.evolve(outbox_module._EVENT_PACE, held=10))
    async with emitting(api, flush_deadline=within(3)) as outbox:
        api.start_outage()
        outbox.event(event("in hand"))
        await trio.sleep(1)
        for number in range(25):
            outbox.event(event(str(number)))
    assert any("15 events were dropped" in message for message in caplog.messages)


# The end


async def test_leaving_the_block_flushes(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        outbox.event(event())
        outbox.log(line("hello"))
        outbox.heartbeat(beat())
    assert len(api.events) == len(api.logs) == len(api.heartbeats) == 1
    # No batch waits for company that cannot come any more.
    assert api.seconds() == 0


async def test_flush_ends_at_its_deadline_and_counts_what_is_lost(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        api.start_outage()
        for number in range(60):
            outbox.event(event(str(number)))
        outbox.log(line("hello"))
    assert api.seconds() == 3
    assert caplog.messages[-1] == "60 events and 1 log lines did not reach the API in time; they are lost"


async def test_flush_counts_what_is_half_delivered(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        api.fail("send_events", REFUSED)
        for number in range(8):
            outbox.event(event(str(number)))
        api.latency = 1.2
    # At 1.2 all are refused, at 2.4 the first half is taken, at 3 it is over.
    assert len(api.events) == 4
    assert caplog.messages == ["4 events did not reach the API in time; they are lost"]


async def test_flush_under_a_deadline_in_the_past_ends_at_once(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=lambda: -math.inf) as outbox:
        api.start_outage()
        outbox.event(event())
    assert api.seconds() == 0
    assert caplog.messages == ["1 events did not reach the API in time; they are lost"]


async def test_flush_can_be_ended_early(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    shield = trio.CancelScope(shield=True)

    async def end_it() -> None:
        await trio.sleep(2)
        shield.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_it)
        async with emitting(api, flush_deadline=within(30), shield=shield) as outbox:
            api.start_outage()
            outbox.event(event())
    assert api.seconds() == 2
    assert caplog.messages == ["1 events did not reach the API in time; they are lost"]


async def test_emitter_that_was_ended_before_the_block_still_takes_what_it_is_given(
    autojump_clock: Clock, api: FakePrefectAPI
) -> None:
    shield = trio.CancelScope(shield=True)
    async with emitting(api, flush_deadline=within(3), shield=shield) as outbox:
        await trio.sleep(1)
        shield.cancel()
        await trio.sleep(1)
        outbox.event(event())
        outbox.log(line("hello"))
        outbox.heartbeat(beat())
        outbox.heartbeat(beat())
    assert api.calls == []


async def test_last_events_are_delivered_though_everything_around_is_cancelled(
    autojump_clock: Clock, api: FakePrefectAPI
) -> None:
    api.latency = 1
    with trio.move_on_after(10):
        async with emitting(api, flush_deadline=within(3)) as outbox:
            try:
                await trio.sleep_forever()
            finally:
                for number in range(3):
                    outbox.event(event(str(number)))
    assert names(api) == ["0", "1", "2"]
    assert api.seconds() == 11


async def test_cancellation_reaches_the_block(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    with trio.move_on_after(10) as scope:
        async with emitting(api, flush_deadline=within(3)):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert api.seconds() == 10


async def test_error_in_the_block_flushes_too(autojump_clock: Clock, api: FakePrefectAPI) -> None:
    async def fail(outbox: Outbox) -> None:
        await trio.lowlevel.checkpoint()
        outbox.event(event("last"))
        raise ZeroDivisionError

    async def block() -> None:
        async with emitting(api, flush_deadline=within(3)) as outbox:
            await fail(outbox)

    with pytest.RaisesGroup(ZeroDivisionError):
        await block()
    assert names(api) == ["last"]


async def test_what_comes_during_the_flush_is_counted(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async def emit(*, task_status: trio.TaskStatus[Outbox]) -> None:
        async with emitting(api, flush_deadline=within(3)) as outbox:
            outbox.log(line("in time"))
            task_status.started(outbox)

    api.start_outage()
    async with trio.open_nursery() as nursery:
        outbox = await nursery.start(emit)
        await trio.sleep(1)
        outbox.event(event())
        outbox.log(line("late"))
        outbox.log(line("later"))
    assert caplog.messages[-1] == "1 events and 3 log lines did not reach the API in time; they are lost"


async def test_what_comes_after_the_end_is_lost_without_an_error(
    autojump_clock: Clock, api: FakePrefectAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with emitting(api, flush_deadline=within(3)) as outbox:
        outbox.log(line("in time"))
    outbox.event(event())
    outbox.log(line("late"))
    assert [each.message for each in api.logs] == ["in time"]
    assert caplog.messages == []
