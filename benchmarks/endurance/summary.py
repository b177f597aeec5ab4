"""What became of it all, in lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.endurance.course import Course
from benchmarks.endurance.sampling import Sample


def as_text(course: Course) -> str:
    """The lines, for people."""
    plan = course.plan
    harms = Counter(name for _, name in course.harms)
    lines = [
        f"{course.ends.total()} runs in {plan.seconds:.0f} s, {len(course.harms)} faults, seed {plan.seed}",
        f"ends: {_counted(course.ends)}",
        f"faults: {_counted(harms)}",
        f"starts of workers: {course.worker_starts}; deaths of the steady one: {course.steady_deaths}",
        f"problems: {len(course.problems)}; processes left: {len(course.left)}",
        f"workspaces left: {course.directories}",
        f"all at their end {course.quiet_after:.0f} s after the last fault",
        f"not created since the server was away: {course.refused}, since too many waited: {course.spared}",
        *_steady(course.samples),
        *(f"  {run}: {what}" for run, what in course.problems.items()),
        *(f"  left: {command}" for command in course.left),
    ]
    return "\n".join(lines)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _steady(samples: list[Sample]) -> Iterable[str]:
    """What the steady worker took after a sixth of the time, when all that it needs is there, and at the end."""
    last = samples[-1]
    settled = next(sample for sample in samples if sample.at >= last.at / 6)
    yield f"memory of the steady worker: {settled.resident / 1e6:.1f} MB, then {last.resident / 1e6:.1f} MB"
    yield f"its descriptors: {settled.descriptors}, then {last.descriptors}"
    yield f"its threads: {settled.threads}, then {last.threads}"
    yield f"ledgers: {settled.ledgers / 1e3:.0f} kB, then {last.ledgers / 1e3:.0f} kB"
