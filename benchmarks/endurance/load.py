"""The runs: one a second, each of which keeps a journal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import attrs
import trio

from benchmarks.endurance.site import Site
from benchmarks.failures import BenchmarkError
from benchmarks.faults.journal import Journal, read_journal

_SHORTEST, _LONGEST = 0.2, 4.0

# More than that many runs that have not ended are left to the workers first.
_MOST_WAITING: Final = 40

# None of those before has yet to come to its end.
_LOOKED_AT: Final = 100

UNFINISHED: Final = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
"""The types of states that no run is left in here."""


@attrs.frozen
class GoingOn:
    """A run that has begun, and whose flow has not come to its end.

    Attributes:
        run: its id.
        pid: of its process.
    """

    run: str
    pid: int


@attrs.define(eq=False)
class Load:
    """The runs that were created.

    Attributes:
        site: where.
        every: seconds from one run to the next.
        chance: how long each takes.
        runs: their ids, and the files of their journals.
        cancelled: those of which somebody wanted the end.
        refused: how often none could be created, since the server was away.
        spared: how often none was, since too many waited.
        waiting: how many have not come to their end, when the server was asked last.
    """

    site: Site
    every: float
    chance: random.Random
    runs: dict[str, Path] = attrs.field(factory=dict)
    cancelled: set[str] = attrs.field(factory=set)
    refused: int = 0
    spared: int = 0
    waiting: int = 0

    async def keep_coming(self) -> None:
        """Create one run after the other."""
        due = trio.current_time()
        while True:
            due = max(due + self.every, trio.current_time())
            await trio.sleep_until(due)
            if self.waiting >= _MOST_WAITING:
                self.spared += 1
                continue
            await self._create()

    async def _create(self) -> None:
        journal = self.site.journals / f"{len(self.runs) + self.refused}.jsonl"
        seconds = self.chance.uniform(_SHORTEST, _LONGEST)
        try:
            with trio.fail_after(20):
                run = await self.site.rest.create_run(
                    self.site.deployment, {"journal": str(journal), "seconds": seconds}
                )
        except (BenchmarkError, trio.TooSlowError):
            self.refused += 1
            return
        self.runs[run] = journal

    async def count_waiting(self) -> int:
        """How many runs have not come to their end."""
        self.waiting = await self.site.rest.count_of(self.site.deployment, UNFINISHED)
        return self.waiting

    def journal(self, run: str) -> Journal:
        """What a run has noted."""
        return read_journal(self.runs[run])

    def going_on(self) -> list[GoingOn]:
        """The runs that have begun and have not come to their end, as far as their journals tell."""
        found: list[GoingOn] = []
        for run in list(self.runs)[-_LOOKED_AT:]:
            journal = self.journal(run)
            if journal.pids and not journal.ended and Path(f"/proc/{journal.pids[-1]}").exists():
                found.append(GoingOn(run, journal.pids[-1]))
        return found
