"""What a kind of infrastructure is: where and how a flow run is executed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal, Protocol, TypeVar
from uuid import UUID

import attrs
import trio

from trioworker.api.models import FlowRun, State
from trioworker.lean_attrs import frozen


class InfrastructureError(Exception):
    """The run cannot be executed as it is configured; the message becomes that of its `Crashed` state."""


class InfrastructureFullError(InfrastructureError):
    """There is no room for the run just now; it may well be started later, or by another worker."""


@frozen
class Trace:
    """By which what was started for a run can be found later, by another worker.

    Attributes:
        identifier: where the run runs, as Prefect is told; None if it is about to be started, and may have been.
        details: what a kind of infrastructure has to know besides, in a form of its own. No secrets: it is written
            to a file.
    """

    identifier: str | None
    details: str = ""


# Takes a trace down before the next step is taken.
NoteTrace = Callable[[Trace], Awaitable[None]]


async def note_nothing(trace: Trace) -> None:  # noqa: ARG001 - see `NoteTrace`
    """Take no trace down."""
    await trio.lowlevel.checkpoint()


# Takes the id of a transition down before it is proposed.
NoteTransition = Callable[[UUID], Awaitable[None]]


async def note_no_transition(transition_id: UUID) -> None:  # noqa: ARG001 - see `NoteTransition`
    """Take no transition down."""
    await trio.lowlevel.checkpoint()


# What becomes of runs that the worker's own end cuts off: they are reported as crashed, offered to any worker once
# they have ended, or left running for the worker that comes next.
ShutdownPolicy = Literal["crash", "reschedule", "leave"]


def always_crash() -> ShutdownPolicy:
    """What becomes of runs that are cut off unless somebody says otherwise."""
    return "crash"


@frozen(kw_only=True)
class Assignment:
    """A flow run as the infrastructure gets it.

    Attributes:
        flow_run: the run, as it was when it was found.
        flow_name: the name of its flow.
        name: what the infrastructure of the run may be called.
        labels: by which the infrastructure of the run may be found: Prefect's own, and those of the job
            configuration.
        configuration: the job configuration, rendered from the work pool's base job template.
        environment: what the worker adds to the environment of the run.
        transition_ids: of every state that was proposed for the run; a kind that speaks for itself adds its own, by
            which the worker knows them.
        note_transition: awaited before such a state is proposed.
        note_trace: awaited right before something is started that outlives the worker, and again as soon as there is
            an identifier, before it is told to anybody else.
        shutdown_policy: what to do about the run if `run` is cancelled, asked for at that moment.
    """

    flow_run: FlowRun
    flow_name: str
    name: str
    labels: Mapping[str, str]
    configuration: Mapping[str, Any] = attrs.field(repr=False)
    environment: Mapping[str, str] = attrs.field(repr=False)
    transition_ids: set[UUID] = attrs.field(factory=set, repr=False)
    note_transition: NoteTransition = attrs.field(default=note_no_transition, repr=False)
    note_trace: NoteTrace = attrs.field(default=note_nothing, repr=False)
    shutdown_policy: Callable[[], ShutdownPolicy] = attrs.field(default=always_crash, repr=False)

    @property
    def flow_run_id(self) -> UUID:
        """Which run."""
        return self.flow_run.id

    @property
    def flow_run_name(self) -> str:
        """The run's name, for people."""
        return self.flow_run.name


@frozen(kw_only=True)
class Outcome:
    """How a run's infrastructure ended.

    Attributes:
        status_code: 0 is good, the negative number of a signal or anything else is not.
        message: the same as a sentence.
        hint: what somebody may do about it; empty if there is nothing to say.
        state: the state of the run, as the API has answered to that; None if nobody here knows.
    """

    status_code: int
    message: str
    hint: str = ""
    state: State | None = None


# What a run may be told before it is terminated, in the words of Prefect's engine. Told so, it leaves its state to
# the worker; else it reports a crash.
Intent = Literal["cancel", "reschedule", "relinquish"]


@frozen(kw_only=True)
class HookCall:
    """A request to call the hooks that a flow has for its cancellation or its crash.

    Attributes:
        kind: which hooks.
        flow_run: the run, as the API shows it.
        state: the state that the hooks are told, as the API would show it.
    """

    kind: Literal["cancellation", "crashed"]
    flow_run: Mapping[str, Any] = attrs.field(repr=False)
    state: Mapping[str, Any]


@frozen
class Running:
    """What was started for a run goes on.

    Attributes:
        trace: by which that was found, with what was not known of it before.
    """

    trace: Trace


@frozen
class Gone:
    """Nothing of a run goes on."""


@frozen
class Unknown:
    """Nobody here can tell whether anything of a run goes on; it may be on another machine.

    Attributes:
        reason: why, as the part of a sentence after "because".
    """

    reason: str


JobT = TypeVar("JobT")


class Infrastructure(Protocol[JobT]):
    """A kind of infrastructure. Third parties add theirs by the entry-point group `trioworker.infrastructure`.

    Attributes:
        type: the name of the kind, which is the type of the work pools that it serves.
        speaks_for_itself: whether `run` itself tells the API where the run runs, and does so at once: such a run is
            never `Submitting`.
        configured_by_deployment: whether what is executed depends on how the run's deployment is configured just
            then, not on its name alone, which does not change.
        default_base_job_template: given to work pools that have none.
    """

    type: ClassVar[str]
    speaks_for_itself: ClassVar[bool]
    configured_by_deployment: ClassVar[bool]

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """Given to work pools that have none."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Keep what all runs share for as long as the worker has any; entered once, before the first.

        When it is left, every `run` has ended; whatever of them goes on is waited for.
        """
        ...

    def prepare(self, assignment: Assignment) -> JobT:
        """Check the configuration and make a job of it, without touching anything yet.

        Raises:
            InfrastructureError: the configuration is wrong; the message names the field.
        """
        ...

    def open_workspace(self, job: JobT) -> AbstractAsyncContextManager[JobT]:
        """Keep what the run and its hooks need for as long as they go on, such as a directory.

        Yields the job as it is to be given to `run` and `run_hooks`.

        Raises:
            InfrastructureFullError: there is no room for it just now.
            InfrastructureError: it cannot be had.
        """
        ...

    async def run(
        self, job: JobT, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """Start the job, report its identifier through `task_status`, and return how it ended.

        Cancelled, it ends the run with everything that the run has started, and leaves nothing behind; unless the
        assignment's shutdown policy is to leave it, which a kind whose runs end with the worker need not heed.

        Raises:
            InfrastructureFullError: it cannot be started just now.
            InfrastructureError: it cannot be started, or nobody knows how it ended.
        """
        ...

    async def run_hooks(self, job: JobT, call: HookCall) -> None:
        """Call a flow's hooks where the flow has run; done when they have ended.

        Raises:
            InfrastructureError: they could not be called or ended, and nothing else; the message says why.
        """
        ...

    async def kill(self, identifier: str, grace: float, *, intent: Intent | None = None) -> None:
        """Ask a run to end, wait up to `grace` seconds, then make it; returns when it is gone.

        A run that has said that it came to its end is left to end by itself.

        Args:
            identifier: which run.
            grace: in seconds.
            intent: told to the run first, if it can be reached; one that cannot is killed all the same.

        Raises:
            InfrastructureError: it may not be gone, and nothing else; the message says why.
        """
        ...

    def kill_now(self) -> None:
        """Kill every run at once, without waiting for anything."""
        ...

    async def find(self, flow_run_id: UUID, trace: Trace) -> Running | Gone | Unknown:
        """Whether anything goes on of a run that an earlier worker has started, which is gone."""
        ...

    def open_remains(self, flow_run_id: UUID, trace: Trace) -> AbstractAsyncContextManager[JobT]:
        """Keep what an earlier worker has left of a run's workspace; removed with the end of the block.

        Yields what may be given to `adopt` and `run_hooks`.
        """
        ...

    async def adopt(self, job: JobT, trace: Trace, *, shutdown_policy: Callable[[], ShutdownPolicy]) -> None:
        """Watch a run that an earlier worker has started; returns when it has ended. How it ended, nobody knows.

        Meanwhile `kill` knows the run. Cancelled, it does as `run`.

        Raises:
            InfrastructureError: it cannot be watched, or does not end; the message says why.
        """
        ...

    async def clear(self, flow_run_id: UUID, trace: Trace) -> None:
        """End what is left of a run that an earlier worker has started and that has ended itself.

        Raises:
            InfrastructureError: something may be left; the message says why.
        """
        ...
