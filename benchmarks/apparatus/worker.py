"""A worker as a process under observation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import trio

from benchmarks.apparatus import proc
from benchmarks.apparatus.sides import Side
from benchmarks.failures import BenchmarkError
from trioworker.errors import sole_errors_bare

_REAPER = Path(__file__).with_name("reaper.py")
_KILLED_WITHIN = 20
_LOOK_AGAIN = 0.1
_SHOWN = 3000

# Of the time: more than an idle worker is on the processor, and less than a process that is about to end.
_HARDLY_ANYTHING = 0.1


@attrs.define(eq=False)
class Worker:
    """A worker that runs, or has ended.

    Attributes:
        side: whose it is.
        reaper: the process above it, which adopts whatever it leaves behind.
        pid: its own process.
        begun: when its program was about to be executed, in nanoseconds of the monotonic clock.
        log: the file with its output.
        was_stopped: whether it was told to end.
        ended: set when it has ended.
        status: its exit status then.
        ended_at: when that was, on the same clock.
    """

    side: Side
    reaper: int
    pid: int
    begun: int
    log: Path
    was_stopped: bool = False
    ended: trio.Event = attrs.field(factory=trio.Event)
    status: int | None = None
    ended_at: int = 0

    async def stop(self) -> float:
        """Send it SIGTERM; returns the seconds that it took to end.

        Raises:
            BenchmarkError: it did not end well.
        """
        self.was_stopped = True
        asked = time.monotonic_ns()
        os.kill(self.pid, signal.SIGTERM)
        with self.patience("to end after SIGTERM", 60):
            await self.ended.wait()
        if self.status != 0:
            raise self.failure(f"the worker ended with status {self.status} after SIGTERM")
        return (self.ended_at - asked) / 1e9

    def failure(self, what: str) -> BenchmarkError:
        """Something that has gone wrong with it, told with what it has written."""
        return BenchmarkError(f"{self.side.name}: {what}; the worker wrote:\n{self.output()}")

    @contextmanager
    def patience(self, what: str, seconds: float) -> Iterator[None]:
        """Let a block take so much time, and no more.

        Raises:
            BenchmarkError: it has taken more.
        """
        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise self.failure(f"{seconds:g} s were not enough {what}")

    async def says(self, text: str) -> None:
        """Wait until it has written something, which it does at some time."""
        while text not in self.log.read_text(errors="replace"):  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(_LOOK_AGAIN)

    def kept(self) -> list[int]:
        """The worker's process and all that it has started and that still lives, adopted or not."""
        return proc.descendants(self.reaper)

    def time(self) -> float:
        """Seconds on the processor of the worker and of all that it has ever started."""
        return proc.time_of_tree(self.reaper)

    async def is_quiet(self, seconds: float) -> None:
        """Wait until for some time no process has come or gone, and hardly anything was done by any."""
        known: list[int] = []
        since, taken = trio.current_time(), self.time()
        while trio.current_time() - since < seconds:
            if (now := self.kept()) != known or self.time() - taken > _HARDLY_ANYTHING * seconds:
                known, since, taken = now, trio.current_time(), self.time()
            await trio.sleep(_LOOK_AGAIN)

    def output(self) -> str:
        """The end of what it has written."""
        return self.log.read_text(errors="replace")[-_SHOWN:]


@asynccontextmanager
async def open_worker(
    side: Side, options: Sequence[str] = (), *, environment: Mapping[str, str], mortal: bool = False
) -> AsyncIterator[Worker]:
    """A worker for the length of a block, which is cancelled if the worker ends by itself.

    At the end of the block, the worker and whatever it has started are killed.

    Args:
        side: whose it is.
        options: of its command line.
        environment: its environment.
        mortal: whether its end is no failure, and leaves the block alone.

    Raises:
        BenchmarkError: it has ended, and is not mortal.
    """
    log = side.directory / f"worker-{time.monotonic_ns()}.log"
    with log.open("wb") as written:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-S", str(_REAPER), *side.command(*options)],
            env=environment,
            cwd=side.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            start_new_session=True,
        )
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        with sole_errors_bare():
            async with trio.open_nursery() as nursery:
                worker: Worker = await nursery.start(_observe, side, process.stdout, process.pid, log, mortal)
                yield worker
                nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(_KILLED_WITHIN, shield=True):
            # The reaper takes it for the sign to kill what is left.
            await process.stdin.aclose()
            await process.wait()


async def _observe(
    side: Side,
    told: trio.abc.ReceiveStream,
    reaper: int,
    log: Path,
    mortal: bool,
    *,
    task_status: trio.TaskStatus[Worker],
) -> None:
    async with aclosing(_lines(told)) as lines:
        _, pid, begun = (await anext(lines)).split()
        worker = Worker(side, reaper, int(pid), int(begun), log)
        task_status.started(worker)
        _, status, ended_at = (await anext(lines)).split()
    worker.status, worker.ended_at = int(status), int(ended_at)
    worker.ended.set()
    if not (worker.was_stopped or mortal):
        raise worker.failure(f"the worker ended by itself with status {status}")


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[str]:
    text = b""
    async for data in stream:
        *whole, text = (text + data).split(b"\n")
        for line in whole:
            yield line.decode()
    raise BenchmarkError("the process that watches over the worker is gone")
