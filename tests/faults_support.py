"""What faults might have led to, as the programs in `benchmarks/faults` know it."""

from __future__ import annotations

from typing import Any

from benchmarks.apparatus.sides import SideName
from benchmarks.faults.course import Course
from benchmarks.faults.judgement import Moment, judge


def moment(at: float, state: str, **fields: Any) -> Moment:
    """A moment at which a flow has begun, unless it is said otherwise."""
    known: dict[str, Any] = {"began": 1, "most_of_an_attempt": 1} | fields
    return Moment(at=at, type=state.upper(), name=state, **known)


def course(fault: str, side: SideName, *moments: Moment, is_cancelled: bool = False) -> Course:
    """A course whose run had these states."""
    return Course(
        fault=fault,
        side=side,
        verdict=judge(moments, is_cancelled=is_cancelled),
        history=[{"name": each.name, "message": None, "after": each.at} for each in moments],
        left=["sleep 600"] * moments[-1].living,
        moments=list(moments),
        logs=["started", "started again"],
    )


RIGHT = (moment(0.2, "Running", living=1), moment(1.5, "Crashed"), moment(17.0, "Crashed"))
NEVER = (moment(0.2, "Running", living=1), moment(60.1, "Running", living=1, unwatched=1))
