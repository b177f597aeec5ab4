"""Deploying again and again: what changes on the server, and above all what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import trio
import trio.testing
from conftest import PrefectServer

from trioworker.api.client import PrefectAPI, open_client
from trioworker.api.errors import NotPermittedError, ObjectNotFoundError, RequestRefusedError
from trioworker.api.models import Deployment, DeploymentDraft, DeploymentSchedule
from trioworker.api.transport import TransportConfig
from trioworker.flows.registration import (
    DeploymentChange,
    SyncedDeployment,
    compare_schedules,
    says_the_same,
    sync_deployment,
)
from trioworker.testing import FakePrefectAPI

CRON = {"cron": "0 9 * * *", "timezone": "Europe/Berlin"}
NOON = {"cron": "0 12 * * *"}
INTERVAL = {"interval": 3600, "anchor_date": "2020-01-01T00:00:00+00:00", "timezone": "UTC"}
RULE = {"rrule": "FREQ=WEEKLY;BYDAY=MO", "timezone": "UTC"}


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.server)])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[PrefectAPI]:
    if request.param == "fake":
        yield FakePrefectAPI()
        return
    server: PrefectServer = request.getfixturevalue("prefect_server")
    async with open_client(TransportConfig(url=server.url)) as client:
        yield client


async def drafted(api: PrefectAPI, **fields: Any) -> DeploymentDraft:
    pool, flow = f"pool {uuid4()}", await api.create_flow(f"flow {uuid4()}")
    await api.create_work_pool(pool, pool_type="trio", base_job_template={})
    return attrs.evolve(DeploymentDraft(name="d", flow_id=flow.id, work_pool_name=pool), **fields)


async def pause(api: PrefectAPI, deployment: Deployment, schedule: DeploymentSchedule) -> None:
    """As a person does in the UI."""
    await api.update_deployment_schedule(deployment.id, attrs.evolve(schedule, active=False))


def by_kind(deployment: Deployment) -> dict[str, DeploymentSchedule]:
    """The schedules by what they have of `cron`, `interval` and `rrule`."""
    kinds = ("cron", "interval", "rrule")
    return {
        str(each.schedule[kind]): each
        for each in deployment.schedules
        for kind in kinds
        if kind in each.schedule
    }


async def sync(api: PrefectAPI, draft: DeploymentDraft) -> SyncedDeployment:
    return await sync_deployment(api, (await api.read_flow(draft.flow_id)).name, draft)


async def synced(api: PrefectAPI, draft: DeploymentDraft) -> Deployment:
    return (await sync(api, draft)).deployment


ALL_KINDS = [
    DeploymentSchedule(schedule=CRON),
    DeploymentSchedule(schedule=INTERVAL, slug="hourly"),
    DeploymentSchedule(schedule=RULE),
    DeploymentSchedule(schedule={"interval": 60.5}),
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "enum": (1, 2)}}}


async def test_deploying_the_same_again_changes_nothing(api: PrefectAPI) -> None:
    draft = await drafted(
        api,
        schedules=ALL_KINDS,
        description="d",
        version="1",
        entrypoint="app:f",
        tags=("a", "b"),
        concurrency_limit=2,
        parameter_openapi_schema=SCHEMA,
        enforce_parameter_schema=False,
    )
    first = await synced(api, draft)
    await pause(api, first, by_kind(first)["0 9 * * *"])
    paused = await api.read_deployment(first.id)
    again = await synced(api, draft)
    assert again == paused
    # The time of its last change included: what schedules have made is made anew after each.
    assert again.updated == first.updated
    assert [each.active for each in by_kind(again).values()].count(False) == 1


async def test_least_that_a_draft_may_say_is_deployed_twice_without_a_change(api: PrefectAPI) -> None:
    draft = await drafted(api)
    assert await synced(api, draft) == await synced(api, draft)


@pytest.mark.parametrize(
    "change",
    [
        {"description": "new"},
        {"version": "2"},
        {"entrypoint": "app:g"},
        {"tags": ("b",)},
        {"concurrency_limit": 3},
        {"parameter_openapi_schema": SCHEMA},
        {"enforce_parameter_schema": False},
        {"work_queue_name": "high"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_change_is_made_and_schedules_stay_as_they_are(api: PrefectAPI, change: dict[str, Any]) -> None:
    draft = await drafted(api, schedules=ALL_KINDS, concurrency_limit=2)
    first = await synced(api, draft)
    await pause(api, first, by_kind(first)["0 9 * * *"])
    paused = await api.read_deployment(first.id)
    changed = await synced(api, attrs.evolve(draft, **change))
    assert changed.id == first.id
    assert by_kind(changed) == by_kind(paused)
    assert changed != paused
    assert await synced(api, attrs.evolve(draft, **change)) == changed
    back = await synced(api, draft)
    assert attrs.evolve(back, updated=None) == attrs.evolve(paused, updated=None)


async def test_concurrency_limit_that_a_person_has_set_stays_unless_the_draft_has_one(
    api: PrefectAPI,
) -> None:
    draft = await drafted(api)
    first = await synced(api, draft)
    await api.update_deployment(first.id, attrs.evolve(draft, concurrency_limit=4))
    assert (await synced(api, draft)).concurrency_limit == 4
    changed = await synced(api, attrs.evolve(draft, description="new"))
    assert (changed.description, changed.concurrency_limit) == ("new", 4)


async def test_schedules_become_those_that_are_given(api: PrefectAPI) -> None:
    hourly = DeploymentSchedule(schedule=INTERVAL, slug="hourly")
    draft = await drafted(api, schedules=[DeploymentSchedule(schedule=CRON), hourly])
    first = await synced(api, draft)
    for schedule in first.schedules:
        await pause(api, first, schedule)
    added = await api.create_deployment_schedule(first.id, DeploymentSchedule(schedule=RULE, slug="mine"))

    every_minute = attrs.evolve(hourly, schedule=INTERVAL | {"interval": 60})
    wanted = [DeploymentSchedule(schedule=NOON), DeploymentSchedule(schedule=CRON), every_minute]
    second = await synced(api, attrs.evolve(draft, schedules=wanted))
    before, after = by_kind(first), by_kind(second)
    assert after.keys() == {"0 9 * * *", "0 12 * * *", "60.0"}
    # The same as before: it stays paused. Changed or new: it is as it is given.
    assert after["0 9 * * *"] == attrs.evolve(before["0 9 * * *"], active=False)
    assert after["60.0"].id == before["3600.0"].id
    assert (after["60.0"].active, after["60.0"].slug) == (True, "hourly")
    assert after["0 12 * * *"].active
    assert added.id not in {each.id for each in second.schedules}
    assert (await synced(api, attrs.evolve(draft, schedules=[]))).schedules == []


async def test_what_was_done_is_told(api: PrefectAPI) -> None:
    draft = await drafted(api, schedules=ALL_KINDS)
    fewer = attrs.evolve(draft, schedules=ALL_KINDS[:2])
    other = attrs.evolve(fewer, description="new")
    changes = [(await sync(api, each)).change for each in (draft, draft, fewer, other, other)]
    created, updated, unchanged = DeploymentChange
    assert changes == [created, unchanged, updated, updated, unchanged]


async def test_schedules_that_are_not_spoken_of_stay(api: PrefectAPI) -> None:
    draft = await drafted(api, schedules=ALL_KINDS)
    first = await synced(api, draft)
    second = await synced(api, attrs.evolve(draft, schedules=None, version="2"))
    assert (by_kind(second), second.version) == (by_kind(first), "2")


async def test_change_of_schedules_alone_counts_as_a_change_of_the_deployment(api: PrefectAPI) -> None:
    """The server looks every few seconds for runs to make of deployments that were just changed."""
    draft = await drafted(api)
    first = await synced(api, draft)
    second = await synced(api, attrs.evolve(draft, schedules=[DeploymentSchedule(schedule=CRON)]))
    assert first.updated is not None
    assert second.updated is not None
    assert second.updated > first.updated
    assert len(second.schedules) == 1


async def test_flow_or_pool_that_is_missing_is_an_error(api: PrefectAPI) -> None:
    draft = await drafted(api)
    with pytest.raises(RequestRefusedError, match="Data integrity conflict"):
        await sync_deployment(api, "no such flow", attrs.evolve(draft, flow_id=UUID(int=1)))
    with pytest.raises(ObjectNotFoundError, match="no-such-pool"):
        await synced(api, attrs.evolve(draft, work_pool_name="no-such-pool"))


# What is refused, and what is interrupted

HOURLY = DeploymentSchedule(schedule=INTERVAL, slug="hourly")
NEVER = DeploymentSchedule(schedule={"cron": "0 25 * * *"})


@pytest.mark.parametrize(
    "wanted",
    [
        [NEVER],
        [NEVER, DeploymentSchedule(schedule=NOON)],
        [DeploymentSchedule(schedule=NOON), NEVER],
        [attrs.evolve(HOURLY, schedule=NOON), NEVER],
        [DeploymentSchedule(schedule=NOON), attrs.evolve(HOURLY, schedule=NEVER.schedule)],
    ],
    ids=["alone", "first", "last", "after a change", "as a change"],
)
async def test_schedule_that_is_refused_leaves_all_as_it_was(
    api: PrefectAPI, wanted: list[DeploymentSchedule]
) -> None:
    draft = await drafted(api, schedules=[DeploymentSchedule(schedule=CRON), HOURLY])
    before = await synced(api, draft)
    with pytest.raises(RequestRefusedError) as caught:
        await synced(api, attrs.evolve(draft, schedules=wanted, description="new"))
    assert caught.value.status_code == 422
    assert await api.read_deployment(before.id) == before


async def test_deployment_that_is_refused_keeps_its_schedules() -> None:
    api = FakePrefectAPI()
    draft = await drafted(api, schedules=ALL_KINDS)
    before = await synced(api, draft)
    api.fail("update_deployment", RequestRefusedError("PATCH /x", 409, "the parameters do not fit"))
    with pytest.raises(RequestRefusedError):
        await synced(api, attrs.evolve(draft, schedules=[DeploymentSchedule(schedule=NOON)], version="2"))
    assert await api.read_deployment(before.id) == before


async def test_server_that_does_not_try_schedules_is_sent_them_nevertheless() -> None:
    """One may want to know of a deployment first whether it is there, or ours, and only then read what is sent."""
    api = FakePrefectAPI()
    draft = await drafted(api)
    await synced(api, draft)
    api.fail("create_deployment_schedule", NotPermittedError("POST /x", 403, "not yours"))
    after = await synced(api, attrs.evolve(draft, schedules=[DeploymentSchedule(schedule=NOON)]))
    assert by_kind(after).keys() == {"0 12 * * *"}


async def test_interrupted_anywhere_there_are_never_too_few_schedules_and_the_next_time_puts_it_right(
    autojump_clock: trio.testing.MockClock,
) -> None:
    draft_of_old = [DeploymentSchedule(schedule=CRON), DeploymentSchedule(schedule=RULE), HOURLY]
    every_minute = attrs.evolve(HOURLY, schedule=INTERVAL | {"interval": 60})
    wanted = [
        DeploymentSchedule(schedule=NOON),
        DeploymentSchedule(schedule={"cron": "@daily"}),
        every_minute,
    ]
    interruptions = 0
    while True:
        api = FakePrefectAPI()
        draft = await drafted(api, schedules=draft_of_old)
        first = await synced(api, draft)
        changed = attrs.evolve(draft, schedules=wanted, version="2")
        api.latency = 1
        with trio.move_on_after(interruptions + 0.5) as scope:
            await synced(api, changed)
        api.latency = 0
        if not scope.cancelled_caught:
            break
        interruptions += 1
        there = by_kind(await api.read_deployment(first.id))
        assert "hourly" in {each.slug for each in there.values()}
        assert there.keys() >= {"0 12 * * *", "@daily"} or {each.id for each in first.schedules} <= {
            each.id for each in there.values()
        }
        assert by_kind(await synced(api, changed)).keys() == {"0 12 * * *", "@daily", "60.0"}
    # Two to find it, three trials, one change of the deployment, five of its schedules, one more, and a last look.
    assert interruptions == 2 + 3 + 1 + 5 + 1 + 1


# What to do about schedules


def stored(number: int, schedule: dict[str, Any], **fields: Any) -> DeploymentSchedule:
    return DeploymentSchedule(id=UUID(int=number), schedule=schedule, **fields)


def test_schedule_with_a_slug_is_not_given_away_to_one_that_says_the_same() -> None:
    known = [stored(1, CRON, slug="s"), stored(2, CRON)]
    wanted = [DeploymentSchedule(schedule=CRON), DeploymentSchedule(schedule=CRON, slug="s")]
    assert not compare_schedules(known, wanted).any


def test_each_schedule_is_taken_once() -> None:
    same = DeploymentSchedule(schedule=CRON)
    changes = compare_schedules([stored(1, CRON)], [same, same])
    assert (changes.create, changes.update, changes.delete) == ([same], [], [])


def test_slug_that_changes_makes_another_schedule() -> None:
    new = DeploymentSchedule(schedule=CRON, slug="new")
    old = stored(1, CRON, slug="old")
    changes = compare_schedules([old], [new])
    assert (changes.create, changes.update, changes.delete) == ([new], [], [old])


@pytest.mark.parametrize(
    ("known", "wanted", "same"),
    [
        ({"cron": "@daily", "timezone": None, "day_or": True}, {"cron": "@daily"}, True),
        ({"cron": "@daily", "timezone": "UTC", "day_or": True}, {"cron": "@daily"}, True),
        ({"cron": "@daily", "timezone": "Asia/Tokyo", "day_or": True}, {"cron": "@daily"}, False),
        ({"cron": "@daily", "timezone": None, "day_or": False}, {"cron": "@daily"}, False),
        ({"cron": "@daily", "timezone": None, "day_or": True}, {"cron": "@daily", "timezone": None}, True),
        ({"cron": "@daily", "timezone": None, "day_or": True}, {"cron": "@hourly"}, False),
        ({"cron": "@daily", "timezone": None, "day_or": True}, {"interval": 60}, False),
        (
            {"interval": 60.0, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"},
            {"interval": 60},
            True,
        ),
        (
            {"interval": 60.0, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"},
            {"interval": 60, "anchor_date": "2026-01-01T01:00:00+01:00", "timezone": "UTC"},
            True,
        ),
        (
            {"interval": 60.0, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"},
            {"interval": 60, "anchor_date": "2026-01-01T00:00:01Z"},
            False,
        ),
        ({"rrule": "DTSTART:20200101T000000\nFREQ=DAILY", "timezone": "UTC"}, {"rrule": "FREQ=DAILY"}, True),
        (
            {"rrule": "DTSTART:20200101T000000\nFREQ=DAILY", "timezone": "UTC"},
            {"rrule": "FREQ=HOURLY"},
            False,
        ),
        (
            {"rrule": "DTSTART:20200101T000000\nFREQ=DAILY", "timezone": "UTC"},
            {"rrule": "DTSTART:20200102T000000\nFREQ=DAILY"},
            False,
        ),
        ({"cron": "@daily", "of tomorrow": 1}, {"cron": "@daily"}, False),
    ],
)
def test_schedule_says_the_same_if_the_server_would_make_the_same_of_it(
    known: dict[str, Any], wanted: dict[str, Any], same: bool
) -> None:
    assert says_the_same(known, wanted) is same
