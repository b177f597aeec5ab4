"""Make a deployment on the server what a program says it is, and leave alone what is so already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import attrs

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import ObjectNotFoundError, RequestRefusedError
from trioworker.api.models import Deployment, DeploymentDraft, DeploymentSchedule
from trioworker.lean_attrs import frozen

# What the server takes for a schedule that does not say; it fills in an anchor too, which may be any.
_UTC = frozenset({None, "UTC"})
_IMPLIED: Mapping[str, frozenset[Any]] = {"timezone": _UTC, "day_or": frozenset({True})}
_ANCHOR = "anchor_date"

# An id that no deployment has.
_NOBODY = UUID(int=0)

# The queue that every work pool has, and the schema of a deployment that has none of its own.
_DEFAULT_QUEUE = "default"
_ANY_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


class DeploymentChange(StrEnum):
    """What deploying has done to a deployment on the server.

    Attributes:
        CREATED: there was none of this name and flow.
        UPDATED: something of it was not as the program says, its schedules perhaps.
        UNCHANGED: all was as the program says.
    """

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@frozen
class SyncedDeployment:
    """A deployment as the server has it now, and what it took to get there."""

    deployment: Deployment
    change: DeploymentChange


async def sync_deployment(api: PrefectAPI, flow_name: str, draft: DeploymentDraft) -> SyncedDeployment:
    """Create a deployment, or change the one of this name and flow as far as it differs.

    Doing it twice changes nothing the second time: ids stay, and so do the runs that schedules have made. A
    schedule that a person has paused stays paused as long as it is the same; so do a pause of the deployment and
    parameters or job variables that a person gave it. Where schedules are given, those that others have added go.
    A draft that the server refuses changes nothing. Interrupted half-way, there may be schedules too many, but
    none too few; the next time puts that right.

    Args:
        api: the server.
        flow_name: the name of its flow.
        draft: the deployment as it is to be; its flow and its work pool exist.

    Raises:
        ObjectNotFoundError: there is no such work pool.
        RequestRefusedError: there is no such flow, or the server does not like a part of the draft; `detail` says
            which.
    """
    try:
        known = await api.read_deployment_by_name(flow_name, draft.name)
    except ObjectNotFoundError:
        # Only where there is none: of one that exists this would throw away the schedules.
        return SyncedDeployment(await api.create_deployment(draft), DeploymentChange.CREATED)
    if draft.concurrency_limit is None:
        # Nothing was said about it, but a person may have.
        draft = attrs.evolve(draft, concurrency_limit=known.concurrency_limit)
    changes = compare_schedules(
        known.schedules, known.schedules if draft.schedules is None else draft.schedules
    )
    if not changes.any and not differs(known, draft):
        return SyncedDeployment(known, DeploymentChange.UNCHANGED)
    for schedule in (*changes.create, *changes.update):
        await _try_schedule(api, schedule)
    # Before its schedules are touched, as this may be refused too.
    await api.update_deployment(known.id, draft)
    if changes.any:
        await _change_schedules(api, known, changes)
        # Once more, since the server makes runs within seconds, not a minute, if the deployment has just changed.
        await api.update_deployment(known.id, draft)
    return SyncedDeployment(await api.read_deployment(known.id), DeploymentChange.UPDATED)


@frozen(kw_only=True)
class ScheduleChanges:
    """What is to be done to the schedules of a deployment; those to `update` and to `delete` have their ids."""

    create: Sequence[DeploymentSchedule] = ()
    update: Sequence[DeploymentSchedule] = ()
    delete: Sequence[DeploymentSchedule] = ()

    @property
    def any(self) -> bool:
        """Whether there is anything to be done."""
        return bool(self.create or self.update or self.delete)


def compare_schedules(
    known: Sequence[DeploymentSchedule], wanted: Sequence[DeploymentSchedule]
) -> ScheduleChanges:
    """Find what leads from the schedules that there are to those that are wanted.

    A schedule with a slug is known by that, any other by what it says. Whether one is active is looked at only
    if it is new or changed: until then that is the business of people.
    """
    left = list(known)
    create: list[DeploymentSchedule] = []
    update: list[DeploymentSchedule] = []
    # Those with slugs first, lest another that says the same is taken for one of them.
    for schedule in sorted(wanted, key=lambda schedule: schedule.slug is None):
        match = next((each for each in left if _is_same(each, schedule)), None)
        if match is None:
            create.append(schedule)
            continue
        left.remove(match)
        if not says_the_same(match.schedule, schedule.schedule):
            update.append(attrs.evolve(schedule, id=match.id))
    return ScheduleChanges(create=create, update=update, delete=left)


def _is_same(known: DeploymentSchedule, wanted: DeploymentSchedule) -> bool:
    if wanted.slug is not None:
        return known.slug == wanted.slug
    return says_the_same(known.schedule, wanted.schedule)


def says_the_same(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a schedule as the server keeps it is what the server would make of the wanted one."""
    given = {key: value for key, value in wanted.items() if value is not None}
    if not given.keys() <= known.keys():
        return False
    if any(_plain(key, known[key], given) != _plain(key, value, given) for key, value in given.items()):
        return False
    implied = known.keys() - given.keys() - {_ANCHOR}
    return all(key in _IMPLIED and known[key] in _IMPLIED[key] for key in implied)


def _plain(key: str, value: Any, given: Mapping[str, Any]) -> Any:
    """A value of a schedule in one form, whoever wrote it."""
    if key == _ANCHOR:
        return datetime.fromisoformat(value)
    if key == "rrule" and "DTSTART" not in given["rrule"].upper():
        # The server gives such a rule a start, in a line before it.
        return "\n".join(line for line in value.splitlines() if not line.upper().startswith("DTSTART"))
    return value


def differs(known: Deployment, draft: DeploymentDraft) -> bool:
    """Whether anything but the schedules is not as the draft says."""
    there = (
        known.work_pool_name,
        known.work_queue_name,
        known.entrypoint,
        known.description,
        known.tags,
        known.version,
        known.parameter_openapi_schema or _ANY_PARAMETERS,
        known.enforce_parameter_schema,
        known.concurrency_limit,
    )
    wanted = (
        draft.work_pool_name,
        draft.work_queue_name or _DEFAULT_QUEUE,
        draft.entrypoint,
        draft.description,
        list(draft.tags),
        draft.version,
        # As it comes back: in JSON there are no tuples.
        json.loads(json.dumps(dict(draft.parameter_openapi_schema))) or _ANY_PARAMETERS,
        draft.enforce_parameter_schema,
        draft.concurrency_limit,
    )
    return there != wanted


async def _try_schedule(api: PrefectAPI, schedule: DeploymentSchedule) -> None:
    """Have the server look at a schedule without keeping it.

    The server reads what it is sent before it looks for the deployment, and so answers a schedule that it does not
    accept even of one that does not exist.

    Raises:
        RequestRefusedError: it does not accept the schedule.
    """
    try:
        await api.create_deployment_schedule(_NOBODY, attrs.evolve(schedule, id=None))
    except RequestRefusedError as error:
        # Any other refusal is one of the deployment, and says nothing of the schedule.
        if error.is_of_body:
            raise


async def _change_schedules(api: PrefectAPI, known: Deployment, changes: ScheduleChanges) -> None:
    for schedule in changes.create:
        await api.create_deployment_schedule(known.id, schedule)
    for schedule in changes.update:
        await api.update_deployment_schedule(known.id, schedule)
    # What goes comes last: it may be all there is in place of what could not be created. None of it has a slug that
    # is wanted, for such a schedule would have been updated.
    for schedule in changes.delete:
        if schedule.id is not None:
            await api.delete_deployment_schedule(known.id, schedule.id)
