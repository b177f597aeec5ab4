"""What Linux tells of any process, by way of /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trioworker.lean_attrs import frozen

__all__ = ["ProcessStatus", "environment_of", "is_there", "lives", "look_up", "process_ids"]

_PROC: Final = Path("/proc")

_ENDED: Final = {"Z", "X"}


@frozen(kw_only=True)
class ProcessStatus:
    """A process as it is just now.

    Attributes:
        pid: its number.
        lives: whether it is more than a zombie.
        group: the number of its process group.
        session: the number of its session.
        started: when it was started, in ticks of the kernel's clock since the machine was. Two processes that had
            the same number, one after the other, differ in it.
    """

    pid: int
    lives: bool
    group: int
    session: int
    started: int


def is_there() -> bool:
    """Whether the system has such a table."""
    return _PROC.joinpath("self", "stat").exists()


def process_ids() -> Iterator[int]:
    """The numbers of all processes; some of them may have ended when they are looked up."""
    for entry in os.listdir(_PROC):  # noqa: PTH208  (ten times as fast as Path.iterdir)
        if entry.isdecimal():
            yield int(entry)


def look_up(pid: int) -> ProcessStatus | None:
    """A process; None if there is none of this number."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may contain anything, parentheses and spaces included.
    fields = stat[stat.rindex(b")") + 1 :].split()
    return ProcessStatus(
        pid=pid,
        # A process whose main thread ended before the others shows as a zombie too.
        lives=fields[0].decode() not in _ENDED or int(fields[17]) > 1,
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
    )


def lives(pid: int) -> bool:
    """Whether there is a process of this number that is more than a zombie."""
    process = look_up(pid)
    return process is not None and process.lives


def environment_of(pid: int) -> frozenset[bytes]:
    """What a process was started with in its environment, each as `NAME=value`; nothing if we may not know."""
    try:
        return frozenset((_PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return frozenset()
