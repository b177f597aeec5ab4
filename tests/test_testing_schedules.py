"""The times of schedules in the fake are those of a Prefect server, and runs come of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import pytest

from trioworker.testing.schedules import occurrences

RECKONS_OTHERWISE = sys.version_info >= (3, 13)

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
ZONES = ["UTC", BERLIN, NEW_YORK, LORD_HOWE]

# A quiet day, and the evenings before clocks are changed in Europe and in America, in both directions.
STARTS = [
    "2026-01-10T11:17:30+00:00",
    "2026-03-28T20:00:00+00:00",
    "2026-10-24T20:00:00+00:00",
    "2026-03-07T20:30:00.5+00:00",
    "2026-10-31T20:00:00-04:00",
    "2026-04-04T04:00:00+00:00",
    "2026-10-03T04:00:00+00:00",
]
CHANGES = set(zip([BERLIN, BERLIN, NEW_YORK, NEW_YORK, LORD_HOWE, LORD_HOWE], STARTS[1:], strict=True))
CRONS = [
    "*/15 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "15 1,2 * * *",
    "0 9 * * 1-5",
    "0 12 13 * 5",
    "*/30 8-10 * * * 15",
    "0 0 L * *",
    "@daily",
    "0 4 * * SUN#1",
]
INTERVALS = [900, 3600, 5400, 12 * 3600, 86_400, 90_000, 36 * 3600]
ANCHORS = [
    "2020-01-01T00:00:00+00:00",
    "2026-02-01T02:30:00+01:00",
    "2025-07-01T09:10:11+02:00",
    "2031-01-01T00:00:00",
]
RULES = [
    "FREQ=HOURLY",
    "FREQ=MINUTELY;INTERVAL=25",
    "RRULE:FREQ=SECONDLY;INTERVAL=1800",
    "FREQ=DAILY;BYHOUR=2;BYMINUTE=30",
    "FREQ=WEEKLY;BYDAY=MO,WE,SU;BYHOUR=9",
    "FREQ=MONTHLY;BYDAY=-1FR",
    "DTSTART:20260101T013000\nRRULE:FREQ=HOURLY;INTERVAL=5",
    "DTSTART:20260101T013000\nFREQ=DAILY;COUNT=100",
    "DTSTART;TZID=Asia/Tokyo:20260101T013000\nFREQ=DAILY",
    "DTSTART:20260101T023000\nRRULE:FREQ=DAILY;UNTIL=20261026T000000",
    "DTSTART:20260101T100000\nRRULE:FREQ=DAILY\nEXDATE:20261025T100000\nRDATE:20260329T023000",
]


def is_short_interval(schedule: Mapping[str, Any]) -> bool:
    """Whether it takes more than one look until the server has found the whole hour that comes twice."""
    return bool(schedule.get("interval", 86_400) < 86_400)


def is_lost(schedule: Mapping[str, Any], start: str) -> bool:
    """Whether a server creates no run in the second of two like hours: it takes it for the first one.

    The fake is kinder to hourly intervals that are not on the hour.
    """
    is_off_the_hour = schedule.get("interval") == 3600 and "T00:00:00" not in schedule["anchor_date"]
    return is_off_the_hour and start in {"2026-10-24T20:00:00+00:00", "2026-10-31T20:00:00-04:00"}


def is_reckoned_otherwise(schedule: Mapping[str, Any], start: str) -> bool:
    """Whether Prefect has other times under Python 3.13 and later, where it reckons with another library.

    There, an anchor without an offset is one of the schedule's time zone, not of UTC, and days of changed clocks have
    other times. The fake does as servers under 3.11 and 3.12 do.
    """
    zone = schedule.get("timezone", "UTC")
    return (zone, start) in CHANGES or (zone != "UTC" and schedule.get("anchor_date") == ANCHORS[-1])


def _questions() -> list[dict[str, Any]]:
    schedules: list[dict[str, Any]] = [
        *({"cron": cron, "timezone": zone} for cron, zone in product(CRONS, ZONES)),
        {"cron": "0 12 13 * 5", "timezone": BERLIN, "day_or": False},
        {"cron": "5 * * * *"},
        *(
            {"interval": seconds, "anchor_date": anchor, "timezone": zone}
            for seconds, anchor, zone in product(INTERVALS, ANCHORS, ZONES)
        ),
        {"interval": 1000, "anchor_date": ANCHORS[1]},
        *({"rrule": rule, "timezone": zone} for rule, zone in product(RULES, [BERLIN, NEW_YORK])),
    ]
    return [
        {"schedule": schedule, "start": start, "days": 2, "looks_again": is_short_interval(schedule)}
        for schedule, start in product(schedules, STARTS)
        if not is_lost(schedule, start)
        if not (RECKONS_OTHERWISE and is_reckoned_otherwise(schedule, start))
    ]


QUESTIONS = _questions()


@pytest.fixture(scope="module")
def prefects_answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    """What Prefect itself makes of every question, in a process of its own."""
    answers = subprocess.run(
        [sys.executable, Path(__file__).with_name("prefect_schedules.py")],
        input=json.dumps(QUESTIONS),
        capture_output=True,
        text=True,
        check=True,
        env={"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))},
    )
    made: list[dict[str, list[str]]] = json.loads(answers.stdout)
    return made


def times(schedule: Mapping[str, Any], start: datetime, days: float) -> list[str]:
    end = start + timedelta(days=days)
    made = takewhile(lambda moment: moment <= end, occurrences(schedule, start))
    return sorted(moment.astimezone(UTC).isoformat() for moment in made)


@pytest.mark.process
def test_times_are_those_of_prefects_scheduler(prefects_answers: list[dict[str, list[str]]]) -> None:
    """Of those that a server finds which looks again and again, but for what it invents around changed clocks."""
    wrong = []
    for question, answer in zip(QUESTIONS, prefects_answers, strict=True):
        schedule = question["schedule"]
        made = times(schedule, datetime.fromisoformat(question["start"]), question["days"])
        if made != answer["all" if question["looks_again"] else "first"]:
            wrong.append((question, made, answer))
    assert wrong == []


@pytest.mark.process
def test_questions_are_such_that_clocks_matter(prefects_answers: list[dict[str, list[str]]]) -> None:
    """Else the comparison above would compare little."""
    answered = [
        (question["schedule"].get("timezone"), question["start"], tuple(answer["first"]))
        for question, answer in zip(QUESTIONS, prefects_answers, strict=True)
        if question["schedule"].get("cron") == "30 2 * * *"
    ]
    assert len({made for _, _, made in answered}) == len(answered)
