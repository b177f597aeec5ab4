"""What a flow sees of its process that the kernel keeps: descriptors, signals, limits, relations."""

import ctypes
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

# Other threads open connections while a flow begins.
_QUIET_SECONDS = 0.5

# Read just now by another thread, or not.
_CERTIFICATES = ".crt"

_PR_GET_PDEATHSIG = 2
_PR_GET_DUMPABLE = 3
_PR_GET_KEEPCAPS = 7
_PR_GET_TIMERSLACK = 30
_PR_GET_CHILD_SUBREAPER = 37

# What stands in /proc/self/status that a process has from others, or has chosen, and is not counted.
_STATUS = re.compile(
    r"(?:Name|Umask|Uid|Gid|Groups|SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt|Cap\w+|NoNewPrivs|Seccomp\w*"
    r"|\w*Spec\w*|Cpus_allowed_list|Mems_allowed_list|CoreDumping|THP_enabled|TracerPid):"
)


def settle() -> None:
    """Wait until the other threads have opened and started what they were about to."""
    before, since = None, time.monotonic()
    while time.monotonic() < since + _QUIET_SECONDS:
        now = (sorted(_numbers_in("/proc/self/fd")), sorted(_numbers_in("/proc/self/task")))
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.02)


def descriptors() -> dict[str, Any]:
    """The open descriptors: what they are, and how they are opened."""
    open_ones = {}
    for number in sorted(_numbers_in("/proc/self/fd")):
        # That of the listing itself is closed by now, and other threads close some of theirs.
        with suppress(OSError):
            open_ones[number] = _descriptor(number)
    beyond = [what for number, what in open_ones.items() if number > 2 and _CERTIFICATES not in what]
    counts = {f"number of {what}": count for what, count in Counter(beyond).items()}
    # Connections to the server come and go.
    connections = {name: "some" for name in counts if "AF_INET" in name}
    return {**{str(number): open_ones.get(number) for number in range(3)}, **counts, **connections}


def _numbers_in(directory: str) -> set[int]:
    return {int(path.name) for path in Path(directory).iterdir()}


def _descriptor(number: int) -> str:
    kind = re.sub(r":\[\d+\]$", "", str(Path(f"/proc/self/fd/{number}").readlink()))
    flags = re.search(r"flags:\s*(\d+)", Path(f"/proc/self/fdinfo/{number}").read_text())
    kept = "kept" if os.get_inheritable(number) else "closed on exec"
    access = int(flags[1], 8) & ~os.O_CLOEXEC if flags else 0
    return f"{_family(number) if kind == 'socket' else kind} {access:o} {kept}"


def _family(number: int) -> str:
    with socket.socket(fileno=os.dup(number)) as copy:
        return f"socket {copy.family.name} {copy.type.name}"


def relations() -> dict[str, Any]:
    """Where the process stands among others."""
    pid = os.getpid()
    return {
        "leads its group": os.getpgrp() == pid,
        "leads its session": os.getsid(0) == pid,
        "parent": _command_line_of(os.getppid()),
        "has a terminal": _has_terminal(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "scheduling": os.sched_getscheduler(0),
        "children": len(Path("/proc/thread-self/children").read_text().split()),
        "name": Path("/proc/self/comm").read_text().strip(),
        "command line": _command_line_of(pid),
        "program": str(Path("/proc/self/exe").readlink()),
        "root": str(Path("/proc/self/root").readlink()),
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "badness": Path("/proc/self/oom_score_adj").read_text(),
        "coredump filter": Path("/proc/self/coredump_filter").read_text(),
        "personality": Path("/proc/self/personality").read_text(),
        "directory": str(Path.cwd()),
    }


def kernel() -> dict[str, Any]:
    """What the kernel says of the process, and what it was asked for about it."""
    status = Path("/proc/self/status").read_text().splitlines()
    lines = dict(line.split(":\t", 1) for line in status if _STATUS.match(line))
    prctl = ctypes.CDLL(None).prctl
    number = ctypes.c_int(-1)
    for name, option in (("dies with parent", _PR_GET_PDEATHSIG), ("reaps orphans", _PR_GET_CHILD_SUBREAPER)):
        prctl(option, ctypes.byref(number), 0, 0, 0)
        lines[name] = str(number.value)
    for name, option in (
        ("dumpable", _PR_GET_DUMPABLE),
        ("keeps capabilities", _PR_GET_KEEPCAPS),
        ("timer slack", _PR_GET_TIMERSLACK),
    ):
        lines[name] = str(prctl(option, 0, 0, 0, 0))
    return lines


def limits() -> dict[str, Any]:
    """The resource limits."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def signals() -> dict[str, Any]:
    """What each signal does, and which are blocked."""
    seen: dict[str, Any] = {
        _signal_name(number): _handler(number) for number in sorted(signal.valid_signals())
    }
    seen["blocked"] = sorted(map(_signal_name, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    seen["pending"] = sorted(map(_signal_name, signal.sigpending()))
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"):
        seen[name] = str(signal.getitimer(getattr(signal, name)))
    if threading.current_thread() is threading.main_thread():
        wakes = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakes)
        seen["wakes"] = "somebody" if wakes >= 0 else "nobody"
    return seen


def threads() -> dict[str, Any]:
    """The threads, by names, and whether what Python believes of them is so."""
    main = threading.main_thread()
    numbers = _numbers_in("/proc/self/task")
    known = {thread.native_id for thread in threading.enumerate()}
    return {
        "names": sorted(f"{thread.name} {_kind(thread)}" for thread in threading.enumerate()),
        "main is the leader": main.native_id == os.getpid(),
        "main": f"{main.name} {_kind(main)}",
        "here": threading.current_thread().name,
        "identity is known": threading.current_thread().ident == threading.get_ident(),
        "native identity is known": threading.current_thread().native_id == threading.get_native_id(),
        "known to Python only": len(known - numbers),
        "known to the kernel only": len(numbers - known),
        "stack size": threading.stack_size(),
        "exceptions": threading.excepthook is threading.__excepthook__,
        "traced": threading.gettrace() is not None,
        "switch interval": sys.getswitchinterval(),
    }


def _kind(thread: threading.Thread) -> str:
    return f"{type(thread).__name__}{' daemon' if thread.daemon else ''}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _handler(number: int) -> str:
    handler = signal.getsignal(number)
    if isinstance(handler, signal.Handlers):
        return handler.name
    # Of a partial, what it is a part of.
    return str(getattr(getattr(handler, "func", handler), "__qualname__", handler))


def _command_line_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True
