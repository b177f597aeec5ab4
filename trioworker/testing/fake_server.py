"""The world behind the fake API: work pools, deployments, flow runs, and what people and flows do to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import attrs
import trio

from trioworker.api.models import (
    BlockDocument,
    ConcurrencyLimit,
    Deployment,
    DeploymentDraft,
    DeploymentSchedule,
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
    with_lease,
)
from trioworker.testing.records import BlockRecord, DeploymentRecord, Pool, Queue, Run
from trioworker.testing.schedules import ScheduleLike, Scheduler, as_deployment_schedule
from trioworker.testing.stored_schedules import as_stored

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

# The schema of a deployment for which nobody has given one.
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}

# Which type the states have that Prefect itself gives a name of their own.
STATE_TYPES: Mapping[str, StateType] = {
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


class HasId(Protocol):
    """Something that the server has given an id."""

    @property
    def id(self) -> UUID:
        """The id."""


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
        # Of each lease that has not run out and was not given back, the deployment whose slot it is on.
        self._leases: dict[UUID, UUID] = {}
        self._scheduler = Scheduler()
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
        """The time of day by the fake's clock, in the time zone of its epoch."""
        return self.moment(self.seconds())

    def moment(self, seconds: float) -> datetime:
        """What the fake's clock shows `seconds` after it was made, in the time zone of its epoch."""
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
        """Create a work pool with its queue `default`.

        Args:
            name: the pool's name; one that is there already is replaced.
            pool_type: Prefect's type of the pool, such as `process`, or `trio` for functions.
            base_job_template: Prefect's base job template; none by default, and then a worker brings its own.
            is_paused: whether its runs stay in it for now.
            concurrency_limit: how many of its runs may be active at once; None for any number.
        """
        public = WorkPool(
            id=uuid4(),
            name=name,
            type=pool_type,
            base_job_template=copy.deepcopy(dict(base_job_template or {})),
            is_paused=is_paused,
            concurrency_limit=concurrency_limit,
        )
        self._pools[name] = pool = Pool(public)
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

        Args:
            pool_name: a work pool that exists.
            name: the queue's name.
            priority: 1 or more.
            concurrency_limit: how many of its runs may be active at once; None for any number.
            is_paused: whether its runs stay in it for now.

        Raises:
            LookupError: there is no such work pool.
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
        parameters: Mapping[str, Any] | None = None,
        parameter_schema: Mapping[str, Any] | None = None,
        enforce_parameter_schema: bool = True,
        schedules: Iterable[ScheduleLike] = (),
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
            parameters: what its runs are called with, unless they say otherwise.
            parameter_schema: what its runs may be called with; the fake only keeps it and checks nothing by it.
            enforce_parameter_schema: what is told of that; the fake does as if it were False.
            schedules: when runs are created: `trioworker.Cron`, `Interval` or `RRule`, or the API's form of them.
                The times are those of a Prefect server; see `trioworker.testing.schedules.occurrences`.
            concurrency_limit: how many of its runs may be active at once.
            cancel_new: cancel a run that is over the limit instead of putting it off.

        Raises:
            LookupError: there is no such work pool.
            ValueError: a schedule that a Prefect server would refuse; mostly a `ScheduleError`.
            ModuleNotFoundError: a package that reads such schedules is not installed; the message says which.
        """
        pool = self._known_pool(pool_name)
        queue = self._queue(pool, queue_name)
        public = Deployment(
            id=uuid4(),
            name=name,
            flow_id=self._flow_named(flow_name).id,
            updated=self.now(),
            job_variables=copy.deepcopy(dict(job_variables or {})),
            tags=list(tags),
            work_pool_name=pool_name,
            work_queue_name=queue_name,
            parameters=copy.deepcopy(dict(parameters or {})),
            parameter_openapi_schema=copy.deepcopy(dict(parameter_schema or NO_PARAMETERS)),
            enforce_parameter_schema=enforce_parameter_schema,
            schedules=[as_stored(as_deployment_schedule(schedule), now=self.now()) for schedule in schedules],
            global_concurrency_limit=_limit(concurrency_limit),
        )
        self._deployments[public.id] = DeploymentRecord(public, queue, pool, cancel_new=cancel_new)
        self._plan_runs(public.id)
        return copy.deepcopy(public)

    def add_block(self, type_slug: str, name: str, data: Mapping[str, Any]) -> UUID:
        """Create a block document, in place of one of the same type and name, and return its id.

        Args:
            type_slug: Prefect's name of the block's type, such as `secret`.
            name: the block's name.
            data: what it holds.
        """
        known = self._blocks.get((type_slug, name))
        block_id = uuid4() if known is None else known.id
        document = BlockDocument(data=copy.deepcopy(dict(data)))
        self._blocks[type_slug, name] = BlockRecord(block_id, document)
        return block_id

    def add_variable(self, name: str, value: Any) -> None:
        """Create a variable, in place of one of the same name; its value is what JSON can hold.

        Args:
            name: the variable's name.
            value: what flows and job templates find in it.
        """
        self._variables[name] = copy.deepcopy(value)

    def schedule(
        self,
        deployment: HasId | UUID | str,
        *,
        at: datetime | float | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        parameters: Mapping[str, Any] | None = None,
        job_variables: Mapping[str, Any] | None = None,
        retries: int | None = None,
        retry_delay: int = 0,
        auto_scheduled: bool = False,
    ) -> FlowRun:
        """Create a flow run.

        Args:
            deployment: what to run: what `add_deployment` or `TrioFlows.deploy` has returned, its id, or the name
                of a flow that has just one deployment.
            at: when, as a time or in seconds since the fake was made; now if not given.
            name: the run's name.
            tags: besides those of the deployment.
            parameters: what the flow is called with, over what the deployment has for it. Unlike the server,
                the fake does not compare them with the deployment's schema.
            job_variables: in place of the deployment's.
            retries: how often the run tries again, in its own process, after it has failed.
            retry_delay: seconds before each of these attempts.
            auto_scheduled: whether a schedule of the deployment has made it. Such a run goes when the deployment
                is changed.

        Raises:
            LookupError: there is no such deployment, or the flow has several; the message lists what there is.
        """
        if isinstance(deployment, str):
            deployment_id = self._only_deployment_of(self._known_flow(deployment))
        else:
            deployment_id = deployment if isinstance(deployment, UUID) else deployment.id
        if deployment_id not in self._deployments:
            raise LookupError(f"there is no deployment {deployment_id}; make one with add_deployment")
        of = self._deployments[deployment_id]
        due = self.now() if at is None else at if isinstance(at, datetime) else self.moment(at)
        state = State(
            id=uuid4(),
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
            parameters=copy.deepcopy({**of.public.parameters, **(parameters or {})}),
            empirical_policy=FlowRunPolicy(
                retries=retries, retry_delay=None if retries is None else retry_delay
            ),
        )
        labels = {"prefect.flow.id": str(public.flow_id), "prefect.deployment.id": str(deployment_id)}
        run = Run(public, state, of.queue, of.pool, labels=labels, auto_scheduled=auto_scheduled)
        self._runs[public.id] = run
        self._note(run)
        return self.flow_run(public.id)

    def cancel(self, flow_run_id: UUID) -> OrchestrationResult:
        """Do what `prefect flow-run cancel` does.

        A run that no worker has started is `Cancelled` at once, any other is `Cancelling`.

        Args:
            flow_run_id: of the run.

        Raises:
            LookupError: there is no such flow run.
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

        Raises:
            LookupError: there is no such flow run.
            ValueError: a name that is not one of Prefect's, without a type.
        """
        if state_type is None:
            if name not in STATE_TYPES:
                raise ValueError(f"{name!r} is no state of Prefect's: give its state_type too")
            state_type = STATE_TYPES[name]
        details = StateDetails(scheduled_time=scheduled_time)
        state = State(
            type=state_type, name=name, message=message, data=copy.deepcopy(data), state_details=details
        )
        run = self._known_run(flow_run_id)
        result = self._orchestrate(run, state, force=force)
        if retry_type is not None and result.status is SetStateStatus.ACCEPT:
            policy = attrs.evolve(run.public.empirical_policy, retry_type=retry_type)
            run.public = attrs.evolve(run.public, empirical_policy=policy)
        return result

    def expire_lease(self, lease_id: UUID) -> None:
        """Let a lease run out, as the server does with one that is not renewed in time; its slot is free again.

        By itself none runs out.

        Args:
            lease_id: it is in the details of the state of the run that has the slot.

        Raises:
            LookupError: there is no such lease, or not any more.
        """
        if lease_id not in self._leases:
            raise LookupError(
                f"there is no lease {lease_id}: it has run out or was given back, if it ever was"
            )
        self._release(self._leases.pop(lease_id))

    def pause_schedule(self, deployment_id: UUID, schedule_id: UUID, *, paused: bool = True) -> None:
        """Pause a schedule of a deployment, or resume it, as a person does in the UI.

        Args:
            deployment_id: of the deployment.
            schedule_id: of the schedule; it is in `deployment(deployment_id).schedules`.
            paused: False to resume it.

        Raises:
            LookupError: there is no such deployment.
            ValueError: the deployment has no such schedule.
        """
        [schedule] = [
            schedule for schedule in self.deployment(deployment_id).schedules if schedule.id == schedule_id
        ]
        self._replace_schedule(deployment_id, attrs.evolve(schedule, active=not paused))

    def pause_deployment(self, deployment_id: UUID, *, paused: bool = True) -> None:
        """Pause a deployment, or resume it: the schedules of a paused one create no runs.

        Args:
            deployment_id: of the deployment.
            paused: False to resume it.

        Raises:
            LookupError: there is no such deployment.
        """
        record = self._deployments[self.deployment(deployment_id).id]
        record.public = attrs.evolve(record.public, paused=paused)
        self._forget_runs_of_schedules(deployment_id, after=self.now())

    def pause_work_pool(self, name: str, *, paused: bool = True) -> None:
        """Pause a work pool, or resume it: the runs of a paused one stay in it.

        Args:
            name: of the pool.
            paused: False to resume it.

        Raises:
            LookupError: there is no such work pool.
        """
        pool = self._known_pool(name)
        pool.public = attrs.evolve(pool.public, is_paused=paused)

    def pause_work_queue(self, pool_name: str, name: str, *, paused: bool = True) -> None:
        """Pause a work queue, or resume it.

        Args:
            pool_name: of its pool.
            name: of the queue.
            paused: False to resume it.

        Raises:
            LookupError: there is no such work pool or queue.
        """
        self._known_pool(pool_name).queues[name].is_paused = paused

    def delete_work_pool(self, name: str) -> None:
        """Delete a work pool; its runs stay, but no worker gets them any more.

        Args:
            name: of the pool.

        Raises:
            LookupError: there is no such work pool.
        """
        del self._pools[self._known_pool(name).public.name]

    def delete_work_queue(self, pool_name: str, name: str) -> None:
        """Delete a work queue; its runs stay, but no worker gets them any more.

        Args:
            pool_name: of its pool.
            name: of the queue.

        Raises:
            LookupError: there is no such work pool or queue.
        """
        del self._known_pool(pool_name).queues[name]

    def delete_deployment(self, deployment_id: UUID) -> None:
        """Delete a deployment and those of its runs that are scheduled.

        Args:
            deployment_id: of the deployment.

        Raises:
            LookupError: there is no such deployment.
        """
        self._create_scheduled_runs(self.now())
        self._scheduler.forget(deployment_id)
        del self._deployments[deployment_id]
        for run in list(self._runs.values()):
            if run.public.deployment_id == deployment_id and run.state.type is StateType.SCHEDULED:
                self.delete_flow_run(run.public.id)

    def delete_flow_run(self, flow_run_id: UUID) -> None:
        """Delete a flow run, whatever its state.

        Args:
            flow_run_id: of the run.

        Raises:
            LookupError: there is no such flow run.
        """
        del self._runs[self._known_run(flow_run_id).public.id]

    @property
    def deployments(self) -> list[Deployment]:
        """All deployments, oldest first."""
        return [copy.deepcopy(deployment.public) for deployment in self._deployments.values()]

    def deployment(self, deployment_id: UUID) -> Deployment:
        """A deployment as it is now.

        Args:
            deployment_id: of the deployment.

        Raises:
            LookupError: there is no such deployment.
        """
        if deployment_id not in self._deployments:
            raise LookupError(f"there is no deployment {deployment_id}; make one with add_deployment")
        return copy.deepcopy(self._deployments[deployment_id].public)

    @property
    def flow_runs(self) -> list[FlowRun]:
        """All flow runs, oldest first, those that schedules have made up to now included."""
        self._create_scheduled_runs(self.now())
        return [self._public(run) for run in self._runs.values()]

    def flow_run(self, flow_run_id: UUID) -> FlowRun:
        """A flow run as it is now.

        Args:
            flow_run_id: of the run.

        Raises:
            LookupError: there is no such flow run.
        """
        return self._public(self._known_run(flow_run_id))

    def work_pool(self, name: str) -> WorkPool:
        """A work pool as it is now.

        Args:
            name: of the pool.

        Raises:
            LookupError: there is no such work pool.
        """
        return copy.deepcopy(self._known_pool(name).public)

    def labels(self, flow_run_id: UUID) -> dict[str, str]:
        """The labels of a run; the server itself adds two that name its flow and its deployment.

        Args:
            flow_run_id: of the run.

        Raises:
            LookupError: there is no such flow run.
        """
        return dict(self._known_run(flow_run_id).labels)

    def history(self, flow_run_id: UUID) -> list[tuple[str, float]]:
        """The names of a run's states, each with its time in seconds since the fake was made.

        Args:
            flow_run_id: of the run.

        Raises:
            LookupError: there is no such flow run.
        """
        return list(self._known_run(flow_run_id).history)

    async def wait_for_state(self, flow_run_id: UUID, *names: str) -> FlowRun:
        """Return as soon as a run's state has one of these names, at once if it has now.

        Args:
            flow_run_id: of the run.
            names: such as `Running` or `Completed`.

        Raises:
            LookupError: there is no such flow run.
        """
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
            policy=run.public.empirical_policy,
            has_infrastructure=bool(run.public.infrastructure_pid),
            has_lost_lease=_lease_of(run) is not None and _lease_of(run) not in self._leases,
            run_count=run.public.run_count,
        )
        verdict = decide(situation, force=force)
        verdict = self._count_slots(run, situation, verdict, force=force)
        run.public = attrs.evolve(run.public, empirical_policy=verdict.policy)
        if verdict.state is not None:
            self._record(run, verdict.state)
        details = SetStateDetails(reason=verdict.reason, delay_seconds=verdict.delay_seconds)
        return OrchestrationResult(status=verdict.status, state=run.state, details=details)

    def _count_slots(self, run: Run, situation: Situation, verdict: Verdict, *, force: bool) -> Verdict:
        """Keep count as the server does, which does not look whose slot it is that a run gives back.

        The state of a run that has taken one comes back with a lease on it, if the deployment has a limit.
        """
        deployment_id = run.public.deployment_id
        deployment = self._deployments.get(deployment_id) if deployment_id else None
        if deployment is None or deployment_id is None:
            return verdict
        if takes_slot(situation, verdict, force=force) and verdict.state is not None:
            deployment.slots_taken += 1
            if deployment.public.concurrency_limit is not None:
                self._leases[lease_id := uuid4()] = deployment_id
                return attrs.evolve(verdict, state=with_lease(verdict.state, lease_id))
        elif frees_slot(situation, verdict):
            if (lease := _lease_of(run)) is not None:
                self._leases.pop(lease, None)
            self._release(deployment_id)
        return verdict

    def _release(self, deployment_id: UUID) -> None:
        if (deployment := self._deployments.get(deployment_id)) is not None:
            deployment.slots_taken = max(0, deployment.slots_taken - 1)

    def _record(self, run: Run, state: State) -> None:
        run.state = recorded(state, now=self.now())
        if state.type is StateType.RUNNING:
            run.public = attrs.evolve(run.public, run_count=run.public.run_count + 1)
        if run.public.start_time is None and (state.type is StateType.RUNNING or state.type.is_final):
            run.public = attrs.evolve(run.public, start_time=self.now())
        self._note(run)

    def _note(self, run: Run) -> None:
        run.history.append((run.state.label, self.seconds()))
        run.states.append(run.state)
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        # The server's scheduler creates runs without a word.
        if run.auto_scheduled and len(run.states) == 1:
            return
        for tell in self._on_change:
            tell(run)

    def _due(self, pool: Pool, queues: Sequence[Queue], before: datetime) -> list[Run]:
        """The runs that a poll returns: by priority of the queue, then by time, as far as the limits go."""
        self._create_scheduled_runs(before)
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
        return due[: self._free(pool.public.concurrency_limit, list(pool.queues.values()))]

    def _free(self, limit: int | None, queues: Sequence[Queue]) -> int | None:
        if limit is None:
            return None
        return max(0, limit - sum(run.occupies and run.queue in queues for run in self._runs.values()))

    def _deployment_facts(self, deployment_id: UUID | None) -> DeploymentFacts | None:
        deployment = self._deployments.get(deployment_id) if deployment_id is not None else None
        if deployment is None:
            return None
        return DeploymentFacts(
            concurrency_limit=deployment.public.concurrency_limit,
            slots_taken=deployment.slots_taken,
            cancel_new=deployment.cancel_new,
        )

    def _put_deployment(self, draft: DeploymentDraft) -> Deployment:
        """Create a deployment, or make one of this name and flow anew, as the server does on one request."""
        schedules = [as_stored(schedule, now=self.now()) for schedule in draft.schedules or ()]
        for known in self._deployments.values():
            if (known.public.name, known.public.flow_id) == (draft.name, draft.flow_id):
                self._update_deployment(known, draft)
                known.public = attrs.evolve(known.public, parameters={}, schedules=schedules)
                self._plan_runs(known.public.id)
                return copy.deepcopy(known.public)
        pool = self._known_pool(draft.work_pool_name)
        public = Deployment(id=uuid4(), name=draft.name, flow_id=draft.flow_id, schedules=schedules)
        record = DeploymentRecord(public, pool.queues["default"], pool)
        self._deployments[public.id] = record
        self._update_deployment(record, draft)
        return copy.deepcopy(record.public)

    def _update_deployment(self, record: DeploymentRecord, draft: DeploymentDraft) -> None:
        record.pool = self._known_pool(draft.work_pool_name)
        record.queue = self._queue(record.pool, draft.work_queue_name or "default")
        record.public = attrs.evolve(
            record.public,
            updated=self.now(),
            work_pool_name=draft.work_pool_name,
            work_queue_name=record.queue.name,
            entrypoint=draft.entrypoint,
            description=draft.description,
            tags=list(draft.tags),
            version=draft.version,
            parameter_openapi_schema=_through_json(draft.parameter_openapi_schema) or dict(NO_PARAMETERS),
            enforce_parameter_schema=draft.enforce_parameter_schema,
            global_concurrency_limit=_limit(draft.concurrency_limit),
        )
        self._forget_runs_of_schedules(record.public.id, after=self.now())

    def _replace_schedule(self, deployment_id: UUID, schedule: DeploymentSchedule) -> None:
        record = self._deployments[deployment_id]
        schedules = [schedule if each.id == schedule.id else each for each in record.public.schedules]
        record.public = attrs.evolve(record.public, schedules=schedules)
        self._forget_runs_of_schedules(deployment_id, after=self.now())

    def _forget_runs_of_schedules(self, deployment_id: UUID, *, after: datetime | None = None) -> None:
        """Delete what the schedules of a deployment have made and nobody has claimed, or what is due later."""
        self._create_scheduled_runs(self.now())
        for run in list(self._runs.values()):
            is_new = run.state.type is StateType.SCHEDULED and run.public.run_count == 0
            is_of_schedule = run.auto_scheduled and run.public.deployment_id == deployment_id
            if not (is_new and is_of_schedule and run.state.name != "AwaitingConcurrencySlot"):
                continue
            if after is None or run.due > after:
                del self._runs[run.public.id]
        self._plan_runs(deployment_id)

    def _plan_runs(self, deployment_id: UUID) -> None:
        """Go by the schedules that a deployment has now; what was due before is created already."""
        self._create_scheduled_runs(self.now())
        self._scheduler.plan(self._deployments[deployment_id].public, self.now())

    def _create_scheduled_runs(self, until: datetime) -> None:
        """Do what the server's scheduler would have done by now for all runs that are due up to a time."""
        for due, deployment_id in self._scheduler.take(until):
            self.schedule(deployment_id, at=due, tags=["auto-scheduled"], auto_scheduled=True)

    def _queue(self, pool: Pool, name: str) -> Queue:
        if name not in pool.queues:
            self.add_work_queue(pool.public.name, name)
        return pool.queues[name]

    def _public(self, run: Run) -> FlowRun:
        due = run.due if run.state.type is StateType.SCHEDULED else None
        return attrs.evolve(
            copy.deepcopy(run.public),
            state_id=run.state.id,
            state=run.state,
            expected_start_time=run.expected,
            next_scheduled_start_time=due,
            estimated_start_time_delta=run.lateness(self.now()),
        )

    def _flow_named(self, name: str) -> Flow:
        for flow in self._flows.values():
            if flow.name == name:
                return flow
        flow = Flow(id=uuid4(), name=name)
        self._flows[flow.id] = flow
        return flow

    def _known_flow(self, name: str) -> Flow:
        for flow in self._flows.values():
            if flow.name == name:
                return flow
        names = ", ".join(sorted(repr(flow.name) for flow in self._flows.values()))
        raise LookupError(
            f"there is no flow {name!r}; there are {names}"
            if names
            else f"there is no flow {name!r}, nor any other; deploy some, or make one with add_deployment"
        )

    def _only_deployment_of(self, flow: Flow) -> UUID:
        found = [each.public for each in self._deployments.values() if each.public.flow_id == flow.id]
        if len(found) == 1:
            return found[0].id
        if not found:
            raise LookupError(f"the flow {flow.name!r} has no deployment; make one with add_deployment")
        names = ", ".join(sorted(repr(deployment.name) for deployment in found))
        raise LookupError(
            f"the flow {flow.name!r} has {len(found)} deployments: {names}; give one of `deployments`, or its id"
        )

    def _known_pool(self, name: str) -> Pool:
        if name not in self._pools:
            raise LookupError(f"there is no work pool {name!r}; make one with add_work_pool")
        return self._pools[name]

    def _known_run(self, flow_run_id: UUID) -> Run:
        if flow_run_id not in self._runs:
            raise LookupError(f"there is no flow run {flow_run_id}; make one with schedule")
        return self._runs[flow_run_id]


def _through_json(value: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(value)))
    return plain


def _limit(concurrency_limit: int | None) -> ConcurrencyLimit | None:
    return None if concurrency_limit is None else ConcurrencyLimit(limit=concurrency_limit)


def _lease_of(run: Run) -> UUID | None:
    return run.state.state_details.deployment_concurrency_lease_id


def _make_room(queues: Iterable[Queue], priority: int) -> None:
    for queue in sorted(queues, key=lambda queue: queue.priority):
        if queue.priority == priority:
            queue.priority = priority = priority + 1
