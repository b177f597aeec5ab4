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


def seconds_between_polls(fake: FakePrefect) -> list[float]:
    """The pauses between polls, but the first, which is cut short when the websocket is connected."""
    return [round(later - earlier, 3) for earlier, later in pairwise(fake.times("get_scheduled_flow_runs"))][
        1:
    ]


async def test_program_that_is_tested_needs_no_settings_in_the_environment(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
    async with trioworker.open_worker(pool="pool", **fake.worker_options):
        await trio.sleep(60)
    assert seconds_between_polls(fake)[:3] == [10, 10, 10]


async def test_settings_can_be_chosen(fake: FakePrefect, autojump_clock: trio.testing.MockClock) -> None:
    settings = fake.settings_with({"PREFECT_WORKER_QUERY_SECONDS": "4"})
    async with fake.open_worker("pool", settings=settings):
        await trio.sleep(60)
    assert seconds_between_polls(fake)[:3] == [4, 4, 4]


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
    assert fake.history(run.id)[-1] == ("Completed", 7)
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


@pytest.mark.parametrize("waits_from", [0, 60], ids=["while it runs", "afterwards"])
async def test_waiting_fails_at_once_when_the_run_ends_otherwise(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock, waits_from: float
) -> None:
    run = fake.schedule("flow", name="hasty")
    fake.script(run, Script(seconds=50, ends="TimedOut"))
    async with fake.open_worker("pool"):
        await trio.sleep(waits_from)
        with pytest.raises(
            AssertionError, match=r"run 'hasty' ended TimedOut; waited for Completed or Failed"
        ):
            await fake.wait_for(run, "Completed", "Failed")
        assert fake.seconds() == max(50, waits_from)


async def test_what_a_run_died_of_is_said_by_whoever_waits_for_something_else(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    [deployed] = await app.deploy(pool="naps", schedules=[], **fake.worker_options)
    run = fake.schedule(deployed, name="bad", parameters={"seconds": "many"})
    async with fake.open_worker("naps", flows=app):
        with pytest.raises(
            AssertionError, match=r"run 'bad' ended Failed: Validation .*; waited for Completed"
        ):
            await fake.wait_for(run, "Completed")


async def test_waiting_outlasts_a_failure_that_is_tried_again(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    retried = trioworker.TrioFlows()
    attempts: list[float] = []

    @retried.flow(retries=1, retry_delay=30)
    async def fail_once() -> None:
        attempts.append(trio.current_time())
        if len(attempts) == 1:
            raise RuntimeError

    [deployed] = await retried.deploy(pool="retried", **fake.worker_options)
    run = fake.schedule(deployed)
    async with fake.open_worker("retried", flows=retried):
        await fake.wait_for(run, "Completed")
    assert "AwaitingRetry" in fake.states(run)
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("before", "after"), [("AwaitingRetry", "AwaitingRetry"), ("Cancelling", "Cancelled")]
)
async def test_waiting_outlasts_a_crash_that_a_worker_makes_something_else_of(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock, before: str, after: str
) -> None:
    run = fake.schedule("flow")
    fake.set_state(run.id, "Running", force=True)
    fake.set_state(run.id, before, force=True)
    fake.set_state(run.id, "Crashed", force=True)

    async def go_on() -> None:
        await trio.sleep(1)
        fake.set_state(run.id, after, force=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        await fake.wait_for(run, after)
    assert fake.seconds() == 1


async def test_run_that_was_tried_again_by_hand_is_waited_for(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    run = fake.schedule("flow")
    fake.script(run, Script(ends="Failed"))
    async with fake.open_worker("pool"):
        await fake.wait_for(run, "Failed")
        fake.script(run, Script())
        fake.set_state(run.id, "AwaitingRetry", force=True)
        await fake.wait_for(run, "Completed")
    assert "Failed" in fake.states(run)


async def test_waiting_for_a_run_that_comes_to_no_end_fails_after_a_day(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    run = fake.schedule("flow", name="forgotten", at=3600)
    expected = "run 'forgotten' is still Scheduled; waited a day for Completed: .* work pool 'pool'"
    with pytest.raises(AssertionError, match=expected):
        await fake.wait_for(run, "Completed")
    assert fake.seconds() == 25 * 3600
    fake.set_state(run.id, "Running", force=True)
    with pytest.raises(
        AssertionError, match=r"run 'forgotten' is still Running; waited a day for Completed$"
    ):
        await fake.wait_for(run, "Completed")
    assert fake.seconds() == 49 * 3600


@pytest.mark.parametrize("names", [("Complete",), ("Completed", "failed"), ()])
async def test_only_states_of_prefect_can_be_waited_for(fake: FakePrefect, names: tuple[str, ...]) -> None:
    run = fake.schedule("flow")
    with pytest.raises(ValueError, match=r"there are Scheduled, .*Completed, .*TimedOut"):
        await fake.wait_for(run, *names)


@pytest.mark.parametrize("tried_before", [False, True], ids=["first", "again"])
async def test_log_is_complete_when_a_run_was_waited_for_to_its_end(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock, *, tried_before: bool
) -> None:
    [deployed] = await app.deploy(pool="naps", schedules=[], **fake.worker_options)
    run = fake.schedule(deployed)
    async with fake.open_worker("naps", flows=app):
        if tried_before:
            await fake.wait_for(run, "Completed")
            fake.set_state(run.id, "AwaitingRetry", force=True)
        ended = await fake.wait_for(run, "Completed")
        assert fake.logs_of(run).count("Good night") == 1 + tried_before
        assert fake.logs_of(run)[-1] == "Finished in state Completed()"
        assert len([line for line in fake.logs_of(run) if line.startswith("Finished")]) == 1 + tried_before
        # As soon as it is there.
        assert fake.seconds() - fake.history(run.id)[-1][1] < 1
    assert ended == fake.flow_run(run.id)


async def test_log_that_does_not_arrive_is_waited_for_a_second(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    [deployed] = await app.deploy(pool="naps", schedules=[], **fake.worker_options)
    run = fake.schedule(deployed)
    async with fake.open_worker("naps", flows=app):
        await fake.wait_for(run, "Running")
        fake.latencies["send_logs"] = 10
        await fake.wait_for(run, "Completed")
        assert fake.seconds() == fake.history(run.id)[-1][1] + 1


async def test_nothing_more_is_waited_for_where_nobody_has_called_a_function(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    [deployed] = await app.deploy(pool="naps", schedules=[], **fake.worker_options)
    played, unclaimed = fake.schedule("flow"), fake.schedule(deployed, at=3600)
    async with fake.open_worker("naps", flows=app), fake.open_worker("pool"):
        fake.cancel(unclaimed.id)
        await fake.wait_for(unclaimed, "Cancelled")
        assert fake.seconds() == 0
        await fake.wait_for(played, "Completed")
        assert fake.seconds() == 1


def test_only_deployment_of_a_flow_is_found_by_the_name_of_the_flow(fake: FakePrefect) -> None:
    run = fake.schedule("flow")
    assert run.deployment_id == fake.deployments[0].id
    assert fake.runs_of("flow") == [run]


def test_flow_of_several_deployments_or_none_does_not_say_what_to_run(fake: FakePrefect) -> None:
    weekly = fake.add_deployment("flow", "pool", name="weekly")
    with pytest.raises(LookupError, match="the flow 'flow' has 2 deployments: 'default', 'weekly'"):
        fake.schedule("flow")
    for deployment in fake.deployments:
        fake.delete_deployment(deployment.id)
    with pytest.raises(LookupError, match="the flow 'flow' has no deployment"):
        fake.schedule("flow")
    with pytest.raises(LookupError, match=str(weekly.id)):
        fake.schedule(weekly)


def test_misspelt_flow_is_answered_with_those_that_there_are(fake: FakePrefect) -> None:
    fake.add_deployment("other", "pool")
    empty = FakePrefect()
    for look in (fake.schedule, fake.runs_of):
        with pytest.raises(LookupError, match="there is no flow 'folw'; there are 'flow', 'other'"):
            look("folw")
    for look in (empty.schedule, empty.runs_of):
        with pytest.raises(LookupError, match="there is no flow 'folw', nor any other"):
            look("folw")


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
            asked = [at for at in fake.times("get_scheduled_flow_runs") if at > 61]
        assert asked
        assert all(later - earlier > 299 for earlier, later in pairwise(asked))
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
    lost = [notice for notice in fake.notices if notice.message.startswith("The Prefect API does not answer")]
    back = [notice for notice in fake.notices if notice.message.startswith("The Prefect API at ")]
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
