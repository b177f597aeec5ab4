"""What the fake API keeps of each object: what a worker is told of it, and what the server knows besides."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

import attrs

from trioworker.api.models import BlockDocument, Deployment, FlowRun, State, StateType, WorkPool
from trioworker.lean_attrs import frozen


@attrs.define(eq=False)
class Queue:
    """A work queue."""

    name: str
    priority: int
    concurrency_limit: int | None = None
    is_paused: bool = False
    id: UUID = attrs.field(factory=uuid4)


@attrs.define(eq=False)
class Pool:
    """A work pool and its queues by name."""

    public: WorkPool
    queues: dict[str, Queue] = attrs.field(factory=dict)


@attrs.define(eq=False)
class DeploymentRecord:
    """A deployment and where its runs wait."""

    public: Deployment
    queue: Queue
    pool: Pool
    cancel_new: bool = False
    slots_taken: int = 0


@attrs.define(eq=False)
class Run:
    """A flow run; `public` holds what the API tells a worker, the rest is what the server knows besides."""

    public: FlowRun
    state: State
    queue: Queue
    pool: Pool
    labels: dict[str, str] = attrs.field(factory=dict)
    idempotency_key: str | None = None
    auto_scheduled: bool = False
    history: list[tuple[str, float]] = attrs.field(factory=list)
    states: list[State] = attrs.field(factory=list)

    @property
    def waits_for_worker(self) -> bool:
        """Whether a poll may return it: a retry in the run's own process is none of a worker's business."""
        return (
            self.state.type is StateType.SCHEDULED and self.public.empirical_policy.retry_type != "in_process"
        )

    @property
    def occupies(self) -> bool:
        """Whether it counts against the limits of its pool and queue."""
        return self.state.type in {StateType.PENDING, StateType.RUNNING}

    @property
    def due(self) -> datetime:
        """When it is scheduled; only for a run that waits."""
        scheduled_time = self.state.state_details.scheduled_time
        assert scheduled_time is not None  # noqa: S101 - `recorded` sees to it
        return scheduled_time

    @property
    def expected(self) -> datetime:
        """When it was scheduled for at first."""
        expected = self.states[0].state_details.scheduled_time
        assert expected is not None  # noqa: S101 - a run begins as scheduled
        return expected

    def lateness(self, now: datetime) -> float:
        """Seconds by which it began late, or is late by now."""
        return max(0.0, ((self.public.start_time or now) - self.expected).total_seconds())


@frozen
class BlockRecord:
    """A block document and its id."""

    id: UUID
    public: BlockDocument
