"""Which processes of a run there are, and whether a worker watches them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.apparatus.reaper import descendants, parent_of

_GONE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
_ENDED: Final = frozenset({"Z", "X"})


@attrs.frozen
class Sight:
    """What was seen at one moment.

    Attributes:
        living: the processes of the run.
        unwatched: those of them that no living worker watches.
    """

    living: tuple[int, ...] = ()
    unwatched: tuple[int, ...] = ()


@attrs.define
class Onlooker:
    """Looks for the processes of a run, wherever they have gone.

    Of the run is what has its id in its environment, what the flow has noted as its own process, and what these have
    started; and whatever else a dead worker has left behind. A worker watches what is below it, and what it holds a
    pidfd of (`pidfd_open(2)`), with all that is below that.

    Attributes:
        run: the id of the run.
        known: what was found to be of the run, by pid and start: it stays so when its parent has gone.
    """

    run: str
    known: set[tuple[int, str]] = attrs.field(factory=set)

    def look(
        self, reapers: Iterable[int], workers: Sequence[int], living: int | None, noted: Iterable[int]
    ) -> Sight:
        """Look.

        Args:
            reapers: those below whom all of the workers are, with all that these have started.
            workers: all workers there have been.
            living: the one that lives, if any.
            noted: the processes that the flow has noted.
        """
        noted = set(noted)
        of_run: list[int] = []
        watchers = {living, *_held_by(living)} if living is not None else set()
        below = [(pid, reaper) for reaper in reapers for pid in descendants(reaper)]
        unwatched: list[int] = []
        for pid, reaper in below:
            state, begun = _state_of(pid)
            if state in _ENDED or pid in workers:
                continue
            ancestors = _ancestors(pid, reaper)
            if (
                (pid, begun) in self.known
                or pid in noted
                or self._is_marked(pid)
                or not set(of_run).isdisjoint(ancestors)
                or living not in ancestors
            ):
                self.known.add((pid, begun))
                of_run.append(pid)
                if watchers.isdisjoint({pid, *ancestors}):
                    unwatched.append(pid)
        return Sight(tuple(of_run), tuple(unwatched))

    def _is_marked(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except _GONE:
            return False
        return f"PREFECT__FLOW_RUN_ID={self.run}".encode() in environment.split(b"\0")


def command_of(pid: int) -> str:
    """The command line of a process, without the directories in it; empty if it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except _GONE:
        return ""
    return " ".join(word.rpartition(b"/")[2].decode(errors="replace") for word in words).strip()


def _state_of(pid: int) -> tuple[str, str]:
    """The state of a process, and when it was started; as one that has ended if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode("latin-1")
    except _GONE:
        return "X", ""
    fields = stat[stat.rindex(")") + 1 :].split()
    return fields[0], fields[19]


def _ancestors(pid: int, reaper: int) -> list[int]:
    """All that are above a process, up to the reaper."""
    found: list[int] = []
    while (pid := parent_of(pid)) not in {0, 1, reaper}:
        found.append(pid)
    return found


def _held_by(pid: int) -> set[int]:
    """The processes of which a process has a pidfd."""
    held: set[int] = set()
    try:
        entries = list(Path(f"/proc/{pid}/fdinfo").iterdir())
    except _GONE:
        return held
    for entry in entries:
        try:
            lines = entry.read_text().splitlines()
        except _GONE:
            continue
        held.update(int(line.split()[1]) for line in lines if line.startswith("Pid:"))
    return held
