"""A program has its worker create flow runs, over the worker's own connection."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

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
