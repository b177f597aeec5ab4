"""The command line: measure, and report unless something went wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from benchmarks.environments import BUILD, add_environments, pythons
from benchmarks.failures import BenchmarkError
from benchmarks.interruption import INTERRUPTED, unless_interrupted
from benchmarks.measures.course import run_course
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.progress import Progress
from benchmarks.report import files, machine
from benchmarks.report.page import BUSY
from benchmarks.report.samples import Samples
from benchmarks.report.table import as_text, rows
from trioworker.command.local_server import LocalServerError

_HERE = Path(__file__).resolve().parent

Course = Callable[[Plan, dict[str, Path], Path, Progress], Awaitable[Samples]]


def main(arguments: Sequence[str] | None = None, course: Course = run_course) -> int:
    """Measure and report; returns the exit code, which is 1 if there is nothing to report.

    Args:
        arguments: the command line; None for that of the process.
        course: what measures.
    """
    options = _options(arguments)
    plan = QUICK if options.quick else FULL
    output: Path = options.output or (BUILD / "quick" if options.quick else _HERE)
    setting = machine.observe(plan.name)
    progress = Progress(plan.steps)
    if setting.was_busy:
        progress.tell(f"{setting.busy:.1f} cores are busy with other things")
    with tempfile.TemporaryDirectory(prefix="trioworker-benchmark-") as directory:
        measure = partial(course, plan, pythons(options), Path(directory), progress)
        try:
            samples = trio.run(unless_interrupted, measure)
        except (BenchmarkError, LocalServerError) as error:
            print(f"Nothing to report: {error}", file=sys.stderr)
            return 1
    if samples is None:
        print("Interrupted: nothing is reported, and nothing is left behind.", file=sys.stderr)
        return INTERRUPTED
    files.write(output, samples, setting, plan)
    print(as_text(rows(samples), setting.prefect))
    if setting.was_busy:
        print(BUSY)
    print(f"More in {output / files.PAGE}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure less, in three minutes")
    parser.add_argument("--output", type=Path, help="directory for the report")
    add_environments(parser)
    return parser.parse_args(arguments)
