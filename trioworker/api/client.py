"""The requests that a worker makes of the Prefect API."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import attrs

from trioworker.api.condition import Condition
from trioworker.api.converter import structure, unstructure
from trioworker.api.errors import (
    APINotFoundError,
    MalformedAnswerError,
    ObjectExistsError,
    ObjectNotFoundError,
    RequestRefusedError,
    UnsendableRequestError,
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
from trioworker.api.transport import (
    Transport,
    TransportConfig,
    is_unicode,
    open_transport,
)
from trioworker.lean_attrs import frozen

T = TypeVar("T")

# The requests that a worker lives by: they come regularly, concern no single run, and tell of the condition of the
# API. They never wait for the others.
VITAL_REQUESTS = frozenset(
    {
        "read_work_pool",
        "create_work_pool",
        "update_work_pool_template",
        "read_work_queues",
        "send_worker_heartbeat",
        "get_scheduled_flow_runs",
        "find_cancelling_flow_runs",
    }
)

# The server refuses to list more than this at once.
LARGEST_PAGE = 200

# The most runs that the server takes in one request.
LARGEST_BULK = 50

# How the server answers about a lease that has run out or was given back.
_GONE = 410

# Where a server of one's own, and where Prefect Cloud shows its registry of packages.
_PACKAGES = "collections/views/aggregate-worker-metadata"
_PACKAGES_ON_CLOUD = "collections/work_pool_types"

# A type that the registry still lists: what went before workers, and is none.
_PREDECESSOR = "prefect-agent"


class PrefectAPI(Protocol):
    """What a worker asks of the API.

    The real client and the fake of `trioworker.testing` both are one. Every method may raise any `APIError`;
    where one means something special, its docstring says so.
    """

    @property
    def condition(self) -> Condition:
        """Whether the API answers."""
        ...

    async def read_work_pool(self, name: str) -> WorkPool:
        """Read a work pool; `ObjectNotFoundError` if there is none of that name."""
        ...

    async def create_work_pool(
        self, name: str, *, pool_type: str, base_job_template: Mapping[str, Any]
    ) -> WorkPool:
        """Create a work pool; `ObjectExistsError` if there is one of that name."""
        ...

    async def update_work_pool_template(self, name: str, base_job_template: Mapping[str, Any]) -> None:
        """Replace the base job template of a work pool."""
        ...

    async def read_work_queues(self, pool_name: str, queue_names: Sequence[str]) -> list[WorkQueue]:
        """Read the named queues of a work pool, all of them if none is named."""
        ...

    async def send_worker_heartbeat(
        self,
        pool_name: str,
        worker_name: str,
        interval_seconds: float,
        *,
        metadata: WorkerMetadata | None = None,
        wants_id: bool = False,
    ) -> UUID | None:
        """Say that the worker lives and when to expect the next sign.

        With `wants_id` the answer is the id that Prefect Cloud knows the worker by; a self-hosted server has
        none to tell. `ObjectNotFoundError` means that the work pool is gone.
        """
        ...

    async def get_scheduled_flow_runs(
        self,
        pool_name: str,
        *,
        queue_names: Sequence[str],
        scheduled_before: datetime,
        limit: int,
    ) -> list[FlowRun]:
        """Read the runs that are due, most urgent first; `limit` is 1 to `LARGEST_PAGE`."""
        ...

    async def find_cancelling_flow_runs(self, pool_name: str, *, queue_names: Sequence[str]) -> list[FlowRun]:
        """Read the runs of a work pool that somebody wants cancelled."""
        ...

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """Read a flow run; `ObjectNotFoundError` if it was deleted."""
        ...

    async def read_flow_run_document(self, flow_run_id: UUID) -> dict[str, Any]:
        """Read a flow run with all that the API shows of it; `ObjectNotFoundError` if it was deleted."""
        ...

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State]:
        """Read all states that a run has been in, oldest first; none if it was deleted."""
        ...

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: ProposedState, *, force: bool = False
    ) -> OrchestrationResult:
        """Propose a state; with `force` the server's orchestration rules do not apply.

        A proposal to schedule the run is made once: by a repetition it might be scheduled again, after somebody has
        taken it. See `HandingOn`.
        """
        ...

    async def bulk_set_flow_run_state(
        self, flow_run_ids: Sequence[UUID], state: ProposedState
    ) -> dict[UUID, OrchestrationResult]:
        """Propose one state for several runs, 1 to `LARGEST_BULK`, in one request that is made once.

        A run that is not there has no answer. One that the server has failed at, since its database was locked say,
        is answered with `ABORT` and no state, and is best proposed the state alone, with the same transition id.

        The server has all runs share the details of the state. Of a claim, most get the scheduled time of another run
        with it, and may get another's lease; so this is only for states that take over the details of the one before,
        such as `Submitting`. For the same reason the details of an accepted state are not told, but for the
        transition id. An older server without this request raises `RequestRefusedError` or `APINotFoundError`.
        """
        ...

    async def set_infrastructure_pid(self, flow_run_id: UUID, infrastructure_pid: str) -> None:
        """Record where the run runs, an empty text for nowhere.

        The server passes on the cancellation of a run only if it knows where that is. One that waits to be run and
        is nowhere, it cancels itself.
        """
        ...

    async def update_flow_run_policy(
        self, flow_run_id: UUID, policy: FlowRunPolicy, *, infrastructure_pid: str | None = None
    ) -> None:
        """Replace how often and when the server has a run tried again; `ObjectNotFoundError` if it was deleted.

        The server keeps nothing of the policy that it had: evolve that of the run as it was last read. A list of
        delays is refused. With `infrastructure_pid`, record in the same request where the run runs, an empty text
        for nowhere.
        """
        ...

    async def update_flow_run_labels(self, flow_run_id: UUID, labels: Mapping[str, str]) -> None:
        """Add labels to a run, in place of those of the same keys; `ObjectNotFoundError` if it was deleted."""
        ...

    async def renew_concurrency_lease(self, lease_id: UUID, lease_seconds: float) -> None:
        """Keep the slot of a deployment's concurrency limit for this long from now; Prefect's leases.

        The id is in the details of the state of the run that has the slot. `lease_seconds` is 60 to 86,400. A
        lease that has run out or was given back, whose slot may by now be another run's, is
        `ObjectNotFoundError`, though the server calls it gone (410).
        """
        ...

    async def release_concurrency_lease(self, lease_id: UUID) -> None:
        """Give back the slot of a deployment's concurrency limit that is held by this lease, before it runs out.

        The server does so itself when a run ends, but lets one in `AwaitingRetry` keep its slot, as it may be tried
        again in its own process. It is no error that the lease has run out or was given back: nothing changes then.
        """
        ...

    async def create_flow_run(
        self,
        deployment_id: UUID,
        *,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        scheduled_time: datetime | None = None,
    ) -> FlowRun:
        """Schedule a run of a deployment, now if no time is given; `ObjectNotFoundError` if that was deleted.

        The parameters go over those of the deployment. If they do not fit its schema and that is enforced, it is
        a plain `RequestRefusedError` whose `detail` names the parameter. However often the request is repeated,
        it makes one run.
        """
        ...

    async def read_deployment(self, deployment_id: UUID) -> Deployment:
        """Read a deployment; `ObjectNotFoundError` if it was deleted."""
        ...

    async def read_deployment_by_name(self, flow_name: str, name: str) -> Deployment:
        """Read a deployment of the flow of this name; `ObjectNotFoundError` if there is none."""
        ...

    async def count_deployments(self, pool_name: str, *, flow_names: Collection[str]) -> int:
        """Count the deployments of these flows in a work pool: none if there is no such pool or flow."""
        ...

    async def create_deployment(self, draft: DeploymentDraft) -> Deployment:
        """Create a deployment; `ObjectNotFoundError` if there is no such work pool.

        One of this name and flow that exists already keeps its id, but loses its parameters, all its schedules,
        and the runs that these have made for times to come: what a person has paused or added is gone, and the
        same schedules come back active and under other ids. To deploy again and again use `sync_deployment` of
        `trioworker.flows.registration`, which leaves alone what has not changed.
        """
        ...

    async def update_deployment(self, deployment_id: UUID, draft: DeploymentDraft) -> None:
        """Make a deployment what the draft says, its name, flow and schedules aside.

        `ObjectNotFoundError` if it was deleted. The runs that its schedules have made for times to come are
        deleted, and made anew within seconds. If there is no such work pool, the server fails
        (`APIUnavailableError`).
        """
        ...

    async def create_deployment_schedule(
        self, deployment_id: UUID, schedule: DeploymentSchedule
    ) -> DeploymentSchedule:
        """Add a schedule; `ObjectNotFoundError` if the deployment was deleted, and its `id` is the server's.

        A second one of the same slug is a plain `RequestRefusedError`. Its first runs are made within a minute.
        """
        ...

    async def update_deployment_schedule(self, deployment_id: UUID, schedule: DeploymentSchedule) -> None:
        """Replace the schedule of this `id`; `ObjectNotFoundError` if there is none.

        The runs that the deployment's schedules have made for times to come are deleted, and made anew within a
        minute.
        """
        ...

    async def delete_deployment_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None:
        """Delete a schedule; `ObjectNotFoundError` if there is none.

        All runs that the deployment's schedules have made and that nobody has claimed are deleted, those of
        other schedules and those that are late included. What is left for times to come is made anew within a
        minute.
        """
        ...

    async def create_flow(self, name: str) -> Flow:
        """Create a flow, or read the one of this name, of which there is never a second."""
        ...

    async def read_flow(self, flow_id: UUID) -> Flow:
        """Read a flow."""
        ...

    async def read_block_document(self, type_slug: str, name: str) -> BlockDocument:
        """Read a block, secrets included; `ObjectNotFoundError` if that type has none of that name."""
        ...

    async def read_block_document_by_id(self, block_document_id: str) -> BlockDocument:
        """Read a block, secrets included; `ObjectNotFoundError` if there is none or the id is no UUID."""
        ...

    async def read_variable(self, name: str) -> Any:
        """Read the value of a variable; `ObjectNotFoundError` if there is none of that name."""
        ...

    async def read_worker_packages(self) -> dict[str, str]:
        """Read which package provides each type of worker that Prefect's registry knows."""
        ...

    def open_state_changes(
        self, pool_id: UUID, state_types: Collection[StateType]
    ) -> AbstractAsyncContextManager[AsyncIterator[StateChange]]:
        """Be told at once of each run of a work pool that comes to be in a state of one of these types.

        Entering connects; iterating never ends by itself. A connection that is lost or cannot be had raises
        `APIUnavailableError`, or `RequestRefusedError` if the server says why. What happens while there is no
        connection is not told: poll after each connecting. The condition of the API takes no note of it.
        """
        ...

    async def send_events(self, events: Sequence[Event]) -> None:
        """Record events; one that the server does not like makes it refuse them all."""
        ...

    async def send_logs(self, lines: Sequence[LogLine]) -> None:
        """Record log lines; one that the server does not like makes it refuse them all."""
        ...


@frozen
class _ScheduledFlowRun:
    flow_run: FlowRun


@frozen
class _Variable:
    value: Any


@frozen(kw_only=True)
class _BulkResult(OrchestrationResult):
    flow_run_id: UUID


@frozen
class _BulkAnswer:
    results: list[_BulkResult]


class PrefectClient:
    """`PrefectAPI` over HTTP. Made by `open_client`."""

    def __init__(self, transport: Transport, condition: Condition) -> None:
        self._transport = transport
        self._condition = condition

    @property
    def condition(self) -> Condition:
        """Whether the API answers."""
        return self._condition

    async def read_work_pool(self, name: str) -> WorkPool:
        """See `PrefectAPI.read_work_pool`."""
        return await self._read(WorkPool, "GET", f"work_pools/{_segment(name)}", vital=True)

    async def create_work_pool(
        self, name: str, *, pool_type: str, base_job_template: Mapping[str, Any]
    ) -> WorkPool:
        """See `PrefectAPI.create_work_pool`."""
        body = {"name": name, "type": pool_type, "base_job_template": base_job_template}
        return await self._read(WorkPool, "POST", "work_pools/", body, vital=True)

    async def update_work_pool_template(self, name: str, base_job_template: Mapping[str, Any]) -> None:
        """See `PrefectAPI.update_work_pool_template`."""
        body = {"base_job_template": base_job_template}
        await self._send("PATCH", f"work_pools/{_segment(name)}", body, vital=True)

    async def read_work_queues(self, pool_name: str, queue_names: Sequence[str]) -> list[WorkQueue]:
        """See `PrefectAPI.read_work_queues`."""
        body = {"work_queues": {"name": {"any_": list(queue_names)}}} if queue_names else {}
        path = f"work_pools/{_segment(pool_name)}/queues/filter"
        return await self._read(list[WorkQueue], "POST", path, body, vital=True)

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
        # The server takes whole seconds, at least one.
        body: dict[str, Any] = {
            "name": worker_name,
            "heartbeat_interval_seconds": max(1, round(interval_seconds)),
        }
        if metadata is not None:
            body["metadata"] = unstructure(metadata)
        path = f"work_pools/{_segment(pool_name)}/workers/heartbeat"
        if wants_id:
            try:
                return await self._read_worker_id(path, body | {"return_id": True})
            except MalformedAnswerError:
                # The id is no reason to go without a heartbeat.
                pass
            except RequestRefusedError as error:
                if not error.is_of_body:
                    raise
        await self._send("POST", path, body, vital=True)
        return None

    async def get_scheduled_flow_runs(
        self,
        pool_name: str,
        *,
        queue_names: Sequence[str],
        scheduled_before: datetime,
        limit: int,
    ) -> list[FlowRun]:
        """See `PrefectAPI.get_scheduled_flow_runs`."""
        body: dict[str, Any] = {"scheduled_before": scheduled_before.isoformat(), "limit": limit}
        if queue_names:
            body["work_queue_names"] = list(queue_names)
        path = f"work_pools/{_segment(pool_name)}/get_scheduled_flow_runs"
        entries = await self._read(list[_ScheduledFlowRun], "POST", path, body, vital=True)
        return [entry.flow_run for entry in entries]

    async def find_cancelling_flow_runs(self, pool_name: str, *, queue_names: Sequence[str]) -> list[FlowRun]:
        """See `PrefectAPI.find_cancelling_flow_runs`."""
        body: dict[str, Any] = {
            "flow_runs": {"state": {"type": {"any_": ["CANCELLING"]}}},
            "work_pools": {"name": {"any_": [pool_name]}},
            "limit": LARGEST_PAGE,
            "offset": 0,
        }
        if queue_names:
            body["work_pool_queues"] = {"name": {"any_": list(queue_names)}}
        found: list[FlowRun] = []
        while True:
            page = await self._read(list[FlowRun], "POST", "flow_runs/filter", body, vital=True)
            found += page
            if len(page) < LARGEST_PAGE:
                return found
            body["offset"] += LARGEST_PAGE

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """See `PrefectAPI.read_flow_run`."""
        return await self._read(FlowRun, "GET", f"flow_runs/{flow_run_id}")

    async def read_flow_run_document(self, flow_run_id: UUID) -> dict[str, Any]:
        """See `PrefectAPI.read_flow_run_document`."""
        return await self._read(dict[str, Any], "GET", f"flow_runs/{flow_run_id}")

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State]:
        """See `PrefectAPI.read_flow_run_states`."""
        return await self._read(list[State], "GET", f"flow_run_states/?flow_run_id={flow_run_id}")

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: ProposedState, *, force: bool = False
    ) -> OrchestrationResult:
        """See `PrefectAPI.set_flow_run_state`."""
        body = {"state": _state_fields(state), "force": force}
        path = f"flow_runs/{flow_run_id}/set_state"
        return await self._read(OrchestrationResult, "POST", path, body, repeat=not state.hands_on)

    async def bulk_set_flow_run_state(
        self, flow_run_ids: Sequence[UUID], state: ProposedState
    ) -> dict[UUID, OrchestrationResult]:
        """See `PrefectAPI.bulk_set_flow_run_state`."""
        body = {
            "flow_runs": {"id": {"any_": [str(flow_run_id) for flow_run_id in flow_run_ids]}},
            "state": _state_fields(state),
            "limit": len(flow_run_ids),
        }
        path = "flow_runs/bulk_set_state"
        answer = await self._read(_BulkAnswer, "POST", path, body, repeat=False)
        results = {entry.flow_run_id: _without_shared_details(entry) for entry in answer.results}
        if strangers := results.keys() - set(flow_run_ids):
            problem = f"{len(strangers)} flow runs that were not asked for"
            raise MalformedAnswerError(f"POST /{path}", [problem])
        return results

    async def set_infrastructure_pid(self, flow_run_id: UUID, infrastructure_pid: str) -> None:
        """See `PrefectAPI.set_infrastructure_pid`."""
        body = {"infrastructure_pid": infrastructure_pid or None}
        await self._send("PATCH", f"flow_runs/{flow_run_id}", body)

    async def update_flow_run_policy(
        self, flow_run_id: UUID, policy: FlowRunPolicy, *, infrastructure_pid: str | None = None
    ) -> None:
        """See `PrefectAPI.update_flow_run_policy`."""
        body: dict[str, Any] = {"empirical_policy": unstructure(policy)}
        if infrastructure_pid is not None:
            body["infrastructure_pid"] = infrastructure_pid or None
        await self._send("PATCH", f"flow_runs/{flow_run_id}", body)

    async def update_flow_run_labels(self, flow_run_id: UUID, labels: Mapping[str, str]) -> None:
        """See `PrefectAPI.update_flow_run_labels`."""
        # On SQLite, it fails if anything is written between the server's reading of the labels and its writing them.
        await self._send("PATCH", f"flow_runs/{flow_run_id}/labels", dict(labels), alone=True)

    async def renew_concurrency_lease(self, lease_id: UUID, lease_seconds: float) -> None:
        """See `PrefectAPI.renew_concurrency_lease`."""
        path = f"v2/concurrency_limits/leases/{lease_id}/renew"
        try:
            await self._send("POST", path, {"lease_duration": lease_seconds})
        except RequestRefusedError as error:
            if error.status_code != _GONE:
                raise
            raise ObjectNotFoundError(error.request, error.status_code, error.detail) from error

    async def release_concurrency_lease(self, lease_id: UUID) -> None:
        """See `PrefectAPI.release_concurrency_lease`."""
        await self._send("POST", "v2/concurrency_limits/decrement-with-lease", {"lease_id": str(lease_id)})

    async def create_flow_run(
        self,
        deployment_id: UUID,
        *,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        scheduled_time: datetime | None = None,
    ) -> FlowRun:
        """See `PrefectAPI.create_flow_run`."""
        # By the key the server knows a repetition of the request from a second run.
        body: dict[str, Any] = {"parameters": dict(parameters or {}), "idempotency_key": str(uuid4())}
        if name is not None:
            body["name"] = name
        if scheduled_time is not None:
            details = {"scheduled_time": scheduled_time.isoformat()}
            body["state"] = {"type": "SCHEDULED", "name": "Scheduled", "state_details": details}
        with _conflict_is_refusal():
            return await self._read(FlowRun, "POST", f"deployments/{deployment_id}/create_flow_run", body)

    async def read_deployment(self, deployment_id: UUID) -> Deployment:
        """See `PrefectAPI.read_deployment`."""
        return await self._read(Deployment, "GET", f"deployments/{deployment_id}")

    async def read_deployment_by_name(self, flow_name: str, name: str) -> Deployment:
        """See `PrefectAPI.read_deployment_by_name`."""
        return await self._read(Deployment, "GET", path_of_deployment(flow_name, name))

    async def count_deployments(self, pool_name: str, *, flow_names: Collection[str]) -> int:
        """See `PrefectAPI.count_deployments`."""
        body = {
            "flows": {"name": {"any_": list(flow_names)}},
            "work_pools": {"name": {"any_": [pool_name]}},
        }
        return await self._read(int, "POST", "deployments/count", body)

    async def create_deployment(self, draft: DeploymentDraft) -> Deployment:
        """See `PrefectAPI.create_deployment`."""
        body = {"name": draft.name, "flow_id": str(draft.flow_id)} | _deployment_fields(draft)
        if draft.schedules is not None:
            body["schedules"] = [_schedule_fields(schedule) for schedule in draft.schedules]
        with _conflict_is_refusal():
            return await self._read(Deployment, "POST", "deployments/", body)

    async def update_deployment(self, deployment_id: UUID, draft: DeploymentDraft) -> None:
        """See `PrefectAPI.update_deployment`."""
        with _conflict_is_refusal():
            await self._send("PATCH", f"deployments/{deployment_id}", _deployment_fields(draft))

    async def create_deployment_schedule(
        self, deployment_id: UUID, schedule: DeploymentSchedule
    ) -> DeploymentSchedule:
        """See `PrefectAPI.create_deployment_schedule`."""
        path = f"deployments/{deployment_id}/schedules"
        with _conflict_is_refusal():
            created = await self._read(list[DeploymentSchedule], "POST", path, [_schedule_fields(schedule)])
        if len(created) != 1:
            raise MalformedAnswerError(
                f"POST /{path}", [f"{len(created)} schedules for the one that was sent"]
            )
        return created[0]

    async def update_deployment_schedule(self, deployment_id: UUID, schedule: DeploymentSchedule) -> None:
        """See `PrefectAPI.update_deployment_schedule`."""
        path = f"deployments/{deployment_id}/schedules/{schedule.id}"
        with _conflict_is_refusal():
            await self._send("PATCH", path, _schedule_fields(schedule))

    async def delete_deployment_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None:
        """See `PrefectAPI.delete_deployment_schedule`."""
        await self._send("DELETE", f"deployments/{deployment_id}/schedules/{schedule_id}", None)

    async def create_flow(self, name: str) -> Flow:
        """See `PrefectAPI.create_flow`."""
        return await self._read(Flow, "POST", "flows/", {"name": name})

    async def read_flow(self, flow_id: UUID) -> Flow:
        """See `PrefectAPI.read_flow`."""
        return await self._read(Flow, "GET", f"flows/{flow_id}")

    async def read_block_document(self, type_slug: str, name: str) -> BlockDocument:
        """See `PrefectAPI.read_block_document`."""
        path = path_by_name("block_types/slug", type_slug, "block_documents/name", name)
        return await self._read(BlockDocument, "GET", f"{path}?include_secrets=true")

    async def read_block_document_by_id(self, block_document_id: str) -> BlockDocument:
        """See `PrefectAPI.read_block_document_by_id`."""
        return await self._read(
            BlockDocument, "GET", f"{path_by_id('block_documents', block_document_id)}?include_secrets=true"
        )

    async def read_variable(self, name: str) -> Any:
        """See `PrefectAPI.read_variable`."""
        return (await self._read(_Variable, "GET", path_by_name("variables/name", name))).value

    async def read_worker_packages(self) -> dict[str, str]:
        """See `PrefectAPI.read_worker_packages`."""
        try:
            packages = await self._read(dict[str, dict[str, Any]], "GET", _PACKAGES)
        except (APINotFoundError, ObjectNotFoundError):
            packages = await self._read(dict[str, dict[str, Any]], "GET", _PACKAGES_ON_CLOUD)
        return {
            worker_type: package
            for package, worker_types in packages.items()
            for worker_type in worker_types
            if worker_type != _PREDECESSOR
        }

    def open_state_changes(
        self, pool_id: UUID, state_types: Collection[StateType]
    ) -> AbstractAsyncContextManager[AsyncIterator[StateChange]]:
        """See `PrefectAPI.open_state_changes`."""
        # What speaks over a websocket is imported by those who have one.
        from trioworker.api.state_changes import open_state_changes  # noqa: PLC0415

        return open_state_changes(self._transport, pool_id, state_types)

    async def send_events(self, events: Sequence[Event]) -> None:
        """See `PrefectAPI.send_events`."""
        # With a trailing slash the server answers with a redirect.
        await self._send("POST", "events", _entries("POST /events", events))

    async def send_logs(self, lines: Sequence[LogLine]) -> None:
        """See `PrefectAPI.send_logs`."""
        await self._send("POST", "logs/", _entries("POST /logs/", lines))

    async def _read_worker_id(self, path: str, body: Mapping[str, Any]) -> UUID | None:
        request = f"POST /{path}"

        def worker_id(answer: Any) -> UUID | None:
            # Prefect Cloud answers with the bare id, which is no JSON.
            return None if answer is None else structure(answer.strip('"'), UUID, request=request)

        return await self._transport.request("POST", path, body, worker_id, vital=True, as_text=True)

    async def _read(
        self,
        cls: type[T],
        method: str,
        path: str,
        body: Any = None,
        *,
        vital: bool = False,
        repeat: bool = True,
    ) -> T:
        request = f"{method} /{path}"
        return await self._transport.request(
            method,
            path,
            body,
            lambda answer: structure(answer, cls, request=request),
            vital=vital,
            repeat=repeat,
        )

    async def _send(
        self, method: str, path: str, body: Any, *, vital: bool = False, alone: bool = False
    ) -> None:
        await self._transport.request(method, path, body, lambda _: None, vital=vital, alone=alone)


def _entries(request: str, entries: Sequence[Event] | Sequence[LogLine]) -> list[dict[str, Any]]:
    try:
        return [unstructure(entry) for entry in entries]
    except (TypeError, ValueError, RecursionError) as error:
        # A payload may hold anything, a key that JSON has no form for among it.
        raise UnsendableRequestError(request, str(error)) from error


def _state_fields(state: ProposedState) -> dict[str, Any]:
    details: dict[str, Any] = {"transition_id": str(state.transition_id)}
    if state.scheduled_time is not None:
        details["scheduled_time"] = state.scheduled_time.isoformat()
    return {
        "type": state.type.value,
        "name": state.name,
        "message": state.message,
        "data": state.data,
        "state_details": details,
    }


def _without_shared_details(result: OrchestrationResult) -> OrchestrationResult:
    """What is certain of an answer that was given together with others."""
    state = result.state
    if state is not None and result.status is SetStateStatus.ACCEPT:
        details = StateDetails(transition_id=state.state_details.transition_id)
        state = attrs.evolve(state, state_details=details)
    return OrchestrationResult(status=result.status, state=state, details=result.details)


def _deployment_fields(draft: DeploymentDraft) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "work_pool_name": draft.work_pool_name,
        "entrypoint": draft.entrypoint,
        "description": draft.description,
        "tags": list(draft.tags),
        "version": draft.version,
        "parameter_openapi_schema": dict(draft.parameter_openapi_schema),
        "enforce_parameter_schema": draft.enforce_parameter_schema,
        "concurrency_limit": draft.concurrency_limit,
    }
    if draft.work_queue_name is not None:
        fields["work_queue_name"] = draft.work_queue_name
    return fields


def _schedule_fields(schedule: DeploymentSchedule) -> dict[str, Any]:
    return {"schedule": dict(schedule.schedule), "active": schedule.active, "slug": schedule.slug}


@contextmanager
def _conflict_is_refusal() -> Iterator[None]:
    """Tell a 409 that finds fault with what was sent from one about an object that exists already."""
    try:
        yield
    except ObjectExistsError as error:
        raise RequestRefusedError(error.request, error.status_code, error.detail) from error


def _segment(name: str) -> str:
    return quote(name, safe="", errors="backslashreplace")


def path_by_name(*parts: str) -> str:
    """A path of collections and names in turn, for the request and for the errors about it.

    Raises:
        ObjectNotFoundError: one of the names can be no part of a path, which the server would call an unknown
            path. Names come from job templates, so that is not to be taken for a wrong URL of the API.
    """
    path = "/".join(part if index % 2 == 0 else _segment(part) for index, part in enumerate(parts))
    _check_names(path, parts[1::2])
    return path


def path_of_deployment(flow_name: str, name: str) -> str:
    """The path to a deployment by its names; `ObjectNotFoundError` if nothing can have one of them."""
    path = f"deployments/name/{_segment(flow_name)}/{_segment(name)}"
    _check_names(path, (flow_name, name))
    return path


def _check_names(path: str, names: Sequence[str]) -> None:
    for name in names:
        if "/" in name or name in {"", ".", ".."} or not is_unicode(name):
            raise ObjectNotFoundError(f"GET /{path}", 404, f"nothing can have the name {name!r}")


def path_by_id(collection: str, object_id: str) -> str:
    """A path to an object whose id was written by a person; `ObjectNotFoundError` if it cannot be one."""
    try:
        return f"{collection}/{UUID(object_id)}"
    except ValueError as error:
        request = f"GET /{collection}/{_segment(object_id)}"
        raise ObjectNotFoundError(request, 404, f"{object_id!r} is not a UUID") from error


@asynccontextmanager
async def open_client(
    config: TransportConfig,
    condition: Condition | None = None,
    *,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[PrefectClient]:
    """Open a client of the Prefect API; no request is sent yet.

    Args:
        config: where the API is and how to speak to it.
        condition: told about every request; one of its own if not given.
        chance: random numbers from 0 to 1 for the jitter of retries.

    Raises:
        APIError: the certificate file cannot be used.
    """
    if condition is None:
        condition = Condition()
    async with open_transport(config, condition, chance=chance) as transport:
        yield PrefectClient(transport, condition)
