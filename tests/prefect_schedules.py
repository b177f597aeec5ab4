"""A program: when Prefect's own scheduler has runs for schedules, in a process of its own.

It reads a JSON list of `{"schedule": ..., "start": ..., "days": ..., "looks_again": ...}` from standard input, and
writes for each the times at which a first look at the schedule finds runs, and, if wanted, those that a server finds
that looks again and again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect._internal.schemas.validators import normalize_rrule_string
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

KINDS = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}

# The scheduler's defaults, but for how often it looks, which makes no difference to these schedules.
LEAST_RUNS, MOST_RUNS = 3, 100
LEAST_AHEAD, MOST_AHEAD = timedelta(hours=1), timedelta(days=100)
LOOKS_EVERY = timedelta(minutes=20)


def one_look(schedule: Any, start: datetime) -> Iterator[datetime]:
    """The runs that the scheduler makes sure of at one time."""
    times = schedule._get_dates_generator(n=MOST_RUNS, start=start, end=start + MOST_AHEAD)
    for count, moment in enumerate(times, 1):
        yield moment.astimezone(UTC)
        if count >= LEAST_RUNS and moment >= start + LEAST_AHEAD:
            return


def answer(question: dict[str, Any]) -> dict[str, list[str]]:
    """Both lists of times, in UTC."""
    document = question["schedule"]
    start = datetime.fromisoformat(question["start"])
    if "rrule" in document:
        # As the server does before it keeps a rule.
        rule = normalize_rrule_string(document["rrule"], now=start, timezone=document["timezone"])
        document = {**document, "rrule": rule}
    schedule = next(kind for name, kind in KINDS.items() if name in document)(**document)
    end = start + timedelta(days=question["days"])
    first = sorted(schedule._get_dates_generator(n=1000, start=start, end=end))
    if not question["looks_again"]:
        return {"first": [moment.astimezone(UTC).isoformat() for moment in first], "all": []}
    looks = (start + LOOKS_EVERY * number for number in range((end - start) // LOOKS_EVERY))
    all_looks = {moment for look in looks for moment in one_look(schedule, look) if moment <= end}
    return {
        "first": [moment.astimezone(UTC).isoformat() for moment in first],
        "all": [moment.isoformat() for moment in sorted(all_looks)],
    }


def main() -> None:
    """Answer."""
    json.dump([answer(question) for question in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
