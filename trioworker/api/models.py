"""The objects of the Prefect API, as far as the worker reads or writes them.

Names and meanings are those of the API's own schema; fields that the worker has no use for are left out
and ignored when they arrive.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import attrs


class StateType(enum.StrEnum):
    """The type of a flow run's state; its *name* may be finer (`Submitting` is a `PENDING`)."""

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


@attrs.frozen(kw_only=True)
class StateDetails:
    """What a state carries beside its type, name and message."""

    scheduled_time: datetime | None = None
    transition_id: UUID | None = None


@attrs.frozen(kw_only=True)
class State:
    """A state that the server has on record."""

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


@attrs.frozen(kw_only=True)
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


class SetStateStatus(enum.StrEnum):
    """The server's answer to a proposed state."""

    ACCEPT = "ACCEPT"
    REJECT = "REJECT"
    ABORT = "ABORT"
    WAIT = "WAIT"


@attrs.frozen(kw_only=True)
class SetStateDetails:
    """Why the server answered as it did, and for how many seconds to wait on `WAIT`."""

    reason: str | None = None
    delay_seconds: float = 0


@attrs.frozen(kw_only=True)
class OrchestrationResult:
    """What became of a proposed state; `state` is the run's state after the answer."""

    status: SetStateStatus
    state: State | None = None
    details: SetStateDetails = attrs.field(factory=SetStateDetails)


@attrs.frozen(kw_only=True)
class FlowRunPolicy:
    """Retry bookkeeping of a run; `retry_type` is `in_process`, `reschedule` or nothing."""

    retry_type: str | None = None


@attrs.frozen(kw_only=True)
class FlowRun:
    """One run of a flow."""

    id: UUID
    name: str
    flow_id: UUID
    deployment_id: UUID | None = None
    work_queue_name: str | None = None
    state: State | None = None
    tags: list[str] = attrs.field(factory=list)
    job_variables: dict[str, Any] | None = None
    infrastructure_pid: str | None = None
    start_time: datetime | None = None
    empirical_policy: FlowRunPolicy = attrs.field(factory=FlowRunPolicy)


@attrs.frozen(kw_only=True)
class VersionInfo:
    """Which version of its code a deployment has, and by what kind of system it is counted."""

    type: str
    version: str


@attrs.frozen(kw_only=True)
class Deployment:
    """A flow made runnable: where its code is and how it is started.

    Prefect Cloud alone has versions and branches of deployments: `base` is the deployment that this one was
    branched from, `root` the one at the beginning of the line.
    """

    id: UUID
    name: str
    flow_id: UUID
    updated: datetime | None = None
    job_variables: dict[str, Any] = attrs.field(factory=dict)
    tags: list[str] = attrs.field(factory=list)
    version_id: UUID | None = None
    version_info: VersionInfo | None = None
    branch: str | None = None
    base: UUID | None = None
    root: UUID | None = None


@attrs.frozen(kw_only=True)
class Flow:
    """A flow, which is little more than a name that runs are grouped by."""

    id: UUID
    name: str
    tags: list[str] = attrs.field(factory=list)
    labels: dict[str, Any] = attrs.field(factory=dict)
    created: datetime | None = None
    updated: datetime | None = None


@attrs.frozen(kw_only=True)
class WorkPool:
    """A work pool: runs wait in it, workers take them out."""

    id: UUID
    name: str
    type: str
    base_job_template: dict[str, Any] = attrs.field(factory=dict)
    is_paused: bool = False

    @property
    def needs_no_worker(self) -> bool:
        """Whether Prefect itself starts the runs: pools of push and managed type."""
        return self.type.endswith((":push", ":managed"))


@attrs.frozen(kw_only=True)
class WorkQueue:
    """A part of a work pool with a priority and limit of its own."""

    name: str
    is_paused: bool = False


@attrs.frozen(kw_only=True)
class BlockDocument:
    """A block: values under a name, for the type of block that makes sense of them."""

    data: dict[str, Any]


@attrs.frozen(kw_only=True)
class Integration:
    """A package that extends Prefect, as installed beside the worker."""

    name: str
    version: str


@attrs.frozen(kw_only=True)
class WorkerMetadata:
    """What a worker tells about itself; Prefect Cloud shows it."""

    integrations: list[Integration] = attrs.field(factory=list)


@attrs.frozen(kw_only=True)
class StateChange:
    """A flow run came to be in a state of this type."""

    flow_run_id: UUID
    state_type: StateType
    occurred: datetime


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened, for Prefect's event feed; `follows` names the event that came before."""

    id: UUID
    occurred: datetime
    event: str
    resource: Mapping[str, str]
    related: list[Mapping[str, str]] = attrs.field(factory=list)
    payload: Mapping[str, Any] = attrs.field(factory=dict)
    follows: UUID | None = None


@attrs.frozen(kw_only=True)
class LogLine:
    """A line of a flow run's log; `level` is Python's numeric logging level."""

    name: str
    level: int
    message: str
    timestamp: datetime
    flow_run_id: UUID | None = None
