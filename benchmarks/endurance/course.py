"""The whole course: load and faults for as long as told, then quiet, then the verdict on every run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from benchmarks.apparatus import proc
from benchmarks.endurance.harm import HARMS
from benchmarks.endurance.load import UNFINISHED, Load
from benchmarks.endurance.sampling import Sample, keep_sampling
from benchmarks.endurance.site import STEADY, Site, open_site
from benchmarks.endurance.verdict import problem
from benchmarks.failures import BenchmarkError
from benchmarks.faults.processes import command_of
from benchmarks.progress import Progress

_START_SECONDS: Final = 120.0

_QUIET_SECONDS: Final = 300.0
"""How long the workers have after the last fault to bring all runs to their end."""

_TOLD_EVERY: Final = 60.0


@attrs.frozen(kw_only=True)
class Plan:
    """How long, and how much.

    Attributes:
        seconds: for how long there is load.
        run_every: seconds from one run to the next.
        harm_every: seconds from one fault to the next.
        seed: of all that is left to chance.
        database: the URL of the server's database; None for a fresh SQLite file.
    """

    seconds: float
    run_every: float
    harm_every: float
    seed: int
    database: str | None = None


@attrs.define(kw_only=True)
class Course:
    """What has happened.

    Attributes:
        plan: what was to happen.
        samples: what was seen, every so often.
        harms: each fault, and when it began, in seconds.
        ends: how many runs have ended in which state.
        problems: runs that something is wrong with, and what, with their states.
        left: the command lines of processes of runs that were left.
        directories: temporary directories that were left.
        steady_deaths: how often the worker has died that nobody has killed.
        refused: how often no run could be created.
        spared: how often none was, since too many waited.
        worker_starts: how often workers were started.
        quiet_after: seconds after the last fault until all runs had come to their end.
    """

    plan: Plan
    samples: list[Sample] = attrs.field(factory=list)
    harms: list[tuple[float, str]] = attrs.field(factory=list)
    ends: Counter[str] = attrs.field(factory=Counter)
    problems: dict[str, str] = attrs.field(factory=dict)
    left: list[str] = attrs.field(factory=list)
    directories: int = 0
    steady_deaths: int = 0
    refused: int = 0
    spared: int = 0
    worker_starts: int = 0
    quiet_after: float = 0.0


async def run_course(plan: Plan, python: Path, directory: Path, progress: Progress) -> Course:
    """Do all of it.

    Args:
        plan: how long, and how much.
        python: the interpreter of the environment that has Prefect and trioworker.
        directory: an empty one, for all files.
        progress: told how it goes.

    Raises:
        BenchmarkError: something went wrong that was no fault of ours.
    """
    course = Course(plan=plan)
    progress.tell("starting a Prefect server and two workers ...")
    async with open_site(directory, python, plan.database) as site:
        for supervisor in site.workers.values():
            with supervisor.workers[0].patience("to start", _START_SECONDS):
                await supervisor.workers[0].says("started!")
        begun = trio.current_time()
        load = Load(site, plan.run_every, random.Random(plan.seed))  # noqa: S311 - nothing secret
        async with trio.open_nursery() as watching:
            watching.start_soon(keep_sampling, site, load, begun, course.samples)
            watching.start_soon(_tell, course, progress)
            with trio.move_on_after(plan.seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(load.keep_coming)
                    nursery.start_soon(_keep_harming, course, site, load, begun, progress.tell)
            _set_right(site)
            progress.tell("no more runs, and no more faults: waiting for the last runs to end")
            course.quiet_after = await _wait_for_quiet(load)
            watching.cancel_scope.cancel()
        await _judge(course, site, load)
    return course


async def _keep_harming(
    course: Course, site: Site, load: Load, begun: float, tell: Callable[[str], None]
) -> None:
    chance = random.Random(course.plan.seed)  # noqa: S311 - nothing secret
    due = trio.current_time()
    while True:
        for harm in chance.sample(HARMS, len(HARMS)):
            due += course.plan.harm_every
            await trio.sleep_until(due)
            course.harms.append((trio.current_time() - begun, harm.name))
            tell(harm.name)
            try:
                await harm.inflict(site, load, chance)
            except BenchmarkError as error:
                tell(f"... could not be done: {error}")


def _set_right(site: Site) -> None:
    """End what a fault may have begun."""
    site.valve.open()
    site.valve.unmute()
    site.valve.admit()
    site.wake_all()


async def _tell(course: Course, progress: Progress) -> None:
    while True:
        await trio.sleep(_TOLD_EVERY)
        if course.samples:
            last = course.samples[-1]
            progress.tell(
                f"{last.created} runs, {last.waiting} of them not at their end; the steady worker has"
                f" {last.resident / 1e6:.1f} MB, {last.descriptors} descriptors, {last.threads} threads;"
                f" ledgers {last.ledgers / 1e3:.0f} kB, {last.directories} temporary directories"
            )


async def _wait_for_quiet(load: Load) -> float:
    begun = trio.current_time()
    with trio.move_on_after(_QUIET_SECONDS):
        while True:
            try:
                if await load.count_waiting() == 0:
                    break
            except BenchmarkError:
                # The server comes back.
                pass
            await trio.sleep(1)
    took = trio.current_time() - begun
    # What has reported its end has yet to end.
    await trio.sleep(15)
    return took


async def _judge(course: Course, site: Site, load: Load) -> None:
    """Look at every run, and at what is left."""
    rest = site.rest
    known = set(load.runs)
    # A run whose creation was not answered is a run all the same.
    strangers = [run for run in await rest.runs_of(site.deployment, UNFINISHED) if run not in known]
    for run in strangers:
        course.problems[run] = "lost: it was created without an answer, and has not ended"
    for run in load.runs:
        history = await rest.history(run)
        course.ends[history[-1].name if history else "unknown"] += 1
        found = problem(history, load.journal(run), was_cancelled=run in load.cancelled)
        if found is not None:
            states = "; ".join(f"{state.at:%H:%M:%S} {state.name} {state.message or ''}" for state in history)
            course.problems[run] = f"{found} [{states}]"
    for supervisor in site.workers.values():
        course.worker_starts += len(supervisor.workers)
        living = supervisor.living
        kept = {living.pid, *proc.descendants(living.pid)} if living is not None else set[int]()
        for reaper in supervisor.reapers:
            course.left += [command_of(pid) for pid in proc.descendants(reaper) if pid not in kept]
    course.left = [command for command in course.left if command]
    course.directories = sum(1 for path in site.temporary.iterdir() if "prefect-workspace" in path.name)
    course.steady_deaths = len(site.workers[STEADY].workers) - 1
    course.refused, course.spared = load.refused, load.spared
