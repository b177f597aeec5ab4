"""The objects of the Prefect API, as far as the worker reads or writes them.

Names and meanings are those of the API's own schema; fields that the worker has no use for are left out
and ignored when they arrive.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import attrs

from trioworker.lean_attrs import frozen


class StateType(enum.StrEnum):
    """The type of a flow run's state, in Prefect's words; its *name* may be finer (`Submitting` is a `PENDING`)."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"

    @property
    def is_final(self) -> bool:
        """Whether a run in this state has ended."""
        return self in _FINAL


_FINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})


@frozen(kw_only=True)
class StateDetails:
    """What a state carries beside its type, name and message."""

    scheduled_time: datetime | None = None
    transition_id: UUID | None = None
    deployment_concurrency_lease_id: UUID | None = None


@frozen(kw_only=True)
class State:
    """A state that the server has on record."""

    id: UUID | None = None
    type: StateType
    name: str | None = None
    message: str | None = None
    data: Any = None
    timestamp: datetime | None = None
    state_details: StateDetails = attrs.field(factory=StateDetails)

    @property
    def label(self) -> str:
        """The name that a person knows the state by."""
        return self.name or self.type.capitalize()


@frozen(kw_only=True)
class ProposedState:
    """A state that the worker asks the server to record.

    Its `transition_id` stays the same however often the request is repeated: that is how the server tells
    a repetition from a second claim.
    """

    type: StateType
    name: str
    message: str | None = None
    data: Any = None
    scheduled_time: datetime | None = None
    transition_id: UUID = attrs.field(factory=uuid4)

    @property
    def hands_on(self) -> bool:
        """Whether it leaves the run to any worker; proposed again, it may take it from one that has it by then."""
        return self.type is StateType.SCHEDULED

    @classmethod
    def again(cls, state: State) -> ProposedState:
        """A state that a run was in, to be in once more."""
        return cls(
            type=state.type,
            name=state.label,
            message=state.message,
            data=state.data,
            scheduled_time=state.state_details.scheduled_time,
        )


class SetStateStatus(enum.StrEnum):
    """The server's answer to a proposed state."""

    ACCEPT = "ACCEPT"
    REJECT = "REJECT"
    ABORT = "ABORT"
    WAIT = "WAIT"


@frozen(kw_only=True)
class SetStateDetails:
    """Why the server answered as it did, and for how many seconds to wait on `WAIT`."""

    reason: str | None = None
    delay_seconds: float = 0


@frozen(kw_only=True)
class OrchestrationResult:
    """What became of a proposed state; `state` is the run's state after the answer."""

    status: SetStateStatus
    state: State | None = None
    details: SetStateDetails = attrs.field(factory=SetStateDetails)

    def has_made(self, proposed: ProposedState) -> bool:
        """Whether the server has made the transition, be it at an earlier attempt whose answer was lost."""
        if self.status is SetStateStatus.ACCEPT:
            return True
        return self.state is not None and self.state.state_details.transition_id == proposed.transition_id


@frozen(kw_only=True)
class FlowRunPolicy:
    """How often and when the server has a failed run tried again, and its bookkeeping of that.

    Attributes:
        retries: how often a run that failed is tried again; None if nobody has said so yet.
        retry_delay: seconds before each attempt. A list of them is what task runs may have: the server refuses it
            for a flow run, so a delay that changes from attempt to attempt is one to be set before each.
        retry_type: `in_process`, `reschedule` or nothing.
        pause_keys: which of its pauses the run has passed.
        resuming: whether the run goes on after a pause.
    """

    retries: int | None = None
    retry_delay: int | list[int] | None = None
    retry_type: str | None = None
    pause_keys: list[str] | None = attrs.field(factory=list)
    resuming: bool | None = False


@frozen(kw_only=True)
class FlowRun:
    """One run of a flow."""

    id: UUID
    name: str
    flow_id: UUID
    deployment_id: UUID | None = None
    work_queue_name: str | None = None
    state_id: UUID | None = None
    # Not of runs that are found to be due.
    state: State | None = None
    tags: list[str] = attrs.field(factory=list)
    job_variables: dict[str, Any] | None = None
    parameters: dict[str, Any] = attrs.field(factory=dict)
    infrastructure_pid: str | None = None
    start_time: datetime | None = None
    expected_start_time: datetime | None = None
    next_scheduled_start_time: datetime | None = None
    # Seconds by which it is late. Of any type, since nothing depends on it but how well the server's clock is known.
    estimated_start_time_delta: Any = None
    run_count: int = 0
    empirical_policy: FlowRunPolicy = attrs.field(factory=FlowRunPolicy)

    @property
    def read_at(self) -> datetime | None:
        """What the server's clock showed when it read the run; known only of one that should have begun by then."""
        late = self.estimated_start_time_delta
        if self.expected_start_time is None or self.start_time is not None:
            return None
        if not isinstance(late, int | float) or late <= 0:
            return None
        return self.expected_start_time + timedelta(seconds=late)


@frozen(kw_only=True)
class VersionInfo:
    """Which version of its code a deployment has, and by what kind of system it is counted."""

    type: str
    version: str


@frozen(kw_only=True)
class DeploymentSchedule:
    """When runs of a deployment are created.

    Attributes:
        schedule: Prefect's form of it: an object with `cron`, `interval` or `rrule`, and mostly a `timezone`.
        active: whether it counts.
        id: given by the server.
        slug: by which a schedule keeps its identity when its deployment is updated.
    """

    schedule: Mapping[str, Any]
    active: bool = True
    id: UUID | None = None
    slug: str | None = None


@frozen(kw_only=True)
class ConcurrencyLimit:
    """How many may be active at once."""

    limit: int


@frozen(kw_only=True)
class Deployment:
    """A flow made runnable: where its code is and how it is started.

    Prefect Cloud alone has versions and branches of deployments: `base` is the deployment that this one was
    branched from, `root` the one at the beginning of the line. What else needs a word is explained at
    `DeploymentDraft`.
    """

    id: UUID
    name: str
    flow_id: UUID
    updated: datetime | None = None
    job_variables: dict[str, Any] = attrs.field(factory=dict)
    tags: list[str] = attrs.field(factory=list)
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    paused: bool = False
    schedules: list[DeploymentSchedule] = attrs.field(factory=list)
    parameters: dict[str, Any] = attrs.field(factory=dict)
    parameter_openapi_schema: dict[str, Any] | None = None
    enforce_parameter_schema: bool = True
    global_concurrency_limit: ConcurrencyLimit | None = None
    entrypoint: str | None = None
    description: str | None = None
    version: str | None = None
    version_id: UUID | None = None
    version_info: VersionInfo | None = None
    branch: str | None = None
    base: UUID | None = None
    root: UUID | None = None

    @property
    def concurrency_limit(self) -> int | None:
        """How many of its runs may be active at once; None for any number."""
        # The field of this name is one that the server has given up, and always empty.
        return None if self.global_concurrency_limit is None else self.global_concurrency_limit.limit


@frozen(kw_only=True)
class DeploymentDraft:
    """A deployment as it is to be.

    Attributes:
        name: the deployment's own name; none of `/%&<>` may be in it.
        flow_id: its flow.
        work_pool_name: the work pool that its runs wait in, which must exist.
        work_queue_name: the queue of that; None for its default queue.
        entrypoint: where its code is, for people.
        description: what it does, for people.
        tags: given to each of its runs.
        version: of its code; None for none.
        parameter_openapi_schema: what its runs may be called with.
        enforce_parameter_schema: whether the server refuses a run that does not fit the schema.
        concurrency_limit: how many of its runs may be active at once; None for any number.
        schedules: when runs are created; None leaves those that there are.
    """

    name: str
    flow_id: UUID
    work_pool_name: str
    work_queue_name: str | None = None
    entrypoint: str | None = None
    description: str | None = None
    tags: Sequence[str] = ()
    version: str | None = None
    parameter_openapi_schema: Mapping[str, Any] = attrs.field(factory=dict)
    enforce_parameter_schema: bool = True
    concurrency_limit: int | None = None
    schedules: Sequence[DeploymentSchedule] | None = None


@frozen(kw_only=True)
class Flow:
    """A flow, which is little more than a name that runs are grouped by."""

    id: UUID
    name: str
    tags: list[str] = attrs.field(factory=list)
    labels: dict[str, Any] = attrs.field(factory=dict)
    created: datetime | None = None
    updated: datetime | None = None


@frozen(kw_only=True)
class WorkPool:
    """A work pool: runs wait in it, workers take them out."""

    id: UUID
    name: str
    type: str
    base_job_template: dict[str, Any] = attrs.field(factory=dict)
    is_paused: bool = False
    concurrency_limit: int | None = None

    @property
    def needs_no_worker(self) -> bool:
        """Whether Prefect itself starts the runs: pools of push and managed type."""
        return self.type.endswith((":push", ":managed"))


@frozen(kw_only=True)
class WorkQueue:
    """A part of a work pool with a priority and limit of its own."""

    name: str
    is_paused: bool = False


@frozen(kw_only=True)
class BlockDocument:
    """A block: values under a name, for the type of block that makes sense of them."""

    data: dict[str, Any]


@frozen(kw_only=True)
class Integration:
    """A package that extends Prefect, as installed beside the worker."""

    name: str
    version: str


@frozen(kw_only=True)
class WorkerMetadata:
    """What a worker tells about itself; Prefect Cloud shows it."""

    integrations: list[Integration] = attrs.field(factory=list)


@frozen(kw_only=True)
class StateChange:
    """A flow run came to be in a state of this type, in a work queue of this name, if that is told."""

    flow_run_id: UUID
    state_type: StateType
    occurred: datetime
    queue_name: str | None = None


@frozen(kw_only=True)
class Event:
    """Something that happened, for Prefect's event feed; `follows` names the event that came before."""

    id: UUID
    occurred: datetime
    event: str
    resource: Mapping[str, str]
    related: list[Mapping[str, str]] = attrs.field(factory=list)
    payload: Mapping[str, Any] = attrs.field(factory=dict)
    follows: UUID | None = None


@frozen(kw_only=True)
class LogLine:
    """A line of a flow run's log; `level` is Python's numeric logging level."""

    name: str
    level: int
    message: str
    timestamp: datetime
    flow_run_id: UUID | None = None
