"""Processes of the matrix: starting them, finding them again, and making an end of them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

_STOP_SECONDS = 40

# Every process that the matrix causes to exist has this in its environment.
MARK = "PARITY_MARK"


@asynccontextmanager
async def running(
    argv: Sequence[str | Path], *, environment: Mapping[str, str], directory: Path, output: Path
) -> AsyncIterator[trio.Process]:
    """A process in a session of its own, for the length of a block; its output goes to a file."""
    with output.open("ab") as written:
        process = await trio.lowlevel.open_process(
            list(argv),
            env=dict(environment),
            cwd=directory,
            stdin=os.open(os.devnull, os.O_RDONLY),
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await stop(process)


async def stop(process: trio.Process) -> int:
    """End a process by SIGTERM, its group by SIGKILL when that takes too long; returns its exit code."""
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(_STOP_SECONDS):
            await process.wait()
    if process.poll() is None:
        # Not reaped yet, so the group still has its number.
        os.killpg(process.pid, signal.SIGKILL)
    return await process.wait()


def marked(mark: str, *, run: str | None = None) -> dict[int, dict[str, str]]:
    """The environments of all processes with a mark, by pid.

    Args:
        mark: the value of `MARK`.
        run: a flow run that they were started for.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            environment = _environment_of(entry)
            of_run = run is None or environment.get("PREFECT__FLOW_RUN_ID") == run
            if environment.get(MARK) == mark and of_run:
                found[int(entry.name)] = environment
    return found


def kill(mark: str) -> None:
    """Make an end of all processes with a mark."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _environment_of(entry: Path) -> dict[str, str]:
    """The environment that a process was started with; empty once it has ended."""
    try:
        # A zombie's is empty as well.
        raw = (entry / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.decode(errors="replace").partition("=") for item in raw.split(b"\0") if item)
    return {name: value for name, _, value in pairs}
