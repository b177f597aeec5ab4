"""The world behind the fake API: work pools, deployments, flow runs, and what people and flows do to them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import attrs
import trio

from trioworker.api.models import (
    BlockDocument,
    Deployment,
    Flow,
    FlowRun,
    FlowRunPolicy,
    OrchestrationResult,
    SetStateDetails,
    SetStateStatus,
    State,
    StateDetails,
    StateType,
    WorkPool,
    WorkQueue,
)
from trioworker.testing.orchestration import (
    DeploymentFacts,
    Situation,
    Verdict,
    decide,
    frees_slot,
    recorded,
    takes_slot,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

# Which type the states have that Prefect itself gives a name of their own.
_TYPES_BY_NAME: Mapping[str, StateType] = {
    **{kind.value.capitalize(): kind for kind in StateType},
    "Late": StateType.SCHEDULED,
    "Resuming": StateType.SCHEDULED,
    "AwaitingRetry": StateType.SCHEDULED,
    "AwaitingConcurrencySlot": StateType.SCHEDULED,
    "Submitting": StateType.PENDING,
    "InfrastructurePending": StateType.PENDING,
    "Retrying": StateType.RUNNING,
    "TimedOut": StateType.FAILED,
    "Suspended": StateType.PAUSED,
}


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
    concurrency_limit: int | None = None
    queues: dict[str, Queue] = attrs.field(factory=dict)


@attrs.define(eq=False)
class DeploymentRecord:
    """A deployment and where its runs wait."""

    public: Deployment
    queue: Queue
    pool: Pool
    concurrency_limit: int | None = None
    cancel_new: bool = False
    slots_taken: int = 0


@attrs.define(eq=False)
class Run:
    """A flow run; `public` holds what the API tells a worker, the rest is what the server knows besides."""

    public: FlowRun
    state: State
    queue: Queue
    pool: Pool
    retries: int | None = None
    retry_delay: float = 0
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    run_count: int = 0
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


@attrs.frozen
class BlockRecord:
    """A block document and its id."""

    id: UUID
    public: BlockDocument


class FakeServer:
    """A Prefect server in memory, without its API: what `FakePrefectAPI` keeps its objects in.

    Args:
        epoch: what its clock shows at the start.
    """

    def __init__(self, *, epoch: datetime = EPOCH) -> None:
        self._epoch = epoch
        self._origin: float | None = None
        self._pools: dict[str, Pool] = {}
        self._flows: dict[UUID, Flow] = {}
        self._deployments: dict[UUID, DeploymentRecord] = {}
        self._runs: dict[UUID, Run] = {}
        # By type and name.
        self._blocks: dict[tuple[str, str], BlockRecord] = {}
        self._variables: dict[str, Any] = {}
        self._changed = trio.Event()
        self._on_change: list[Callable[[Run], None]] = []
        self.seconds()

    def seconds(self) -> float:
        """Seconds since the fake was made, by trio's clock."""
        try:
            current = trio.current_time()
        except RuntimeError:  # not within `trio.run`, where there is no time
            return 0
        if self._origin is None:
            self._origin = current
        return current - self._origin

    def now(self) -> datetime:
        """The time of the fake's clock."""
        return self.moment(self.seconds())

    def moment(self, seconds: float) -> datetime:
        """What the fake's clock shows `seconds` after it was made."""
        return self._epoch + timedelta(seconds=seconds)

    def add_work_pool(
        self,
        name: str,
        *,
        pool_type: str = "process",
        base_job_template: Mapping[str, Any] | None = None,
        is_paused: bool = False,
        concurrency_limit: int | None = None,
    ) -> WorkPool:
        """Create a work pool with its queue `default`."""
        public = WorkPool(
            id=uuid4(),
            name=name,
            type=pool_type,
            base_job_template=copy.deepcopy(dict(base_job_template or {})),
            is_paused=is_paused,
        )
        self._pools[name] = pool = Pool(public, concurrency_limit)
        pool.queues["default"] = Queue("default", priority=1)
        return copy.deepcopy(public)

    def add_work_queue(
        self,
        pool_name: str,
        name: str,
        *,
        priority: int | None = None,
        concurrency_limit: int | None = None,
        is_paused: bool = False,
    ) -> WorkQueue:
        """Create a work queue; a lower `priority` number is served first, the default is the last place.

        A queue that has this priority already gives way, and so do those behind it.
        """
        queues = self._known_pool(pool_name).queues
        if priority is None:
            priority = max((queue.priority for queue in queues.values()), default=0) + 1
        _make_room(queues.values(), priority)
        queues[name] = Queue(name, priority, concurrency_limit, is_paused)
        return WorkQueue(name=name, is_paused=is_paused)

    def add_deployment(
        self,
        flow_name: str,
        pool_name: str,
        *,
        name: str = "default",
        queue_name: str = "default",
        job_variables: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        concurrency_limit: int | None = None,
        cancel_new: bool = False,
    ) -> Deployment:
        """Create a deployment, its flow and its queue if need be.

        Args:
            flow_name: the flow.
            pool_name: a work pool that exists.
            name: the deployment's own name.
            queue_name: where its runs wait.
            job_variables: in place of the work pool's defaults.
            tags: given to each of its runs.
            concurrency_limit: how many of its runs may be active at once.
            cancel_new: cancel a run that is over the limit instead of putting it off.
        """
        pool = self._known_pool(pool_name)
        if queue_name not in pool.queues:
            self.add_work_queue(pool_name, queue_name)
        public = Deployment(
            id=uuid4(),
            name=name,
            flow_id=self._flow_named(flow_name).id,
            updated=self.now(),
            job_variables=copy.deepcopy(dict(job_variables or {})),
            tags=list(tags),
        )
        self._deployments[public.id] = DeploymentRecord(
            public, pool.queues[queue_name], pool, concurrency_limit, cancel_new
        )
        return copy.deepcopy(public)

    def add_block(self, type_slug: str, name: str, data: Mapping[str, Any]) -> UUID:
        """Create a block document, in place of one of the same type and name, and return its id."""
        known = self._blocks.get((type_slug, name))
        block_id = uuid4() if known is None else known.id
        document = BlockDocument(data=copy.deepcopy(dict(data)))
        self._blocks[type_slug, name] = BlockRecord(block_id, document)
        return block_id

    def add_variable(self, name: str, value: Any) -> None:
        """Create a variable, in place of one of the same name; its value is what JSON can hold."""
        self._variables[name] = copy.deepcopy(value)

    def schedule(
        self,
        deployment: Deployment | UUID,
        *,
        at: datetime | float | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        parameters: Mapping[str, Any] | None = None,
        job_variables: Mapping[str, Any] | None = None,
        retries: int | None = None,
        retry_delay: float = 0,
    ) -> FlowRun:
        """Create a flow run.

        Args:
            deployment: what to run.
            at: when, as a time or in seconds since the fake was made; now if not given.
            name: the run's name.
            tags: besides those of the deployment.
            parameters: what the flow is called with.
            job_variables: in place of the deployment's.
            retries: how often the run tries again, in its own process, after it has failed.
            retry_delay: seconds before each of these attempts.
        """
        deployment_id = deployment if isinstance(deployment, UUID) else deployment.id
        if deployment_id not in self._deployments:
            raise LookupError(f"there is no deployment {deployment_id}; make one with add_deployment")
        of = self._deployments[deployment_id]
        due = self.now() if at is None else at if isinstance(at, datetime) else self.moment(at)
        state = State(
            type=StateType.SCHEDULED,
            name="Scheduled",
            timestamp=self.now(),
            state_details=StateDetails(scheduled_time=due),
        )
        public = FlowRun(
            id=uuid4(),
            name=name or f"run-{len(self._runs) + 1}",
            flow_id=of.public.flow_id,
            deployment_id=deployment_id,
            work_queue_name=of.queue.name,
            tags=sorted({*of.public.tags, *tags}),
            job_variables=copy.deepcopy(dict(job_variables or {})),
        )
        labels = {"prefect.flow.id": str(public.flow_id), "prefect.deployment.id": str(deployment_id)}
        run = Run(
            public,
            state,
            of.queue,
            of.pool,
            retries=retries,
            retry_delay=retry_delay,
            parameters=copy.deepcopy(dict(parameters or {})),
            labels=labels,
        )
        self._runs[public.id] = run
        self._note(run)
        return self.flow_run(public.id)

    def cancel(self, flow_run_id: UUID) -> OrchestrationResult:
        """Do what `prefect flow-run cancel` does.

        A run that no worker has started is `Cancelled` at once, any other is `Cancelling`.
        """
        return self.set_state(flow_run_id, "Cancelling")

    def set_state(
        self,
        flow_run_id: UUID,
        name: str,
        *,
        state_type: StateType | None = None,
        message: str | None = None,
        data: Any = None,
        scheduled_time: datetime | None = None,
        retry_type: str | None = None,
        force: bool = False,
    ) -> OrchestrationResult:
        """Propose a state, as the run's own process or a person would; look at the answer's status.

        Args:
            flow_run_id: the run.
            name: the state's name, such as `Running`, `Completed`, `Suspended` or `AwaitingRetry`.
            state_type: its type, for a name that is not one of Prefect's.
            message: the state's message.
            data: the state's data: a result, of which a dictionary counts as persisted.
            scheduled_time: for scheduled states; now if not given.
            retry_type: what becomes of the run's `empirical_policy.retry_type`, if the state is accepted:
                `in_process` is what Prefect sets when a flow waits for its own retry.
            force: propose it past the server's rules.
        """
        if state_type is None:
            if name not in _TYPES_BY_NAME:
                raise ValueError(f"{name!r} is no state of Prefect's: give its state_type too")
            state_type = _TYPES_BY_NAME[name]
        details = StateDetails(scheduled_time=scheduled_time)
        state = State(
            type=state_type, name=name, message=message, data=copy.deepcopy(data), state_details=details
        )
        run = self._known_run(flow_run_id)
        result = self._orchestrate(run, state, force=force)
        if retry_type is not None and result.status is SetStateStatus.ACCEPT:
            run.public = attrs.evolve(run.public, empirical_policy=FlowRunPolicy(retry_type=retry_type))
        return result

    def pause_work_pool(self, name: str, *, paused: bool = True) -> None:
        """Pause a work pool, or resume it: the runs of a paused one stay in it."""
        pool = self._known_pool(name)
        pool.public = attrs.evolve(pool.public, is_paused=paused)

    def pause_work_queue(self, pool_name: str, name: str, *, paused: bool = True) -> None:
        """Pause a work queue, or resume it."""
        self._known_pool(pool_name).queues[name].is_paused = paused

    def delete_work_pool(self, name: str) -> None:
        """Delete a work pool; its runs stay, but no worker gets them any more."""
        del self._pools[self._known_pool(name).public.name]

    def delete_work_queue(self, pool_name: str, name: str) -> None:
        """Delete a work queue; its runs stay, but no worker gets them any more."""
        del self._known_pool(pool_name).queues[name]

    def delete_deployment(self, deployment_id: UUID) -> None:
        """Delete a deployment and those of its runs that are scheduled."""
        del self._deployments[deployment_id]
        for run in list(self._runs.values()):
            if run.public.deployment_id == deployment_id and run.state.type is StateType.SCHEDULED:
                self.delete_flow_run(run.public.id)

    def delete_flow_run(self, flow_run_id: UUID) -> None:
        """Delete a flow run, whatever its state."""
        del self._runs[self._known_run(flow_run_id).public.id]

    @property
    def flow_runs(self) -> list[FlowRun]:
        """All flow runs, oldest first."""
        return [self._public(run) for run in self._runs.values()]

    def flow_run(self, flow_run_id: UUID) -> FlowRun:
        """A flow run as it is now."""
        return self._public(self._known_run(flow_run_id))

    def work_pool(self, name: str) -> WorkPool:
        """A work pool as it is now."""
        return copy.deepcopy(self._known_pool(name).public)

    def labels(self, flow_run_id: UUID) -> dict[str, str]:
        """The labels of a run; the server itself adds two that name its flow and its deployment."""
        return dict(self._known_run(flow_run_id).labels)

    def history(self, flow_run_id: UUID) -> list[tuple[str, float]]:
        """The names of a run's states, each with its time in seconds since the fake was made."""
        return list(self._known_run(flow_run_id).history)

    async def wait_for_state(self, flow_run_id: UUID, *names: str) -> FlowRun:
        """Return as soon as a run's state has one of these names, at once if it has now."""
        while True:
            run = self.flow_run(flow_run_id)
            if run.state is not None and run.state.label in names:
                await trio.lowlevel.checkpoint()
                return run
            await self._changed.wait()

    def _orchestrate(self, run: Run, proposed: State, *, force: bool) -> OrchestrationResult:
        situation = Situation(
            state=run.state,
            proposed=proposed,
            now=self.now(),
            deployment=self._deployment_facts(run.public.deployment_id),
            has_infrastructure=bool(run.public.infrastructure_pid),
            retry_type=run.public.empirical_policy.retry_type,
            retries=run.retries,
            retry_delay=run.retry_delay,
            run_count=run.run_count,
        )
        verdict = decide(situation, force=force)
        self._count_slots(run, situation, verdict, force=force)
        policy = FlowRunPolicy(retry_type=verdict.retry_type)
        run.public = attrs.evolve(run.public, empirical_policy=policy)
        if verdict.state is not None:
            self._record(run, verdict.state)
        details = SetStateDetails(reason=verdict.reason, delay_seconds=verdict.delay_seconds)
        return OrchestrationResult(status=verdict.status, state=run.state, details=details)

    def _count_slots(self, run: Run, situation: Situation, verdict: Verdict, *, force: bool) -> None:
        """Keep count as the server does, which does not look whose slot it is that a run gives back."""
        deployment = self._deployments.get(run.public.deployment_id) if run.public.deployment_id else None
        if deployment is None:
            return
        if takes_slot(situation, verdict, force=force):
            deployment.slots_taken += 1
        elif frees_slot(situation, verdict):
            deployment.slots_taken = max(0, deployment.slots_taken - 1)

    def _record(self, run: Run, state: State) -> None:
        run.state = recorded(state, now=self.now())
        if state.type is StateType.RUNNING:
            run.run_count += 1
        if run.public.start_time is None and (state.type is StateType.RUNNING or state.type.is_final):
            run.public = attrs.evolve(run.public, start_time=self.now())
        self._note(run)

    def _note(self, run: Run) -> None:
        run.history.append((run.state.label, self.seconds()))
        run.states.append(run.state)
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        for tell in self._on_change:
            tell(run)

    def _due(self, pool: Pool, queues: Sequence[Queue], before: datetime) -> list[Run]:
        """The runs that a poll returns: by priority of the queue, then by time, as far as the limits go."""
        if pool.public.is_paused:
            return []
        due: list[Run] = []
        for queue in sorted(queues, key=lambda queue: queue.priority):
            if queue.is_paused:
                continue
            waiting = [
                run
                for run in self._runs.values()
                if run.queue is queue and run.waits_for_worker and run.due <= before
            ]
            waiting.sort(key=lambda run: run.due)
            due.extend(waiting[: self._free(queue.concurrency_limit, [queue])])
        return due[: self._free(pool.concurrency_limit, list(pool.queues.values()))]

    def _free(self, limit: int | None, queues: Sequence[Queue]) -> int | None:
        if limit is None:
            return None
        return max(0, limit - sum(run.occupies and run.queue in queues for run in self._runs.values()))

    def _deployment_facts(self, deployment_id: UUID | None) -> DeploymentFacts | None:
        deployment = self._deployments.get(deployment_id) if deployment_id is not None else None
        if deployment is None:
            return None
        return DeploymentFacts(
            concurrency_limit=deployment.concurrency_limit,
            slots_taken=deployment.slots_taken,
            cancel_new=deployment.cancel_new,
        )

    def _public(self, run: Run) -> FlowRun:
        return attrs.evolve(copy.deepcopy(run.public), state=run.state)

    def _flow_named(self, name: str) -> Flow:
        for flow in self._flows.values():
            if flow.name == name:
                return flow
        flow = Flow(id=uuid4(), name=name)
        self._flows[flow.id] = flow
        return flow

    def _known_pool(self, name: str) -> Pool:
        if name not in self._pools:
            raise LookupError(f"there is no work pool {name!r}; make one with add_work_pool")
        return self._pools[name]

    def _known_run(self, flow_run_id: UUID) -> Run:
        if flow_run_id not in self._runs:
            raise LookupError(f"there is no flow run {flow_run_id}; make one with schedule")
        return self._runs[flow_run_id]


def _make_room(queues: Iterable[Queue], priority: int) -> None:
    for queue in sorted(queues, key=lambda queue: queue.priority):
        if queue.priority == priority:
            queue.priority = priority = priority + 1
