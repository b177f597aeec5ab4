"""Has the same deployments run by two workers, side by side, and compares what comes of them.

By the stock worker and by ours: `make parity`. By ours with fresh and with warm starts: `make parity-warm`, and a
selection of it in the test suite. All of it takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import httpx
import processes
import trio
from accepted import ACCEPTED, EVERY_CASE, Accepted
from accepted_warm import ACCEPTED_WARM
from compare import Comparison, compare, unused
from matrix import CASES
from observe import Observation, observe, observe_side
from play import Case, Play, PlayError
from report import show, write
from rest import MissingError
from rich.console import Console
from rich.markup import escape
from stage import KINDS, Side, Stage, open_stage

WORKERS = "the-workers-themselves"


@attrs.define
class Progress:
    """Says how far we are.

    Attributes:
        console: where.
        total: how many plays there are.
        done: how many are over.
    """

    console: Console
    total: int
    done: int = 0

    def over(self, play: Play, seconds: float) -> None:
        """Say that a case was played on one side."""
        self.done += 1
        troubles = "; ".join([*play.troubles, *filter(None, [play.spoilt])])
        name = f"{play.case.name} ({play.side.name.removeprefix('parity-')})"
        self.console.print(
            f"[{self.done}/{self.total}] {name} {seconds:.0f} s [red]{escape(troubles)}[/]", highlight=False
        )


async def perform(
    cases: Sequence[Case],
    kinds: tuple[str, str],
    *,
    limit: int,
    directory: Path,
    console: Console,
    server: str | None,
) -> list[Comparison]:
    """Play all cases on both sides, and compare them.

    Args:
        cases: which.
        kinds: which worker each side has.
        limit: how many cases are played at a time.
        directory: an empty one, for all files.
        console: where progress is shown.
        server: the API of a server that is there already; None to start one.
    """
    pools = {case.pool for case in cases}
    if server is None:
        console.print("Starting a Prefect server ...")
    async with open_stage(directory, kinds, server) as stage:
        await stage.make_pools(pools)
        plays = [(Play(case, stage.sides[0], stage), Play(case, stage.sides[1], stage)) for case in cases]
        await _play_all(plays, stage, pools, limit, console)
        console.print("Looking at what became of them ...")
        await stage.all_events_are_stored()
        accepted = _accepted(kinds)
        comparisons = [await _compare_plays(*pair, accepted) for pair in plays]
        codes = {pool: process.returncode or 0 for pool, process in stage.workers.items()}
        one, two = [await observe_side(stage, side, pools, codes) for side in stage.sides]
        about = "Their exit codes, their own events, and what they leave behind."
        return [*comparisons, compare(WORKERS, about, (one, two), accepted)]


async def _play_all(
    plays: list[tuple[Play, Play]], stage: Stage, pools: set[str], limit: int, console: Console
) -> None:
    progress = Progress(console, 2 * len(plays))
    places = trio.CapacityLimiter(limit)
    early = [play for pair in plays for play in pair if play.case.early]
    async with trio.open_nursery() as nursery:
        for play in early:
            nursery.start_soon(_play, play, progress)
        for play in early:
            await play.prepared.wait()
        console.print(f"Starting {2 * len(pools)} workers ...")
        async with stage.working(pools):
            async with trio.open_nursery() as others:
                for pair in sorted(plays, key=lambda pair: not pair[0].case.slow):
                    if not pair[0].case.early:
                        # Here, since tasks that are started together begin in any order.
                        await places.acquire_on_behalf_of(pair)
                        others.start_soon(_play_pair, pair, progress, places)
            for play in early:
                await play.over.wait()
            await _leftovers_are_gone(stage.sides)
            console.print("Stopping the workers ...")


async def _play_pair(pair: tuple[Play, Play], progress: Progress, places: trio.CapacityLimiter) -> None:
    async with trio.open_nursery() as nursery:
        for play in pair:
            nursery.start_soon(_play, play, progress)
    places.release_on_behalf_of(pair)


async def _play(play: Play, progress: Progress) -> None:
    began = trio.current_time()
    try:
        await play.case.play(play)
    except (PlayError, MissingError, httpx.HTTPError) as error:
        # One case that cannot be played is a difference; the others are worth seeing all the same.
        play.spoilt = f"{type(error).__name__}: {error}"
    finally:
        play.prepared.set()
        play.over.set()
    progress.over(play, trio.current_time() - began)


async def _leftovers_are_gone(sides: Sequence[Side]) -> None:
    """Give what is on its way out a moment; what remains is seen later."""
    workers_alone = partial(_only_known, sides)
    with trio.move_on_after(10):
        while not workers_alone():  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.2)


def _only_known(sides: Sequence[Side]) -> bool:
    found = [environment for side in sides for environment in processes.marked(side.mark).values()]
    return not any("PREFECT__FLOW_RUN_ID" in environment for environment in found)


async def _compare_plays(one: Play, two: Play, accepted: Sequence[Accepted]) -> Comparison:
    sides: tuple[Observation, Observation] = (await observe(one), await observe(two))
    return compare(one.case.name, one.case.description, sides, accepted)


def _shorten_logs(stage: Path) -> None:
    """Take out of the workers' output what one of the cases floods it with."""
    for log in stage.glob("*/worker-*.log"):
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(line for line in lines if not line.startswith(b"xxxxxxxx")))


def _playable(kinds: tuple[str, str]) -> list[Case]:
    """The cases that say something of two kinds of workers."""
    return [case for case in CASES if case.alike or "stock" not in kinds]


def _accepted(kinds: tuple[str, str]) -> Sequence[Accepted]:
    """The differences that are meant between two kinds of workers."""
    return {("stock", "ours"): ACCEPTED, ("fresh", "warm"): ACCEPTED_WARM}.get(kinds, [])


def _rotten(cases: Sequence[Case], kinds: tuple[str, str], comparisons: list[Comparison]) -> list[Accepted]:
    """Accepted differences that should have occurred in these cases, and did not."""
    names = {case.name for case in cases} | {WORKERS}
    # Whatever a warm start changes is seen in any snapshot.
    whole = "snapshot" in names if kinds == ("fresh", "warm") else len(cases) == len(_playable(kinds))
    wanted = [
        entry for entry in _accepted(kinds) if entry.case in names or (whole and entry.case == EVERY_CASE)
    ]
    return unused(wanted, comparisons)


def main() -> int:
    """Run the matrix; 0 if every difference is accepted and every accepted difference occurs."""
    options = _options()
    console = Console() if sys.stdout.isatty() else Console(width=170)
    if options.list:
        for case in CASES:
            console.print(f"{case.name:40} {case.description}", highlight=False, markup=False)
        return 0
    kinds: tuple[str, str] = (options.worker_a, options.worker_b)
    wanted = set(options.only or [case.name for case in _playable(kinds)])
    if unknown := wanted - {case.name for case in CASES}:
        console.print(f"There is no case {', '.join(sorted(unknown))}; --list shows all of them.")
        return 2
    cases = [case for case in CASES if case.name in wanted]
    output = options.output or Path(tempfile.mkdtemp(prefix="parity-"))
    output.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix="stage-", dir=output.resolve()))
    began = time.monotonic()
    play_them = partial(perform, limit=options.limit, directory=stage, console=console, server=options.server)
    comparisons = trio.run(play_them, cases, kinds)
    _shorten_logs(stage)
    rotten = _rotten(cases, kinds, comparisons)
    show(comparisons, rotten, console)
    write(comparisons, rotten, kinds, output)
    differing = sum(comparison.verdict == "differs" for comparison in comparisons)
    console.print(
        f"{len(comparisons)} rows, {differing} of them differ; {time.monotonic() - began:.0f} s; see {output}"
    )
    return 1 if differing or rotten else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="CASE", help="play these cases only")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument(
        "--limit", type=int, default=4, help="how many cases are played at a time (%(default)s)"
    )
    parser.add_argument("--output", type=Path, help="directory for parity.json, parity.md and all logs")
    parser.add_argument("--server", metavar="URL", help="the API of a server that is there already")
    for side, default in (("a", "stock"), ("b", "ours")):
        parser.add_argument(f"--worker-{side}", choices=KINDS, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
