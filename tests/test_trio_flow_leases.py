"""Leases on the slots of deployments' concurrency limits, while functions run. In virtual time."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
import trio
import trio.testing
from flow_support import POOL, Counter, Stage, sleep_until
from support import World

from trioworker.api.models import FlowRun

Clock = trio.testing.MockClock


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    """With a function that takes ten minutes, and a deployment of it that has one slot."""
    stage = Stage(World(tmp_path))

    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(600)

    stage.deployment("work", concurrency_limit=1)
    return stage


def lease(stage: Stage, run: FlowRun) -> UUID:
    state = stage.world.api.flow_run(run.id).state
    assert state is not None
    lease_id = state.state_details.deployment_concurrency_lease_id
    assert lease_id is not None
    return lease_id


async def test_lease_is_renewed_while_the_function_runs(autojump_clock: Clock, stage: Stage) -> None:
    run = stage.schedule()
    await stage.finish(run)
    renewals = stage.world.api.lease_renewals
    assert [(renewal.at, renewal.lease_seconds) for renewal in renewals] == [(0, 300), (225, 300), (450, 300)]
    assert stage.states(run)[-1] == "Completed"


async def test_run_without_a_limit_has_no_lease(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def free() -> None:
        await trio.sleep(600)

    await stage.finish(stage.schedule("free"))
    assert stage.world.api.count("renew_concurrency_lease") == 0


async def test_runs_over_the_limit_wait_for_the_slot(autojump_clock: Clock, stage: Stage) -> None:
    first, second = stage.schedule(), stage.schedule()
    await stage.finish(first, second)
    assert "AwaitingConcurrencySlot" in stage.states(second)
    assert dict(stage.history(second))["Running"] >= 600


async def test_outage_that_is_shorter_than_the_lease_is_survived(autojump_clock: Clock, stage: Stage) -> None:
    run = stage.schedule()
    async with stage.working():
        await sleep_until(stage.world, 220)
        with stage.world.api.outage():
            await trio.sleep(70)
        await stage.ended(run)
    assert stage.history(run)[-1] == ("Completed", 600)


async def test_outage_that_outlasts_the_lease_ends_the_function(autojump_clock: Clock, stage: Stage) -> None:
    run = stage.schedule()
    async with stage.working():
        await sleep_until(stage.world, 100)
        with stage.world.api.outage():
            await trio.sleep(300)
        await stage.ended(run)
    assert stage.states(run)[-1] == "Crashed"
    message = stage.message(run) or ""
    assert message.startswith("The slot of the deployment's concurrency limit was lost: ")
    renewals = stage.world.api.times("renew_concurrency_lease")
    assert renewals[-1] == 300


async def test_run_whose_lease_was_revoked_is_ended_and_crashed(autojump_clock: Clock, stage: Stage) -> None:
    ended: list[float] = []

    @stage.app.flow()
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(stage.world.now)

    stage.world.api.add_deployment("tidy", POOL, concurrency_limit=1)
    stage.deployment("tidy", concurrency_limit=1)
    run = stage.schedule("tidy")
    async with stage.working():
        await sleep_until(stage.world, 100)
        stage.world.api.expire_lease(lease(stage, run))
        await stage.ended(run)
    assert ended == [225]
    assert stage.history(run)[-1] == ("Crashed", 225)
    assert "Lease not found" in (stage.message(run) or "")
    assert "The slot of the deployment's concurrency limit was lost: " in stage.said(run)


async def test_lease_is_renewed_while_a_cancelled_function_cleans_up(
    autojump_clock: Clock, stage: Stage
) -> None:
    @stage.app.flow()
    async def slow() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(230)

    stage.deployment("slow", concurrency_limit=1)
    run = stage.schedule("slow")
    async with stage.working():
        await sleep_until(stage.world, 210)
        stage.world.api.cancel(run.id)
        await stage.ended(run)
    assert stage.history(run)[-1] == ("Cancelled", 230)
    assert [renewal.at for renewal in stage.world.api.lease_renewals] == [0, 225]


async def test_slot_is_not_missed_by_a_function_that_has_ended(autojump_clock: Clock, stage: Stage) -> None:
    @stage.app.flow()
    async def quick() -> None:
        await trio.sleep(224)
        stage.world.api.expire_lease(lease(stage, run))
        stage.world.api.latencies = {"set_flow_run_state": 5}

    stage.deployment("quick", concurrency_limit=1)
    run = stage.schedule("quick")
    await stage.finish(run)
    assert stage.history(run)[-1] == ("Completed", 229)


async def test_slot_is_kept_during_the_wait_for_a_retry(autojump_clock: Clock, stage: Stage) -> None:
    count = Counter()

    @stage.app.flow(retries=1, retry_delay=300)
    async def again() -> None:
        if count() == 1:
            raise ValueError

    stage.deployment("again", concurrency_limit=1)
    run = stage.schedule("again")
    await stage.finish(run)
    assert stage.states(run)[-1] == "Completed"
    assert [renewal.at for renewal in stage.world.api.lease_renewals] == [0, 225]
