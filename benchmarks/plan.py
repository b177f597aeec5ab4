"""How often each thing is done."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class Plan:
    """How much there is to measure.

    Attributes:
        name: what it is called in the report.
        starts: how often each worker is started and stopped.
        rounds: how often each serves for a while: idle, single runs, cancellations and a burst.
        idle_seconds: how long it is watched idle, each time.
        singles: single runs in a round, after the very first.
        cancellations: runs that are cancelled, in a round.
        burst: runs at once.
        commands: by how many trivial commands are dispatched at once, how often that is done.
        calls: calls of plain functions that trioworker serves without a process.
    """

    name: str
    starts: int
    rounds: int
    idle_seconds: float
    singles: int
    cancellations: int
    burst: int
    commands: Mapping[int, int]
    calls: int

    @property
    def steps(self) -> int:
        """Lines of progress that this makes, both sides together."""
        of_each = self.starts + self.rounds + sum(self.commands.values())
        return 2 * of_each + 1


FULL = Plan(
    name="full",
    starts=12,
    rounds=3,
    idle_seconds=30,
    singles=3,
    cancellations=2,
    burst=20,
    commands={100: 3, 500: 2, 2000: 2},
    calls=10,
)

QUICK = Plan(
    name="quick",
    starts=1,
    rounds=1,
    idle_seconds=5,
    singles=1,
    cancellations=0,
    burst=5,
    commands={50: 1},
    calls=2,
)
