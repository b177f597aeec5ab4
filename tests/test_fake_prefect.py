"""The Prefect in memory that the test kit gives: workers and programs on it, ways to break it, and what it shows."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from itertools import pairwise
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

import trioworker
from trioworker.testing import FakePrefect, Script

app = trioworker.TrioFlows()


@app.flow(schedules=[trioworker.Interval(600)])
async def nap(seconds: float = 30) -> None:
    logging.getLogger("nap").info("Good night")
    await trio.sleep(seconds)


@pytest.fixture
def fake(prefect_api: FakePrefect) -> FakePrefect:
    prefect_api.add_work_pool("pool")
    prefect_api.add_deployment("flow", "pool")
    return prefect_api


async def test_neither_sockets_nor_threads_nor_processes_are_used(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("there is to be none of these")

    for owner, name in [
        (socket, "socket"),
        (socket, "socketpair"),
        (socket, "getaddrinfo"),
        (trio.socket, "socket"),
        (trio.socket, "getaddrinfo"),
        (trio.lowlevel, "open_process"),
        (trio, "run_process"),
        (subprocess, "Popen"),
        (threading.Thread, "start"),
    ]:
        monkeypatch.setattr(owner, name, refuse)
    await app.deploy(pool="naps", **fake.worker_options)
    played = fake.schedule(fake.deployments[0])
    async with fake.open_worker("naps", flows=app), fake.open_worker("pool"):
        with fake.outage():
            await trio.sleep(3600)
        await trio.sleep(3600)
    assert len(fake.runs_of("nap")) == 13
    assert fake.states(played)[-1] == "Completed"


async def test_program_that_is_tested_needs_no_settings_in_the_environment(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
    async with trioworker.open_worker(pool="pool", **fake.worker_options):
        await trio.sleep(60)
    assert fake.times("get_scheduled_flow_runs")[:3] == [0, 10, 20]


async def test_settings_can_be_chosen(fake: FakePrefect, autojump_clock: trio.testing.MockClock) -> None:
    settings = fake.settings_with({"PREFECT_WORKER_QUERY_SECONDS": "4"})
    async with fake.open_worker("pool", settings=settings):
        await trio.sleep(60)
    assert fake.times("get_scheduled_flow_runs")[:3] == [0, 4, 8]


async def test_pool_that_does_not_exist_is_created(
    prefect_api: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    async with prefect_api.open_worker("new") as worker:
        assert worker.ready
    assert prefect_api.work_pool("new").type == "process"


async def test_worker_of_functions_runs_them(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    [deployed] = await app.deploy(pool="naps", schedules=[], **fake.worker_options)
    run = fake.schedule(deployed, parameters={"seconds": 7})
    async with fake.open_worker("naps", flows=app):
        await fake.wait_for(run, "Completed")
    assert fake.seconds() == 7
    assert fake.states(run) == ["Scheduled", "Pending", "Running", "Completed"]
    assert "Good night" in fake.logs_of(run)
    assert (
        fake.runs_of(deployed) == fake.runs_of(deployed.id) == fake.runs_of("nap") == [fake.flow_run(run.id)]
    )


async def test_played_run_does_what_its_script_says(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    run = fake.schedule(fake.deployments[0])
    fake.script(run, Script(seconds=50, ends="Failed"))
    async with fake.open_worker("pool"):
        await fake.wait_for(run, "Failed")
    assert fake.seconds() == 50
    assert fake.infrastructure.execution(run.id).status == 0


async def test_events_of_a_run_are_those_that_name_it(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    run, other = (fake.schedule(fake.deployments[0]) for _ in range(2))
    async with fake.open_worker("pool"):
        await fake.wait_for(run, "Completed")
        await fake.wait_for(other, "Completed")
    ours = fake.events_of(run)
    assert ours
    assert not [event for event in ours if event in fake.events_of(other)]
    assert [event for event in fake.events if event not in ours + fake.events_of(other)]


async def test_rate_limit_is_heeded(fake: FakePrefect, autojump_clock: trio.testing.MockClock) -> None:
    async with fake.open_worker("pool"):
        await trio.sleep(60)
        with fake.rate_limit(retry_after=300):
            await trio.sleep(1000)
            asked = [at for at in fake.times("get_scheduled_flow_runs") if at > 60]
        assert asked
        assert all(later - earlier >= 300 for earlier, later in pairwise(asked))
        run = fake.schedule(fake.deployments[0])
        await fake.wait_for(run, "Completed")


async def test_dropped_websocket_is_opened_again(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    run = fake.schedule(fake.deployments[0])
    fake.script(run, Script(seconds=1000))
    async with fake.open_worker("pool"):
        await trio.sleep(60)
        assert fake.count("open_state_changes") == 1
        fake.drop_state_changes()
        await trio.sleep(61)
        assert fake.count("open_state_changes") == 2
        cancelled_at = fake.seconds()
        fake.cancel(run.id)
        await fake.wait_for(run, "Cancelled")
    # Sooner than a poll would have found out.
    assert fake.seconds() == cancelled_at


async def test_outage_is_noticed_by_every_worker(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    async with fake.open_worker("pool", name="one"), fake.open_worker("pool", name="two"):
        with fake.outage():
            await trio.sleep(600)
        await trio.sleep(600)
    lost = [notice for notice in fake.notices if notice.message.startswith("Lost")]
    back = [notice for notice in fake.notices if notice.message.startswith("The Prefect API")]
    assert (len(lost), len(back)) == (2, 2)


async def test_two_fakes_know_nothing_of_each_other(autojump_clock: trio.testing.MockClock) -> None:
    one, two = FakePrefect(), FakePrefect()
    for fake in one, two:
        fake.add_work_pool("pool")
    run = one.schedule(one.add_deployment("flow", "pool"))
    async with two.open_worker("pool"), one.open_worker("pool"):
        await one.wait_for(run, "Completed")
    assert two.flow_runs == []
    with pytest.raises(LookupError):
        two.states(run)


def test_options_are_what_deploying_and_opening_take() -> None:
    options: dict[str, Any] = FakePrefect().worker_options
    assert set(options) == {"settings", "surroundings"}
    assert options["settings"].api_url == "http://prefect.test/api"
