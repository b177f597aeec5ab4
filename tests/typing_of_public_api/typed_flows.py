"""Functions served as flows, as a type checker sees them. Checked, never run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_type
from uuid import UUID

import trio

import trioworker
from trioworker import (
    Cron,
    CurrentFlowRun,
    DeploymentChange,
    FlowDeployment,
    Interval,
    RRule,
    TrioFlow,
    TrioFlows,
    current_flow_run,
)

app = TrioFlows()


@app.flow(
    name="resize",
    retries=2,
    retry_delay=10,
    timeout=60,
    description="Make a picture smaller.",
    tags=["media"],
    version="1",
    concurrency_limit=3,
    schedules=[Cron("0 3 * * *", timezone="Europe/Berlin"), Interval(60), RRule("FREQ=DAILY")],
)
async def resize(path: str, width: int = 640) -> bytes:
    return path.encode()[:width]


@app.flow()
def tidy(*, days: float) -> int:
    return int(days)


@app.flow
async def crop(path: str, *, left: int = 0) -> bytes:
    return path.encode()[left:]


@app.flow
def count() -> int:
    return 1


class Painter:
    async def paint(self, colour: str) -> None: ...


async def functions_stay_what_they_are() -> None:
    assert_type(await resize("cat.jpg", width=3), bytes)
    assert_type(tidy(days=3), int)
    assert_type(await trio.to_thread.run_sync(lambda: tidy(days=1)), int)
    assert_type(await crop("cat.jpg", left=3), bytes)
    assert_type(count(), int)
    paint = app.flow(name="paint")(Painter().paint)
    await paint(colour="red")

    await resize(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await resize("cat.jpg", height=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await paint()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await crop("cat.jpg", left="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await crop()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await tidy(days=3)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def declarations_that_are_wrong() -> None:
    app.flow("resize")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.flow(resize, name="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    app.flow()(3)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    app.flow(retry="2")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    app.flow(retries="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.flow(timeout=timedelta(60))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.flow(schedules=["0 3 * * *"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    app.flow(schedules=Cron("0 3 * * *"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def deployments(settings: trioworker.Settings) -> None:
    deployed = await app.deploy(
        pool="media",
        flows=["resize"],
        schedules=[Cron("@daily")],
        name="mine",
        queue="fast",
        settings=settings,
        surroundings=trioworker.Surroundings(),
    )
    assert_type(deployed, list[FlowDeployment])
    for each in deployed:
        assert_type(each.id, UUID)
        assert_type(each.flow_name, str)
        assert_type(each.name, str)
        assert_type(each.pool, str)
        assert_type(each.change, DeploymentChange)
    await app.deploy(pool="media", schedules=[])
    async with trioworker.open_worker(pool="media", flows=app):
        pass

    await app.deploy()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await app.deploy("media")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await app.deploy(pool="media", flows=[resize])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await app.deploy(pool="media", schedules=[60])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def what_is_declared() -> None:
    assert_type(len(app), int)
    for flow in app:
        assert_type(flow, TrioFlow)
        assert_type(flow.name, str)
        assert_type(flow.retries, int)
        assert_type(flow.timeout, float | None)
        assert_type(flow.is_async, bool)
    found = app.get("resize")
    if found is not None:
        assert_type(found.tags, Sequence[str])

    app.get("resize").name  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def schedules() -> None:
    assert_type(Cron("0 3 * * *", timezone="UTC", day_or=False).cron, str)
    assert_type(Interval(3600).interval, timedelta)
    assert_type(Interval(timedelta(hours=1), anchor=datetime(2026, 1, 1, tzinfo=UTC)).anchor, datetime)
    assert_type(RRule("FREQ=DAILY", timezone="UTC").rrule, str)

    Cron()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Cron("0 3 * * *", "UTC")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Interval("1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Interval(3600, anchor="2026-01-01")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RRule(rule="FREQ=DAILY")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def which_run_this_is() -> None:
    run = current_flow_run()
    assert_type(run, CurrentFlowRun)
    assert_type(run.id, UUID)
    assert_type(run.name, str)
    assert_type(run.flow_name, str)
    assert_type(run.deployment_id, UUID | None)
    assert_type(run.tags, Sequence[str])
    assert_type(run.attempt, int)
