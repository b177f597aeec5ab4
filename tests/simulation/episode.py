"""One seed, from the beginning to the judgement."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs
import trio
import trio.testing

from .bugs import Collector, bugs_collected
from .determinism import determined_by
from .faults import Fault, Kind, Plan, draw_plan
from .judgement import open_questions
from .world import World, make_world

__all__ = ["Result", "play"]

# Seconds within which faults come, and runs are scheduled.
_FAULTS_WITHIN: Final = 120.0
_RUNS_WITHIN: Final = 60.0

# Seconds that everything has to come to its end, when all faults are over, and between two looks whether it has.
_PATIENCE: Final = 3 * 3600.0
_LOOK: Final = 10.0


@attrs.frozen(kw_only=True)
class Result:
    """What came of a seed.

    Attributes:
        seed: the seed.
        faults: that came besides those of the seed.
        violations: of the promise; none if all is well.
        trace: what has happened, line by line.
        met: the faults that came, by kind and step.
        steps: how often each step was reached.
        runs: how many flow runs there were.
        claimed: how many of them a worker has claimed.
        bodies: how often a body was executed.
        workers: how many workers there were.
        requests: how many requests they made.
        seconds: of virtual time.
    """

    seed: int
    faults: Sequence[Fault] = ()
    violations: Sequence[str] = ()
    trace: Sequence[str] = ()
    met: Counter[tuple[Kind, str]] = attrs.field(factory=Counter)
    steps: Counter[str] = attrs.field(factory=Counter)
    runs: int = 0
    claimed: int = 0
    bodies: int = 0
    workers: int = 0
    requests: int = 0
    seconds: float = 0.0


@attrs.define
class _Episode:
    """An episode that goes on.

    Attributes:
        chance: by which it goes.
        faults: besides those that chance has.
        log: what the workers log.
        violations: what was found in the end.
        world: its world, once there is one.
        runs: how many flow runs there are.
    """

    chance: random.Random
    faults: Sequence[Fault]
    log: Collector
    violations: list[str] = attrs.field(factory=list)
    world: World | None = None
    runs: int = 0

    async def play(self) -> None:
        self.runs = self.chance.choice([1, 1, 2, 3, 4])
        plan = Plan([*draw_plan(self.chance, _FAULTS_WITHIN), *self.faults])
        async with trio.open_nursery() as nursery:
            self.world = world = make_world(self.chance, plan, nursery)
            self.log.tell = world.tell
            nursery.start_soon(world.schedule_runs, self.runs, _RUNS_WITHIN)
            nursery.start_soon(world.have_timed_faults)
            world.start_worker()
            await trio.sleep(_FAULTS_WITHIN)
            await world.wait_untroubled()
            world.finish()
            await self._wait_for_the_end(world)
            world.tell("the end")
            for incarnation in world.incarnations:
                incarnation.fence.fall()
            nursery.cancel_scope.cancel()

    async def _wait_for_the_end(self, world: World) -> None:
        """Wait until all is as it must be; if that takes too long, or something was wrong before, no longer."""
        deadline = trio.current_time() + _PATIENCE
        while not world.monitor.violations:
            world.tend()
            questions = open_questions(world)
            if not questions:
                return
            if trio.current_time() > deadline:
                self.violations += questions
                return
            if world.is_troubled:
                # By a fault that came at a step when no other was left.
                await world.wait_untroubled()
                deadline = trio.current_time() + _PATIENCE
            await trio.sleep(_LOOK)


def play(seed: int, *faults: Fault, talkative: bool = False) -> Result:
    """Play an episode.

    Args:
        seed: by which everything in it goes.
        faults: that come besides those that the seed has; up to the first of them, all is as without them.
        talkative: whether what the workers log is told among what happens.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    with determined_by(seed) as chance, bugs_collected(talkative=talkative) as log:
        episode = _Episode(chance, faults, log)
        try:
            trio.run(episode.play, clock=clock)
        except Exception as error:  # noqa: BLE001 - a worker has broken down, or the simulation has
            episode.violations.append("".join(traceback.format_exception(error)))
    world = episode.world
    if world is None:
        return Result(seed=seed, faults=faults, violations=episode.violations)
    return Result(
        seed=seed,
        faults=faults,
        violations=[*world.monitor.violations, *episode.violations, *log.bugs],
        trace=world.trace,
        met=world.plan.met,
        steps=world.steps,
        runs=episode.runs,
        claimed=len(world.monitor.claimed),
        bodies=sum(world.monitor.begun.values()),
        workers=len(world.incarnations),
        requests=world.network.requests,
        seconds=clock.current_time(),
    )
