"""What a fault is inflicted upon: a supervised worker, a run, and the valve between them and the server."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks.apparatus.http_requests import Request
from benchmarks.apparatus.request_kinds import kind_of
from benchmarks.apparatus.rest import Rest
from benchmarks.apparatus.sides import Side
from benchmarks.failures import BenchmarkError
from benchmarks.faults.journal import Journal, read_journal
from benchmarks.faults.supervisor import Supervisor
from benchmarks.faults.valve import Valve

_LOOK_AGAIN = 0.05
_CLAIM_SECONDS = 90


@attrs.define(eq=False)
class Scene:
    """Where a fault is inflicted.

    Attributes:
        side: whose worker it is.
        rest: the server, past the valve.
        valve: between the server and the worker with its runs.
        supervisor: of the worker.
        deployment: what is run.
        journal_file: what the flow notes.
        run: the id of the run, once it is there.
        inflicted_at: when the fault began, on Trio's clock.
        zero: from when on seconds are counted, on the same clock.
        is_cancelled: whether a user has asked for the run to be cancelled.
    """

    side: Side
    rest: Rest
    valve: Valve
    supervisor: Supervisor
    deployment: str
    journal_file: Path
    run: str = ""
    inflicted_at: float = 0.0
    zero: float = 0.0
    is_cancelled: bool = False

    @property
    def journal(self) -> Journal:
        """What the flow has noted so far."""
        return read_journal(self.journal_file)

    async def start_run(self, seconds: float, **parameters: Any) -> None:
        """Schedule the run for now."""
        given = {"journal": str(self.journal_file), "seconds": seconds, **parameters}
        self.run = await self.rest.create_run(self.deployment, given)

    async def begin_run(self, seconds: float, **parameters: Any) -> None:
        """Schedule the run, and wait until its flow has been at work for two seconds."""
        await self.start_run(seconds, **parameters)
        with self.patience("for the flow to begin"):
            while not self.journal.began:  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(_LOOK_AGAIN)
        await trio.sleep(2)

    def patience(self, what: str) -> AbstractContextManager[None]:
        """Let a block take its time, and no more than any worker needs."""
        return self.supervisor.workers[-1].patience(what, _CLAIM_SECONDS)

    def inflicted(self) -> None:
        """The fault begins now; seconds are counted from now, too, unless it is said otherwise later."""
        self.inflicted_at = self.zero = trio.current_time()

    def count_from_now(self) -> None:
        """Count seconds from now."""
        self.zero = trio.current_time()

    def kill_flow(self) -> None:
        """Send SIGKILL to the process of the flow, and to nothing that it has started."""
        # A worker that cannot bear the rest of the fault has ended by now, and may have taken the flow along.
        with suppress(ProcessLookupError):
            os.kill(self.journal.pids[-1], signal.SIGKILL)

    def kill_all(self) -> None:
        """Send SIGKILL to the worker and to all that it has started, at once."""
        worker = self.supervisor.workers[-1]
        # None of them is to see that another one has gone.
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for pid in worker.kept():
                with suppress(ProcessLookupError):
                    os.kill(pid, sent)

    async def cancel(self) -> None:
        """Ask for the run to be cancelled, as a user does."""
        self.is_cancelled = True
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        await self.rest.call("POST", f"flow_runs/{self.run}/set_state", state)

    def claims(self, request: Request) -> bool:
        """Whether a request is the worker's claim of the run: its being proposed to be Pending."""
        if kind_of(request) != "POST flow_runs/*/set_state" or self.run not in request.path:
            return False
        state: dict[str, Any] = json.loads(request.body)["state"]
        return bool(state["type"] == "PENDING")

    async def until_lost(self, lost: trio.Event) -> None:
        """Wait until an answer was lost.

        Raises:
            BenchmarkError: it never came.
        """
        with trio.move_on_after(_CLAIM_SECONDS):
            await lost.wait()
            return
        raise BenchmarkError(f"{self.side.name}: the request whose answer was to be lost has not come")
