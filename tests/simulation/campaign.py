"""Many episodes, counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import attrs

from . import steps
from .episode import Result, play
from .faults import Fault, Kind, can_come

__all__ = ["Tally", "describe_failure", "run_campaign", "sweep"]


Write = Callable[[str], None]


@attrs.define(eq=False)
class Tally:
    """What came of many episodes.

    Attributes:
        episodes: how many there were.
        failed: those that went wrong.
        met: the faults that came, by kind and step.
        steps: how often each step was reached.
        routes: for each step, the last seed by which it was reached.
    """

    episodes: int = 0
    runs: int = 0
    claimed: int = 0
    bodies: int = 0
    workers: int = 0
    requests: int = 0
    days: float = 0.0
    failed: list[Result] = attrs.field(factory=list)
    met: Counter[tuple[Kind, str]] = attrs.field(factory=Counter)
    steps: Counter[str] = attrs.field(factory=Counter)
    routes: dict[str, int] = attrs.field(factory=dict)

    def add(self, result: Result) -> None:
        """Count an episode."""
        self.episodes += 1
        self.runs += result.runs
        self.claimed += result.claimed
        self.bodies += result.bodies
        self.workers += result.workers
        self.requests += result.requests
        self.days += result.seconds / (24 * 3600)
        self.met += result.met
        self.steps += result.steps
        if not result.faults:
            self.routes.update(dict.fromkeys(result.steps, result.seed))
        if result.violations:
            self.failed.append(result)

    @property
    def unmet(self) -> list[tuple[Kind, str]]:
        """The kinds of faults that have not come at a step yet."""
        return [
            (kind, step)
            for step in steps.STEPS
            for kind in Kind
            if can_come(kind, step) and not self.met[kind, step]
        ]

    @property
    def line(self) -> str:
        """All of it in one line."""
        return (
            f"{self.episodes:,} episodes, {self.runs:,} runs ({self.claimed:,} claimed, {self.bodies:,} bodies),"
            f" {self.workers:,} workers, {self.met.total():,} faults, {self.requests:,} requests,"
            f" {self.days:,.1f} days, {len(self.failed)} violations"
        )

    def table(self) -> Iterator[str]:
        """How often each kind of fault came at each step."""
        kinds = list(Kind)
        width = max(map(len, steps.STEPS))
        for number, kind in enumerate(kinds, 1):
            cells = [step for step in steps.STEPS if can_come(kind, step)]
            missed = [step for step in cells if not self.met[kind, step]]
            total = sum(self.met[kind, step] for step in cells)
            yield (
                f"{number:3} {kind.value:<17} {total:7,} faults, at {len(cells) - len(missed)} of {len(cells)} steps"
                + (f"; not {', '.join(missed)}" if 0 < len(missed) <= 4 else "")
            )
        yield ""
        yield f"{'':{width}} {'reached':>10} " + "".join(f"{number:5}" for number in range(1, len(kinds) + 1))
        for step in steps.STEPS:
            counts = (f"{self.met[kind, step]:5}" if can_come(kind, step) else "    -" for kind in kinds)
            yield f"{step:{width}} {self.steps[step]:10,} " + "".join(counts)


def describe_failure(result: Result) -> Iterator[str]:
    """What is shown of an episode that went wrong, and how it is played again."""
    yield f"seed {result.seed}:"
    for violation in result.violations:
        yield f"  VIOLATION {violation}"
    yield from (f"  {line}" for line in result.trace if "FAULT" in line)
    faults = "".join(f' --fault "{fault.kind} {fault.step}"' for fault in result.faults)
    yield f"  again, with all that happens: python -m tests.simulation --seed {result.seed}{faults}"


def run_campaign(seeds: Iterable[int], seconds: float, write: Write, *, progress: float = 60.0) -> Tally:
    """Play one seed after the other for a time; between them, have each kind of fault come at each step.

    Args:
        seeds: the seeds.
        seconds: of real time.
        write: told of each episode that goes wrong, and how it goes from time to time.
        progress: seconds between two lines of that.
    """
    tally = Tally()
    began = told = time.monotonic()
    directed: set[tuple[int, Kind, str]] = set()
    for seed in seeds:
        results = [play(seed)]
        tally.add(results[0])
        fault = _least_met(tally, directed)
        if fault is not None:
            route, kind, step = fault
            directed.add(fault)
            results.append(play(route, Fault.at_step(kind, step, route)))
            tally.add(results[1])
        for result in results:
            if result.violations:
                write("\n".join(describe_failure(result)))
        now = time.monotonic()
        if now - told >= progress:
            told = now
            write(f"{now - began:7.0f} s  up to seed {seed}: {tally.line}")
        if now - began >= seconds:
            break
    return tally


def _least_met(tally: Tally, known: set[tuple[int, Kind, str]]) -> tuple[int, Kind, str] | None:
    """A seed, and the fault that has come most rarely of those that can be had by it; None if there is none."""
    candidates = (
        (tally.met[kind, step], tally.routes[step], kind, step)
        for step in tally.routes
        for kind in Kind
        if can_come(kind, step) and (tally.routes[step], kind, step) not in known
    )
    least = min(candidates, key=lambda candidate: candidate[0], default=None)
    return None if least is None else least[1:]


def sweep(seeds: Iterable[int], write: Write) -> Tally:
    """Have each kind of fault come at each step, once.

    Args:
        seeds: among which there is one for each step that leads to it.
        write: told of each episode that goes wrong.
    """
    tally = Tally()
    for seed in seeds:
        if len(tally.routes) == len(steps.STEPS):
            break
        tally.add(play(seed))
    for kind, step in tally.unmet:
        if step in tally.routes:
            tally.add(play(tally.routes[step], Fault.at_step(kind, step, tally.routes[step])))
    for result in tally.failed:
        write("\n".join(describe_failure(result)))
    return tally
