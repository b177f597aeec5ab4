"""A case being played on one side: the verbs that cases are written in."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import processes
import trio
from rest import MissingError
from stage import Side, Stage, load

PATIENCE = 240.0
_LOOK_AGAIN = 0.4
# A run that nobody reports about any more is at rest when nothing has changed for so long.
_QUIET_SECONDS = 12.0
# Prefect gives a process half a minute between SIGTERM and SIGKILL; and on a busy machine a worker takes its time.
_LONG_QUIET_SECONDS = 45.0
# States of runs without a process from which a worker may never take them.
_LASTING = {"Suspended", "Running", "Pending", "Submitting", "Cancelling"}
_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class PlayError(Exception):
    """Something did not happen that the case waited for, or not as it was meant."""


@attrs.frozen
class Case:
    """One row of the matrix.

    Attributes:
        name: what it is called.
        play: what happens in it.
        pool: the work pool that it needs.
        early: whether it is played before there are workers.
        slow: whether it takes long, so that it had better begin soon.
        lossy: whether what the flow logs last is lost as chance will have it, so that it is not compared.
        alike: whether it says something of Prefect's worker, too, rather than of our own ones alone.
        cold: whether its flow has something about it for which it is started fresh even where warm start is on.
    """

    name: str
    play: Callable[[Play], Awaitable[None]]
    pool: str = "main"
    early: bool = False
    slow: bool = False
    lossy: bool = False
    alike: bool = True
    cold: bool = False

    @property
    def description(self) -> str:
        """What it is about."""
        return (self.play.__doc__ or "").strip()


@attrs.define(eq=False)
class Play:
    """One case on one side.

    Attributes:
        case: the case.
        side: where it is played.
        stage: the server and the workers.
        runs: the flow runs that it has made so far.
        names: what stands for an id or a name in what is compared.
        remarks: what the case itself found worth comparing.
        troubles: what went wrong with the playing.
        spoilt: why nothing can be learnt from the case; empty if that is not so.
        prepared: set when an early case wants the workers to come.
        over: set when it was played.
    """

    case: Case
    side: Side
    stage: Stage
    runs: list[str] = attrs.field(factory=list)
    names: dict[str, str] = attrs.field(factory=dict)
    remarks: list[str] = attrs.field(factory=list)
    troubles: list[str] = attrs.field(factory=list)
    spoilt: str = ""
    prepared: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)

    def directory(self, name: str) -> Path:
        """A new directory for this case."""
        made = self.side.files / self.case.name / name
        made.mkdir(parents=True)
        return made

    async def deploy(
        self,
        entrypoint: str,
        *,
        variables: dict[str, Any] | None = None,
        path: str | None = "",
        **fields: Any,
    ) -> str:
        """Make a deployment and return its id.

        Args:
            entrypoint: file and function.
            variables: its job variables.
            path: where its flow is, if not among the flows of the matrix.
            fields: what else it is made of.
        """
        name = entrypoint.rpartition(":")[2].replace("_", "-")
        flow = await self.stage.rest.call("POST", "flows/", {"name": name})
        body = {
            "name": f"{self.case.name}-{self.side.kind}-{self.side.name}-{len(self.names)}",
            "flow_id": flow["id"],
            "entrypoint": entrypoint,
            "path": str(self.stage.flows) if path == "" else path,
            "work_pool_name": self.side.pool(self.case.pool),
            "job_variables": variables or {},
            **fields,
        }
        deployment = await self.stage.rest.call("POST", "deployments/", body)
        self.names |= {flow["id"]: "FLOW", deployment["id"]: "DEPLOYMENT", body["name"]: "DEPLOYMENT-NAME"}
        return str(deployment["id"])

    async def schedule(self, deployment: str, *, ahead: float = 0, **fields: Any) -> str:
        """Schedule a run of a deployment, so many seconds ahead, and return its id."""
        when = datetime.now(UTC) + timedelta(seconds=ahead)
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": when.isoformat()}}
        number = len(self.runs) + 1
        body = {"state": state, "name": f"{self.case.name}-{number}", **fields}
        run = await self.stage.rest.call("POST", f"deployments/{deployment}/create_flow_run", body)
        return self.knows(run["id"])

    def knows(self, run: str) -> str:
        """Take a run for one of this case."""
        self.runs.append(run)
        self.names[run] = f"RUN{len(self.runs)}"
        return run

    async def once(self, entrypoint: str, **parameters: Any) -> str:
        """Deploy a flow, run it once with these parameters, and wait for the end."""
        run = await self.schedule(await self.deploy(entrypoint), parameters=parameters)
        await self.rest(run)
        return run

    async def completes(self, entrypoint: str, **parameters: Any) -> str:
        """Do as `once`, of a flow that must complete for the case to tell anything.

        Raises:
            PlayError: It did not.
        """
        run = await self.once(entrypoint, **parameters)
        await self.must_be_completed(run)
        return run

    async def must_be_completed(self, run: str) -> None:
        """See that a run has completed.

        Raises:
            PlayError: It has not.
        """
        found = await self.stage.rest.run(run)
        if found is None or found["state_type"] != "COMPLETED":
            raise PlayError(f"the run should have completed: {found and found['state']}")

    async def state(self, run: str) -> tuple[str, str]:
        """Type and name of the state of a run."""
        found = await self.stage.rest.run(run)
        if found is None:
            return ("DELETED", "deleted")
        return (found["state_type"], found["state_name"])

    async def become(self, run: str, kind: str, name: str | None = None) -> None:
        """Propose a state for a run, as a user does."""
        state = {"type": kind, "name": name or kind.capitalize()}
        await self.stage.rest.call("POST", f"flow_runs/{run}/set_state", {"state": state})

    async def until_state(self, run: str, *kinds: str) -> None:
        """Wait until a run is in a state of one of these types or names."""
        with self.patience(f"state {' or '.join(kinds)} of a run"):
            while not set(await self.state(run)) & set(kinds):  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(_LOOK_AGAIN)

    async def begun(self, run: str) -> int:
        """Wait until the flow of a run has begun, and return the pid of its process."""
        with self.patience("the flow to begin"):
            while True:
                if (taken := load(self.file(run, "probe"))) is not None:
                    return int(taken["pid"])
                await trio.sleep(_LOOK_AGAIN)

    async def preparing(self, run: str) -> int:
        """Wait until a step of the matrix prepares the workspace of a run, and return the pid of its process."""
        with self.patience("the workspace to be prepared"):
            while not (found := self.file(run, "preparing")).exists() or not found.read_text():  # noqa: ASYNC110
                await trio.sleep(_LOOK_AGAIN)
        return int(found.read_text())

    async def logged(self, run: str, *texts: str) -> None:
        """Wait until each of these texts stands in the log of a run."""
        with self.patience("lines of a log"):
            while True:
                log = "\n".join(line["message"] for line in await self.stage.rest.log(run))
                if all(text in log for text in texts):
                    return
                await trio.sleep(_LOOK_AGAIN)

    def file(self, run: str, kind: str) -> Path:
        """The file of a run in which something of this kind stands."""
        return self.side.output / f"{run}.{kind}"

    def let_go(self, run: str) -> None:
        """Let the flow of a run go on that waits for it."""
        self.file(run, "go").touch()

    async def cancel(self, run: str) -> None:
        """Ask for the cancellation of a run, as the dashboard does."""
        await self.become(run, "CANCELLING", "Cancelling")

    async def rest(self, *runs: str) -> None:
        """Wait until runs have no process any more and nothing more is to come of them."""
        for run in runs:
            await self._rest(run)

    async def _rest(self, run: str) -> None:
        last, since = None, time.monotonic()
        with self.patience("a run to come to rest"):
            while True:
                state = await self.stage.rest.run(run)
                alive = self._processes(run)
                now = None if state is None else (state["state_id"], state["infrastructure_pid"])
                if alive or now != last:
                    last, since = now, time.monotonic()
                quiet = time.monotonic() - since
                claimed = state is not None and state["state_type"] != "SCHEDULED"
                if not alive and claimed and quiet > 1 and await self.is_executed(run):
                    return
                if not alive and quiet > _enough_quiet(state):
                    return
                await trio.sleep(_LOOK_AGAIN)

    def _processes(self, run: str) -> list[int]:
        """The processes of a run, but for those that a case has left running on purpose."""
        found = processes.marked(self.side.mark, run=run)
        return [pid for pid, environment in found.items() if "PARITY_ROLE" not in environment]

    async def is_executed(self, run: str) -> bool:
        """Whether a worker has said that it has seen a run to its end."""
        about = f"prefect.flow-run.{run}"
        return bool(await self.stage.rest.events(about=about, names=["prefect.worker.executed-flow-run"]))

    def children(self, run: str) -> list[int]:
        """The processes that flows of a run have started, by what a case made them known by."""
        found = processes.marked(self.side.mark, run=run)
        return [pid for pid, environment in found.items() if "PARITY_ROLE" in environment]

    async def delete(self, path: str) -> None:
        """Delete something, unless it is gone already."""
        try:
            await self.stage.rest.call("DELETE", path)
        except MissingError:
            self.troubles.append(f"{path.partition('/')[0]} was gone already")

    async def workers(self) -> None:
        """Wait until there are workers; only for a case that begins before."""
        self.prepared.set()
        await self.stage.up.wait()

    @contextmanager
    def patience(self, what: str) -> Iterator[None]:
        """Give up when a block takes too long.

        Raises:
            PlayError: It did.
        """
        with trio.move_on_after(PATIENCE) as scope:
            yield
        if scope.cancelled_caught:
            raise PlayError(f"waited {PATIENCE:g} s for {what}")


def _enough_quiet(state: dict[str, Any] | None) -> float:
    """For how many seconds nothing must have changed before a run without a process is believed to be at rest."""
    if state is None or state["state_type"] in _FINAL:
        return _QUIET_SECONDS
    # What is scheduled is going to be taken.
    return _LONG_QUIET_SECONDS if state["state_name"] in _LASTING else math.inf
