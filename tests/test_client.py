"""Every request of the client: what is sent, and what is made of the answer."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import attrs
import httpx
import pytest
import trio

from trioworker.api.client import (
    LARGEST_PAGE,
    VITAL_REQUESTS,
    PrefectAPI,
    PrefectClient,
    open_client,
    path_by_id,
)
from trioworker.api.condition import Condition
from trioworker.api.errors import (
    APIUnavailableError,
    MalformedAnswerError,
    NotPermittedError,
    ObjectNotFoundError,
    RequestRefusedError,
    UnsendableRequestError,
    is_outage,
)
from trioworker.api.models import (
    BlockDocument,
    ConcurrencyLimit,
    Deployment,
    DeploymentDraft,
    DeploymentSchedule,
    Event,
    Flow,
    FlowRun,
    FlowRunPolicy,
    Integration,
    LogLine,
    OrchestrationResult,
    ProposedState,
    SetStateDetails,
    SetStateStatus,
    State,
    StateDetails,
    StateType,
    WorkerMetadata,
    WorkPool,
    WorkQueue,
)
from trioworker.api.transport import Transport, TransportConfig

URL = "http://api.test/api"

RUN = UUID("11111111-0000-4000-8000-000000000000")
FLOW = UUID("22222222-0000-4000-8000-000000000000")
DEPLOYMENT = UUID("33333333-0000-4000-8000-000000000000")
POOL = UUID("44444444-0000-4000-8000-000000000000")
OTHER = UUID("55555555-0000-4000-8000-000000000000")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHOWN_NOON = "2026-03-01T12:00:00+00:00"


class Server:
    """Gives prepared answers in order, and remembers what it was asked."""

    def __init__(self, answers: Sequence[httpx.Response]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return self._answers.pop(0)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Method and path of each request, the path as it goes over the wire, below the API's root."""
        return [(each.method, each.url.raw_path.decode().removeprefix("/api/")) for each in self.requests]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(each.content) if each.content else None for each in self.requests]


class Listener(Condition):
    """Takes note of what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def answered(self) -> None:
        super().answered()
        self.told.append("answered")

    def failed(self, reason: str, *, retry_after: float | None = None, refused: bool = False) -> None:
        super().failed(reason, retry_after=retry_after, refused=refused)
        self.told.append("failed")


@asynccontextmanager
async def client_of(server: Server, condition: Condition | None = None) -> AsyncIterator[PrefectClient]:
    condition = condition or Condition()
    mock = httpx.MockTransport(server)
    async with httpx.AsyncClient(transport=mock, base_url=f"{URL}/") as http:
        config = TransportConfig(url=URL, max_retries=0)
        yield PrefectClient(Transport(http, config, condition, lambda: 0.5), condition)


def ok(answer: Any) -> httpx.Response:
    return httpx.Response(204) if answer is None else httpx.Response(200, json=answer)


@attrs.frozen(kw_only=True)
class Case:
    """A call of a method, and all that should come of it.

    Attributes:
        call: the call.
        method: the HTTP method.
        path: below the API's root.
        body: what is sent, decoded; None for no body.
        answer: what the API answers, decoded; None for no content.
        result: what the call returns.
        nonsense: other answers that make no sense, each with the place that the error names.
    """

    call: Callable[[PrefectClient], Awaitable[Any]]
    method: str
    path: str
    body: Any = None
    answer: Any = None
    result: Any = None
    nonsense: Sequence[tuple[Any, str]] = ()


POOL_DOCUMENT = {
    "id": str(POOL),
    "name": "my pool",
    "type": "process",
    "is_paused": True,
    "base_job_template": {"variables": {}},
    "a field of tomorrow": 1,
}
POOL_OBJECT = WorkPool(
    id=POOL, name="my pool", type="process", is_paused=True, base_job_template={"variables": {}}
)
POOL_NONSENSE: Sequence[tuple[Any, str]] = [
    (POOL_DOCUMENT | {"id": "none"}, "answer.id"),
    (POOL_DOCUMENT | {"is_paused": "no"}, "answer.is_paused"),
    ({"id": str(POOL), "name": "my pool"}, "answer.type"),
    ([], "answer.id"),
    (None, "answer"),
]

STATE_DOCUMENT = {
    "type": "SCHEDULED",
    "name": "Late",
    "message": "sorry",
    "timestamp": SHOWN_NOON,
    "state_details": {"scheduled_time": SHOWN_NOON, "transition_id": str(OTHER)},
}
STATE_OBJECT = State(
    type=StateType.SCHEDULED,
    name="Late",
    message="sorry",
    timestamp=NOON,
    state_details=StateDetails(scheduled_time=NOON, transition_id=OTHER),
)

RUN_DOCUMENT = {
    "id": str(RUN),
    "name": "odd-owl",
    "flow_id": str(FLOW),
    "deployment_id": str(DEPLOYMENT),
    "work_queue_name": "default",
    "state": STATE_DOCUMENT,
    "tags": ["a", "b"],
    "job_variables": {"env": {"A": "1"}},
    "infrastructure_pid": "123",
    "start_time": None,
    "empirical_policy": {"retry_type": "reschedule", "retries": 3},
}
RUN_OBJECT = FlowRun(
    id=RUN,
    name="odd-owl",
    flow_id=FLOW,
    deployment_id=DEPLOYMENT,
    work_queue_name="default",
    state=STATE_OBJECT,
    tags=["a", "b"],
    job_variables={"env": {"A": "1"}},
    infrastructure_pid="123",
    empirical_policy=FlowRunPolicy(retry_type="reschedule", retries=3),
)
RUN_NONSENSE: Sequence[tuple[Any, str]] = [
    (RUN_DOCUMENT | {"name": ["odd"]}, "answer.name"),
    (RUN_DOCUMENT | {"start_time": "2026-03-01T12:00:00"}, "answer.start_time"),
    (RUN_DOCUMENT | {"state": {"type": "CONFUSED"}}, "answer.state.type"),
    ("a run", "answer.id"),
]

SUBMITTING = ProposedState(
    type=StateType.PENDING, name="Submitting", message="on its way", data={"a": 1}, transition_id=OTHER
)

SCHEDULE_BODY = {"schedule": {"cron": "0 9 * * *"}, "active": False, "slug": "daily"}
SCHEDULE = DeploymentSchedule(schedule={"cron": "0 9 * * *"}, active=False, slug="daily")
DRAFT_BODY = {
    "work_pool_name": "my pool",
    "work_queue_name": "high",
    "entrypoint": "app:f",
    "description": "does it",
    "tags": ["a"],
    "version": "1",
    "parameter_openapi_schema": {"type": "object"},
    "enforce_parameter_schema": False,
    "concurrency_limit": 2,
}
DRAFT = DeploymentDraft(
    name="deployed",
    flow_id=FLOW,
    work_pool_name="my pool",
    work_queue_name="high",
    entrypoint="app:f",
    description="does it",
    tags=("a",),
    version="1",
    parameter_openapi_schema={"type": "object"},
    enforce_parameter_schema=False,
    concurrency_limit=2,
    schedules=(SCHEDULE,),
)
DEPLOYED_DOCUMENT = DRAFT_BODY | {
    "id": str(DEPLOYMENT),
    "name": "deployed",
    "flow_id": str(FLOW),
    "schedules": [SCHEDULE_BODY | {"id": str(OTHER), "max_scheduled_runs": None}],
    # A field that the server has given up; the limit is in the next.
    "concurrency_limit": None,
    "global_concurrency_limit": {"limit": 2, "name": "deployment:x"},
    "paused": True,
    "parameters": {"a": 1},
}
DEPLOYED_OBJECT = Deployment(
    id=DEPLOYMENT,
    name="deployed",
    flow_id=FLOW,
    work_pool_name="my pool",
    work_queue_name="high",
    entrypoint="app:f",
    description="does it",
    tags=["a"],
    version="1",
    parameter_openapi_schema={"type": "object"},
    enforce_parameter_schema=False,
    global_concurrency_limit=ConcurrencyLimit(limit=2),
    schedules=[attrs.evolve(SCHEDULE, id=OTHER)],
    paused=True,
    parameters={"a": 1},
)

CASES: dict[str, Case] = {
    "read_work_pool": Case(
        call=lambda client: client.read_work_pool("my pool"),
        method="GET",
        path="work_pools/my%20pool",
        answer=POOL_DOCUMENT,
        result=POOL_OBJECT,
        nonsense=POOL_NONSENSE,
    ),
    "create_work_pool": Case(
        call=lambda client: client.create_work_pool(
            "my pool", pool_type="process", base_job_template={"variables": {}}
        ),
        method="POST",
        path="work_pools/",
        body={"name": "my pool", "type": "process", "base_job_template": {"variables": {}}},
        answer=POOL_DOCUMENT,
        result=POOL_OBJECT,
        nonsense=POOL_NONSENSE,
    ),
    "update_work_pool_template": Case(
        call=lambda client: client.update_work_pool_template("my pool", {"variables": {}}),
        method="PATCH",
        path="work_pools/my%20pool",
        body={"base_job_template": {"variables": {}}},
    ),
    "read_work_queues, of those named": Case(
        call=lambda client: client.read_work_queues("my pool", ["high", "low"]),
        method="POST",
        path="work_pools/my%20pool/queues/filter",
        body={"work_queues": {"name": {"any_": ["high", "low"]}}},
        answer=[{"name": "high"}, {"name": "low", "is_paused": True}],
        result=[WorkQueue(name="high"), WorkQueue(name="low", is_paused=True)],
        nonsense=[([{"name": "high"}, {}], "answer[1].name")],
    ),
    "read_work_queues, of all": Case(
        call=lambda client: client.read_work_queues("my pool", []),
        method="POST",
        path="work_pools/my%20pool/queues/filter",
        body={},
        answer=[],
        result=[],
    ),
    "send_worker_heartbeat": Case(
        call=lambda client: client.send_worker_heartbeat("my pool", "me", 29.6),
        method="POST",
        path="work_pools/my%20pool/workers/heartbeat",
        body={"name": "me", "heartbeat_interval_seconds": 30},
    ),
    "send_worker_heartbeat, with an id to get": Case(
        call=lambda client: client.send_worker_heartbeat(
            "my pool",
            "me",
            0.2,
            metadata=WorkerMetadata(integrations=[Integration(name="prefect-x", version="1")]),
            wants_id=True,
        ),
        method="POST",
        path="work_pools/my%20pool/workers/heartbeat",
        body={
            "name": "me",
            "heartbeat_interval_seconds": 1,
            "metadata": {"integrations": [{"name": "prefect-x", "version": "1"}]},
            "return_id": True,
        },
        answer=str(OTHER),
        result=OTHER,
    ),
    "get_scheduled_flow_runs": Case(
        call=lambda client: client.get_scheduled_flow_runs(
            "my pool", queue_names=[], scheduled_before=NOON, limit=7
        ),
        method="POST",
        path="work_pools/my%20pool/get_scheduled_flow_runs",
        body={"scheduled_before": SHOWN_NOON, "limit": 7},
        answer=[{"work_pool_id": str(POOL), "flow_run": RUN_DOCUMENT}],
        result=[RUN_OBJECT],
        nonsense=[
            ([{"flow_run": None}], "answer[0].flow_run"),
            ([{}], "answer[0].flow_run"),
        ],
    ),
    "get_scheduled_flow_runs, of queues": Case(
        call=lambda client: client.get_scheduled_flow_runs(
            "my pool", queue_names=("high",), scheduled_before=NOON, limit=7
        ),
        method="POST",
        path="work_pools/my%20pool/get_scheduled_flow_runs",
        body={"scheduled_before": SHOWN_NOON, "limit": 7, "work_queue_names": ["high"]},
        answer=[],
        result=[],
    ),
    "find_cancelling_flow_runs": Case(
        call=lambda client: client.find_cancelling_flow_runs("my pool", queue_names=[]),
        method="POST",
        path="flow_runs/filter",
        body={
            "flow_runs": {"state": {"type": {"any_": ["CANCELLING"]}}},
            "work_pools": {"name": {"any_": ["my pool"]}},
            "limit": 200,
            "offset": 0,
        },
        answer=[RUN_DOCUMENT],
        result=[RUN_OBJECT],
        nonsense=[({"runs": []}, "answer[0].id"), ([1], "answer[0]")],
    ),
    "find_cancelling_flow_runs, of queues": Case(
        call=lambda client: client.find_cancelling_flow_runs("my pool", queue_names=("high",)),
        method="POST",
        path="flow_runs/filter",
        body={
            "flow_runs": {"state": {"type": {"any_": ["CANCELLING"]}}},
            "work_pools": {"name": {"any_": ["my pool"]}},
            "work_pool_queues": {"name": {"any_": ["high"]}},
            "limit": 200,
            "offset": 0,
        },
        answer=[],
        result=[],
    ),
    "read_flow_run": Case(
        call=lambda client: client.read_flow_run(RUN),
        method="GET",
        path=f"flow_runs/{RUN}",
        answer=RUN_DOCUMENT,
        result=RUN_OBJECT,
        nonsense=RUN_NONSENSE,
    ),
    "read_flow_run_document": Case(
        call=lambda client: client.read_flow_run_document(RUN),
        method="GET",
        path=f"flow_runs/{RUN}",
        answer=RUN_DOCUMENT,
        result=RUN_DOCUMENT,
        nonsense=[([], "answer")],
    ),
    "read_flow_run_states": Case(
        call=lambda client: client.read_flow_run_states(RUN),
        method="GET",
        path=f"flow_run_states/?flow_run_id={RUN}",
        answer=[{"type": "PENDING"}, STATE_DOCUMENT],
        result=[State(type=StateType.PENDING), STATE_OBJECT],
        nonsense=[([{"type": "PENDING"}, {}], "answer[1].type")],
    ),
    "set_flow_run_state": Case(
        call=lambda client: client.set_flow_run_state(RUN, SUBMITTING),
        method="POST",
        path=f"flow_runs/{RUN}/set_state",
        body={
            "state": {
                "type": "PENDING",
                "name": "Submitting",
                "message": "on its way",
                "data": {"a": 1},
                "state_details": {"transition_id": str(OTHER)},
            },
            "force": False,
        },
        answer={"status": "WAIT", "state": None, "details": {"reason": "full", "delay_seconds": 12}},
        result=OrchestrationResult(
            status=SetStateStatus.WAIT, details=SetStateDetails(reason="full", delay_seconds=12)
        ),
        nonsense=[
            ({"status": "MAYBE"}, "answer.status"),
            ({"status": "WAIT", "details": {"delay_seconds": "soon"}}, "answer.details.delay_seconds"),
            ({}, "answer.status"),
        ],
    ),
    "set_flow_run_state, for later and by force": Case(
        call=lambda client: client.set_flow_run_state(
            RUN,
            ProposedState(
                type=StateType.SCHEDULED, name="Scheduled", scheduled_time=NOON, transition_id=OTHER
            ),
            force=True,
        ),
        method="POST",
        path=f"flow_runs/{RUN}/set_state",
        body={
            "state": {
                "type": "SCHEDULED",
                "name": "Scheduled",
                "message": None,
                "data": None,
                "state_details": {"transition_id": str(OTHER), "scheduled_time": SHOWN_NOON},
            },
            "force": True,
        },
        answer={"status": "ACCEPT", "state": STATE_DOCUMENT, "details": {}},
        result=OrchestrationResult(status=SetStateStatus.ACCEPT, state=STATE_OBJECT),
    ),
    "bulk_set_flow_run_state": Case(
        call=lambda client: client.bulk_set_flow_run_state([RUN, OTHER], SUBMITTING),
        method="POST",
        path="flow_runs/bulk_set_state",
        body={
            "flow_runs": {"id": {"any_": [str(RUN), str(OTHER)]}},
            "state": {
                "type": "PENDING",
                "name": "Submitting",
                "message": "on its way",
                "data": {"a": 1},
                "state_details": {"transition_id": str(OTHER)},
            },
            "limit": 2,
        },
        answer={
            "results": [
                {"flow_run_id": str(RUN), "status": "ACCEPT", "state": STATE_DOCUMENT, "details": {}},
                {
                    "flow_run_id": str(OTHER),
                    "status": "ABORT",
                    "state": None,
                    "details": {"reason": "locked"},
                },
            ]
        },
        result={
            RUN: OrchestrationResult(
                status=SetStateStatus.ACCEPT,
                state=attrs.evolve(
                    STATE_OBJECT,
                    state_details=StateDetails(transition_id=STATE_OBJECT.state_details.transition_id),
                ),
            ),
            OTHER: OrchestrationResult(status=SetStateStatus.ABORT, details=SetStateDetails(reason="locked")),
        },
        nonsense=[
            ({"results": [{"status": "ACCEPT"}]}, "answer.results[0].flow_run_id"),
            (
                {"results": [{"flow_run_id": str(DEPLOYMENT), "status": "ACCEPT"}]},
                "1 flow runs that were not asked for",
            ),
        ],
    ),
    "set_infrastructure_pid": Case(
        call=lambda client: client.set_infrastructure_pid(RUN, "host:1"),
        method="PATCH",
        path=f"flow_runs/{RUN}",
        body={"infrastructure_pid": "host:1"},
    ),
    "update_flow_run_labels": Case(
        call=lambda client: client.update_flow_run_labels(RUN, {"prefect.worker.name": "me"}),
        method="PATCH",
        path=f"flow_runs/{RUN}/labels",
        body={"prefect.worker.name": "me"},
    ),
    "update_flow_run_policy": Case(
        call=lambda client: client.update_flow_run_policy(
            RUN, FlowRunPolicy(retries=2, retry_delay=10, retry_type="in_process", pause_keys=["k"])
        ),
        method="PATCH",
        path=f"flow_runs/{RUN}",
        body={
            "empirical_policy": {
                "retries": 2,
                "retry_delay": 10,
                "retry_type": "in_process",
                "pause_keys": ["k"],
                "resuming": False,
            }
        },
    ),
    "renew_concurrency_lease": Case(
        call=lambda client: client.renew_concurrency_lease(OTHER, 300),
        method="POST",
        path=f"v2/concurrency_limits/leases/{OTHER}/renew",
        body={"lease_duration": 300},
    ),
    "release_concurrency_lease": Case(
        call=lambda client: client.release_concurrency_lease(OTHER),
        method="POST",
        path="v2/concurrency_limits/decrement-with-lease",
        body={"lease_id": str(OTHER)},
    ),
    "read_deployment_by_name": Case(
        call=lambda client: client.read_deployment_by_name("my flow", "a?"),
        method="GET",
        path="deployments/name/my%20flow/a%3F",
        answer=DEPLOYED_DOCUMENT,
        result=DEPLOYED_OBJECT,
        nonsense=[
            (DEPLOYED_DOCUMENT | {"global_concurrency_limit": {}}, "answer.global_concurrency_limit.limit"),
            (DEPLOYED_DOCUMENT | {"schedules": [{}]}, "answer.schedules[0].schedule"),
        ],
    ),
    "count_deployments": Case(
        call=lambda client: client.count_deployments("my pool", flow_names=["a", "b"]),
        method="POST",
        path="deployments/count",
        body={"flows": {"name": {"any_": ["a", "b"]}}, "work_pools": {"name": {"any_": ["my pool"]}}},
        answer=3,
        result=3,
        nonsense=[({}, "answer")],
    ),
    "create_deployment": Case(
        call=lambda client: client.create_deployment(DRAFT),
        method="POST",
        path="deployments/",
        body={"name": "deployed", "flow_id": str(FLOW), "schedules": [SCHEDULE_BODY]} | DRAFT_BODY,
        answer=DEPLOYED_DOCUMENT,
        result=DEPLOYED_OBJECT,
    ),
    "update_deployment": Case(
        call=lambda client: client.update_deployment(DEPLOYMENT, DRAFT),
        method="PATCH",
        path=f"deployments/{DEPLOYMENT}",
        body=DRAFT_BODY,
    ),
    "update_deployment, in the default queue": Case(
        call=lambda client: client.update_deployment(DEPLOYMENT, attrs.evolve(DRAFT, work_queue_name=None)),
        method="PATCH",
        path=f"deployments/{DEPLOYMENT}",
        body={key: value for key, value in DRAFT_BODY.items() if key != "work_queue_name"},
    ),
    "create_deployment_schedule": Case(
        call=lambda client: client.create_deployment_schedule(DEPLOYMENT, SCHEDULE),
        method="POST",
        path=f"deployments/{DEPLOYMENT}/schedules",
        body=[SCHEDULE_BODY],
        answer=[SCHEDULE_BODY | {"id": str(OTHER)}],
        result=attrs.evolve(SCHEDULE, id=OTHER),
        nonsense=[([{"id": str(OTHER)}], "answer[0].schedule")],
    ),
    "update_deployment_schedule": Case(
        call=lambda client: client.update_deployment_schedule(DEPLOYMENT, attrs.evolve(SCHEDULE, id=OTHER)),
        method="PATCH",
        path=f"deployments/{DEPLOYMENT}/schedules/{OTHER}",
        body=SCHEDULE_BODY,
    ),
    "delete_deployment_schedule": Case(
        call=lambda client: client.delete_deployment_schedule(DEPLOYMENT, OTHER),
        method="DELETE",
        path=f"deployments/{DEPLOYMENT}/schedules/{OTHER}",
    ),
    "create_flow": Case(
        call=lambda client: client.create_flow("a flow"),
        method="POST",
        path="flows/",
        body={"name": "a flow"},
        answer={"id": str(FLOW), "name": "a flow"},
        result=Flow(id=FLOW, name="a flow"),
        nonsense=[({"id": str(FLOW)}, "answer.name")],
    ),
    "read_deployment": Case(
        call=lambda client: client.read_deployment(DEPLOYMENT),
        method="GET",
        path=f"deployments/{DEPLOYMENT}",
        answer={
            "id": str(DEPLOYMENT),
            "name": "nightly",
            "flow_id": str(FLOW),
            "updated": SHOWN_NOON,
            "job_variables": {"working_dir": None},
            "tags": ["x"],
        },
        result=Deployment(
            id=DEPLOYMENT,
            name="nightly",
            flow_id=FLOW,
            updated=NOON,
            job_variables={"working_dir": None},
            tags=["x"],
        ),
        nonsense=[
            ({"id": str(DEPLOYMENT), "name": "nightly", "flow_id": 5}, "answer.flow_id"),
            (
                {"id": str(DEPLOYMENT), "name": "n", "flow_id": str(FLOW), "tags": [1]},
                "answer.tags[0]",
            ),
        ],
    ),
    "read_flow": Case(
        call=lambda client: client.read_flow(FLOW),
        method="GET",
        path=f"flows/{FLOW}",
        answer={"id": str(FLOW), "name": "etl", "labels": {"a": 1}},
        result=Flow(id=FLOW, name="etl", labels={"a": 1}),
        nonsense=[({"id": str(FLOW), "name": None}, "answer.name")],
    ),
    "read_block_document": Case(
        call=lambda client: client.read_block_document("secret", "my key"),
        method="GET",
        path="block_types/slug/secret/block_documents/name/my%20key?include_secrets=true",
        answer={"data": {"value": "s3cret"}},
        result=BlockDocument(data={"value": "s3cret"}),
        nonsense=[({"data": None}, "answer.data"), ({}, "answer.data")],
    ),
    "read_block_document_by_id": Case(
        call=lambda client: client.read_block_document_by_id(str(OTHER).upper()),
        method="GET",
        path=f"block_documents/{OTHER}?include_secrets=true",
        answer={"data": {}},
        result=BlockDocument(data={}),
        nonsense=[({"data": [1]}, "answer.data")],
    ),
    "read_variable": Case(
        call=lambda client: client.read_variable("region"),
        method="GET",
        path="variables/name/region",
        answer={"id": str(OTHER), "name": "region", "value": {"any": ["thing"]}},
        result={"any": ["thing"]},
        nonsense=[({"name": "region"}, "answer.value")],
    ),
    "read_worker_packages": Case(
        call=lambda client: client.read_worker_packages(),
        method="GET",
        path="collections/views/aggregate-worker-metadata",
        answer={"prefect": {"process": {}, "prefect-agent": {}}, "prefect-x": {"x": {}}},
        result={"process": "prefect", "x": "prefect-x"},
        nonsense=[({"prefect": 1}, "answer['prefect']")],
    ),
    "send_events": Case(
        call=lambda client: client.send_events(
            [
                Event(
                    id=OTHER,
                    occurred=NOON,
                    event="prefect.worker.stopped",
                    resource={"prefect.resource.id": "me"},
                    related=[{"prefect.resource.role": "work-pool"}],
                    payload={"a": 1},
                    follows=RUN,
                )
            ]
        ),
        method="POST",
        path="events",
        body=[
            {
                "id": str(OTHER),
                "occurred": SHOWN_NOON,
                "event": "prefect.worker.stopped",
                "resource": {"prefect.resource.id": "me"},
                "related": [{"prefect.resource.role": "work-pool"}],
                "payload": {"a": 1},
                "follows": str(RUN),
            }
        ],
    ),
    "send_logs": Case(
        call=lambda client: client.send_logs(
            [LogLine(name="worker", level=20, message="hello", timestamp=NOON, flow_run_id=RUN)]
        ),
        method="POST",
        path="logs/",
        body=[
            {
                "name": "worker",
                "level": 20,
                "message": "hello",
                "timestamp": SHOWN_NOON,
                "flow_run_id": str(RUN),
            }
        ],
    ),
}


def operation(name: str) -> str:
    """The method that a case calls."""
    return name.partition(",")[0]


def test_every_operation_has_a_case() -> None:
    operations = {name for name in vars(PrefectAPI) if not name.startswith("_")}
    # The body of `create_flow_run` is never the same; it has tests of its own.
    elsewhere = {"condition", "open_state_changes", "create_flow_run"}
    assert {operation(name) for name in CASES} == operations - elsewhere


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_one_request_is_sent_and_its_answer_read(case: Case) -> None:
    server = Server([ok(case.answer)])
    async with client_of(server) as client:
        result = await case.call(client)
    assert server.asked == [(case.method, case.path)]
    assert server.bodies == [case.body]
    assert result == case.result


NONSENSE = [
    pytest.param(case, answer, place, id=f"{name}-{index}")
    for name, case in CASES.items()
    for index, (answer, place) in enumerate(case.nonsense)
]


@pytest.mark.parametrize(("case", "answer", "place"), NONSENSE)
async def test_answer_that_makes_no_sense_is_told_with_its_request_and_place(
    case: Case, answer: Any, place: str
) -> None:
    async with client_of(Server([ok(answer)])) as client:
        with pytest.raises(MalformedAnswerError) as caught:
            await case.call(client)
    assert caught.value.request == f"{case.method} /{case.path}"
    assert place in {problem.rpartition(" @ ")[2] for problem in caught.value.problems}


@pytest.mark.parametrize("name", CASES)
async def test_only_requests_that_a_worker_lives_by_tell_of_the_condition(name: str) -> None:
    condition = Listener()
    async with client_of(Server([httpx.Response(503), ok(CASES[name].answer)]), condition) as client:
        with pytest.raises(APIUnavailableError):
            await CASES[name].call(client)
        await CASES[name].call(client)
    assert condition.told == (["failed", "answered"] if operation(name) in VITAL_REQUESTS else [])


# States


@pytest.mark.parametrize(("state_type", "attempts"), [(StateType.SCHEDULED, 1), (StateType.CRASHED, 2)])
async def test_state_by_which_a_run_may_go_to_others_is_proposed_once(
    state_type: StateType, attempts: int
) -> None:
    server = Server([httpx.Response(503, headers={"Retry-After": "0"})] * 2)
    config = TransportConfig(url=URL, max_retries=1)
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url=f"{URL}/") as http:
        client = PrefectClient(Transport(http, config, Condition(), lambda: 0.5), Condition())
        with pytest.raises(APIUnavailableError):
            await client.set_flow_run_state(DEPLOYMENT, ProposedState(type=state_type, name="any"))
    assert len(server.asked) == attempts


# Creating runs


async def test_run_is_created_under_a_key_that_its_repetitions_share() -> None:
    server = Server([httpx.Response(503, headers={"Retry-After": "0"}), ok(RUN_DOCUMENT), ok(RUN_DOCUMENT)])
    config = TransportConfig(url=URL, max_retries=1)
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url=f"{URL}/") as http:
        client = PrefectClient(Transport(http, config, Condition(), lambda: 0.5), Condition())
        assert await client.create_flow_run(DEPLOYMENT) == RUN_OBJECT
        await client.create_flow_run(DEPLOYMENT, parameters={"a": 1}, name="n", scheduled_time=NOON)
    assert set(server.asked) == {("POST", f"deployments/{DEPLOYMENT}/create_flow_run")}
    first, repeated, second = server.bodies
    assert first == repeated
    assert first.pop("idempotency_key") != second.pop("idempotency_key")
    assert first == {"parameters": {}}
    scheduled = {"type": "SCHEDULED", "name": "Scheduled", "state_details": {"scheduled_time": SHOWN_NOON}}
    assert second == {"parameters": {"a": 1}, "name": "n", "state": scheduled}


CONFLICTS: dict[str, Callable[[PrefectClient], Awaitable[Any]]] = {
    "create_flow_run": lambda client: client.create_flow_run(DEPLOYMENT),
    "create_deployment": lambda client: client.create_deployment(DRAFT),
    "update_deployment": lambda client: client.update_deployment(DEPLOYMENT, DRAFT),
    "create_deployment_schedule": lambda client: client.create_deployment_schedule(DEPLOYMENT, SCHEDULE),
    "update_deployment_schedule": lambda client: client.update_deployment_schedule(DEPLOYMENT, SCHEDULE),
}


@pytest.mark.parametrize("call", CONFLICTS.values(), ids=CONFLICTS)
async def test_conflict_over_what_was_sent_does_not_pass_for_an_object_that_exists(
    call: Callable[[PrefectClient], Awaitable[Any]],
) -> None:
    async with client_of(Server([httpx.Response(409, json={"detail": "'x' is not of type"})])) as client:
        with pytest.raises(RequestRefusedError) as caught:
            await call(client)
    assert type(caught.value) is RequestRefusedError
    assert (caught.value.status_code, caught.value.detail) == (409, "'x' is not of type")


@pytest.mark.parametrize(("status", "error"), [(410, ObjectNotFoundError), (422, RequestRefusedError)])
async def test_lease_that_is_gone_is_not_found(status: int, error: type[RequestRefusedError]) -> None:
    async with client_of(Server([httpx.Response(status, json={"detail": "gone"})])) as client:
        with pytest.raises(RequestRefusedError) as caught:
            await client.renew_concurrency_lease(OTHER, 60)
    assert type(caught.value) is error
    assert caught.value.status_code == status


@pytest.mark.parametrize("schedules", [[], [SCHEDULE_BODY, SCHEDULE_BODY]])
async def test_other_number_of_schedules_than_was_sent_makes_no_sense(schedules: list[Any]) -> None:
    async with client_of(Server([ok(schedules)])) as client:
        with pytest.raises(MalformedAnswerError, match="schedules for the one that was sent"):
            await client.create_deployment_schedule(DEPLOYMENT, SCHEDULE)


async def test_deployment_whose_schedules_are_left_open_is_created_without_mention_of_them() -> None:
    server = Server([ok(DEPLOYED_DOCUMENT)])
    async with client_of(server) as client:
        await client.create_deployment(attrs.evolve(DRAFT, schedules=None))
    assert "schedules" not in server.bodies[0]


# Cancelling runs, page by page


def run_document(number: int) -> dict[str, Any]:
    return RUN_DOCUMENT | {"id": str(UUID(int=number))}


@pytest.mark.parametrize("on_the_last_page", [0, 1, LARGEST_PAGE - 1])
async def test_all_pages_of_cancelling_runs_are_read(on_the_last_page: int) -> None:
    documents = [run_document(number) for number in range(2 * LARGEST_PAGE + on_the_last_page)]
    pages = [documents[start : start + LARGEST_PAGE] for start in (0, LARGEST_PAGE, 2 * LARGEST_PAGE)]
    server = Server([ok(page) for page in pages])
    async with client_of(server) as client:
        found = await client.find_cancelling_flow_runs("pool", queue_names=[])
    assert [run.id.int for run in found] == list(range(len(documents)))
    assert [body["offset"] for body in server.bodies] == [0, LARGEST_PAGE, 2 * LARGEST_PAGE]


# The registry of packages


@pytest.mark.parametrize("detail", ["Not Found", "View not found"])
async def test_registry_of_prefect_cloud_is_in_another_place(detail: str) -> None:
    missing = httpx.Response(404, json={"detail": detail})
    server = Server([missing, ok({"prefect-x": {"x": {}}})])
    async with client_of(server) as client:
        assert await client.read_worker_packages() == {"x": "prefect-x"}
    assert [path for _, path in server.asked] == [
        "collections/views/aggregate-worker-metadata",
        "collections/work_pool_types",
    ]


# The heartbeat


async def test_heartbeat_with_an_id_to_get_fails_with_the_pool() -> None:
    """Only a refusal of the wish for an id is a reason to ask again without it."""
    server = Server([httpx.Response(404, json={"detail": "Work pool not found"})])
    async with client_of(server) as client:
        with pytest.raises(ObjectNotFoundError):
            await client.send_worker_heartbeat("pool", "me", 30, wants_id=True)
    assert len(server.requests) == 1


async def test_server_that_has_no_id_to_tell_is_asked_once() -> None:
    server = Server([httpx.Response(204)])
    async with client_of(server) as client:
        assert await client.send_worker_heartbeat("pool", "me", 30, wants_id=True) is None
    assert len(server.requests) == 1


# Names that people have written


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
@pytest.mark.parametrize(
    "read",
    [
        lambda client, name: client.read_variable(name),
        lambda client, name: client.read_block_document(name, "block"),
        lambda client, name: client.read_block_document("secret", name),
    ],
    ids=["variable", "block type", "block"],
)
async def test_name_that_nothing_can_have_is_not_asked_for(
    read: Callable[[PrefectClient, str], Awaitable[Any]], name: str
) -> None:
    server = Server([])
    async with client_of(server) as client:
        with pytest.raises(ObjectNotFoundError, match="nothing can have the name") as caught:
            await read(client, name)
    assert caught.value.detail == f"nothing can have the name {name!r}"
    assert server.requests == []


async def test_id_that_is_none_is_not_asked_for() -> None:
    server = Server([])
    async with client_of(server) as client:
        with pytest.raises(ObjectNotFoundError) as caught:
            await client.read_block_document_by_id("my block")
    assert caught.value.request == "GET /block_documents/my%20block"
    assert caught.value.detail == "'my block' is not a UUID"
    assert server.requests == []


def test_id_is_spelt_as_the_api_spells_it() -> None:
    assert path_by_id("flow_runs", f"{{{str(RUN).upper()}}}") == f"flow_runs/{RUN}"


@pytest.mark.parametrize(
    "read",
    [
        lambda client: client.read_variable("name\udcff"),
        lambda client: client.read_block_document("secret", "name\udcff"),
        lambda client: client.read_block_document_by_id("name\udcff"),
    ],
)
async def test_name_that_is_no_unicode_is_that_of_nothing(
    read: Callable[[PrefectClient], Awaitable[Any]],
) -> None:
    server = Server([])
    async with client_of(server) as client:
        with pytest.raises(ObjectNotFoundError, match=r"name\\udcff") as caught:
            await read(client)
    assert caught.value.request.isascii()
    assert server.requests == []


async def test_log_line_with_bytes_that_are_no_text_arrives() -> None:
    server = Server([ok(None)])
    line = LogLine(name="log", level=20, message='a "bad" \udcff and é', timestamp=NOON)
    async with client_of(server) as client:
        await client.send_logs([line])
    (lines,) = server.bodies
    assert lines[0]["message"] == 'a "bad" \\udcff and é'
    assert server.requests[0].headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, {(1, 2): 3}])
async def test_event_that_json_cannot_hold_is_refused_before_it_is_sent(value: Any) -> None:
    server, condition = Server([]), Listener()
    event = Event(id=OTHER, occurred=NOON, event="e", resource={}, payload={"value": value})
    async with client_of(server, condition) as client:
        with pytest.raises(UnsendableRequestError, match="POST /events cannot be sent: ") as caught:
            await client.send_events([event])
    assert "URL" not in str(caught.value)
    assert not is_outage(caught.value)
    assert server.requests == []


async def test_vital_request_that_cannot_be_sent_says_nothing_of_the_api() -> None:
    condition = Listener()
    async with client_of(Server([]), condition) as client:
        with pytest.raises(UnsendableRequestError):
            await client.update_work_pool_template("pool", {"a": math.nan})
    assert condition.told == []


# The rest


async def test_state_changes_are_asked_for_over_a_websocket() -> None:
    server = Server([httpx.Response(403, json={"detail": "no events for you"})])
    condition = Listener()
    async with client_of(server, condition) as client:
        with pytest.raises(NotPermittedError, match="no events for you"):
            async with client.open_state_changes(POOL, [StateType.SCHEDULED]):
                pytest.fail("it was refused")
    assert server.asked == [("GET", "events/out")]
    assert server.requests[0].headers["Upgrade"] == "websocket"
    assert condition.told == []


async def test_client_shares_the_condition_that_it_is_given() -> None:
    condition = Condition()
    async with open_client(TransportConfig(url=URL), condition) as client:
        assert client.condition is condition


async def test_client_has_a_condition_of_its_own_otherwise() -> None:
    config = TransportConfig(url=URL)
    async with open_client(config) as one, open_client(config) as other:
        assert one.condition.reachable
        assert one.condition is not other.condition
