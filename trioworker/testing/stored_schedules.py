"""What a Prefect server makes of a schedule that it is sent: what was left out is filled in."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any
from uuid import uuid4

import attrs

from trioworker.api.models import DeploymentSchedule

# What a rule without a start of its own is counted from.
_RULE_START = "DTSTART:20200101T000000"


def as_stored(schedule: DeploymentSchedule, *, now: datetime) -> DeploymentSchedule:
    """A schedule as the server keeps it, with an id.

    A rule without a start that repeats every minute or second would get a later start by the server, which comes to
    the same times.

    Args:
        schedule: what is sent.
        now: the server's time, from which an interval without an anchor is counted.

    Raises:
        ValueError: it has none of `cron`, `interval` and `rrule`, or more than one.
    """
    return attrs.evolve(schedule, id=uuid4(), schedule=_filled(dict(schedule.schedule), now))


def _filled(schedule: dict[str, Any], now: datetime) -> dict[str, Any]:
    kinds = [kind for kind in ("cron", "interval", "rrule") if kind in schedule]
    if len(kinds) != 1:
        raise ValueError(f"a schedule has one of cron, interval and rrule, not {kinds or 'none of them'}")
    given = copy.deepcopy(schedule)
    match kinds[0]:
        case "cron":
            return {"timezone": None, "day_or": True} | given
        case "interval":
            anchor = given.get("anchor_date") or now.isoformat()
            return {"timezone": "UTC"} | given | {"interval": float(given["interval"]), "anchor_date": anchor}
        case _:
            rule = given["rrule"]
            started = rule if "DTSTART" in rule.upper() else f"{_RULE_START}\n{rule}"
            return {"timezone": "UTC"} | given | {"rrule": started}
