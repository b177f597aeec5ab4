"""Processes that are nobody's children here, as those of a worker that is gone, and numbers that are used again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from trioworker import process_table

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")

OBEDIENT = "print('ready', flush=True); import time; time.sleep(600)"

STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{OBEDIENT}"


def parent_of(child: str, rest: str = "time.sleep(600)", environment: str = "None") -> str:
    """A program that starts a child, says its pid once the child is ready, then goes on as told."""
    return f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, env={environment})
child.stdout.readline()
print(child.pid, flush=True)
{rest}
"""


class Orphan:
    """A process whose parent is gone, and which leads a session of its own.

    Attributes:
        pid: its number.
        started: the moment of its start.
    """

    def __init__(self, pid: int, output: trio.lowlevel.FdStream) -> None:
        self.pid = pid
        process = process_table.look_up(pid)
        assert process is not None
        self.started = process.started
        self._output = output

    async def line(self) -> str:
        """What it writes next."""
        text = b""
        while not text.endswith(b"\n"):
            chunk = await self._output.receive_some(1)
            assert chunk, f"the program ended instead of being ready, having written {text!r}"
            text += chunk
        return text.decode().strip()

    async def silence(self) -> None:
        """Returns when it is gone, and whatever it has started."""
        with trio.fail_after(30):
            async for _ in self._output:
                pass

    async def reaped(self) -> None:
        """Returns when its number is free, or in use by what it has started alone."""
        with trio.fail_after(30):
            while process_table.look_up(self.pid) is not None:  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.01)

    async def close(self) -> None:
        """End whatever goes on of it."""
        for pid in process_table.process_ids():
            process = process_table.look_up(pid)
            if process is not None and process.session == self.pid and process.started >= self.started:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await self._output.aclose()


# Starts a program in a session of its own, says its pid, and ends.
_BETWEEN = """
import os, subprocess, sys
writer = int(sys.argv[1])
process = subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=True, stdout=writer)
print(process.pid)
sys.stdout.flush()
os._exit(0)
"""


@asynccontextmanager
async def orphan(program: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Orphan]:
    """A process that is not our child, for the length of a block."""
    reader, writer = os.pipe()
    output = trio.lowlevel.FdStream(reader)
    try:
        between = await trio.run_process(
            [sys.executable, "-c", _BETWEEN, str(writer), program],
            capture_stdout=True,
            pass_fds=[writer],
            env={"PATH": os.environ["PATH"], **(environment or {})},
        )
    finally:
        os.close(writer)
    one = Orphan(int(between.stdout), output)
    try:
        with trio.fail_after(60):
            yield one
            await trio.lowlevel.checkpoint()
    finally:
        with trio.move_on_after(30, shield=True):
            await one.close()


@contextmanager
def child_with_number(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child of ours, leader of a session, that has a number that another process has had before it."""
    process: subprocess.Popen[bytes] | None = None
    for _ in range(500):
        try:
            _LAST_PID.write_text(str(pid - 1))
        except OSError as error:
            pytest.skip(f"the next process's number cannot be chosen here: {error}")
        process = _start(OBEDIENT)
        if process.pid == pid:
            break
        _end(process)
    else:
        pytest.skip("others have started processes all the time")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        _end(process)


def _start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()


def is_gone(pid: int) -> bool:
    """Whether nothing of this number lives."""
    return not process_table.lives(pid)
