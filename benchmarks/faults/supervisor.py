"""What systemd (`Restart=always`) or Kubernetes does: a worker that has ended is started again."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from benchmarks.apparatus.sides import Side
from benchmarks.apparatus.worker import Worker, open_worker

RESTART_SECONDS = 1.0
"""Seconds between the end of a worker and the start of the next."""

STOP_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL, as with Kubernetes."""


@attrs.define(eq=False)
class Supervisor:
    """Keeps a worker running, and leaves alone whatever a dead one has left behind.

    Attributes:
        side: whose worker it is.
        options: of its command line.
        environment: its environment.
        pause: seconds between the end of one and the start of the next.
        workers: all that were started, the last one last.
    """

    side: Side
    options: Sequence[str]
    environment: Mapping[str, str]
    pause: float = RESTART_SECONDS
    workers: list[Worker] = attrs.field(factory=list)

    @property
    def living(self) -> Worker | None:
        """The worker, if it lives."""
        return None if self.workers[-1].ended.is_set() else self.workers[-1]

    @property
    def reapers(self) -> list[int]:
        """Those below whom everything is that any of the workers has started, whatever has become of that."""
        return [worker.reaper for worker in self.workers]

    def kill(self) -> None:
        """Send SIGKILL to the worker, and to nothing that it has started."""
        os.kill(self.workers[-1].pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Tell the worker to end, and make it, if it takes too long."""
        worker = self.workers[-1]
        os.kill(worker.pid, signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS):
            await worker.ended.wait()
            return
        os.kill(worker.pid, signal.SIGKILL)
        await worker.ended.wait()

    async def keep(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Start it, again and again; what is left behind is killed only when this is cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                worker: Worker = await nursery.start(self._hold)
                self.workers.append(worker)
                if len(self.workers) == 1:
                    task_status.started()
                await worker.ended.wait()
                await trio.sleep(self.pause)

    async def _hold(self, *, task_status: trio.TaskStatus[Worker]) -> None:
        async with open_worker(self.side, self.options, environment=self.environment, mortal=True) as worker:
            task_status.started(worker)
            await trio.sleep_forever()


@asynccontextmanager
async def open_supervisor(
    side: Side, options: Sequence[str], *, environment: Mapping[str, str]
) -> AsyncIterator[Supervisor]:
    """A supervised worker for the length of a block; at its end, all is killed that any of them has started."""
    supervisor = Supervisor(side, options, environment)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep)
        yield supervisor
        nursery.cancel_scope.cancel()
