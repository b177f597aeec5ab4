"""A Prefect API in memory, for tests."""

from __future__ import annotations

import copy
import json
import math
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID, uuid4

import attrs
import trio

from trioworker.api.client import (
    LARGEST_BULK,
    LARGEST_PAGE,
    VITAL_REQUESTS,
    PrefectAPI,
    path_by_id,
    path_by_name,
    path_of_deployment,
)
from trioworker.api.condition import Condition
from trioworker.api.converter import unstructure
from trioworker.api.errors import (
    APIError,
    APIUnavailableError,
    MalformedAnswerError,
    NotPermittedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RequestRefusedError,
    is_outage,
)
from trioworker.api.models import (
    BlockDocument,
    Deployment,
    DeploymentDraft,
    DeploymentSchedule,
    Event,
    Flow,
    FlowRun,
    FlowRunPolicy,
    LogLine,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
    StateChange,
    StateDetails,
    StateType,
    WorkerMetadata,
    WorkPool,
    WorkQueue,
)
from trioworker.api.state_changes import StateChanges
from trioworker.api.transport import retry_delay
from trioworker.lean_attrs import frozen
from trioworker.testing.fake_server import EPOCH, FakeServer
from trioworker.testing.flow_run_document import flow_run_document
from trioworker.testing.records import DeploymentRecord, Pool, Queue, Run
from trioworker.testing.schedules import check_schedule
from trioworker.testing.stored_schedules import as_stored

T = TypeVar("T")

_METHODS = frozenset(
    name for name, value in vars(PrefectAPI).items() if callable(value) and not name.startswith("_")
)

# How many related resources the server allows an event.
_MOST_RELATED = 100

# Which package provides which type of worker, as a server without access to the internet has it.
WORKER_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "process": "prefect",
        "ecs": "prefect-aws",
        "azure-container-instance": "prefect-azure",
        "docker": "prefect-docker",
        "cloud-run": "prefect-gcp",
        "cloud-run-v2": "prefect-gcp",
        "vertex-ai": "prefect-gcp",
        "kubernetes": "prefect-kubernetes",
    }
)

# For how many seconds a lease may be renewed.
_SHORTEST_LEASE = 60
_LONGEST_LEASE = 24 * 60 * 60

_NAME = re.compile(r"[^/%&><]+")

_TEMPLATE_VARIABLE = re.compile(r"{{\s*(\w+)\s*}}")


@frozen(kw_only=True)
class Call:
    """A request that reached the fake, or would have but for an outage.

    Attributes:
        method: the name of the `PrefectAPI` method.
        at: when, in seconds since the fake was made.
        arguments: what it was called with, by name.
    """

    method: str
    at: float
    arguments: Mapping[str, Any]


@frozen(kw_only=True)
class Heartbeat:
    """A sign of life of a worker: a heartbeat of Prefect's.

    Attributes:
        pool_name: the work pool that it works for.
        worker_name: its name.
        interval_seconds: after how many seconds the next one is to come.
        at: when it arrived, in seconds since the fake was made.
        metadata: what else the worker has told of itself; None if nothing.
    """

    pool_name: str
    worker_name: str
    interval_seconds: int
    at: float
    metadata: WorkerMetadata | None = None


@frozen(kw_only=True)
class LeaseRenewal:
    """A lease on a slot of a deployment's concurrency limit was renewed.

    Attributes:
        lease_id: Prefect's id of the lease.
        lease_seconds: for how many seconds from then on it was asked for.
        at: when, in seconds since the fake was made.
    """

    lease_id: UUID
    lease_seconds: float
    at: float


@frozen
class _Fault:
    error: APIError
    applied: bool = False


class FakePrefectAPI(FakeServer):
    """A Prefect server and its client in one: it is a `PrefectAPI`, and tests play the rest of the world.

    There are no sockets, threads or clocks in it. Time is trio's, so under a `MockClock` everything happens
    at exact virtual moments; the fake's own clock shows `epoch` when it is made (outside of `trio.run`: when
    it is first used) and times are reported as seconds since then.

    What is proposed for a run is judged as the real server judges it. The server's own loops are not there: no run
    is marked `Late`, no lease runs out, and `Cancelling` lasts until somebody ends it. Runs of schedules are there
    when somebody asks for them or looks. Parameters are not compared with the schema of a deployment, whatever it
    says of enforcing that.

    Args:
        epoch: what the fake's clock shows at the start.
        latency: seconds that every request takes; it takes effect at the end of them.
        max_retries: how often a request that finds no API is repeated, with the pauses that the real client
            makes (less their jitter), before the caller gets the error. The real client's default is 5.
        condition: told about every request exactly as by the real client; one of its own if not given.

    Attributes:
        latency: seconds, as above; may be changed at any time.
        latencies: seconds by method name, in place of `latency`; `math.inf` for a method that never answers.
        worker_id: what a heartbeat is answered with if the worker wants its id, as by Prefect Cloud; a
            self-hosted server has None for it.
        worker_packages: which package provides which type of worker.
        calls: every request, in order, repetitions included.
        heartbeats: every heartbeat that arrived.
        lease_renewals: every renewal of a lease that was still there.
        events: every event that arrived.
        logs: every log line that arrived.
    """

    def __init__(
        self,
        *,
        epoch: datetime = EPOCH,
        latency: float = 0,
        max_retries: int = 0,
        condition: Condition | None = None,
    ) -> None:
        super().__init__(epoch=epoch)
        self.latency = latency
        self.latencies: dict[str, float] = {}
        self.worker_id: UUID | None = None
        self.worker_packages: dict[str, str] = dict(WORKER_PACKAGES)
        self.calls: list[Call] = []
        self.heartbeats: list[Heartbeat] = []
        self.lease_renewals: list[LeaseRenewal] = []
        self.events: list[Event] = []
        self.logs: list[LogLine] = []
        self._max_retries = max_retries
        self._condition = Condition() if condition is None else condition
        self._outage: APIUnavailableError | None = None
        self._state_changes: list[StateChanges] = []
        self._state_changes_refused: str | None = None
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)

    @property
    def condition(self) -> Condition:
        """Whether the API answers."""
        return self._condition

    def count(self, method: str) -> int:
        """How often a method of `PrefectAPI` was called, repetitions included.

        Args:
            method: its name.

        Raises:
            ValueError: there is no such method; the message lists them.
        """
        return len(self.times(method))

    def times(self, method: str) -> list[float]:
        """When a method of `PrefectAPI` was called, in seconds since the fake was made.

        Args:
            method: its name.

        Raises:
            ValueError: there is no such method; the message lists them.
        """
        _check_method(method)
        return [call.at for call in self.calls if call.method == method]

    @contextmanager
    def outage(self, reason: str = "no connection: refused") -> Iterator[None]:
        """Let nothing through as long as the block lasts: every request raises `APIUnavailableError`.

        Args:
            reason: the error's message.
        """
        self.start_outage(reason)
        try:
            yield
        finally:
            self.end_outage()

    def start_outage(self, reason: str = "no connection: refused") -> None:
        """Let nothing through until `end_outage`: every request raises `APIUnavailableError`.

        Args:
            reason: the error's message.
        """
        self._outage = APIUnavailableError(reason)
        self._end_state_changes(reason)

    def end_outage(self) -> None:
        """Answer again."""
        self._outage = None

    @contextmanager
    def rate_limit(self, retry_after: float) -> Iterator[None]:
        """Answer every request of a block with 429, and ask to be left alone for `retry_after` seconds."""
        self._outage = APIUnavailableError("the API answered 429 Too Many Requests", retry_after=retry_after)
        try:
            yield
        finally:
            self.end_outage()

    def drop_state_changes(self, reason: str = "websocket closed") -> None:
        """End the websockets over which state changes are told; new ones are accepted at once.

        Args:
            reason: what a worker that listens gets to hear.
        """
        self._end_state_changes(reason)

    def refuse_state_changes(self, reason: str = "websockets are not let through") -> None:
        """Tell nobody of state changes until `accept_state_changes`, as a proxy does that drops websockets.

        Args:
            reason: what a worker that tries to listen gets to hear.
        """
        self._state_changes_refused = reason
        self._end_state_changes(reason)

    def accept_state_changes(self) -> None:
        """Tell of state changes again."""
        self._state_changes_refused = None

    def fail(self, method: str, error: APIError, *, times: int = 1) -> None:
        """Answer the next requests of one kind with an error, and do nothing of what they ask for.

        Args:
            method: a method of `PrefectAPI`.
            error: what the caller gets. If it is an `APIUnavailableError`, the request is repeated as far as
                `max_retries` goes, and each repetition counts.
            times: how many requests. Further errors for the same method queue up behind these.

        Raises:
            ValueError: there is no such method; the message lists them.
        """
        _check_method(method)
        self._faults[method].extend([_Fault(error)] * times)

    def lose_answer(self, method: str, *, times: int = 1) -> None:
        """Do what the next requests of one kind ask for, but let the answers get lost on the way.

        Args:
            method: a method of `PrefectAPI`.
            times: how many requests.

        Raises:
            ValueError: there is no such method; the message lists them.
        """
        _check_method(method)
        error = APIUnavailableError("connection lost: the answer never came")
        self._faults[method].extend([_Fault(error, applied=True)] * times)

    def malform_answer(self, method: str, *, times: int = 1) -> None:
        """Answer the next requests of one kind with a page of HTML, as a wrong proxy does.

        Args:
            method: a method of `PrefectAPI`.
            times: how many requests.

        Raises:
            ValueError: there is no such method; the message lists them.
        """
        error = MalformedAnswerError(method, ["not JSON but text/html, beginning '<html>'"])
        self.fail(method, error, times=times)

    async def read_work_pool(self, name: str) -> WorkPool:
        """See `PrefectAPI.read_work_pool`."""

        def answer() -> WorkPool:
            return copy.deepcopy(self._pool(name, f"GET /work_pools/{name}").public)

        return await self._serve("read_work_pool", {"name": name}, answer)

    async def create_work_pool(
        self, name: str, *, pool_type: str, base_job_template: Mapping[str, Any]
    ) -> WorkPool:
        """See `PrefectAPI.create_work_pool`."""
        arguments = {"name": name, "pool_type": pool_type, "base_job_template": _as_json(base_job_template)}
        request = "POST /work_pools/"

        def answer() -> WorkPool:
            _check_name(name, request)
            _check_template(base_job_template, request)
            if name.lower().startswith("prefect"):
                reason = "Work pools starting with 'Prefect' are reserved for internal use."
                raise NotPermittedError(request, 403, reason)
            if name in self._pools:
                raise ObjectExistsError(request, 409, "A work pool with this name already exists.")
            return self.add_work_pool(name, pool_type=pool_type, base_job_template=base_job_template)

        return await self._serve("create_work_pool", arguments, answer)

    async def update_work_pool_template(self, name: str, base_job_template: Mapping[str, Any]) -> None:
        """See `PrefectAPI.update_work_pool_template`."""
        arguments = {"name": name, "base_job_template": _as_json(base_job_template)}
        request = f"PATCH /work_pools/{name}"

        def answer() -> None:
            _check_template(base_job_template, request)
            pool = self._pool(name, request)
            pool.public = attrs.evolve(pool.public, base_job_template=copy.deepcopy(dict(base_job_template)))

        await self._serve("update_work_pool_template", arguments, answer)

    async def read_work_queues(self, pool_name: str, queue_names: Sequence[str]) -> list[WorkQueue]:
        """See `PrefectAPI.read_work_queues`."""
        arguments = {"pool_name": pool_name, "queue_names": list(queue_names)}

        def answer() -> list[WorkQueue]:
            pool = self._pool(pool_name, f"POST /work_pools/{pool_name}/queues/filter")
            return [
                WorkQueue(name=queue.name, is_paused=queue.is_paused)
                for queue in sorted(pool.queues.values(), key=lambda queue: queue.priority)
                if not queue_names or queue.name in queue_names
            ]

        return await self._serve("read_work_queues", arguments, answer)

    async def send_worker_heartbeat(
        self,
        pool_name: str,
        worker_name: str,
        interval_seconds: float,
        *,
        metadata: WorkerMetadata | None = None,
        wants_id: bool = False,
    ) -> UUID | None:
        """See `PrefectAPI.send_worker_heartbeat`."""
        arguments = {
            "pool_name": pool_name,
            "worker_name": worker_name,
            "interval_seconds": interval_seconds,
            "metadata": metadata,
            "wants_id": wants_id,
        }

        def answer() -> UUID | None:
            self._pool(pool_name, f"POST /work_pools/{pool_name}/workers/heartbeat")
            heartbeat = Heartbeat(
                pool_name=pool_name,
                worker_name=worker_name,
                interval_seconds=max(1, round(interval_seconds)),
                at=self.seconds(),
                metadata=metadata,
            )
            self.heartbeats.append(heartbeat)
            return self.worker_id if wants_id else None

        return await self._serve("send_worker_heartbeat", arguments, answer)

    async def get_scheduled_flow_runs(
        self,
        pool_name: str,
        *,
        queue_names: Sequence[str],
        scheduled_before: datetime,
        limit: int,
    ) -> list[FlowRun]:
        """See `PrefectAPI.get_scheduled_flow_runs`; as with the real one, the runs come without states."""
        arguments = {
            "pool_name": pool_name,
            "queue_names": list(queue_names),
            "scheduled_before": scheduled_before,
            "limit": limit,
        }

        def answer() -> list[FlowRun]:
            request = f"POST /work_pools/{pool_name}/get_scheduled_flow_runs"
            _check_limit(limit, request)
            pool = self._pool(pool_name, request)
            due = self._due(pool, self._queues(pool, queue_names, request), scheduled_before)
            return [attrs.evolve(self._public(run), state=None) for run in due[:limit]]

        return await self._serve("get_scheduled_flow_runs", arguments, answer)

    async def find_cancelling_flow_runs(self, pool_name: str, *, queue_names: Sequence[str]) -> list[FlowRun]:
        """See `PrefectAPI.find_cancelling_flow_runs`."""
        arguments = {"pool_name": pool_name, "queue_names": list(queue_names)}

        def answer() -> list[FlowRun]:
            pool = self._pools.get(pool_name)
            queues = [] if pool is None else list(pool.queues.values())
            found = [
                self._public(run)
                for run in self._runs.values()
                if run.state.type is StateType.CANCELLING
                and run.queue in queues
                and (not queue_names or run.queue.name in queue_names)
            ]
            return found[:LARGEST_PAGE]

        return await self._serve("find_cancelling_flow_runs", arguments, answer)

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """See `PrefectAPI.read_flow_run`."""

        def answer() -> FlowRun:
            return self._public(self._run(flow_run_id, f"GET /flow_runs/{flow_run_id}"))

        return await self._serve("read_flow_run", {"flow_run_id": flow_run_id}, answer)

    async def read_flow_run_document(self, flow_run_id: UUID) -> dict[str, Any]:
        """See `PrefectAPI.read_flow_run_document`."""

        def answer() -> dict[str, Any]:
            run = self._run(flow_run_id, f"GET /flow_runs/{flow_run_id}")
            return flow_run_document(run, now=self.now())

        return await self._serve("read_flow_run_document", {"flow_run_id": flow_run_id}, answer)

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State]:
        """See `PrefectAPI.read_flow_run_states`."""

        def answer() -> list[State]:
            run = self._runs.get(flow_run_id)
            return [] if run is None else list(run.states)

        return await self._serve("read_flow_run_states", {"flow_run_id": flow_run_id}, answer)

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: ProposedState, *, force: bool = False
    ) -> OrchestrationResult:
        """See `PrefectAPI.set_flow_run_state`."""
        arguments = {"flow_run_id": flow_run_id, "state": state, "force": force}
        proposed = _as_proposed(state)

        def answer() -> OrchestrationResult:
            if flow_run_id not in self._runs:
                raise ObjectNotFoundError(
                    f"POST /flow_runs/{flow_run_id}/set_state",
                    404,
                    f"Flow run with id {flow_run_id} not found",
                )
            return self._orchestrate(self._runs[flow_run_id], proposed, force=force)

        return await self._serve("set_flow_run_state", arguments, answer, repeat=not state.hands_on)

    async def bulk_set_flow_run_state(
        self, flow_run_ids: Sequence[UUID], state: ProposedState
    ) -> dict[UUID, OrchestrationResult]:
        """See `PrefectAPI.bulk_set_flow_run_state`."""
        arguments = {"flow_run_ids": list(flow_run_ids), "state": state}

        def answer() -> dict[UUID, OrchestrationResult]:
            if not 0 < len(flow_run_ids) <= LARGEST_BULK:
                raise _invalid("POST /flow_runs/bulk_set_state")
            results: dict[UUID, OrchestrationResult] = {}
            proposed = _as_proposed(state)
            for flow_run_id in set(flow_run_ids) & self._runs.keys():
                result = self._orchestrate(self._runs[flow_run_id], proposed, force=False)
                if result.status is SetStateStatus.ACCEPT and result.state is not None:
                    # The next run is proposed what the server has made of the details for this one.
                    proposed = attrs.evolve(proposed, state_details=result.state.state_details)
                    details = StateDetails(transition_id=state.transition_id)
                    result = attrs.evolve(result, state=attrs.evolve(result.state, state_details=details))
                results[flow_run_id] = result
            return results

        return await self._serve("bulk_set_flow_run_state", arguments, answer, repeat=False)

    async def set_infrastructure_pid(self, flow_run_id: UUID, infrastructure_pid: str) -> None:
        """See `PrefectAPI.set_infrastructure_pid`."""
        arguments = {"flow_run_id": flow_run_id, "infrastructure_pid": infrastructure_pid}

        def answer() -> None:
            run = self._run(flow_run_id, f"PATCH /flow_runs/{flow_run_id}")
            run.public = attrs.evolve(run.public, infrastructure_pid=infrastructure_pid or None)

        await self._serve("set_infrastructure_pid", arguments, answer)

    async def update_flow_run_policy(
        self, flow_run_id: UUID, policy: FlowRunPolicy, *, infrastructure_pid: str | None = None
    ) -> None:
        """See `PrefectAPI.update_flow_run_policy`."""
        request = f"PATCH /flow_runs/{flow_run_id}"

        def answer() -> None:
            if isinstance(policy.retry_delay, list):
                raise _invalid(request)
            run = self._run(flow_run_id, request)
            place = run.public.infrastructure_pid if infrastructure_pid is None else infrastructure_pid
            run.public = attrs.evolve(
                run.public, empirical_policy=copy.deepcopy(policy), infrastructure_pid=place or None
            )

        arguments = {"flow_run_id": flow_run_id, "policy": policy, "infrastructure_pid": infrastructure_pid}
        await self._serve("update_flow_run_policy", arguments, answer)

    async def renew_concurrency_lease(self, lease_id: UUID, lease_seconds: float) -> None:
        """See `PrefectAPI.renew_concurrency_lease`."""
        request = f"POST /v2/concurrency_limits/leases/{lease_id}/renew"

        def answer() -> None:
            if not _SHORTEST_LEASE <= lease_seconds <= _LONGEST_LEASE:
                raise _invalid(request)
            if lease_id not in self._leases:
                gone = "Lease not found - it may have expired or been revoked"
                raise ObjectNotFoundError(request, 410, gone)
            renewal = LeaseRenewal(lease_id=lease_id, lease_seconds=lease_seconds, at=self.seconds())
            self.lease_renewals.append(renewal)

        arguments = {"lease_id": lease_id, "lease_seconds": lease_seconds}
        await self._serve("renew_concurrency_lease", arguments, answer)

    async def release_concurrency_lease(self, lease_id: UUID) -> None:
        """See `PrefectAPI.release_concurrency_lease`."""

        def answer() -> None:
            if lease_id in self._leases:
                self.expire_lease(lease_id)

        await self._serve("release_concurrency_lease", {"lease_id": lease_id}, answer)

    async def create_flow_run(
        self,
        deployment_id: UUID,
        *,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        scheduled_time: datetime | None = None,
    ) -> FlowRun:
        """See `PrefectAPI.create_flow_run`; the parameters are not compared with the deployment's schema."""
        arguments = {
            "deployment_id": deployment_id,
            "parameters": _as_json(dict(parameters or {})),
            "name": name,
            "scheduled_time": scheduled_time,
        }
        key = str(uuid4())

        def answer() -> FlowRun:
            self._deployment(deployment_id, f"POST /deployments/{deployment_id}/create_flow_run")
            for run in self._runs.values():
                if run.idempotency_key == key:
                    return self._public(run)
            created = self.schedule(deployment_id, at=scheduled_time, name=name, parameters=parameters)
            self._runs[created.id].idempotency_key = key
            return created

        return await self._serve("create_flow_run", arguments, answer)

    async def update_flow_run_labels(self, flow_run_id: UUID, labels: Mapping[str, str]) -> None:
        """See `PrefectAPI.update_flow_run_labels`."""
        arguments = {"flow_run_id": flow_run_id, "labels": _as_json(dict(labels))}

        def answer() -> None:
            if flow_run_id not in self._runs:
                raise ObjectNotFoundError(
                    f"PATCH /flow_runs/{flow_run_id}/labels",
                    404,
                    f"Flow run with id {flow_run_id} not found",
                )
            self._runs[flow_run_id].labels.update(labels)

        await self._serve("update_flow_run_labels", arguments, answer)

    async def read_deployment(self, deployment_id: UUID) -> Deployment:
        """See `PrefectAPI.read_deployment`."""

        def answer() -> Deployment:
            record = self._deployment(deployment_id, f"GET /deployments/{deployment_id}")
            return copy.deepcopy(record.public)

        return await self._serve("read_deployment", {"deployment_id": deployment_id}, answer)

    async def read_deployment_by_name(self, flow_name: str, name: str) -> Deployment:
        """See `PrefectAPI.read_deployment_by_name`."""

        def answer() -> Deployment:
            path = path_of_deployment(flow_name, name)
            for record in self._deployments.values():
                if record.public.name == name and self._flows[record.public.flow_id].name == flow_name:
                    return copy.deepcopy(record.public)
            raise ObjectNotFoundError(f"GET /{path}", 404, "Deployment not found")

        arguments = {"flow_name": flow_name, "name": name}
        return await self._serve("read_deployment_by_name", arguments, answer)

    async def count_deployments(self, pool_name: str, *, flow_names: Collection[str]) -> int:
        """See `PrefectAPI.count_deployments`."""

        def answer() -> int:
            return sum(
                record.pool.public.name == pool_name and self._flows[record.public.flow_id].name in flow_names
                for record in self._deployments.values()
            )

        arguments = {"pool_name": pool_name, "flow_names": list(flow_names)}
        return await self._serve("count_deployments", arguments, answer)

    async def create_deployment(self, draft: DeploymentDraft) -> Deployment:
        """See `PrefectAPI.create_deployment`."""
        _as_json(unstructure(draft))
        request = "POST /deployments/"

        def answer() -> Deployment:
            for schedule in draft.schedules or ():
                self._check_schedule(schedule, request)
            self._pool(draft.work_pool_name, request)
            if draft.flow_id not in self._flows:
                raise _conflict(request)
            if not _NAME.fullmatch(draft.name):
                raise _internal_error(request)
            return self._put_deployment(draft)

        return await self._serve("create_deployment", {"draft": draft}, answer)

    async def update_deployment(self, deployment_id: UUID, draft: DeploymentDraft) -> None:
        """See `PrefectAPI.update_deployment`."""
        _as_json(unstructure(draft))
        request = f"PATCH /deployments/{deployment_id}"

        def answer() -> None:
            record = self._deployment(deployment_id, request, "Deployment not found.")
            if draft.work_pool_name not in self._pools:
                raise _internal_error(request)
            self._update_deployment(record, draft)

        arguments = {"deployment_id": deployment_id, "draft": draft}
        await self._serve("update_deployment", arguments, answer)

    async def create_deployment_schedule(
        self, deployment_id: UUID, schedule: DeploymentSchedule
    ) -> DeploymentSchedule:
        """See `PrefectAPI.create_deployment_schedule`."""
        request = f"POST /deployments/{deployment_id}/schedules"

        def answer() -> DeploymentSchedule:
            self._check_schedule(schedule, request)
            record = self._deployment(deployment_id, request, "Deployment not found.")
            if schedule.slug is not None and schedule.slug in {each.slug for each in record.public.schedules}:
                raise _conflict(request)
            stored = as_stored(schedule, now=self.now())
            record.public = attrs.evolve(record.public, schedules=[*record.public.schedules, stored])
            self._plan_runs(deployment_id)
            return copy.deepcopy(stored)

        arguments = {"deployment_id": deployment_id, "schedule": schedule}
        return await self._serve("create_deployment_schedule", arguments, answer)

    async def update_deployment_schedule(self, deployment_id: UUID, schedule: DeploymentSchedule) -> None:
        """See `PrefectAPI.update_deployment_schedule`."""
        request = f"PATCH /deployments/{deployment_id}/schedules/{schedule.id}"

        def answer() -> None:
            self._check_schedule(schedule, request)
            known = self._stored_schedule(deployment_id, schedule.id, request)
            stored = attrs.evolve(as_stored(schedule, now=self.now()), id=known.id)
            # As nothing means "leave it" to the server, a slug stays once it is given.
            self._replace_schedule(deployment_id, attrs.evolve(stored, slug=schedule.slug or known.slug))

        arguments = {"deployment_id": deployment_id, "schedule": schedule}
        await self._serve("update_deployment_schedule", arguments, answer)

    async def delete_deployment_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None:
        """See `PrefectAPI.delete_deployment_schedule`."""
        request = f"DELETE /deployments/{deployment_id}/schedules/{schedule_id}"

        def answer() -> None:
            self._stored_schedule(deployment_id, schedule_id, request)
            record = self._deployments[deployment_id]
            left = [schedule for schedule in record.public.schedules if schedule.id != schedule_id]
            record.public = attrs.evolve(record.public, schedules=left)
            self._forget_runs_of_schedules(deployment_id)

        arguments = {"deployment_id": deployment_id, "schedule_id": schedule_id}
        await self._serve("delete_deployment_schedule", arguments, answer)

    async def create_flow(self, name: str) -> Flow:
        """See `PrefectAPI.create_flow`."""

        def answer() -> Flow:
            _check_name(name, "POST /flows/")
            return copy.deepcopy(self._flow_named(name))

        return await self._serve("create_flow", {"name": name}, answer)

    async def read_flow(self, flow_id: UUID) -> Flow:
        """See `PrefectAPI.read_flow`."""

        def answer() -> Flow:
            if flow_id not in self._flows:
                raise ObjectNotFoundError(f"GET /flows/{flow_id}", 404, "Flow not found")
            return copy.deepcopy(self._flows[flow_id])

        return await self._serve("read_flow", {"flow_id": flow_id}, answer)

    async def read_block_document(self, type_slug: str, name: str) -> BlockDocument:
        """See `PrefectAPI.read_block_document`."""

        def answer() -> BlockDocument:
            path = path_by_name("block_types/slug", type_slug, "block_documents/name", name)
            if (type_slug, name) not in self._blocks:
                raise _block_not_found(path)
            return copy.deepcopy(self._blocks[type_slug, name].public)

        return await self._serve("read_block_document", {"type_slug": type_slug, "name": name}, answer)

    async def read_block_document_by_id(self, block_document_id: str) -> BlockDocument:
        """See `PrefectAPI.read_block_document_by_id`."""

        def answer() -> BlockDocument:
            path = path_by_id("block_documents", block_document_id)
            for block in self._blocks.values():
                if block.id == UUID(block_document_id):
                    return copy.deepcopy(block.public)
            raise _block_not_found(path)

        arguments = {"block_document_id": block_document_id}
        return await self._serve("read_block_document_by_id", arguments, answer)

    async def read_variable(self, name: str) -> Any:
        """See `PrefectAPI.read_variable`."""

        def answer() -> Any:
            request = f"GET /{path_by_name('variables/name', name)}"
            if name not in self._variables:
                raise ObjectNotFoundError(request, 404, "Variable not found.")
            return copy.deepcopy(self._variables[name])

        return await self._serve("read_variable", {"name": name}, answer)

    async def read_worker_packages(self) -> dict[str, str]:
        """See `PrefectAPI.read_worker_packages`."""
        return await self._serve("read_worker_packages", {}, lambda: dict(self.worker_packages))

    @asynccontextmanager
    async def open_state_changes(
        self, pool_id: UUID, state_types: Collection[StateType]
    ) -> AsyncIterator[StateChanges]:
        """See `PrefectAPI.open_state_changes`; a change is told at the moment at which it is recorded."""

        def answer() -> StateChanges:
            if self._state_changes_refused is not None:
                raise APIUnavailableError(self._state_changes_refused)
            return StateChanges(capacity=math.inf)

        def tell(run: Run) -> None:
            wanted = run.state.type in state_types and self._is_in_pool(run, pool_id)
            if wanted and changes in self._state_changes:
                change = StateChange(
                    flow_run_id=run.public.id,
                    state_type=run.state.type,
                    occurred=self.now(),
                    queue_name=run.queue.name,
                )
                changes.add_nowait(change)

        arguments = {"pool_id": pool_id, "state_types": sorted(state_types)}
        changes = await self._attempt("open_state_changes", arguments, answer)
        self._state_changes.append(changes)
        self._on_change.append(tell)
        try:
            yield changes
        finally:
            self._on_change.remove(tell)
            if changes in self._state_changes:
                self._state_changes.remove(changes)

    async def send_events(self, events: Sequence[Event]) -> None:
        """See `PrefectAPI.send_events`."""
        batch = list(events)
        for event in batch:
            _as_json(unstructure(event))

        def answer() -> None:
            if not all(_is_acceptable(event) for event in batch):
                raise _invalid("POST /events")
            self.events.extend(batch)

        await self._serve("send_events", {"events": batch}, answer)

    async def send_logs(self, lines: Sequence[LogLine]) -> None:
        """See `PrefectAPI.send_logs`."""
        batch = list(lines)
        for line in batch:
            _as_json(unstructure(line))
        await self._serve("send_logs", {"lines": batch}, lambda: self.logs.extend(batch))

    async def _serve(
        self, method: str, arguments: Mapping[str, Any], answer: Callable[[], T], *, repeat: bool = True
    ) -> T:
        """Do with a request what the real client's transport does."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(method, arguments, answer)
            except APIUnavailableError as error:
                if not repeat or attempt > self._max_retries:
                    raise
                delay = retry_delay(attempt, error.retry_after, jitter=0, chance=0)
            await trio.sleep(delay)

    async def _attempt(self, method: str, arguments: Mapping[str, Any], answer: Callable[[], T]) -> T:
        self.calls.append(Call(method=method, at=self.seconds(), arguments=arguments))
        await trio.lowlevel.checkpoint()
        latency = self.latencies.get(method, self.latency)
        if latency:
            await trio.sleep(latency)
        # As with the real client, only the requests that a worker lives by tell of the condition.
        if method not in VITAL_REQUESTS:
            return self._answer(method, answer)
        try:
            result = self._answer(method, answer)
        except APIError as error:
            if is_outage(error):
                self._condition.failed(
                    str(error),
                    retry_after=getattr(error, "retry_after", None),
                    refused=isinstance(error, RequestRefusedError),
                )
            else:
                self._condition.answered()
            raise
        self._condition.dated(format_datetime(self.now().astimezone(UTC), usegmt=True))
        self._condition.answered()
        return result

    def _answer(self, method: str, answer: Callable[[], T]) -> T:
        if self._outage is not None:
            raise APIUnavailableError(str(self._outage), retry_after=self._outage.retry_after)
        if not self._faults[method]:
            return answer()
        fault = self._faults[method].popleft()
        if fault.applied:
            # A refusal gets lost like any other answer.
            with suppress(RequestRefusedError):
                answer()
        raise fault.error.with_traceback(None)

    def _end_state_changes(self, reason: str) -> None:
        while self._state_changes:
            self._state_changes.pop().fail(APIUnavailableError(reason))

    def _is_in_pool(self, run: Run, pool_id: UUID) -> bool:
        return any(
            pool.public.id == pool_id and run.queue in pool.queues.values() for pool in self._pools.values()
        )

    def _pool(self, name: str, request: str) -> Pool:
        if name not in self._pools:
            raise ObjectNotFoundError(request, 404, f'Work pool "{name}" not found.')
        return self._pools[name]

    def _queues(self, pool: Pool, names: Sequence[str], request: str) -> list[Queue]:
        for name in names:
            if name not in pool.queues:
                detail = f"Work pool queue '{pool.public.name}/{name}' not found."
                raise ObjectNotFoundError(request, 404, detail)
        return [queue for queue in pool.queues.values() if not names or queue.name in names]

    def _deployment(
        self, deployment_id: UUID, request: str, missing: str = "Deployment not found"
    ) -> DeploymentRecord:
        if deployment_id not in self._deployments:
            raise ObjectNotFoundError(request, 404, missing)
        return self._deployments[deployment_id]

    def _stored_schedule(
        self, deployment_id: UUID, schedule_id: UUID | None, request: str
    ) -> DeploymentSchedule:
        record = self._deployment(deployment_id, request, "Deployment not found.")
        for schedule in record.public.schedules:
            if schedule.id == schedule_id:
                return schedule
        raise ObjectNotFoundError(request, 404, "Schedule not found.")

    def _check_schedule(self, schedule: DeploymentSchedule, request: str) -> None:
        try:
            check_schedule(as_stored(schedule, now=self.now()).schedule)
        except (ValueError, TypeError) as error:
            raise _invalid(request) from error

    def _run(self, flow_run_id: UUID, request: str) -> Run:
        if flow_run_id not in self._runs:
            raise ObjectNotFoundError(request, 404, "Flow run not found")
        return self._runs[flow_run_id]


def _check_method(method: str) -> None:
    if method not in _METHODS:
        raise ValueError(f"PrefectAPI has no method {method!r}; it has {', '.join(sorted(_METHODS))}")


def _as_proposed(state: ProposedState) -> State:
    return State(
        type=state.type,
        name=state.name,
        message=state.message,
        data=state.data,
        state_details=StateDetails(scheduled_time=state.scheduled_time, transition_id=state.transition_id),
    )


def _as_json(value: Any) -> Any:
    """Fail on what could not be sent, as the real client would."""
    return json.loads(json.dumps(value, allow_nan=False))


def _block_not_found(path: str) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"GET /{path}?include_secrets=true", 404, "Block document not found")


def _check_name(name: str, request: str) -> None:
    if not _NAME.fullmatch(name):
        raise _invalid(request)


def _conflict(request: str) -> RequestRefusedError:
    detail = (
        "Data integrity conflict. This usually means a unique or foreign key constraint was violated."
        " See server logs for details."
    )
    return RequestRefusedError(request, 409, detail)


def _internal_error(request: str) -> APIUnavailableError:
    return APIUnavailableError(f"{request} was answered with 500: Internal Server Error")


def _invalid(request: str) -> RequestRefusedError:
    return RequestRefusedError(request, 422, "Invalid request received.")


def _check_limit(limit: int, request: str) -> None:
    if limit < 0:
        raise RequestRefusedError(request, 422, "Invalid limit: must be greater than or equal to 0.")
    if limit > LARGEST_PAGE:
        raise RequestRefusedError(
            request, 422, f"Invalid limit: must be less than or equal to {LARGEST_PAGE}."
        )


def _check_template(template: Mapping[str, Any], request: str) -> None:
    """A base job template is empty, or has its two parts and declares every variable that it uses."""
    if not template:
        return
    if "job_configuration" not in template or "variables" not in template:
        raise _invalid(request)
    used = set(_TEMPLATE_VARIABLE.findall(json.dumps(template["job_configuration"])))
    if not used <= set(template["variables"].get("properties", {})):
        raise _invalid(request)


def _is_acceptable(event: Event) -> bool:
    if len(event.related) > _MOST_RELATED:
        return False
    return "prefect.resource.id" in event.resource and all(
        "prefect.resource.id" in resource and "prefect.resource.role" in resource
        for resource in event.related
    )
