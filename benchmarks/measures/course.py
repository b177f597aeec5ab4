"""The course of the benchmark: everything that is measured, both sides in turn, on one server."""

from __future__ import annotations

from pathlib import Path

from benchmarks.apparatus.sides import PREFECT, TRIOWORKER, Side, SideName
from benchmarks.apparatus.stage import open_stage
from benchmarks.measures.calls import call
from benchmarks.measures.dispatch import dispatch
from benchmarks.measures.service import serve
from benchmarks.measures.start_up import start_and_stop
from benchmarks.plan import Plan
from benchmarks.progress import Progress
from benchmarks.report.figures import add_growth
from benchmarks.report.samples import Samples


async def run_course(plan: Plan, pythons: dict[str, Path], directory: Path, progress: Progress) -> Samples:
    """Measure everything.

    Args:
        plan: how often.
        pythons: the interpreter of each side's environment.
        directory: an empty one, for all files.
        progress: told of each step.

    Raises:
        BenchmarkError: something went wrong; there are no samples then.
    """
    sides = (_side(PREFECT, pythons, directory), _side(TRIOWORKER, pythons, directory))
    samples = Samples()
    progress.tell("starting a Prefect server ...")
    async with open_stage(directory, sides) as stage:
        for side in sides:
            # Whatever is done once in a lifetime, such as compiling modules, is no part of any figure.
            await start_and_stop(stage, side, Samples())
        for _ in range(plan.starts):
            for side in sides:
                progress.step(f"{side.name}: {await start_and_stop(stage, side, samples)}")
        for number in range(1, plan.rounds + 1):
            for side in sides:
                progress.step(f"{side.name}: {await serve(stage, side, plan, number, samples)}")
        for runs, times in plan.commands.items():
            for _ in range(times):
                for side in sides:
                    progress.step(f"{side.name}: {await dispatch(stage, side, runs, samples)}")
        progress.step(f"{TRIOWORKER}: {await call(stage, sides[1], plan.calls, samples)}")
    add_growth(samples)
    return samples


def _side(name: SideName, pythons: dict[str, Path], directory: Path) -> Side:
    home = directory / name
    home.mkdir()
    return Side(name, pythons[name], home, f"benchmark-{name}")
