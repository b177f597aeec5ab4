"""The course of a fault: a worker has a run, suffers, and is watched until all is right, or long enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from benchmarks.apparatus.request_kinds import POLL
from benchmarks.apparatus.rest import Rest, StateSeen
from benchmarks.apparatus.sides import PREFECT, Side, SideName
from benchmarks.apparatus.stage import deploy_flow, make_pool, open_server
from benchmarks.failures import BenchmarkError
from benchmarks.faults.catalogue import Fault
from benchmarks.faults.judgement import Moment, Verdict, is_over, judge
from benchmarks.faults.processes import Onlooker, command_of
from benchmarks.faults.scene import Scene
from benchmarks.faults.supervisor import open_supervisor
from benchmarks.faults.valve import open_valve
from trioworker.errors import sole_errors_bare

WATCH_SECONDS: Final = 60.0
"""How long a run is watched from the moment on from which seconds are counted."""

HELD_SECONDS: Final = 15.0
"""How long all has to be right so that nothing more is waited for."""

LOOK_SECONDS: Final = 0.25
"""Seconds between two looks: no time is known any better."""

_START_SECONDS = 120


@attrs.frozen(kw_only=True)
class Course:
    """What a fault has led to.

    Attributes:
        fault: the key of the fault.
        side: whose worker it was.
        verdict: what became of the run.
        history: all states of the run: its name, what was said, and seconds from the moment that counts.
        left: the command lines of the processes that were left.
        moments: what was seen, wherever it was something new.
        logs: what the workers have written, one text for each.
    """

    fault: str
    side: SideName
    verdict: Verdict
    history: list[dict[str, Any]]
    left: list[str]
    moments: list[Moment]
    logs: list[str]


async def run_faults(
    faults: Sequence[Fault],
    sides: Sequence[SideName],
    pythons: Mapping[str, Path],
    directory: Path,
    *,
    on_course: Callable[[Course], None],
) -> list[Course]:
    """Inflict faults, on one side after the other.

    Args:
        faults: which ones.
        sides: on whom.
        pythons: the interpreter of each side's environment; the server runs in that of Prefect's worker.
        directory: an empty one, for all files.
        on_course: told of each course once it is over.

    Raises:
        BenchmarkError: something went wrong that was no fault of ours; there is nothing to tell then.
    """
    courses: list[Course] = []
    async with open_server(directory, pythons[PREFECT]) as rest:
        for fault in faults:
            for name in sides:
                courses.append(await _play_twice_if_need_be(fault, name, pythons[name], rest, directory))
                on_course(courses[-1])
    return courses


async def _play_twice_if_need_be(
    fault: Fault, name: SideName, python: Path, rest: Rest, directory: Path
) -> Course:
    """Play a course, anew if it did not come as far as the fault: a busy machine must not cost all the others."""

    async def attempt(called: str) -> Course:
        home = directory / called
        home.mkdir()
        with sole_errors_bare():
            return await play(fault, Side(name, python, home, called), rest)

    try:
        return await attempt(f"{fault.key}-{name}")
    except BenchmarkError:
        return await attempt(f"{fault.key}-{name}-again")


async def play(fault: Fault, side: Side, rest: Rest) -> Course:
    """Inflict a fault upon a worker, and see what becomes of its run.

    Raises:
        BenchmarkError: something went wrong before.
    """
    await make_pool(rest, side)
    deployment = await deploy_flow(rest, side, "work.py:work")
    async with (
        open_valve(rest.url) as valve,
        open_supervisor(side, ["--name", side.pool], environment=side.environment(valve.url)) as supervisor,
    ):
        with supervisor.workers[0].patience("to start", _START_SECONDS):
            await valve.sees(POLL)
        scene = Scene(side, rest, valve, supervisor, deployment, side.directory / "journal")
        watch = _Watch(scene)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.keep)
            await fault.inflict(scene)
            moments = await watch.until_over()
            nursery.cancel_scope.cancel()
        history = await rest.history(scene.run)
        zero = _time_of_day(scene.zero)
        return Course(
            fault=fault.key,
            side=side.name,
            verdict=judge(moments, is_cancelled=scene.is_cancelled),
            history=[_state(state, zero) for state in history],
            left=[command_of(pid) for pid in watch.living],
            moments=_changes(moments),
            logs=[worker.log.read_text(errors="replace") for worker in supervisor.workers],
        )


@attrs.define(eq=False)
class _Watch:
    """Sees what becomes of a run.

    Attributes:
        scene: where it is.
        seen: what was seen, with seconds on Trio's clock.
        living: the processes of the run at the last look.
    """

    scene: Scene
    seen: list[Moment] = attrs.field(factory=list)
    living: tuple[int, ...] = ()

    async def keep(self) -> None:
        """Look, again and again."""
        onlooker: Onlooker | None = None
        while True:
            if self.scene.run:
                onlooker = onlooker if onlooker is not None else Onlooker(self.scene.run)
                self.seen.append(await self._look(onlooker))
            await trio.sleep(LOOK_SECONDS)

    async def until_over(self) -> list[Moment]:
        """Wait until all has been right for a while, or long enough; returns what was seen since the fault."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            moments = self._since_fault()
            if moments and (
                is_over(moments, is_cancelled=self.scene.is_cancelled, held=HELD_SECONDS)
                or moments[-1].at >= WATCH_SECONDS
            ):
                return moments

    def _since_fault(self) -> list[Moment]:
        zero, begin = self.scene.zero, self.scene.inflicted_at
        return [attrs.evolve(moment, at=moment.at - zero) for moment in self.seen if moment.at >= begin]

    async def _look(self, onlooker: Onlooker) -> Moment:
        """Look at the processes first: one that has gone has said what it had to say."""
        scene, supervisor = self.scene, self.scene.supervisor
        at = trio.current_time()
        living = supervisor.living
        sight = onlooker.look(
            supervisor.reapers,
            [worker.pid for worker in supervisor.workers],
            living.pid if living is not None else None,
            scene.journal.pids,
        )
        self.living = sight.living
        state = (await scene.rest.call("GET", f"flow_runs/{scene.run}"))["state"]
        journal = scene.journal
        return Moment(
            at=at,
            type=state["type"],
            name=state["name"],
            living=len(sight.living),
            unwatched=len(sight.unwatched),
            began=journal.executions,
            most_of_an_attempt=journal.most_of_an_attempt,
            ended=journal.ended,
        )


def _state(state: StateSeen, zero: datetime) -> dict[str, Any]:
    after = round((state.at - zero).total_seconds(), 1)
    return {"name": state.name, "message": state.message, "after": after}


def _time_of_day(at: float) -> datetime:
    """The time of day at a moment on Trio's clock."""
    return datetime.now(UTC) - timedelta(seconds=trio.current_time() - at)


def _changes(moments: Sequence[Moment]) -> list[Moment]:
    """The moments at which something is new, and the last one."""
    found = [
        moment
        for before, moment in zip([None, *moments], moments, strict=False)
        if before is None or attrs.evolve(before, at=moment.at) != moment
    ]
    return [attrs.evolve(moment, at=round(moment.at, 2)) for moment in found]
