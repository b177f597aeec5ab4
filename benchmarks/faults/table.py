"""What became of the runs, as a table for a page and for a terminal, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from benchmarks.apparatus.sides import SIDES
from benchmarks.faults.catalogue import Fault
from benchmarks.faults.course import Course
from benchmarks.faults.judgement import Verdict

# Whoever looks four times a second has seen a process twice at the least that is without a watch for so long.
_WORTH_TELLING: Final = 0.5

_TIMES: Final = {1: "once", 2: "twice"}


@attrs.frozen
class Row:
    """A fault, and what it has led to on each side.

    Attributes:
        number: of the fault.
        fault: the fault.
        courses: what it has led to, by side, as far as it was inflicted.
    """

    number: int
    fault: Fault
    courses: dict[str, Course]

    def verdict(self, side: str) -> Verdict | None:
        """What became of the run of a side; None if it had none."""
        course = self.courses.get(side)
        return course.verdict if course is not None else None


def rows(faults: Sequence[Fault], courses: Sequence[Course]) -> list[Row]:
    """The rows of the table: a fault that was inflicted on nobody has none."""
    found = [
        Row(number, fault, {course.side: course for course in courses if course.fault == fault.key})
        for number, fault in enumerate(faults, start=1)
    ]
    return [row for row in found if row.courses]


def right(shown: Sequence[Row], side: str) -> int:
    """After how many of the faults all was right on a side."""
    verdicts = [row.verdict(side) for row in shown]
    return sum(verdict is not None and verdict.right_after is not None for verdict in verdicts)


def as_markdown(shown: Sequence[Row], prefect: str) -> str:
    """A table in Markdown.

    Args:
        shown: its rows.
        prefect: Prefect's version.
    """
    of_each = ("right after", "processes left")
    head = ("", "fault", f"Prefect {prefect}", *of_each, "trioworker", *of_each)
    rule = ("--:", "---", *("---", "--:", "---") * len(SIDES))
    lines = [head, rule, *((str(row.number), row.fault.title, *_cells(row)) for row in shown)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def as_text(shown: Sequence[Row]) -> str:
    """A table for a terminal: a line for each fault and side."""
    lines: list[tuple[str, ...]] = [("fault", "side", "state", "right after", "processes left", "flow")]
    for row in shown:
        for side, course in row.courses.items():
            plain = (cell.replace("**", "").replace("`", "") for cell in _of_verdict(course.verdict))
            lines.append((row.fault.key, side, *plain, executions(course.verdict).replace("**", "")))
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(lines[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"
        for cells in lines
    )


def seconds(verdict: Verdict) -> str:
    """How long it took until all was right."""
    return "never" if verdict.right_after is None else f"{verdict.right_after:.1f} s"


def executions(verdict: Verdict) -> str:
    """How often the flow began, and whether it came to its end."""
    if not verdict.began:
        return "the flow never began"
    times = _TIMES.get(verdict.began, f"{verdict.began} times")
    end = "came to its end" if verdict.ended else "did not come to its end"
    twice = "; **the same attempt began more than once**" if verdict.most_of_an_attempt > 1 else ""
    return f"the flow began {times} and {end}{twice}"


def _cells(row: Row) -> Iterator[str]:
    for side in SIDES:
        verdict = row.verdict(side)
        yield from _of_verdict(verdict) if verdict is not None else ("", "", "")


def _of_verdict(verdict: Verdict) -> tuple[str, str, str]:
    is_right = verdict.right_after is not None
    state = f"`{verdict.state}`"
    left = f"**{verdict.left}**" if verdict.left else "0"
    unwatched = f", unwatched for {verdict.unwatched:.0f} s" if verdict.unwatched >= _WORTH_TELLING else ""
    return (
        state if is_right else f"**{state}**",
        seconds(verdict) if is_right else "**never**",
        f"{left}{unwatched}",
    )
