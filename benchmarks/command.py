"""The command line: measure, and report unless something went wrong."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from benchmarks.apparatus.sides import PREFECT, TRIOWORKER
from benchmarks.failures import BenchmarkError
from benchmarks.measures.course import run_course
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.progress import Progress
from benchmarks.report import files, machine
from benchmarks.report.page import BUSY
from benchmarks.report.samples import Samples
from benchmarks.report.table import as_text, rows
from trioworker.command.local_server import LocalServerError
from trioworker.errors import sole_errors_bare

_HERE = Path(__file__).resolve().parent
_BUILD = _HERE.parent / "build" / "bench"

# As of a shell, for a program that was ended by Ctrl-C.
_INTERRUPTED = 130

Course = Callable[[Plan, dict[str, Path], Path, Progress], Awaitable[Samples]]


def main(arguments: Sequence[str] | None = None, course: Course = run_course) -> int:
    """Measure and report; returns the exit code, which is 1 if there is nothing to report.

    Args:
        arguments: the command line; None for that of the process.
        course: what measures.
    """
    options = _options(arguments)
    plan = QUICK if options.quick else FULL
    output: Path = options.output or (_BUILD / "quick" if options.quick else _HERE)
    setting = machine.observe(plan.name)
    progress = Progress(plan.steps)
    if setting.was_busy:
        progress.tell(f"{setting.busy:.1f} cores are busy with other things")
    pythons = {PREFECT: options.prefect, TRIOWORKER: options.trioworker}
    with tempfile.TemporaryDirectory(prefix="trioworker-benchmark-") as directory:
        measure = partial(course, plan, pythons, Path(directory), progress)
        try:
            samples = trio.run(_unless_interrupted, measure)
        except (BenchmarkError, LocalServerError) as error:
            print(f"Nothing to report: {error}", file=sys.stderr)
            return 1
    if samples is None:
        print("Interrupted: nothing is reported, and nothing is left behind.", file=sys.stderr)
        return _INTERRUPTED
    files.write(output, samples, setting, plan)
    print(as_text(rows(samples), setting.prefect))
    if setting.was_busy:
        print(BUSY)
    print(f"More in {output / files.PAGE}")
    return 0


async def _unless_interrupted(measure: Callable[[], Awaitable[Samples]]) -> Samples | None:
    """Measure, unless SIGINT or SIGTERM comes before the end; then None, after all was cleaned up."""
    samples: Samples | None = None

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            await anext(signals)
            measuring.cancel()
            # Whoever presses the keys twice gets no more than that.
            await trio.sleep_forever()

    with sole_errors_bare():
        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            with trio.CancelScope() as measuring:
                samples = await measure()
            nursery.cancel_scope.cancel()
    return samples


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure less, in three minutes")
    parser.add_argument("--output", type=Path, help="directory for the report")
    parser.add_argument(
        "--prefect",
        type=Path,
        default=_BUILD / "prefect" / "bin" / "python",
        help="the Python of an environment with Prefect (%(default)s)",
    )
    parser.add_argument(
        "--trioworker",
        type=Path,
        default=Path(sys.executable),
        help="the Python of an environment with Prefect and trioworker (%(default)s)",
    )
    return parser.parse_args(arguments)
