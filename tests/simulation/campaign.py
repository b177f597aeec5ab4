"""Many episodes, counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import attrs

from . import steps
from .episode import Result, play
from .faults import OF_REQUESTS, Kind

__all__ = ["Tally", "describe_failure", "run_campaign"]


Write = Callable[[str], None]


@attrs.define(eq=False)
class Tally:
    """What came of many episodes.

    Attributes:
        episodes: how many there were.
        failed: those that went wrong.
        met: the faults that came, by kind and step.
        steps: how often each step was reached.
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
        if result.violations:
            self.failed.append(result)

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
            cells = [step for step in steps.STEPS if _can_come(kind, step)]
            missed = [step for step in cells if not self.met[kind, step]]
            total = sum(self.met[kind, step] for step in cells)
            yield (
                f"{number:3} {kind.value:<17} {total:7,} faults, at {len(cells) - len(missed)} of {len(cells)} steps"
                + (f"; not {', '.join(missed)}" if 0 < len(missed) <= 4 else "")
            )
        yield ""
        yield f"{'':{width}} {'reached':>10} " + "".join(f"{number:5}" for number in range(1, len(kinds) + 1))
        for step in steps.STEPS:
            counts = (f"{self.met[kind, step]:5}" if _can_come(kind, step) else "    -" for kind in kinds)
            yield f"{step:{width}} {self.steps[step]:10,} " + "".join(counts)


def _can_come(kind: Kind, step: str) -> bool:
    """Whether a kind of fault can come at a step."""
    return kind not in OF_REQUESTS or step.removeprefix("before ") in steps.REQUESTS


def describe_failure(result: Result) -> Iterator[str]:
    """What is shown of an episode that went wrong, and how it is played again."""
    yield f"seed {result.seed}:"
    for violation in result.violations:
        yield f"  VIOLATION {violation}"
    yield from (f"  {line}" for line in result.trace if "FAULT" in line)
    yield f"  again, with all that happens: python -m tests.simulation --seed {result.seed}"


def run_campaign(seeds: Iterable[int], seconds: float, write: Write, *, progress: float = 60.0) -> Tally:
    """Play one seed after the other for a time.

    Args:
        seeds: the seeds.
        seconds: of real time.
        write: told of each episode that goes wrong, and how it goes from time to time.
        progress: seconds between two lines of that.
    """
    tally = Tally()
    began = told = time.monotonic()
    for seed in seeds:
        result = play(seed)
        tally.add(result)
        if result.violations:
            for line in describe_failure(result):
                write(line)
        now = time.monotonic()
        if now - told >= progress:
            told = now
            write(f"{now - began:7.0f} s  up to seed {seed}: {tally.line}")
        if now - began >= seconds:
            break
    return tally
