"""Runs that schedules make in the fake: which, when, and what becomes of them when somebody changes the schedule."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trioworker import Cron, Interval, RRule
from trioworker.api.errors import RequestRefusedError
from trioworker.api.models import Deployment, DeploymentDraft, DeploymentSchedule, FlowRun, StateType
from trioworker.testing import FakePrefect, ScheduleError

HOURLY: dict[str, Any] = {"cron": "0 * * * *"}
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def fake(prefect_api: FakePrefect) -> FakePrefect:
    prefect_api.add_work_pool("pool")
    return prefect_api


def deploy(fake: FakePrefect, *schedules: Any) -> Deployment:
    return fake.add_deployment("flow", "pool", schedules=schedules or [HOURLY])


def hours(fake: FakePrefect, deployment: Deployment) -> list[float]:
    """When the runs of a deployment are due, in hours since midnight."""
    return [(fake.scheduled_time(run) - MIDNIGHT) / timedelta(hours=1) for run in fake.runs_of(deployment)]


async def poll(fake: FakePrefect, *, ahead: float = 0) -> list[FlowRun]:
    before = fake.now() + timedelta(seconds=ahead)
    return await fake.get_scheduled_flow_runs("pool", queue_names=[], scheduled_before=before, limit=100)


async def test_runs_are_there_when_somebody_looks(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake)
    await trio.sleep(2.5 * 3600)
    assert hours(fake, deployment) == [0, 1, 2]
    assert hours(fake, deployment) == [0, 1, 2]


async def test_poll_finds_what_is_due_within_its_reach(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake)
    await trio.sleep(3600 - 10)
    assert len(await poll(fake, ahead=9)) == 1
    due = await poll(fake, ahead=10)
    assert [fake.scheduled_time(run) for run in due] == [MIDNIGHT, MIDNIGHT + timedelta(hours=1)]
    assert hours(fake, deployment) == [0, 1]


async def test_run_is_like_one_of_the_scheduler(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = fake.add_deployment("flow", "pool", schedules=[HOURLY], tags=["mine"], parameters={"a": 1})
    [run] = fake.runs_of(deployment)
    document = await fake.read_flow_run_document(run.id)
    assert document["auto_scheduled"] is True
    assert datetime.fromisoformat(document["expected_start_time"]) == MIDNIGHT
    assert set(run.tags) == {"auto-scheduled", "mine"}
    assert run.parameters == {"a": 1}
    assert run.name


async def test_scheduled_runs_are_told_to_nobody(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    """As by the server, whose scheduler emits no events; what happens to them later is told."""
    deployment = deploy(fake)
    pool = fake.work_pool("pool")
    async with fake.open_state_changes(pool.id, [StateType.SCHEDULED, StateType.RUNNING]) as changes:
        [run] = fake.runs_of(deployment)
        fake.set_state(run.id, "Running")
        change = await anext(changes)
    assert (change.flow_run_id, change.state_type) == (run.id, StateType.RUNNING)


async def test_all_schedules_of_all_deployments_are_kept_in_order(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deploy(fake, Cron("0 */2 * * *"), RRule("FREQ=HOURLY;INTERVAL=3"))
    deploy(fake, Interval(5400, anchor=MIDNIGHT))
    await trio.sleep(6 * 3600)
    made = [fake.scheduled_time(run) for run in fake.flow_runs]
    assert made == sorted(made)
    assert [(time - MIDNIGHT) / timedelta(hours=1) for time in made] == [
        0,
        0,
        0,
        1.5,
        2,
        3,
        3,
        4,
        4.5,
        6,
        6,
        6,
    ]


async def test_interval_without_anchor_counts_from_its_creation(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    assert fake.seconds() == 0
    await trio.sleep(1800)
    deployment = deploy(fake, {"interval": 3600})
    await trio.sleep(2 * 3600)
    assert hours(fake, deployment) == [0.5, 1.5, 2.5]


async def test_what_was_due_while_paused_is_made_up_for_by_nobody(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake)
    [schedule] = deployment.schedules
    assert schedule.id is not None
    await trio.sleep(1.5 * 3600)
    fake.pause_schedule(deployment.id, schedule.id)
    await trio.sleep(2 * 3600)
    fake.pause_schedule(deployment.id, schedule.id, paused=False)
    await trio.sleep(3600)
    assert hours(fake, deployment) == [0, 1, 4]


async def test_paused_deployment_makes_no_runs(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake)
    fake.pause_deployment(deployment.id)
    await trio.sleep(2 * 3600 + 1)
    assert hours(fake, deployment) == [0]
    fake.pause_deployment(deployment.id, paused=False)
    await trio.sleep(3600)
    assert hours(fake, deployment) == [0, 3]


async def test_runs_ahead_of_time_go_with_their_schedule(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake)
    [schedule] = deployment.schedules
    assert schedule.id is not None
    await trio.sleep(3595)
    assert len(await poll(fake, ahead=10)) == 2
    await fake.delete_deployment_schedule(deployment.id, schedule.id)
    await trio.sleep(3600)
    assert hours(fake, deployment) == []


async def test_deployment_made_anew_does_not_repeat_what_was_due(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    draft = DeploymentDraft(
        name="default",
        flow_id=(await fake.create_flow("flow")).id,
        work_pool_name="pool",
        schedules=[DeploymentSchedule(schedule=HOURLY)],
    )
    deployment = await fake.create_deployment(draft)
    await trio.sleep(3600)
    await fake.create_deployment(draft)
    await fake.update_deployment(deployment.id, attrs.evolve(draft, schedules=None))
    await trio.sleep(3600)
    assert hours(fake, deployment) == [0, 1, 2]


async def test_schedule_added_later_counts_from_then(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = fake.add_deployment("flow", "pool")
    await trio.sleep(5400)
    await fake.create_deployment_schedule(deployment.id, DeploymentSchedule(schedule=HOURLY))
    await trio.sleep(3600)
    assert hours(fake, deployment) == [2]


async def test_deleted_deployment_makes_no_more_runs(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake)
    await trio.sleep(3600)
    fake.delete_deployment(deployment.id)
    await trio.sleep(3600)
    assert fake.flow_runs == []


async def test_worker_runs_what_is_due_on_time(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    deployment = deploy(fake, {"cron": "*/20 * * * *"})
    async with fake.open_worker("pool"):
        await trio.sleep(3650)
    runs = fake.runs_of(deployment)
    assert [fake.delay(run) for run in runs] == [0, 0, 0, 0]
    assert [fake.states(run)[-1] for run in runs] == ["Completed"] * 4


async def test_run_that_nobody_started_is_late_for_ever(
    fake: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    [run] = fake.runs_of(deploy(fake))
    assert fake.delay(run) == math.inf


@pytest.mark.parametrize(
    "schedule",
    [
        {"cron": "61 * * * *"},
        {"cron": "R * * * *"},
        {"cron": "0 9 * * *", "timezone": "Mars/Olympus"},
        {"interval": 0},
        {"interval": 60, "anchor_date": "yesterday"},
        {"rrule": "FREQ=SOMETIMES"},
        {"cron": "0 9 * * *", "interval": 60},
        {"every": 60},
    ],
    ids=str,
)
async def test_schedule_that_prefect_would_refuse_is_refused(
    fake: FakePrefect, schedule: dict[str, Any]
) -> None:
    deployment = fake.add_deployment("flow", "pool")
    with pytest.raises(RequestRefusedError) as refusal:
        await fake.create_deployment_schedule(deployment.id, DeploymentSchedule(schedule=schedule))
    assert refusal.value.status_code == 422
    with pytest.raises(ValueError, match=r"schedule|expression|time zone|anchor|rule"):
        fake.add_deployment("other", "pool", schedules=[schedule])


@pytest.mark.parametrize(
    ("module", "schedule", "package"),
    [
        ("croniter", {"cron": "0 9 * * *"}, "croniter"),
        ("dateutil.rrule", {"rrule": "FREQ=DAILY"}, "python-dateutil"),
    ],
)
def test_missing_package_is_named(
    fake: FakePrefect, monkeypatch: pytest.MonkeyPatch, module: str, schedule: dict[str, Any], package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}: pip install 'trioworker\[testing\]'"):
        fake.add_deployment("flow", "pool", schedules=[schedule])


def test_intervals_need_no_package(fake: FakePrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "croniter", None)
    monkeypatch.setitem(sys.modules, "dateutil.rrule", None)
    assert len(fake.runs_of(deploy(fake, {"interval": 60}))) == 1


def test_error_of_a_schedule_is_a_value_error() -> None:
    assert issubclass(ScheduleError, ValueError)
