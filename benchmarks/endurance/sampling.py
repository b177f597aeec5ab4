"""What the worker takes that is never killed, and what all of them leave on the disk, looked at every so often."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import trio

from benchmarks.apparatus import proc
from benchmarks.endurance.load import Load
from benchmarks.endurance.site import STEADY, Site
from benchmarks.failures import BenchmarkError

EVERY: Final = 10.0
"""Seconds between two looks."""


@attrs.frozen(kw_only=True)
class Sample:
    """What was seen at one moment.

    Attributes:
        at: seconds since the beginning.
        resident: bytes of the steady worker in memory.
        descriptors: how many it has open.
        threads: how many it has.
        ledgers: bytes of all ledger files.
        directories: temporary directories, of runs mostly.
        created: runs so far.
        waiting: runs that have not come to their end.
    """

    at: float
    resident: int
    descriptors: int
    threads: int
    ledgers: int
    directories: int
    created: int
    waiting: int


async def keep_sampling(site: Site, load: Load, begun: float, samples: list[Sample]) -> None:
    """Look every so often, until it is cancelled."""
    while True:
        try:
            with trio.move_on_after(EVERY):
                await load.count_waiting()
        except BenchmarkError:
            # The server is away. What was known last has to do.
            pass
        samples.append(_look(site, load, trio.current_time() - begun))
        await trio.sleep(EVERY)


def _look(site: Site, load: Load, at: float) -> Sample:
    pid = site.workers[STEADY].workers[-1].pid
    return Sample(
        at=at,
        resident=proc.resident(pid),
        descriptors=_entries(Path(f"/proc/{pid}/fd")),
        threads=_entries(Path(f"/proc/{pid}/task")),
        ledgers=sum(_size(file) for file in site.home.rglob("*.sqlite*")),
        directories=_entries(site.temporary),
        created=len(load.runs),
        waiting=load.waiting,
    )


def _entries(directory: Path) -> int:
    try:
        return sum(1 for _ in directory.iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
