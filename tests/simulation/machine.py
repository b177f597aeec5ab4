"""A machine: processes, which live for themselves, and whose numbers are given away again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final
from uuid import UUID

import attrs
import trio

from trioworker.api.models import State
from trioworker.infrastructure.protocol import Intent

# So few that a number is soon another process's.
_FIRST: Final = 100
_NUMBERS: Final = 12

TERMINATED: Final = -15
KILLED: Final = -9


@attrs.define(eq=False)
class Process:
    """A process. It is the leader of a group, or of the group of one.

    Attributes:
        pid: its number.
        started: the moment of its start, as the kernel counts; no two processes of a boot share one.
        flow_run_id: the run that its environment names.
        leader: of its group; None if it is one itself.
        ignores_terminate: whether it takes no notice of SIGTERM.
        reachable: whether it can be told why it is to end.
        released: set when it may begin; until then it ends with who has started it.
        status: how it ended; None while it lives.
        ended: set when it has.
        told: why it is to end.
        reported: what it has told the API of how its run has ended; None if it has not.
        conclusion: what it has said of how its run ended, over the channel that its worker holds.
        terminated: set when it gets SIGTERM and takes notice.
        life: what it does.
        noted: whether a worker has written its number down.
        members: the other processes of its group.
    """

    pid: int
    started: int
    flow_run_id: UUID
    leader: Process | None = None
    ignores_terminate: bool = False
    reachable: bool = True
    released: trio.Event = attrs.field(factory=trio.Event)
    status: int | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    told: Intent | None = None
    reported: str | None = None
    conclusion: State | None = None
    terminated: trio.Event = attrs.field(factory=trio.Event)
    life: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    noted: bool = False
    members: list[Process] = attrs.field(factory=list)

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.status is None

    @property
    def group(self) -> list[Process]:
        """Who lives of its group."""
        return [process for process in (self, *self.members) if process.lives]

    def terminate(self) -> None:
        """Send it SIGTERM."""
        if self.lives and not self.ignores_terminate:
            self.terminated.set()

    def end(self, status: int) -> None:
        """Let it be gone."""
        if self.status is None:
            self.status = status
            self.life.cancel()
            self.ended.set()


class Machine:
    """All processes since the last boot.

    Args:
        chance: gives numbers to processes.

    Attributes:
        boot: how often it was started.
        on_start: called with each process that leads a group.
    """

    def __init__(self, chance: random.Random) -> None:
        self.boot: int = 1
        self.on_start: Callable[[Process], None] = lambda _: None
        self._chance = chance
        self._ticks = 0
        self._processes: list[Process] = []

    @property
    def leaders(self) -> list[Process]:
        """The processes that lead a group, dead ones with living members included."""
        return [process for process in self._processes if process.leader is None and process.group]

    def leader_of(self, flow_run_id: UUID) -> Process | None:
        """The living leader of a group that has this run in its environment."""
        return next(
            (each for each in self.leaders if each.lives and each.flow_run_id == flow_run_id),
            None,
        )

    def alive_of(self, flow_run_id: UUID) -> list[Process]:
        """Every living process that was started for a run."""
        return [
            process for process in self._processes if process.lives and process.flow_run_id == flow_run_id
        ]

    def at(self, pid: int, started: int) -> Process | None:
        """The leader with this number and start, if anybody of its group lives."""
        return next((each for each in self.leaders if (each.pid, each.started) == (pid, started)), None)

    def start(self, flow_run_id: UUID, *, ignores_terminate: bool = False, reachable: bool = True) -> Process:
        """Start a process that leads a group, and waits to be released."""
        process = Process(
            self._free_number(),
            self._tick(),
            flow_run_id,
            ignores_terminate=ignores_terminate,
            reachable=reachable,
        )
        self._processes.append(process)
        self.on_start(process)
        return process

    def fork(self, leader: Process, *, ignores_terminate: bool) -> Process:
        """Start a process in the group of another."""
        member = Process(
            self._free_number(),
            self._tick(),
            leader.flow_run_id,
            leader=leader,
            ignores_terminate=ignores_terminate,
        )
        leader.members.append(member)
        self._processes.append(member)
        return member

    def reboot(self) -> None:
        """End everything, and count from the beginning."""
        self.boot += 1
        self._ticks = 0
        for process in self._processes:
            process.end(KILLED)
        self._processes.clear()

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _free_number(self) -> int:
        # As the kernel: not one of a process that lives, nor of a group of which somebody does.
        self._processes = [each for each in self._processes if each.lives or each.group]
        taken = {process.pid for process in self._processes}
        numbers = [number for number in range(_FIRST, _FIRST + _NUMBERS) if number not in taken]
        return self._chance.choice(numbers) if numbers else max(taken) + 1
