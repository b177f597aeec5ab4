"""What the kernel says of processes: time on the processor, memory, connections. Linux only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.apparatus.reaper import descendants
from benchmarks.failures import BenchmarkError

__all__ = ["descendants", "owns_socket", "pss", "resident", "socket_between", "time_of", "time_of_tree"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_KILOBYTE = 1024
_PROCESS_CLOCK = 2

# 127.0.0.1 as /proc/net/tcp has it, and how long a line of that is at the most.
_LOOPBACK = f"{int.from_bytes(bytes([127, 0, 0, 1]), sys.byteorder):08X}"
_LINE = 150


def time_of(pid: int) -> float:
    """Seconds that a process has been on the processor, all of its threads together; 0 if it is gone.

    It is read from the process's own clock (`clock_getcpuclockid(3)`), which counts nanoseconds, where /proc has
    hundredths of a second.
    """
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return 0.0


def time_of_tree(root: int) -> float:
    """Seconds that a process, all below it, and all that these have ever reaped have been on the processor.

    The root should be a subreaper, so that somebody reaps whatever ends. The time of what was reaped comes in
    hundredths of a second, rounded down, once for each process that lives.

    Raises:
        BenchmarkError: a process lets its children vanish unreaped, so that nobody knows what they took.
    """
    tree = [root, *descendants(root)]
    if any(_ignores_ends(pid) for pid in tree):
        raise BenchmarkError("a process ignores SIGCHLD: the time of its children is lost")
    return sum(time_of(pid) + _time_of_reaped(pid) for pid in tree)


def _ignores_ends(pid: int) -> bool:
    """Whether a process ignores SIGCHLD, which has the kernel reap its children for it, and forget their time."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    ignored = next((int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:")), 0)
    return bool(ignored >> (signal.SIGCHLD - 1) & 1)


def _time_of_reaped(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    user, system = stat[stat.rindex(b")") + 1 :].split()[13:15]
    return (int(user) + int(system)) * _TICK


def resident(pid: int, *, peak: bool = False) -> int:
    """Bytes of a process that are in memory (RSS), now or at the most since `forget_peak`."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    return _field(Path(f"/proc/{pid}/status"), wanted)


def forget_peak(pid: int) -> None:
    """Have the peak of a process's memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def pss(pids: Iterable[int]) -> int:
    """Bytes that processes take together, each shared page divided by how many share it (PSS)."""
    return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids)


def _field(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * _KILOBYTE for line in lines if line.startswith(name)), 0)


def socket_between(port: int, peer: int) -> int | None:
    """The inode of the socket on `port` of 127.0.0.1 that is connected to `peer` there; None if there is none."""
    wanted = f" {_LOOPBACK}:{port:04X} {_LOOPBACK}:{peer:04X} ".encode()
    table = Path("/proc/net/tcp").read_bytes()
    place = table.find(wanted)
    if place < 0:
        return None
    return int(table[place : place + _LINE].split()[8]) or None


def owns_socket(pid: int, inode: int) -> bool:
    """Whether a process has a socket open."""
    wanted = f"socket:[{inode}]"
    try:
        return any(_target(entry) == wanted for entry in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""
