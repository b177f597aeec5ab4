"""Which runs are taken in hand, and when."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import trio
import trio.testing
from support import FOREVER, POOL, World

from trioworker.api.errors import APIUnavailableError, RequestRefusedError
from trioworker.errors import ConfigurationError
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


# What a worker asks for


def asked(world: World, name: str) -> list[object]:
    return [call.arguments[name] for call in world.api.calls if call.method == "get_scheduled_flow_runs"]


async def test_poll_names_the_queues_and_looks_ahead(autojump_clock: Clock, world: World) -> None:
    world.api.add_work_queue(POOL, "urgent")
    async with world.working(queues=("urgent",), prefetch_seconds=42):
        await trio.sleep(11)
    assert asked(world, "queue_names") == [["urgent"], ["urgent"]]
    assert asked(world, "scheduled_before") == [world.api.moment(42), world.api.moment(52)]


async def test_worker_of_some_queues_takes_nothing_from_others(autojump_clock: Clock, world: World) -> None:
    urgent = world.api.schedule(world.api.add_deployment("flow", POOL, name="u", queue_name="urgent"))
    usual = world.schedule()
    async with world.working(queues=("urgent",)):
        await world.api.wait_for_state(urgent.id, "Completed")
        await trio.sleep(20)
    assert world.states(usual) == ["Scheduled"]


async def test_worker_with_all_slots_taken_still_polls(autojump_clock: Clock, world: World) -> None:
    """The server shows from the polling that a queue is being served."""
    world.schedule(Script(seconds=FOREVER))
    async with world.working(limit=1, drain_timeout=0):
        await trio.sleep(25)
    assert world.api.times("get_scheduled_flow_runs") == [0, 10, 20]


async def test_run_that_is_still_being_claimed_is_not_claimed_again(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 35
    async with world.working(limit=5):
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.count("set_flow_run_state") == 2
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]


async def test_slow_claim_delays_no_poll(autojump_clock: Clock, world: World) -> None:
    world.schedule()
    world.api.latencies["set_flow_run_state"] = 35
    async with world.working(drain_timeout=100):
        await trio.sleep(25)
    assert world.api.times("get_scheduled_flow_runs") == [0, 10, 20]


async def test_urgent_queue_is_served_first(autojump_clock: Clock, world: World) -> None:
    usual = world.schedule(Script(seconds=5))
    world.api.add_work_queue(POOL, "urgent", priority=1)
    deployment = world.api.add_deployment("flow", POOL, name="urgent", queue_name="urgent")
    urgent = world.api.schedule(deployment)
    async with world.working(limit=1):
        await world.api.wait_for_state(usual.id, "Completed")
    started = [each.assignment.flow_run_id for each in world.infrastructure.executions]
    assert started == [urgent.id, usual.id]


async def test_burst_is_started_at_one_moment(autojump_clock: Clock, world: World) -> None:
    for _ in range(150):
        world.schedule(Script(seconds=5))
    async with world.working(launch_rate=math.inf):
        await trio.sleep(1)
        assert len(world.infrastructure.running) == 150
    assert {each.started_at for each in world.infrastructure.executions} == {0}


async def test_polls_back_off_while_the_api_is_away(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await trio.sleep(1)
        world.api.fail("get_scheduled_flow_runs", APIUnavailableError("busy"), times=3)
        await trio.sleep(140)
    assert world.api.times("get_scheduled_flow_runs") == [0, 10, 30, 70, 130, 140]


async def test_polls_keep_to_retry_after(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await trio.sleep(1)
        world.api.fail("get_scheduled_flow_runs", APIUnavailableError("busy", retry_after=100))
        await trio.sleep(115)
    assert world.api.times("get_scheduled_flow_runs") == [0, 10, 110]


async def test_refused_poll_is_said_and_tried_again(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.api.fail("get_scheduled_flow_runs", RequestRefusedError("POST /poll", 422, "odd"), times=2)
    run = world.schedule()
    async with world.working():
        await world.api.wait_for_state(run.id, "Completed")
    complaint = "Could not poll for flow runs, trying again: POST /poll was refused with 422: odd"
    assert caplog.messages.count(complaint) == 1


async def test_queue_that_does_not_exist_is_said(autojump_clock: Clock, world: World) -> None:
    """A mistyped name must not look like a worker that has nothing to do."""
    async with world.working(queues=("no such queue",)):
        await trio.sleep(100)
    assert any("no such queue" in message for message in world.messages)


async def test_only_poll_fails_on_a_queue_that_does_not_exist(autojump_clock: Clock, world: World) -> None:
    """To whoever has it called by the clock, a mistyped name must not look like success."""
    run = world.schedule()
    missing = (
        "Nothing was polled, since a work queue is missing: Work pool queue 'pool/no such queue' not found."
    )
    with pytest.raises(ConfigurationError, match=re.escape(missing)):
        await world.worker(queues=("default", "no such queue"), run_once=True).run()
    assert world.messages == ["Discovered type 'process' for work pool 'pool'."]
    assert world.states(run) == ["Scheduled"]
