"""A program has its worker create flow runs, over the worker's own connection."""

from __future__ import annotations

import enum
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import attrs
import pytest
import trio
import trio.testing
from flow_support import Stage
from support import World

from trioworker import ObjectNotFoundError
from trioworker.api.errors import APIUnavailableError

Clock = trio.testing.MockClock


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(World(tmp_path))


async def test_run_is_created_and_taken_at_once(autojump_clock: Clock, stage: Stage) -> None:
    called: list[tuple[str, float]] = []

    @stage.app.flow()
    async def work(name: str) -> None:
        called.append((name, stage.world.now))

    deployment = stage.deployment("work")
    async with stage.working() as worker:
        # Just after a poll, and long before the next.
        await trio.sleep(1)
        run_id = await worker.create_flow_run(deployment.id, parameters={"name": "Ada"}, name="first")
        await stage.ended(stage.world.api.flow_run(run_id))
    assert called == [("Ada", 1)]
    assert stage.world.api.flow_run(run_id).name == "first"


async def test_run_for_later_waits_for_its_time(autojump_clock: Clock, stage: Stage) -> None:
    called: list[float] = []

    @stage.app.flow()
    async def work() -> None:
        called.append(stage.world.now)

    deployment = stage.deployment("work")
    async with stage.working() as worker:
        due = stage.world.api.moment(100)
        run_id = await worker.create_flow_run(deployment.id, scheduled_time=due)
        await stage.ended(stage.world.api.flow_run(run_id))
    assert called == [100]


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Crop:
    left: int
    made: datetime


async def test_parameters_arrive_as_what_they_were(autojump_clock: Clock, stage: Stage) -> None:
    called: list[tuple[object, ...]] = []

    @stage.app.flow()
    async def work(key: UUID, when: datetime, colour: Colour, crop: Crop, length: timedelta) -> None:
        called.append((key, when, colour, crop, length))

    when = datetime(2026, 1, 1, 12, tzinfo=UTC)
    given = {
        "key": uuid4(),
        "when": when,
        "colour": Colour.RED,
        "crop": Crop(3, when),
        "length": timedelta(1),
    }
    async with stage.working() as worker:
        run_id = await worker.create_flow_run(stage.deployment("work").id, parameters=given)
        await stage.ended(stage.world.api.flow_run(run_id))
    assert called == [tuple(given.values())]
    json.dumps(stage.world.api.flow_run(run_id).parameters)


@pytest.mark.parametrize("value", [object(), {"deep": [math.nan]}, b"\xff"])
async def test_parameter_that_cannot_be_sent_is_named(
    autojump_clock: Clock, stage: Stage, value: object
) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    async with stage.working() as worker:
        with pytest.raises(ValueError, match=r"The parameter 'second' of a flow run cannot be sent: "):
            await worker.create_flow_run(
                stage.deployment("work").id, parameters={"first": 1, "second": value}
            )
    assert stage.world.api.flow_runs == []


async def test_scheduled_time_without_a_time_zone_is_refused(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    async with stage.working() as worker:
        with pytest.raises(ValueError, match=r"needs a time zone: 2026-01-01 12:00:00\."):
            await worker.create_flow_run(
                stage.deployment("work").id,
                scheduled_time=datetime(2026, 1, 1, 12),  # noqa: DTZ001 - what is refused
            )
    assert stage.world.api.flow_runs == []


async def test_run_can_be_created_while_the_worker_drains(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(10)

    run = stage.schedule()
    async with stage.working() as worker:
        await stage.world.api.wait_for_state(run.id, "Running")
        worker.shutdown()
        run_id = await worker.create_flow_run(stage.deployment("work").id)
    assert stage.states(stage.world.api.flow_run(run_id)) == ["Scheduled"]


async def test_worker_that_is_not_running_creates_none(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    deployment = stage.deployment("work")
    worker = stage.worker()
    with pytest.raises(RuntimeError, match="is not running"):
        await worker.create_flow_run(deployment.id)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        worker.shutdown()
    with pytest.raises(RuntimeError, match="is not running"):
        await worker.create_flow_run(deployment.id)
    assert stage.world.api.flow_runs == []


async def test_refusal_and_outage_are_the_programs_to_handle(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    async with stage.working() as worker:
        with pytest.raises(ObjectNotFoundError):
            await worker.create_flow_run(uuid4())
        with stage.world.api.outage(), pytest.raises(APIUnavailableError):
            await worker.create_flow_run(stage.deployment("work").id)
        assert worker.ready
