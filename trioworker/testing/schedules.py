"""When the schedules of deployments create runs: the times that a Prefect server comes to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import Any, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs

from trioworker.api.models import Deployment, DeploymentSchedule

# From when Prefect counts a recurrence rule that does not say when it starts.
_RULE_START = datetime(2020, 1, 1)  # noqa: DTZ001 - in the time zone of the schedule, whichever that is

# More than clocks are ever changed by.
_LARGEST_CHANGE = timedelta(days=1)

# How the server begins a rule that does not say when it starts.
_STORED_START = "DTSTART:20200101T000000\n"

# The least by which times differ.
_MOMENT = timedelta(microseconds=1)

_QUICK_RULE = re.compile(
    r"(?:RRULE:)?(?=.*FREQ=(SECOND|MINUTE)LY)(?!.*(?:COUNT|DTSTART))[^\n]*", re.IGNORECASE
)
_RULE_ZONE = re.compile(r";TZID=[^:;\n]*", re.IGNORECASE)
_RULE_INTERVAL = re.compile(r"INTERVAL=(\d+)", re.IGNORECASE)


class ScheduleError(ValueError):
    """A schedule that a Prefect server would refuse; the message says why."""


class HasDocument(Protocol):
    """A schedule that can be told in the API's form: `trioworker.Cron`, `Interval` and `RRule`."""

    def document(self) -> Mapping[str, Any]:
        """The schedule in the API's form."""


ScheduleLike = DeploymentSchedule | HasDocument | Mapping[str, Any]


def as_deployment_schedule(schedule: ScheduleLike) -> DeploymentSchedule:
    """Whatever tells of a schedule, as the API has it."""
    if isinstance(schedule, DeploymentSchedule):
        return schedule
    return DeploymentSchedule(
        schedule=dict(schedule if isinstance(schedule, Mapping) else schedule.document())
    )


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Make sure of a schedule in the API's form.

    Raises:
        ScheduleError: a Prefect server would refuse it.
        ModuleNotFoundError: a package that reads such schedules is not installed; the message says which.
    """
    next(occurrences(schedule, datetime(2026, 1, 1, tzinfo=UTC)), None)


def occurrences(schedule: Mapping[str, Any], start: datetime) -> Iterator[datetime]:
    """The times of a schedule, as the server computes them when it first looks at it.

    Where clocks are changed Prefect's peculiarities are kept: of an hour that comes twice, cron and recurrence rules
    have the first; in an hour that is left out they come one hour earlier; intervals of a day and more keep the time
    of day. One is not: a server looks again and again, and so invents further times for intervals of a day and more
    for some days around such a change, if the anchor is from the other half of the year.

    Args:
        schedule: in the API's form: `cron` and perhaps `day_or`, `interval` in seconds and `anchor_date`, or
            `rrule`; with any of these, `timezone`.
        start: the time from which on, with its time zone; it counts from there if there is no `anchor_date`.

    Raises:
        ScheduleError: a Prefect server would refuse it.
        ModuleNotFoundError: a package that reads such schedules is not installed; the message says which.
    """
    zone = _zone(schedule)
    kinds: dict[str, Callable[[Mapping[str, Any], datetime, ZoneInfo], Iterator[datetime]]] = {
        "cron": _cron_times,
        "interval": _interval_times,
        "rrule": _rule_times,
    }
    found = [kind for kind in kinds if kind in schedule]
    if len(found) != 1:
        raise ScheduleError(
            f"A schedule has one of cron, interval and rrule; this one has {sorted(schedule)}."
        )
    return _without_repetitions(kinds[found[0]](schedule, start, zone))


def _zone(schedule: Mapping[str, Any]) -> ZoneInfo:
    name = schedule.get("timezone") or "UTC"
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ScheduleError(f"{name!r} is no time zone: give a name such as Europe/Berlin.") from error


def _without_repetitions(times: Iterator[datetime]) -> Iterator[datetime]:
    """Leave out what comes again; that happens only within a change of clocks."""
    recent: dict[datetime, None] = {}
    for moment in times:
        instant = moment.astimezone(UTC)
        if instant in recent:
            continue
        while recent and next(iter(recent)) < instant - _LARGEST_CHANGE:
            del recent[next(iter(recent))]
        recent[instant] = None
        yield moment


def _cron_times(schedule: Mapping[str, Any], start: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    expression = schedule["cron"]
    croniter = _imported("croniter", "croniter", "cron schedules")
    if not croniter.is_valid(expression) or {"r", "h"} & set(expression.lower().split()):
        raise ScheduleError(f"{expression!r} is no cron expression that Prefect takes.")
    wall = start.astimezone(zone).replace(tzinfo=None)
    # So that the start itself counts; croniter gives what is later than this.
    before = wall - timedelta(seconds=0 if wall.microsecond else 1)
    day_or = schedule.get("day_or", True)
    following = partial(croniter(expression, before, day_or=day_or).get_next, datetime)
    return (_first_time(wall, zone) for wall in iter(following, None))


def _interval_times(schedule: Mapping[str, Any], start: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    interval = timedelta(seconds=float(schedule["interval"]))
    if interval <= timedelta(0):
        raise ScheduleError(f"The interval of a schedule must be positive, not {interval}.")
    anchor = _anchor(schedule, start)
    return _steps(anchor + int((start - anchor) / interval) * interval, interval, start, zone)


def _anchor(schedule: Mapping[str, Any], start: datetime) -> datetime:
    anchor = schedule.get("anchor_date") or start
    if isinstance(anchor, str):
        try:
            anchor = datetime.fromisoformat(anchor)
        except ValueError as error:
            raise ScheduleError(f"The anchor {anchor!r} of an interval is no time in ISO 8601.") from error
    aware: datetime = anchor if anchor.tzinfo is not None else anchor.replace(tzinfo=UTC)
    return aware.astimezone(UTC)


def _steps(first: datetime, interval: timedelta, start: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    # Of an interval of days and hours the days are those of the calendar, and the hours go along with them.
    keeps_time_of_day = interval.days > 0
    current = first.astimezone(zone)
    while True:
        if current.astimezone(UTC) >= start:
            yield current
        if keeps_time_of_day:
            current = _second_time(current.replace(tzinfo=None) + interval, zone)
        else:
            current = (current.astimezone(UTC) + interval).astimezone(zone)


def _rule_times(schedule: Mapping[str, Any], start: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    text = schedule["rrule"].removeprefix(_STORED_START)
    read = _imported("dateutil.rrule", "rrulestr", "recurrence rules", package="python-dateutil")
    try:
        read(text)
        wall = start.astimezone(zone).replace(tzinfo=None) - _LARGEST_CHANGE
        # Prefect takes every time in a rule for one of the schedule's time zone, whatever it says itself.
        rule = read(_RULE_ZONE.sub("", text), dtstart=_rule_start(text, wall), ignoretz=True)
    except ValueError as error:
        raise ScheduleError(f"{text!r} is no recurrence rule: {error}") from error
    times = (_first_time(wall, zone) for wall in rule.xafter(wall, inc=True))
    return (moment for moment in times if moment.astimezone(UTC) >= start)


def _rule_start(text: str, before: datetime) -> datetime:
    """From when on to count; for a rule of seconds or minutes a time not long ago, for there are millions before."""
    quick = _QUICK_RULE.fullmatch(text)
    if quick is None or before < _RULE_START:
        return _RULE_START
    interval = _RULE_INTERVAL.search(text)
    period = timedelta(seconds=1 if quick[1].upper() == "SECOND" else 60) * int(
        interval[1] if interval else 1
    )
    return _RULE_START + (before - _RULE_START) // period * period


def _first_time(wall: datetime, zone: ZoneInfo) -> datetime:
    """The time at which clocks show this first, or an hour less if that hour is left out."""
    return (wall - _left_out(wall, zone)).replace(tzinfo=zone)


def _second_time(wall: datetime, zone: ZoneInfo) -> datetime:
    """The time at which clocks show this last, or an hour more if that hour is left out."""
    return (wall + _left_out(wall, zone)).replace(tzinfo=zone, fold=1)


def _left_out(wall: datetime, zone: ZoneInfo) -> timedelta:
    """By how much the clocks were put forward over this time of day; mostly nothing."""
    before = wall.replace(tzinfo=zone, fold=0).utcoffset() or timedelta(0)
    after = wall.replace(tzinfo=zone, fold=1).utcoffset() or timedelta(0)
    return max(after - before, timedelta(0))


def _imported(module: str, name: str, what: str, *, package: str | None = None) -> Any:
    from importlib import import_module  # noqa: PLC0415

    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        package = package or module
        raise ModuleNotFoundError(
            f"To play {what} trioworker.testing needs {package}: pip install 'trioworker[testing]'",
            name=module,
        ) from error


@attrs.define(eq=False)
class _Timetable:
    """One schedule from one time on: what comes next."""

    schedule: Mapping[str, Any]
    _times: Iterator[datetime]
    _next: datetime | None

    @classmethod
    def starting(cls, schedule: Mapping[str, Any], start: datetime) -> _Timetable:
        times = occurrences(schedule, start)
        return cls(schedule, times, next(times, None))

    def take(self, until: datetime) -> Iterator[datetime]:
        while self._next is not None and self._next <= until:
            yield self._next
            self._next = next(self._times, None)


class Scheduler:
    """Which runs are to be created for the schedules of deployments, from one look to the next.

    It has no loop: who looks says up to which time. So what was due while nobody looked is there at the next look, as
    on a server that had created it ahead.
    """

    def __init__(self) -> None:
        self._timetables: dict[UUID, list[_Timetable]] = {}

    def plan(self, deployment: Deployment, now: datetime) -> None:
        """Have what a deployment has schedules for from now on; nothing if it or they are paused.

        What was due before has to have been taken.

        Raises:
            ScheduleError: a Prefect server would refuse one of them.
            ModuleNotFoundError: a package that reads such schedules is not installed; the message says which.
        """
        before = [timetable.schedule for timetable in self._timetables.pop(deployment.id, [])]
        if deployment.paused:
            return
        self._timetables[deployment.id] = [
            _Timetable.starting(each.schedule, now + _MOMENT if each.schedule in before else now)
            for each in deployment.schedules
            if each.active
        ]

    def forget(self, deployment_id: UUID) -> None:
        """Have nothing any more for a deployment."""
        self._timetables.pop(deployment_id, None)

    def take(self, until: datetime) -> list[tuple[datetime, UUID]]:
        """What is due up to and including a time, and for which deployment, earliest first; each only once."""
        due = [
            (moment.astimezone(UTC), deployment_id)
            for deployment_id, timetables in self._timetables.items()
            for timetable in timetables
            for moment in timetable.take(until)
        ]
        return sorted(due, key=itemgetter(0))
