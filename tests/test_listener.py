"""The listener over the fake API, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from support import NO_JITTER, POOL, settle

from trioworker.api.errors import (
    APIUnavailableError,
    MalformedAnswerError,
    NotAuthenticatedError,
    NotPermittedError,
)
from trioworker.api.models import Deployment, FlowRun, StateChange, StateType
from trioworker.listener import PROVEN_AFTER, SURE_AFTER, Absence, keep_listening
from trioworker.service import Rhythm
from trioworker.testing import FakePrefectAPI

LOGGER = "trioworker.listener"
RHYTHM = Rhythm(interval=1, chance=lambda: NO_JITTER)


@attrs.define
class Listening:
    """A listener at work, and what it has told its owner, with times."""

    api: FakePrefectAPI
    pool_id: UUID | None
    deployment: Deployment
    connected: list[float] = attrs.field(factory=list)
    changes: list[tuple[float, StateChange]] = attrs.field(factory=list)

    @property
    def attempts(self) -> list[float]:
        return self.api.times("open_state_changes")

    def on_connected(self) -> None:
        self.connected.append(self.api.seconds())

    def on_change(self, change: StateChange) -> None:
        self.changes.append((self.api.seconds(), change))

    def running(self) -> FlowRun:
        """A run that a worker has in hand."""
        run = self.api.schedule(self.deployment)
        self.api.set_state(run.id, "Running", force=True)
        return run

    def told(self, state_type: StateType = StateType.CANCELLING) -> list[tuple[float, UUID]]:
        return [(at, change.flow_run_id) for at, change in self.changes if change.state_type is state_type]


def make_world() -> Listening:
    api = FakePrefectAPI()
    pool = api.add_work_pool(POOL)
    return Listening(api, pool.id, api.add_deployment("flow", POOL))


@asynccontextmanager
async def listening(world: Listening, *, poll_interval: float | None = None) -> AsyncIterator[Listening]:
    async with trio.open_nursery() as nursery:
        keep = partial(
            keep_listening,
            world.api,
            lambda: world.pool_id,
            world.on_connected,
            world.on_change,
            RHYTHM,
            poll_interval=poll_interval,
        )
        await nursery.start(keep)
        yield world
        nursery.cancel_scope.cancel()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What a person gets to see."""
    caplog.set_level(logging.DEBUG, logger=LOGGER)

    def lines() -> list[str]:
        assert all(record.levelno <= logging.INFO for record in caplog.records)
        return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]

    return lines


async def poll_all_along(api: FakePrefectAPI) -> None:
    """What tells the condition of the API: the requests by which a worker lives."""
    while True:
        with suppress(APIUnavailableError):
            await api.read_work_pool(POOL)
        await trio.sleep(5)


async def test_run_and_its_cancellation_are_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with listening(make_world()) as world:
        await trio.sleep(2)
        run = world.running()
        await trio.sleep(1)
        world.api.cancel(run.id)
        await settle()
    assert world.told(StateType.SCHEDULED) == [(2, run.id)]
    assert world.told(StateType.CANCELLING) == [(3, run.id)]
    assert {change.queue_name for _, change in world.changes} == {"default"}


async def test_only_what_is_asked_for_is_told(autojump_clock: trio.testing.MockClock) -> None:
    world = make_world()
    seen: list[StateType] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                keep_listening,
                world.api,
                lambda: world.pool_id,
                world.on_connected,
                lambda change: seen.append(change.state_type),
                RHYTHM,
                state_types={StateType.SCHEDULED},
            )
        )
        await settle()
        run = world.running()
        world.api.cancel(run.id)
        await settle()
        nursery.cancel_scope.cancel()
    assert seen == [StateType.SCHEDULED]


async def test_start_waits_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    world = make_world()
    world.api.latency = 100
    async with listening(world):
        assert trio.current_time() == 0
    world.api.refuse_state_changes()
    async with listening(world):
        assert trio.current_time() == 0


async def test_owner_is_told_of_each_connecting_once(autojump_clock: trio.testing.MockClock) -> None:
    """So it polls once after each: what happened in between is told by nobody."""
    async with listening(make_world()) as world:
        await trio.sleep(1000)
        world.api.refuse_state_changes()
        world.api.accept_state_changes()
        await trio.sleep(1000)
    assert world.connected == [0, 1002]


async def test_connection_that_is_never_lost_is_never_renewed(autojump_clock: trio.testing.MockClock) -> None:
    async with listening(make_world()) as world:
        await trio.sleep(86_400)
    assert world.attempts == [0]


async def test_pauses_grow_up_to_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    world = make_world()
    world.api.refuse_state_changes()
    async with listening(world):
        await trio.sleep(250)
    assert world.attempts == [0, 2, 6, 14, 30, 62, 122, 182, 242]
    assert world.connected == []


async def test_pause_is_no_shorter_than_the_server_asks_for(autojump_clock: trio.testing.MockClock) -> None:
    world = make_world()
    world.api.fail("open_state_changes", APIUnavailableError("busy", retry_after=45))
    async with listening(world):
        await trio.sleep(100)
    assert world.attempts == [0, 45]


async def test_connection_that_has_lasted_makes_up_for_earlier_failures(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = make_world()
    world.api.fail("open_state_changes", APIUnavailableError("no"), times=4)
    async with listening(world):
        await trio.sleep(30 + PROVEN_AFTER)
        world.api.refuse_state_changes()
        world.api.accept_state_changes()
        await trio.sleep(10)
    assert world.attempts == [0, 2, 6, 14, 30, 92]


async def test_connection_that_is_cut_as_soon_as_it_is_there_is_not_renewed_without_a_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = make_world()
    async with listening(world), trio.open_nursery() as nursery:

        async def cut() -> None:
            while True:
                await trio.sleep(0.3)
                world.api.cancel(world.running().id)
                await settle()
                world.api.refuse_state_changes()
                world.api.accept_state_changes()

        nursery.start_soon(cut)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    assert 10 < len(world.connected) < 20


@pytest.mark.parametrize(
    "error",
    [
        NotAuthenticatedError("GET /events/out", 401, "no"),
        NotPermittedError("GET /events/out", 403, "no"),
        MalformedAnswerError("GET /events/out", ["no"]),
    ],
)
async def test_refusal_of_any_kind_ends_nothing(
    autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    world = make_world()
    world.api.fail("open_state_changes", error)  # type: ignore[arg-type]
    async with listening(world):
        await trio.sleep(10)
    assert world.connected == [2]


async def test_bug_of_the_owner_is_not_hidden(autojump_clock: trio.testing.MockClock) -> None:
    world = make_world()

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await keep_listening(world.api, lambda: world.pool_id, broken, world.on_change, RHYTHM)


class TestPool:
    async def test_pool_is_waited_for(self, autojump_clock: trio.testing.MockClock) -> None:
        world = make_world()
        pool_id, world.pool_id = world.pool_id, None
        async with listening(world):
            await trio.sleep(10.5)
            assert world.attempts == []
            world.pool_id = pool_id
            await trio.sleep(10)
        assert world.connected == [11]

    async def test_pool_that_was_made_anew_is_listened_to(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with listening(make_world()) as world:
            await trio.sleep(10)
            world.api.delete_work_pool(POOL)
            world.pool_id = world.api.add_work_pool(POOL).id
            world.deployment = world.api.add_deployment("flow", POOL)
            await trio.sleep(60)
            run = world.running()
            world.api.cancel(run.id)
            await settle()
        assert world.connected == [0, 60]
        assert world.told() == [(70, run.id)]


class TestCalm:
    async def test_nothing_is_said_when_all_is_well(
        self, autojump_clock: trio.testing.MockClock, said: Callable[[], list[str]]
    ) -> None:
        async with listening(make_world()) as world:
            world.api.cancel(world.running().id)
            await trio.sleep(1000)
        assert said() == []

    async def test_short_loss_is_not_worth_a_word(
        self, autojump_clock: trio.testing.MockClock, said: Callable[[], list[str]]
    ) -> None:
        async with listening(make_world()) as world:
            for _ in range(10):
                world.api.refuse_state_changes()
                await trio.sleep(60)
                world.api.accept_state_changes()
                await trio.sleep(300)
        assert said() == []

    async def test_lasting_refusal_is_said_once_and_so_is_its_end(
        self, autojump_clock: trio.testing.MockClock, said: Callable[[], list[str]]
    ) -> None:
        world = make_world()
        world.api.refuse_state_changes("dropped by a proxy")
        async with listening(world, poll_interval=120):
            await trio.sleep(SURE_AFTER)
            assert said() == []
            await trio.sleep(10_000)
            (line,) = said()
            assert "dropped by a proxy" in line
            assert line.endswith("Polling every 120 s meanwhile.")
            world.api.accept_state_changes()
            await trio.sleep(10_000)
        assert said()[1:] == ["The events websocket of the Prefect API is back."]
        assert len(world.connected) == 1

    async def test_outage_of_the_whole_api_is_said_by_others(
        self, autojump_clock: trio.testing.MockClock, said: Callable[[], list[str]]
    ) -> None:
        world = make_world()
        async with trio.open_nursery() as nursery, listening(world):
            nursery.start_soon(poll_all_along, world.api)
            await trio.sleep(100)
            with world.api.outage():
                await trio.sleep(3600)
            await trio.sleep(3600)
            nursery.cancel_scope.cancel()
        assert said() == []

    async def test_api_that_is_back_is_listened_to_at_once(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        world = make_world()
        async with trio.open_nursery() as nursery, listening(world):
            nursery.start_soon(poll_all_along, world.api)
            await trio.sleep(100)
            with world.api.outage():
                await trio.sleep(3603)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        # With the first poll after the end; the next attempt would have been a minute after 3702.
        assert world.connected == [0, 3705]

    async def test_condition_of_the_api_is_left_alone(self, autojump_clock: trio.testing.MockClock) -> None:
        world = make_world()
        noted: list[str] = []
        world.api.condition.answered = lambda: noted.append("answered")  # type: ignore[method-assign]
        world.api.condition.failed = lambda *_, **__: noted.append("failed")  # type: ignore[method-assign]
        async with listening(world):
            await trio.sleep(10)
            with world.api.outage():
                await trio.sleep(1000)
            await trio.sleep(1000)
        assert noted == []
        assert len(world.connected) == 2

    async def test_refusal_that_outlasts_an_outage_is_counted_from_its_end(
        self, said: Callable[[], list[str]]
    ) -> None:
        absence = Absence(None)
        error = APIUnavailableError("dropped")
        absence.failed(error, now=0, api_is_there=True)
        absence.failed(error, now=100, api_is_there=False)
        absence.failed(error, now=SURE_AFTER, api_is_there=True)
        absence.failed(error, now=2 * SURE_AFTER - 1, api_is_there=True)
        assert said() == []
        absence.failed(error, now=2 * SURE_AFTER, api_is_there=True)
        (line,) = said()
        assert line.endswith("dropped. Polling meanwhile.")
