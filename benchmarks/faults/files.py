"""Writes what became of the runs: the part of the page, its chart, and every state. All of them, or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.faults.chart import draw
from benchmarks.faults.course import WATCH_SECONDS, Course
from benchmarks.faults.page import part, replaced
from benchmarks.faults.table import Row
from benchmarks.report.files import write_all
from benchmarks.report.machine import Setting

PAGE: Final = "docs/reliability.md"
CHART: Final = "docs/reliability.svg"
VALUES: Final = "benchmarks/faults/results.json"

_AGAIN: Final = "\n======== started again ========\n"


def check(project: Path) -> None:
    """Make sure that the page has a place for what is to be written.

    Raises:
        PageError: it has none.
        OSError: it cannot be read.
    """
    replaced((project / PAGE).read_text(), "")


def write(project: Path, shown: Sequence[Row], setting: Setting) -> None:
    """Write the three files; those of an earlier run are replaced only once all are complete.

    Raises:
        PageError: the page has no place for its part.
        OSError: a file cannot be read or written.
    """
    text = part(shown, setting, Path(CHART).name, f"../{VALUES}")
    title = f"trioworker and the worker of Prefect {setting.prefect}: seconds until the run was right"
    note = f"After a fault, or its end. Pale: never within {WATCH_SECONDS:g} s."
    document = {
        "setting": attrs.asdict(setting),
        "courses": [_document(course) for row in shown for course in row.courses.values()],
    }
    write_all(
        project,
        {
            PAGE: replaced((project / PAGE).read_text(), text),
            CHART: draw(shown, WATCH_SECONDS, title, note),
            VALUES: json.dumps(document, indent=1) + "\n",
        },
    )


def write_record(directory: Path, course: Course) -> None:
    """Write all that is known of a course, with what the workers wrote; for whoever looks for the reason."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{course.fault}-{course.side}.json"
    file.write_text(json.dumps(_document(course), indent=1) + "\n")
    file.with_suffix(".log").write_text(_AGAIN.join(course.logs))


def _document(course: Course) -> dict[str, Any]:
    return attrs.asdict(course, filter=lambda attribute, _: attribute.name != "logs")
