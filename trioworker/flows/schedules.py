"""When runs of a deployment are created: Prefect's three kinds of schedule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from trioworker.errors import ConfigurationError
from trioworker.lean_attrs import frozen

# Prefect would count an interval without an anchor from the moment at which it is created; counted from one day for
# all, the same schedule is the same however often it is deployed.
_ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)

# What a server counts: minute, hour, day, month and day of week, then seconds, then years.
_CRON_FIELDS = range(5, 8)


def _check_timezone(_: object, __: object, name: str) -> None:
    # Imported with the first schedule, since most workers have none.
    from zoneinfo import ZoneInfo  # noqa: PLC0415

    try:
        ZoneInfo(name)
    except (LookupError, ValueError, TypeError, OSError) as error:
        raise ConfigurationError(
            f"{name!r} is no time zone that this machine knows: give a name such as Europe/Berlin."
        ) from error


def _check_text(_: object, attribute: attrs.Attribute[str], text: object) -> None:
    if not isinstance(text, str):
        raise ConfigurationError(f"The {attribute.name} of a schedule must be text, not {text!r}.")
    if not text.strip():
        raise ConfigurationError(f"The {attribute.name} of a schedule is empty.")


def _check_cron(_: object, __: object, cron: str) -> None:
    if not cron.startswith("@") and len(cron.split()) not in _CRON_FIELDS:
        raise ConfigurationError(
            f"{cron!r} is no cron expression: it has five fields, such as '0 3 * * *', six with seconds last, or it"
            " is a name such as @daily."
        )


@frozen
class Cron:
    """Runs at the times of a cron expression; Prefect's `CronSchedule`.

    Attributes:
        cron: five fields, or six with seconds last, or seven with years after that, or a name such as `@daily`.
        timezone: in which the expression is read, by its IANA name; an hour that a change of clocks takes away or
            repeats is handled by the server.
        day_or: whether it is enough that one of day of month and day of week fits, as in cron.

    Raises:
        ConfigurationError: it has not as many fields, or the time zone does not exist. The rest is checked by the
            server.
    """

    cron: str = attrs.field(validator=[_check_text, _check_cron])
    timezone: str = attrs.field(default="UTC", kw_only=True, validator=_check_timezone)
    day_or: bool = attrs.field(default=True, kw_only=True)

    def document(self) -> Mapping[str, Any]:
        """The schedule in the API's form."""
        return {"cron": self.cron, "timezone": self.timezone, "day_or": self.day_or}


def _as_interval(interval: timedelta | float) -> timedelta:
    if isinstance(interval, timedelta):
        return interval
    try:
        return timedelta(seconds=interval)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{interval} seconds is no interval of a schedule.") from error
    except TypeError as error:
        raise ConfigurationError(
            f"The interval of a schedule must be seconds or a timedelta, not {interval!r}."
        ) from error


@frozen
class Interval:
    """Runs at equal distances; Prefect's `IntervalSchedule`.

    Attributes:
        interval: the distance, or its seconds.
        anchor: one of the times, with its time zone.
        timezone: in which the anchor's time of day is kept when clocks are changed, by its IANA name.

    Raises:
        ConfigurationError: the distance is not positive, or the anchor or its time zone cannot be right.
    """

    interval: timedelta = attrs.field(converter=_as_interval)
    anchor: datetime = attrs.field(default=_ANCHOR, kw_only=True)
    timezone: str = attrs.field(default="UTC", kw_only=True, validator=_check_timezone)

    def __attrs_post_init__(self) -> None:
        if self.interval <= timedelta(0):
            raise ConfigurationError(f"The interval of a schedule must be positive, not {self.interval}.")
        if not isinstance(self.anchor, datetime):
            raise ConfigurationError(f"The anchor of an interval must be a datetime, not {self.anchor!r}.")
        if self.anchor.tzinfo is None:
            raise ConfigurationError(f"The anchor of an interval needs a time zone: {self.anchor}.")

    def document(self) -> Mapping[str, Any]:
        """The schedule in the API's form."""
        return {
            "interval": self.interval.total_seconds(),
            "anchor_date": self.anchor.isoformat(),
            "timezone": self.timezone,
        }


@frozen
class RRule:
    """Runs at the times of an iCalendar recurrence rule (RFC 5545); Prefect's `RRuleSchedule`.

    Attributes:
        rrule: the rule, such as `FREQ=WEEKLY;BYDAY=MO,WE`, with a `DTSTART` line before it if need be.
        timezone: in which the rule is read, by its IANA name.

    Raises:
        ConfigurationError: it is empty, or the time zone does not exist. The rest is checked by the server.
    """

    rrule: str = attrs.field(validator=_check_text)
    timezone: str = attrs.field(default="UTC", kw_only=True, validator=_check_timezone)

    def document(self) -> Mapping[str, Any]:
        """The schedule in the API's form."""
        return {"rrule": self.rrule, "timezone": self.timezone}


Schedule = Cron | Interval | RRule


def schedules_problem(schedules: object) -> str | None:
    """What `schedules` ought to be, if that is no list of schedules."""
    if (
        isinstance(schedules, Collection)
        and not isinstance(schedules, str)
        and all(isinstance(schedule, Schedule) for schedule in schedules)
    ):
        return None
    return f"schedules must be a list of Cron, Interval and RRule, not {schedules!r}"
