"""The command line: inflict faults, and report what became of the runs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from benchmarks.apparatus.sides import SIDES
from benchmarks.environments import BUILD, add_environments, pythons
from benchmarks.failures import BenchmarkError
from benchmarks.faults import files
from benchmarks.faults.catalogue import FAULTS
from benchmarks.faults.course import Course, run_faults
from benchmarks.faults.page import PageError
from benchmarks.faults.table import as_text, rows, seconds
from benchmarks.interruption import INTERRUPTED, unless_interrupted
from benchmarks.progress import Progress
from benchmarks.report import machine
from benchmarks.report.page import BUSY
from trioworker.command.local_server import LocalServerError

_RECORDS = BUILD / "faults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Inflict and report; returns the exit code, which is 1 if there is nothing to report."""
    options = _options(arguments)
    faults = [fault for fault in FAULTS if options.only is None or fault.key in options.only]
    sides = [side for side in SIDES if options.side in {None, side}]
    is_whole = len(faults) * len(sides) == len(FAULTS) * len(SIDES)
    try:
        if is_whole:
            files.check(options.output)
    except (OSError, PageError) as error:
        print(f"There is no place to report: {error}", file=sys.stderr)
        return 1
    setting = attrs.evolve(machine.observe("full"), command="make faults")
    progress = Progress(len(faults) * len(sides))
    if setting.was_busy:
        progress.tell(f"{setting.busy:.1f} cores are busy with other things")
    with tempfile.TemporaryDirectory(prefix="trioworker-faults-") as directory:
        progress.tell("starting a Prefect server ...")
        inflict = partial(
            run_faults, faults, sides, pythons(options), Path(directory), on_course=partial(_note, progress)
        )
        try:
            courses = trio.run(unless_interrupted, inflict)
        except (BenchmarkError, LocalServerError) as error:
            print(f"Nothing to report: {error}", file=sys.stderr)
            return 1
    if courses is None:
        print("Interrupted: nothing is reported, and nothing is left behind.", file=sys.stderr)
        return INTERRUPTED
    shown = rows(FAULTS, courses)
    print(as_text(shown))
    if setting.was_busy:
        print(BUSY)
    print(f"Every state, every process and what the workers wrote: {_RECORDS}")
    if is_whole:
        files.write(options.output, shown, setting)
        print(f"More in {options.output / files.PAGE}")
    else:
        print(f"{files.PAGE} is written only if all faults were inflicted on both sides.")
    return 0


def _note(progress: Progress, course: Course) -> None:
    """Keep what is known of a course, and say in a line what became of its run."""
    files.write_record(_RECORDS, course)
    verdict = course.verdict
    right = "never right" if verdict.right_after is None else f"right after {seconds(verdict)}"
    left = f"processes left: {verdict.left}, unwatched for {verdict.unwatched:.0f} s"
    progress.step(f"{course.side}, {course.fault}: {verdict.state}, {right}, {left}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=[fault.key for fault in FAULTS],
        help=f"inflict this fault; may be repeated: {', '.join(fault.key for fault in FAULTS)}",
    )
    parser.add_argument("--side", choices=SIDES, help="inflict them on this worker alone")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parents[2], help="the project (%(default)s)"
    )
    add_environments(parser)
    return parser.parse_args(arguments)
