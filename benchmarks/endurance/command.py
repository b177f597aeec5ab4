"""The command line: keep workers under load while things break, and tell what became of every run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from benchmarks.endurance.chart import draw
from benchmarks.endurance.course import Course, Plan, run_course
from benchmarks.endurance.summary import as_text
from benchmarks.environments import BUILD
from benchmarks.failures import BenchmarkError
from benchmarks.interruption import INTERRUPTED, unless_interrupted
from benchmarks.progress import Progress
from trioworker.command.local_server import LocalServerError

CHART, VALUES = "endurance.svg", "endurance.json"

_EXIT_LOST: Final = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, and report.

    Returns:
        The exit code: 0 if nothing was lost and nothing done twice, 3 if something was, 1 if there is nothing to
        report.
    """
    options = _options(arguments)
    plan = Plan(
        seconds=options.seconds,
        run_every=options.run_every,
        harm_every=options.harm_every,
        seed=options.seed,
        database=options.database,
    )
    progress = Progress(0)
    with tempfile.TemporaryDirectory(prefix="trioworker-endurance-") as directory:
        measure = partial(run_course, plan, options.trioworker, Path(directory), progress)
        try:
            course = trio.run(unless_interrupted, measure)
        except (BenchmarkError, LocalServerError) as error:
            print(f"Nothing to report: {error}", file=sys.stderr)
            return 1
    if course is None:
        print("Interrupted: nothing is reported, and nothing is left behind.", file=sys.stderr)
        return INTERRUPTED
    _write(options.output, course)
    print(as_text(course))
    return _EXIT_LOST if course.problems or course.left or course.steady_deaths else 0


def _write(directory: Path, course: Course) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    title = f"{course.plan.seconds / 60:.0f} minutes of runs and faults: the worker that nobody has killed"
    note = (
        "Upright lines: faults. Two workers share the runs; the other one is killed and stopped all the time."
    )
    (directory / CHART).write_text(draw(course.samples, course.harms, title, note))
    (directory / VALUES).write_text(json.dumps(attrs.asdict(course), indent=1) + "\n")
    (directory / "endurance.txt").write_text(as_text(course) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="for how long (%(default)s)")
    parser.add_argument("--run-every", type=float, default=1.0, help="seconds between two runs (%(default)s)")
    parser.add_argument(
        "--harm-every", type=float, default=30.0, help="seconds between two faults (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is left to chance (%(default)s)")
    parser.add_argument("--database", help="URL of the server's database, such as one of PostgreSQL")
    parser.add_argument("--output", type=Path, default=BUILD / "endurance", help="directory for the report")
    parser.add_argument(
        "--trioworker",
        type=Path,
        default=Path(sys.executable),
        help="the Python of an environment with Prefect and trioworker (%(default)s)",
    )
    return parser.parse_args(arguments)
