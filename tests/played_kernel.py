"""A kernel that is only played, for tests in which what a process does is up to the test, and so is the time.

It stands below `ProcessGroup`, which takes it for the real one: starts, signals, the ends of processes and who reaps
them. What is done in threads elsewhere is done in place, so that time may be virtual.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import attrs
import pytest
import trio

from trioworker import process_table

# Above all that a real process can have, so that nothing could ever reach one.
_FIRST_PID = 2**22 + 1

T = TypeVar("T")


@attrs.define(eq=False)
class PlayedProcess:
    """A process, as far as the kernel knows it.

    Attributes:
        group: the number of its process group.
        tidies_up: seconds from the first signal that asks it to end to its end; infinite if it ignores those.
        hangs: whether not even SIGKILL ends it.
        argv: what it was started with.
        arguments: how it was started, as `subprocess.Popen` has it.
        status: how it ended; None while it lives.
        told_to_end: whether it tidies up already.
        reaped_at: when it was reaped, in seconds since the beginning.
    """

    kernel: PlayedKernel
    pid: int
    group: int
    tidies_up: float = 0.0
    hangs: bool = False
    argv: Sequence[str] = ()
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    status: int | None = None
    told_to_end: bool = False
    reaped_at: float | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _descriptors: dict[int, int] = attrs.field(factory=dict)
    _watchers: list[int] = attrs.field(factory=list)

    @property
    def is_leader(self) -> bool:
        """Whether it leads its group, and so is a child of ours; all others are somebody's."""
        return self.pid == self.group

    def end(self, status: int) -> None:
        """Come to an end, like one that exits or, with a negative number, one that was killed."""
        if self.status is not None:
            return
        self.status = status
        self._scope.cancel()
        for descriptor in [*self._descriptors.values(), *self._watchers]:
            os.close(descriptor)
        self._descriptors.clear()
        self._watchers.clear()
        if self.is_leader:
            self.kernel.show(self, "Z")
        else:
            self.kernel.forget(self)

    def receive(self, number: signal.Signals) -> None:
        """Get a signal."""
        if number is signal.SIGKILL:
            if not self.hangs:
                self.end(-number)
        elif self.tidies_up == 0:
            self.end(-number)
        elif self.tidies_up < math.inf and not self.told_to_end:
            self.told_to_end = True
            self.kernel.nursery.start_soon(self._end_later, number)

    def write(self, text: str) -> None:
        """Write to standard output."""
        os.write(self._descriptors[1], text.encode())

    def descriptor(self, number: int) -> int:
        """What it has inherited under a number."""
        return self._descriptors[number]

    def inherit(self, number: int, descriptor: int) -> None:
        """Get a descriptor from whoever starts it."""
        self._descriptors[number] = os.dup(descriptor)

    def watch(self) -> int:
        """A descriptor that becomes readable at its end."""
        reader, writer = os.pipe()
        if self.status is None:
            self._watchers.append(writer)
        else:
            os.close(writer)
        return reader

    async def do(self, program: Program) -> None:
        """Run a program and end with the status that it returns."""
        with self._scope:
            self.end(await program(self))

    async def _end_later(self, number: signal.Signals) -> None:
        await trio.sleep(self.tidies_up)
        self.end(-number)


Program = Callable[[PlayedProcess], Awaitable[int]]


async def endless(_: PlayedProcess) -> int:
    """A program that never ends by itself."""
    await trio.sleep_forever()


def ending(status: int) -> Program:
    """A program that ends at once."""

    async def program(_: PlayedProcess) -> int:
        await trio.lowlevel.checkpoint()
        return status

    return program


class PlayedKernel:
    """Knows all processes that were played.

    Attributes:
        program: what the next processes do that are started.
        refusal: raised by the next start instead.
        started: every process that was started, in order.
        has_pidfds: whether there is a `pidfd_open`.
        strays: what was sent to numbers that were nobody's (any more); must stay empty, and is checked to.
        signals: what was sent to groups: seconds since the beginning, and the name of the signal.
    """

    def __init__(self, nursery: trio.Nursery, proc: Path) -> None:
        self.nursery = nursery
        self.program: Program = endless
        self.refusal: Exception | None = None
        self.started: list[PlayedProcess] = []
        self.has_pidfds = True
        self.strays: list[tuple[int, int]] = []
        self.signals: list[tuple[float, str]] = []
        self._processes: dict[int, PlayedProcess] = {}
        self._proc = proc
        self._next_pid = _FIRST_PID
        self._began = trio.current_time()
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "stat").touch()
        # Among the numbers there is more, here as there.
        (proc / "uptime").touch()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return round(trio.current_time() - self._began, 6)

    def is_there(self, process: PlayedProcess) -> bool:
        """Whether its number is in use, be it by a zombie."""
        return process.pid in self._processes

    def leader(self, **traits: Any) -> PlayedProcess:
        """A child of ours that leads a group."""
        return self._add(self._next_pid, **traits)

    def member(self, leader: PlayedProcess, **traits: Any) -> PlayedProcess:
        """Another process of a group."""
        return self._add(leader.group, **traits)

    def _add(self, group: int, **traits: Any) -> PlayedProcess:
        process = PlayedProcess(self, self._next_pid, group, **traits)
        self._next_pid += 1
        self._processes[process.pid] = process
        (self._proc / str(process.pid)).mkdir()
        self.show(process, "S")
        return process

    def show(self, process: PlayedProcess, state: str) -> None:
        """Tell in /proc what a process is at."""
        zeros = "0 " * 16
        stat = f"{process.pid} (a (played) one) {state} {zeros}1 0 0\n"
        (self._proc / str(process.pid) / "stat").write_text(stat)

    def forget(self, process: PlayedProcess) -> None:
        """Reap a process."""
        process.reaped_at = self.now
        del self._processes[process.pid]
        (self._proc / str(process.pid) / "stat").unlink()
        (self._proc / str(process.pid)).rmdir()

    def close(self) -> None:
        """End whatever still lives."""
        for process in list(self._processes.values()):
            process.end(-signal.SIGKILL)

    # What the kernel is asked for, by the names that it has in Python

    def popen(self, argv: Sequence[str], *, start_new_session: bool, **arguments: Any) -> SimpleNamespace:
        assert start_new_session
        if self.refusal is not None:
            raise self.refusal
        process = self.leader(argv=tuple(map(str, argv)), arguments=arguments)
        output = arguments["stdout"]
        if hasattr(output, "fileno"):
            output = output.fileno()
        if output is not None and output >= 0:
            process.inherit(1, output)
        for descriptor in arguments["pass_fds"]:
            process.inherit(descriptor, descriptor)
        self.started.append(process)
        self.nursery.start_soon(process.do, self.program)
        return SimpleNamespace(pid=process.pid, returncode=None)

    def killpg(self, group: int, number: int) -> None:
        members = [process for process in self._processes.values() if process.group == group]
        if not members:
            if number != 0:
                self.strays.append((group, number))
            raise ProcessLookupError(errno.ESRCH, "No such process")
        if number == 0:
            return
        self.signals.append((self.now, signal.Signals(number).name))
        for process in members:
            if process.status is None:
                process.receive(signal.Signals(number))

    def waitid(self, kind: int, pid: int, options: int) -> SimpleNamespace | None:
        assert (kind, options) == (os.P_PID, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        status = self._child(pid).status
        if status is None:
            return None
        return SimpleNamespace(si_status=abs(status), si_code=os.CLD_KILLED if status < 0 else os.CLD_EXITED)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert options == os.WNOHANG
        child = self._child(pid)
        if child.status is None:
            return 0, 0
        self.forget(child)
        return pid, -child.status if child.status < 0 else child.status << 8

    def pidfd_open(self, pid: int) -> int:
        if not self.has_pidfds:
            raise OSError(errno.ENOSYS, "Function not implemented")
        return self._process(pid).watch()

    def getpgid(self, pid: int) -> int:
        return self._process(pid).group

    def _process(self, pid: int) -> PlayedProcess:
        try:
            return self._processes[pid]
        except KeyError:
            raise ProcessLookupError(errno.ESRCH, "No such process") from None

    def _child(self, pid: int) -> PlayedProcess:
        with suppress(ProcessLookupError):
            process = self._process(pid)
            if process.is_leader:
                return process
        raise ChildProcessError(errno.ECHILD, "No child processes")


async def _in_place(
    function: Callable[..., T], *arguments: Any, abandon_on_cancel: bool = False, **_: object
) -> T:
    # A thread is waited for to its end unless it may be abandoned; both look for a cancellation first.
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@pytest.fixture
async def kernel(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlayedKernel]:
    """Plays the kernel for the length of a test; what still lives at the end of it is ended."""
    await trio.lowlevel.checkpoint()
    proc = tmp_path / "kernel" / "proc"
    played = PlayedKernel(nursery, proc)
    for name in ("killpg", "waitid", "waitpid", "pidfd_open", "getpgid"):
        monkeypatch.setattr(os, name, getattr(played, name))
    monkeypatch.setattr(subprocess, "Popen", played.popen)
    monkeypatch.setattr(process_table, "_PROC", proc)
    monkeypatch.setattr(trio.to_thread, "run_sync", _in_place)
    yield played
    played.close()
    assert played.strays == []
