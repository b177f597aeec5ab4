"""A worker inside somebody else's Trio program: its lifetime, its errors, its neighbours."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from support import FOREVER, World, settings, settle

import trioworker
from trioworker import (
    ConfigurationError,
    GaveUpError,
    Happening,
    RunFinished,
    RunHappening,
    Settings,
    Surroundings,
    Worker,
    WorkerPhase,
    WorkerRefusedError,
    open_worker,
)
from trioworker.api.client import PrefectAPI
from trioworker.api.condition import Condition
from trioworker.api.models import FlowRun
from trioworker.config import WorkerConfig
from trioworker.testing import Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def opened(
    world: World, values: Mapping[str, str] | None = None, **options: Any
) -> AbstractAsyncContextManager[Worker]:
    """`open_worker` in a world."""
    surroundings = options.pop("surroundings", world.surroundings)
    chosen: dict[str, Any] = {
        "pool": "pool",
        "name": "worker",
        "settings": settings(values or {}, world.directory),
    }
    return open_worker(notify=world.notify, surroundings=surroundings, **{**chosen, **options})


# A nursery of the caller's


async def test_nursery_starts_a_worker_and_goes_on_while_it_works(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=3))
    worker = world.worker()
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        assert worker.status().phase is WorkerPhase.WORKING
        nursery.start_soon(note_after, done, 5)
        await world.api.wait_for_state(run.id, "Completed")
        worker.shutdown()
        worker.shutdown()
        await settle()
        worker.shutdown()
    assert done == ["done"]


async def note_after(done: list[str], seconds: float) -> None:
    await trio.sleep(seconds)
    done.append("done")


async def test_error_of_a_worker_cancels_its_siblings_and_leaves_in_a_group_as_in_trio(
    autojump_clock: Clock, world: World
) -> None:
    cancelled: list[float] = []

    async def sibling() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(world.now)

    with pytest.RaisesGroup(GaveUpError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            await nursery.start(world.worker({"TRIOWORKER_GIVE_UP_AFTER": "60"}).run)
            await trio.sleep(10)
            world.api.start_outage()
    assert len(cancelled) == 1
    assert cancelled[0] >= 70


async def test_errors_of_two_workers_leave_in_one_group(autojump_clock: Clock, tmp_path: Path) -> None:
    refusing, failing = World(tmp_path), World(tmp_path)
    refusing.api.add_work_pool("push", pool_type="modal:push")
    other = Worker(failing.config(), notify=failing.notify, surroundings=failing_at_its_end(failing))
    with pytest.RaisesGroup(WorkerRefusedError, OSError):
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            nursery.start_soon(refusing.worker(pool="push").run)


async def test_error_of_a_sibling_is_the_hard_stop_of_a_worker(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    with pytest.RaisesGroup(LookupError):
        async with trio.open_nursery() as nursery:
            await nursery.start(world.worker().run)
            await trio.sleep(4)
            raise LookupError
    assert world.api.history(run.id)[-1] == ("Crashed", 4)


# Deadlines of the caller's


async def test_deadline_around_a_worker_ends_its_runs_and_is_told_as_trio_does(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))

    async def wait_for_ever() -> None:
        with trio.fail_after(7):
            async with opened(world):
                await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        await wait_for_ever()
    assert world.api.history(run.id)[-1] == ("Crashed", 7)
    assert world.infrastructure.running == []


async def test_deadline_that_passes_in_the_drain_is_the_hard_stop(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    with trio.move_on_after(10) as scope:
        async with opened(world, drain_timeout=20):
            await trio.sleep(4)
    assert scope.cancelled_caught
    assert world.api.history(run.id)[-1] == ("Crashed", 10)


async def test_deadline_that_a_drain_keeps_leaves_no_mark(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=9))
    with trio.fail_after(10):
        async with opened(world):
            await trio.sleep(4)
    assert world.api.history(run.id)[-1] == ("Completed", 9)


async def test_deadline_passes_on_time_while_a_worker_waits_for_an_api_that_is_not_there(
    autojump_clock: Clock, world: World
) -> None:
    world.api.start_outage()
    with trio.move_on_after(100) as scope:
        async with opened(world):
            pytest.fail("the block was entered")
    assert scope.cancelled_caught
    assert world.now == 100
    assert world.api.events == []


async def test_deadline_of_a_block_inside_concerns_the_block_alone(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=9))
    async with opened(world) as worker:
        with trio.move_on_after(3):
            await trio.sleep_forever()
        assert worker.status().phase is WorkerPhase.WORKING
    assert world.states(run)[-1] == "Completed"


# Errors


def failing_at_its_end(world: World) -> Surroundings:
    """Surroundings in which a worker fails when it lets go of its API."""

    @asynccontextmanager
    async def open_api(config: WorkerConfig, condition: Condition) -> AsyncIterator[PrefectAPI]:
        async with world.surroundings.open_api(config, condition) as api:
            try:
                yield api
            finally:
                raise OSError("the worker's own")

    return attrs.evolve(world.surroundings, open_api=open_api)


async def test_error_of_a_worker_at_its_end_leaves_bare(autojump_clock: Clock, world: World) -> None:
    with pytest.raises(OSError, match="the worker's own"):
        async with opened(world, surroundings=failing_at_its_end(world)):
            pass


async def test_errors_of_block_and_worker_leave_together(autojump_clock: Clock, world: World) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(LookupError, match="the block's"),
        pytest.RaisesExc(OSError, match="the worker's own"),
    ):
        async with opened(world, surroundings=failing_at_its_end(world)):
            raise LookupError("the block's")


async def test_errors_of_block_and_worker_leave_together_when_cancelled_too(
    autojump_clock: Clock, world: World
) -> None:
    with trio.CancelScope() as scope:
        with pytest.RaisesGroup(LookupError, OSError):
            async with opened(world, surroundings=failing_at_its_end(world)):
                scope.cancel()
                raise LookupError
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_group_that_the_block_raises_is_not_unwrapped(autojump_clock: Clock, world: World) -> None:
    with pytest.RaisesGroup(LookupError):
        async with opened(world):
            raise ExceptionGroup("my own", [LookupError()])


async def test_configuration_that_cannot_be_right_is_refused_before_anything_begins(
    autojump_clock: Clock, world: World
) -> None:
    with pytest.raises(ConfigurationError, match="a/b"):
        async with opened(world, pool="a/b"):
            pytest.fail("the block was entered")
    assert world.api.calls == []


async def test_address_of_the_health_server_is_free_again_however_early_a_worker_is_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    values = {
        "PREFECT_WORKER_WEBSERVER_HOST": address[0],
        "PREFECT_WORKER_WEBSERVER_PORT": str(address[1]),
    }
    with trio.CancelScope() as scope:
        scope.cancel()
        async with opened(world, values, with_healthcheck=True):
            pytest.fail("the block was entered")
    with socket.socket() as probe:
        probe.bind(address)


# Neighbours


def other_world(directory: Path) -> World:
    """A world with another pool and another flow."""
    world = World(directory)
    template = world.infrastructure.default_base_job_template
    world.api.add_work_pool("other", base_job_template=template)
    world.deployment = world.api.add_deployment("another flow", "other")
    return world


async def happenings(worker: Worker) -> list[Happening]:
    with worker.watch() as watch:
        return [happening async for happening in watch]


async def test_two_workers_of_two_servers_do_not_know_of_each_other(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    one, other = World(tmp_path), other_world(tmp_path)
    runs = {id(world): [world.schedule(Script(seconds=15)) for _ in range(3)] for world in (one, other)}
    told: dict[str, list[Happening]] = {}

    async def keep(worker: Worker) -> None:
        told[worker.name] = await happenings(worker)

    first = one.worker(name="first", limit=2)
    second = other.worker(name="second", pool="other")
    async with trio.open_nursery() as nursery:
        for worker in (first, second):
            nursery.start_soon(keep, worker)
        await settle()
        for worker in (first, second):
            await nursery.start(worker.run)
        await trio.sleep(5)
        assert {each.flow_run_id for each in first.status().runs} <= {run.id for run in runs[id(one)]}
        assert {each.flow_run_id for each in second.status().runs} == {run.id for run in runs[id(other)]}
        one.api.start_outage()
        await trio.sleep(30)
        assert (first.status().api_reachable, second.status().api_reachable) == (False, True)
        one.api.end_outage()
        await trio.sleep(100)
        first.shutdown()
        await settle()
        assert (first.status().phase, second.status().phase) == (WorkerPhase.STOPPED, WorkerPhase.WORKING)
        second.shutdown()
    check_that_all_is_of(one, "first", runs[id(one)], told["first"])
    check_that_all_is_of(other, "second", runs[id(other)], told["second"])
    assert any(message.startswith("The Prefect API does not answer") for message in one.messages)
    assert not any(message.startswith("The Prefect API does not answer") for message in other.messages)


def check_that_all_is_of(world: World, name: str, runs: list[FlowRun], told: list[Happening]) -> None:
    """That what a world has heard, and what its worker has told, is about this worker and its runs."""
    ids = {run.id for run in runs}
    assert {beat.worker_name for beat in world.api.heartbeats} == {name}
    assert {each.assignment.flow_run_id for each in world.infrastructure.executions} == ids
    assert {each.flow_run_id for each in told if isinstance(each, RunHappening)} == ids
    assert len([each for each in told if isinstance(each, RunFinished)]) == len(runs)
    assert {line.flow_run_id for line in world.api.logs} == ids
    workers = {
        resource["prefect.resource.name"]
        for event in world.api.events
        for resource in (event.resource, *event.related)
        if resource["prefect.resource.id"].startswith("prefect.worker.")
    }
    assert workers == {name}
    assert all(world.states(run)[-1] == "Completed" for run in runs)


def state_of_modules() -> dict[str, Any]:
    """Everything on module or class level that could change."""
    found: dict[str, Any] = {}
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "trioworker"}
    for name, module in modules.items():
        for where, value in _values(name, module):
            # By identity and, since a container stays the same when its contents change, by them too.
            found[where] = (id(value), repr(value) if isinstance(value, (dict, list, set)) else None)
    return found


def _values(name: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    for attribute, value in vars(module).items():
        if attribute.startswith("__") or isinstance(value, ModuleType):
            continue
        yield f"{name}.{attribute}", value
        if isinstance(value, type) and value.__module__ == name:
            for member, content in vars(value).items():
                if not member.startswith("__"):
                    yield f"{name}.{attribute}.{member}", content


async def test_workers_leave_nothing_on_module_level_nor_in_the_environment(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    # Once for what is imported late.
    await work_in(World(tmp_path), "pool")
    before, environment = state_of_modules(), dict(os.environ)
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work_in, World(tmp_path), "pool")
            nursery.start_soon(work_in, other_world(tmp_path), "other")
    assert state_of_modules() == before
    assert dict(os.environ) == environment


async def work_in(world: World, pool: str) -> None:
    """A worker's life, with a run, an outage and a cancellation in it."""
    environment = dict(os.environ)
    run, cancelled = world.schedule(Script(seconds=40)), world.schedule(Script(seconds=FOREVER))
    async with opened(world, pool=pool) as worker:
        worker.watch()
        await trio.sleep(5)
        assert dict(os.environ) == environment
        with world.api.outage():
            await trio.sleep(10)
        world.api.cancel(cancelled.id)
        await world.api.wait_for_state(run.id, "Completed")
        await world.api.wait_for_state(cancelled.id, "Cancelled")


async def test_settings_of_a_worker_are_those_that_it_was_given(
    autojump_clock: Clock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the process finds in its environment is for those that were given none."""
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "77")
    given = Settings.load(
        {"PREFECT_API_URL": "http://fake/api", "PREFECT_WORKER_QUERY_SECONDS": "4"}, world.directory
    )
    async with opened(world, settings=given):
        await trio.sleep(10)
    assert world.api.times("get_scheduled_flow_runs") == [0, 4, 8]


class TestAnotherEventLoop:
    """What somebody meets who comes from asyncio."""

    def test_worker_is_refused(self, tmp_path: Path) -> None:
        async def host() -> None:
            async with trioworker.open_worker(pool="pool", settings=Settings.load({}, tmp_path)):
                pytest.fail("the worker was opened")

        with pytest.raises(trioworker.ConfigurationError, match="called from another one"):
            asyncio.run(host())

    def test_deploying_is_refused(self, tmp_path: Path) -> None:
        app = trioworker.TrioFlows()

        @app.flow()
        async def work() -> None: ...

        async def host() -> None:
            await app.deploy(pool="pool", settings=Settings.load({}, tmp_path))

        with pytest.raises(trioworker.ConfigurationError, match="called from another one"):
            asyncio.run(host())
