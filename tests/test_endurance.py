"""The parts of `benchmarks/endurance` that judge and tell; the rest of it is measured by `make endurance`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from benchmarks.apparatus.rest import StateSeen
from benchmarks.endurance.chart import draw
from benchmarks.endurance.course import Course, Plan
from benchmarks.endurance.sampling import Sample
from benchmarks.endurance.summary import as_text
from benchmarks.endurance.verdict import problem
from benchmarks.faults.journal import Journal

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

NOTHING = Journal()
BEGAN = Journal(began={1: 1})
ENDED = Journal(began={1: 1}, ended=True)
TWICE = Journal(began={1: 1, 2: 1}, ended=True)


def states(*names: str) -> list[StateSeen]:
    """What the server has of a run; finer names have the types of theirs."""
    types = {"Submitting": "PENDING", "AwaitingRetry": "SCHEDULED"}
    return [StateSeen(name, types.get(name, name.upper()), NOON) for name in names]


CLAIMED = ("Scheduled", "Pending", "Submitting")


@pytest.mark.parametrize(
    ("history", "journal", "was_cancelled"),
    [
        (states(*CLAIMED, "Running", "Completed"), ENDED, False),
        (states(*CLAIMED, "Running", "Crashed"), BEGAN, False),
        # It was killed after its last word, and before it could report its end.
        (states(*CLAIMED, "Running", "Crashed"), ENDED, False),
        (states(*CLAIMED, "Crashed"), NOTHING, False),
        (states(*CLAIMED, "Running", "Failed"), BEGAN, False),
        (states(*CLAIMED, "Running", "Cancelling", "Cancelled"), BEGAN, True),
        (states(*CLAIMED, "Running", "AwaitingRetry", *CLAIMED[1:], "Running", "Completed"), TWICE, False),
    ],
)
def test_run_that_has_come_to_its_true_end_is_no_problem(
    history: list[StateSeen], journal: Journal, was_cancelled: bool
) -> None:
    assert problem(history, journal, was_cancelled=was_cancelled) is None


@pytest.mark.parametrize(
    ("history", "journal", "told"),
    [
        ([], NOTHING, "the server does not know it"),
        (states("Scheduled"), NOTHING, "it is Scheduled for ever"),
        (states(*CLAIMED), NOTHING, "it is Submitting for ever"),
        (states(*CLAIMED, "Running"), ENDED, "it is Running for ever"),
        (states(*CLAIMED, "Running", "Cancelling"), BEGAN, "it is Cancelling for ever"),
        (states(*CLAIMED, "Running", "Completed"), TWICE, "executed 2 times, claimed 1 times"),
        (states(*CLAIMED, "Running", "Completed"), BEGAN, "Completed, though"),
        (states(*CLAIMED, "Running", "Cancelled"), BEGAN, "Cancelled, though nobody"),
        (states(*CLAIMED, "Running", "Failed"), ENDED, "Failed, though"),
    ],
)
def test_run_that_was_lost_or_done_twice_is_found(
    history: list[StateSeen], journal: Journal, told: str
) -> None:
    found = problem(history, journal, was_cancelled=False)
    assert found is not None
    assert told in found


def a_course() -> Course:
    samples = [
        Sample(
            at=at,
            resident=40_000_000 + int(at),
            descriptors=20,
            threads=2,
            ledgers=4096,
            directories=3,
            created=int(at),
            waiting=2,
        )
        for at in (0.0, 600.0, 3600.0)
    ]
    course = Course(plan=Plan(seconds=3600, run_every=1, harm_every=30, seed=1), samples=samples)
    course.harms += [(30.0, "SIGKILL of a worker"), (60.0, "503 for 10 s"), (90.0, "SIGKILL of a worker")]
    course.ends.update(["Completed", "Completed", "Crashed"])
    return course


def test_course_is_told_in_lines() -> None:
    course = a_course()
    assert "3 runs in 3600 s, 3 faults" in as_text(course)
    assert "ends: Completed 2, Crashed 1" in as_text(course)
    assert "SIGKILL of a worker 2, 503 for 10 s 1" in as_text(course)
    assert "problems: 0; processes left: 0" in as_text(course)
    course.problems["4711"] = "lost: it is Running for ever"
    assert "4711: lost: it is Running for ever" in as_text(course)


def test_chart_has_a_point_for_each_sample_and_a_line_for_each_fault() -> None:
    course = a_course()
    chart = draw(course.samples, course.harms, "A & B", "note")
    assert "A &amp; B" in chart
    curves = re.findall(r'<polyline class="curve" points="([^"]*)"/>', chart)
    assert {len(curve.split()) for curve in curves} == {3}
    assert chart.count('class="harm"') == len(curves) * len(course.harms)
