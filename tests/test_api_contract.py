"""What `PrefectAPI` promises, checked against the fake and against a real server: the same tests for both."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import attrs
import httpx
import pytest
import trio
from conftest import PrefectServer

from trioworker.api.client import LARGEST_BULK, PrefectAPI, PrefectClient, open_client
from trioworker.api.condition import Condition
from trioworker.api.errors import (
    MalformedAnswerError,
    NotPermittedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RequestRefusedError,
)
from trioworker.api.models import (
    Deployment,
    DeploymentDraft,
    DeploymentSchedule,
    Event,
    FlowRun,
    FlowRunPolicy,
    Integration,
    LogLine,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    StateDetails,
    StateType,
    VersionInfo,
    WorkerMetadata,
)
from trioworker.api.transport import Transport, TransportConfig
from trioworker.runs.claim import Late, is_proved, judge_claim, judge_refusal
from trioworker.testing import FakePrefectAPI

TEMPLATE = {
    "job_configuration": {"command": "{{ command }}"},
    "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
}

TYPES = {kind.value.capitalize(): kind for kind in StateType} | {
    "Suspended": StateType.PAUSED,
    "Submitting": StateType.PENDING,
    "InfrastructurePending": StateType.PENDING,
    "AwaitingRetry": StateType.SCHEDULED,
    "Late": StateType.SCHEDULED,
    "TimedOut": StateType.FAILED,
}


class OtherSide(Protocol):
    """What people, flows and other workers do, on either server."""

    def now(self) -> datetime: ...

    async def add_work_pool(
        self, name: str, *, base_job_template: dict[str, Any], concurrency_limit: int | None = None
    ) -> None: ...

    async def add_work_queue(
        self, pool_name: str, name: str, *, priority: int, concurrency_limit: int | None = None
    ) -> None: ...

    async def pause_work_pool(self, name: str) -> None: ...

    async def pause_work_queue(self, pool_name: str, name: str) -> None: ...

    async def delete_work_pool(self, name: str) -> None: ...

    async def delete_work_queue(self, pool_name: str, name: str) -> None: ...

    async def add_deployment(
        self,
        pool_name: str,
        *,
        queue_name: str = "default",
        job_variables: dict[str, Any] | None = None,
        tags: Sequence[str] = (),
        concurrency_limit: int | None = None,
        cancel_new: bool = False,
    ) -> UUID: ...

    async def delete_deployment(self, deployment_id: UUID) -> None: ...

    async def pause_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None: ...

    async def runs_of_schedules(self, deployment_id: UUID) -> list[UUID]:
        """The runs that schedules have made, once there are any."""
        ...

    async def schedule(
        self,
        deployment_id: UUID,
        *,
        at: datetime | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        parameters: dict[str, Any] | None = None,
        job_variables: dict[str, Any] | None = None,
        retries: int | None = None,
    ) -> UUID: ...

    async def set_state(
        self, flow_run_id: UUID, name: str, *, data: Any = None, force: bool = False
    ) -> str: ...

    async def delete_flow_run(self, flow_run_id: UUID) -> None: ...

    async def worker_names(self, pool_name: str) -> list[str]: ...

    async def log_messages(self, flow_run_id: UUID) -> list[str]: ...

    async def labels(self, flow_run_id: UUID) -> dict[str, str]: ...

    async def add_block(self, type_slug: str, name: str, data: dict[str, Any]) -> UUID: ...

    async def add_variable(self, name: str, value: Any) -> None: ...


@attrs.frozen
class FakeSide:
    """`OtherSide` of the fake."""

    fake: FakePrefectAPI

    def now(self) -> datetime:
        return self.fake.now()

    async def add_work_pool(
        self, name: str, *, base_job_template: dict[str, Any], concurrency_limit: int | None = None
    ) -> None:
        self.fake.add_work_pool(
            name, base_job_template=base_job_template, concurrency_limit=concurrency_limit
        )

    async def add_work_queue(
        self, pool_name: str, name: str, *, priority: int, concurrency_limit: int | None = None
    ) -> None:
        self.fake.add_work_queue(pool_name, name, priority=priority, concurrency_limit=concurrency_limit)

    async def pause_work_pool(self, name: str) -> None:
        self.fake.pause_work_pool(name)

    async def pause_work_queue(self, pool_name: str, name: str) -> None:
        self.fake.pause_work_queue(pool_name, name)

    async def delete_work_pool(self, name: str) -> None:
        self.fake.delete_work_pool(name)

    async def delete_work_queue(self, pool_name: str, name: str) -> None:
        self.fake.delete_work_queue(pool_name, name)

    async def add_deployment(
        self,
        pool_name: str,
        *,
        queue_name: str = "default",
        job_variables: dict[str, Any] | None = None,
        tags: Sequence[str] = (),
        concurrency_limit: int | None = None,
        cancel_new: bool = False,
    ) -> UUID:
        return self.fake.add_deployment(
            "a flow",
            pool_name,
            name="a deployment",
            queue_name=queue_name,
            job_variables=job_variables,
            tags=tags,
            concurrency_limit=concurrency_limit,
            cancel_new=cancel_new,
        ).id

    async def delete_deployment(self, deployment_id: UUID) -> None:
        self.fake.delete_deployment(deployment_id)

    async def pause_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None:
        self.fake.pause_schedule(deployment_id, schedule_id)

    async def runs_of_schedules(self, deployment_id: UUID) -> list[UUID]:
        # The fake has no scheduler of its own.
        at = self.now() + timedelta(hours=1)
        return [self.fake.schedule(deployment_id, at=at, auto_scheduled=True).id]

    async def schedule(
        self,
        deployment_id: UUID,
        *,
        at: datetime | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        parameters: dict[str, Any] | None = None,
        job_variables: dict[str, Any] | None = None,
        retries: int | None = None,
    ) -> UUID:
        return self.fake.schedule(
            deployment_id,
            at=at,
            name=name,
            tags=tags,
            parameters=parameters,
            job_variables=job_variables,
            retries=retries,
        ).id

    async def set_state(self, flow_run_id: UUID, name: str, *, data: Any = None, force: bool = False) -> str:
        return self.fake.set_state(flow_run_id, name, data=data, force=force).status

    async def delete_flow_run(self, flow_run_id: UUID) -> None:
        self.fake.delete_flow_run(flow_run_id)

    async def worker_names(self, pool_name: str) -> list[str]:
        return [beat.worker_name for beat in self.fake.heartbeats if beat.pool_name == pool_name]

    async def log_messages(self, flow_run_id: UUID) -> list[str]:
        return [line.message for line in self.fake.logs if line.flow_run_id == flow_run_id]

    async def labels(self, flow_run_id: UUID) -> dict[str, str]:
        return self.fake.labels(flow_run_id)

    async def add_block(self, type_slug: str, name: str, data: dict[str, Any]) -> UUID:
        return self.fake.add_block(type_slug, name, data)

    async def add_variable(self, name: str, value: Any) -> None:
        self.fake.add_variable(name, value)


@attrs.frozen
class RealSide:
    """`OtherSide` of a real server: plain REST calls, made without our client."""

    server: PrefectServer

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def add_work_pool(
        self, name: str, *, base_job_template: dict[str, Any], concurrency_limit: int | None = None
    ) -> None:
        body = {
            "name": name,
            "type": "process",
            "base_job_template": base_job_template,
            "concurrency_limit": concurrency_limit,
        }
        await self.server.acall("POST", "work_pools/", body)

    async def add_work_queue(
        self, pool_name: str, name: str, *, priority: int, concurrency_limit: int | None = None
    ) -> None:
        body = {"name": name, "priority": priority, "concurrency_limit": concurrency_limit}
        await self.server.acall("POST", f"work_pools/{pool_name}/queues", body)

    async def pause_work_pool(self, name: str) -> None:
        await self.server.acall("PATCH", f"work_pools/{name}", {"is_paused": True})

    async def pause_work_queue(self, pool_name: str, name: str) -> None:
        await self.server.acall("PATCH", f"work_pools/{pool_name}/queues/{name}", {"is_paused": True})

    async def delete_work_pool(self, name: str) -> None:
        await self.server.acall("DELETE", f"work_pools/{name}")

    async def delete_work_queue(self, pool_name: str, name: str) -> None:
        await self.server.acall("DELETE", f"work_pools/{pool_name}/queues/{name}")

    async def add_deployment(
        self,
        pool_name: str,
        *,
        queue_name: str = "default",
        job_variables: dict[str, Any] | None = None,
        tags: Sequence[str] = (),
        concurrency_limit: int | None = None,
        cancel_new: bool = False,
    ) -> UUID:
        # One flow for each deployment: a second deployment of the same name would replace the first.
        flow = await self.server.acall("POST", "flows/", {"name": f"a flow {uuid4()}"})
        body = {
            "name": "a deployment",
            "flow_id": flow["id"],
            "work_pool_name": pool_name,
            "work_queue_name": queue_name,
            "job_variables": job_variables or {},
            "tags": list(tags),
        }
        if concurrency_limit is not None:
            body["concurrency_limit"] = concurrency_limit
            body["concurrency_options"] = {"collision_strategy": "CANCEL_NEW" if cancel_new else "ENQUEUE"}
        deployment = await self.server.acall("POST", "deployments/", body)
        return UUID(deployment["id"])

    async def delete_deployment(self, deployment_id: UUID) -> None:
        await self.server.acall("DELETE", f"deployments/{deployment_id}")

    async def pause_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None:
        path = f"deployments/{deployment_id}/schedules/{schedule_id}"
        await self.server.acall("PATCH", path, {"active": False})

    async def runs_of_schedules(self, deployment_id: UUID) -> list[UUID]:
        # The scheduler would come by within seconds; this is the same without the wait.
        await self.server.acall("POST", f"deployments/{deployment_id}/schedule", {"max_runs": 3})
        body = {"deployments": {"id": {"any_": [str(deployment_id)]}}}
        runs = await self.server.acall("POST", "flow_runs/filter", body)
        return [UUID(run["id"]) for run in runs if run["auto_scheduled"]]

    async def schedule(
        self,
        deployment_id: UUID,
        *,
        at: datetime | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        parameters: dict[str, Any] | None = None,
        job_variables: dict[str, Any] | None = None,
        retries: int | None = None,
    ) -> UUID:
        details = {} if at is None else {"scheduled_time": at.isoformat()}
        body: dict[str, Any] = {
            "state": {"type": "SCHEDULED", "name": "Scheduled", "state_details": details},
            "tags": list(tags),
            "parameters": parameters or {},
        }
        if name is not None:
            body["name"] = name
        if job_variables is not None:
            body["job_variables"] = job_variables
        if retries is not None:
            body["empirical_policy"] = {"retries": retries, "retry_delay": 0}
        run = await self.server.acall("POST", f"deployments/{deployment_id}/create_flow_run", body)
        return UUID(run["id"])

    async def set_state(self, flow_run_id: UUID, name: str, *, data: Any = None, force: bool = False) -> str:
        details = {"pause_reschedule": True} if name == "Suspended" else {}
        state = {"type": TYPES[name].value, "name": name, "data": data, "state_details": details}
        body = {"state": state, "force": force}
        result = await self.server.acall("POST", f"flow_runs/{flow_run_id}/set_state", body)
        status: str = result["status"]
        return status

    async def delete_flow_run(self, flow_run_id: UUID) -> None:
        await self.server.acall("DELETE", f"flow_runs/{flow_run_id}")

    async def worker_names(self, pool_name: str) -> list[str]:
        workers = await self.server.acall("POST", f"work_pools/{pool_name}/workers/filter", {})
        return [worker["name"] for worker in workers]

    async def log_messages(self, flow_run_id: UUID) -> list[str]:
        body = {"logs": {"flow_run_id": {"any_": [str(flow_run_id)]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in await self.server.acall("POST", "logs/filter", body)]

    async def labels(self, flow_run_id: UUID) -> dict[str, str]:
        run = await self.server.acall("GET", f"flow_runs/{flow_run_id}")
        labels: dict[str, str] = run["labels"]
        return labels

    async def add_block(self, type_slug: str, name: str, data: dict[str, Any]) -> UUID:
        block_type = await self.server.acall("GET", f"block_types/slug/{type_slug}")
        of_type = {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}}
        [schema, *_] = await self.server.acall("POST", "block_schemas/filter", of_type)
        body = {
            "name": name,
            "data": data,
            "block_type_id": block_type["id"],
            "block_schema_id": schema["id"],
        }
        block = await self.server.acall("POST", "block_documents/", body)
        return UUID(block["id"])

    async def add_variable(self, name: str, value: Any) -> None:
        await self.server.acall("POST", "variables/", {"name": name, "value": value})


@attrs.frozen
class World:
    """A server, seen from both sides, with one work pool of the test's own."""

    api: PrefectAPI
    other: OtherSide
    pool: str

    async def due(self, *queue_names: str, limit: int = 10) -> list[UUID]:
        return [run.id for run in await self.found(*queue_names, limit=limit)]

    async def found(self, *queue_names: str, limit: int = 10) -> list[FlowRun]:
        return await self.api.get_scheduled_flow_runs(
            self.pool, queue_names=queue_names, scheduled_before=self.other.now(), limit=limit
        )

    async def scheduled(self, **kwargs: Any) -> UUID:
        """A run of a new deployment, due since some time."""
        return await self.other.schedule(await self.other.add_deployment(self.pool), **kwargs)

    async def propose(self, flow_run_id: UUID, name: str, *, force: bool = False) -> OrchestrationResult:
        return await self.api.set_flow_run_state(flow_run_id, proposed(name), force=force)


def proposed(name: str, **kwargs: Any) -> ProposedState:
    return ProposedState(type=TYPES[name], name=name, **kwargs)


@asynccontextmanager
async def open_world(server: PrefectServer | None) -> AsyncIterator[World]:
    pool = f"pool {uuid4()}"
    async with AsyncExitStack() as stack:
        if server is None:
            fake = FakePrefectAPI()
            world = World(fake, FakeSide(fake), pool)
        else:
            client = await stack.enter_async_context(open_client(TransportConfig(url=server.url)))
            world = World(client, RealSide(server), pool)
        await world.other.add_work_pool(pool, base_job_template=TEMPLATE)
        yield world


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.server)])
def server(request: pytest.FixtureRequest) -> PrefectServer | None:
    if request.param == "fake":
        return None
    found: PrefectServer = request.getfixturevalue("prefect_server")
    return found


@pytest.fixture
async def world(server: PrefectServer | None) -> AsyncIterator[World]:
    async with open_world(server) as world:
        yield world


MISSING = UUID("00000000-0000-4000-8000-000000000000")
LONG_AGO = timedelta(minutes=-5)


# Work pools and queues


async def test_work_pool_is_read_by_name(world: World) -> None:
    pool = await world.api.read_work_pool(world.pool)
    assert (pool.name, pool.type, pool.base_job_template, pool.is_paused) == (
        world.pool,
        "process",
        TEMPLATE,
        False,
    )


async def test_paused_work_pool_says_so(world: World) -> None:
    await world.other.pause_work_pool(world.pool)
    assert (await world.api.read_work_pool(world.pool)).is_paused


async def test_work_pool_tells_its_limit(world: World) -> None:
    name = f"limited {uuid4()}"
    await world.other.add_work_pool(name, base_job_template={}, concurrency_limit=3)
    assert (await world.api.read_work_pool(name)).concurrency_limit == 3
    assert (await world.api.read_work_pool(world.pool)).concurrency_limit is None


async def test_missing_work_pool_is_named_in_the_error(world: World) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_work_pool("no-such-pool")
    assert caught.value.status_code == 404
    assert caught.value.detail == 'Work pool "no-such-pool" not found.'
    assert caught.value.request == "GET /work_pools/no-such-pool"


async def test_created_work_pool_is_returned_and_can_be_read(world: World) -> None:
    name = f"new-{uuid4()}"
    created = await world.api.create_work_pool(name, pool_type="trio", base_job_template=TEMPLATE)
    assert created == await world.api.read_work_pool(name)
    assert (created.name, created.type, created.base_job_template) == (name, "trio", TEMPLATE)


async def test_work_pool_cannot_be_created_twice(world: World) -> None:
    with pytest.raises(ObjectExistsError) as caught:
        await world.api.create_work_pool(world.pool, pool_type="process", base_job_template={})
    assert caught.value.detail == "A work pool with this name already exists."


async def test_names_that_begin_with_prefect_are_reserved(world: World) -> None:
    with pytest.raises(NotPermittedError) as caught:
        await world.api.create_work_pool("Prefect-pool", pool_type="process", base_job_template={})
    assert caught.value.detail == "Work pools starting with 'Prefect' are reserved for internal use."


BAD_TEMPLATES = {
    "no variables": {"job_configuration": {}},
    "no job configuration": {"variables": {}},
    "undeclared variable": {"job_configuration": {"a": "{{ b }}"}, "variables": {"properties": {}}},
}


@pytest.mark.parametrize("template", BAD_TEMPLATES.values(), ids=BAD_TEMPLATES)
async def test_template_that_makes_no_sense_is_refused(world: World, template: dict[str, Any]) -> None:
    with pytest.raises(RequestRefusedError) as created:
        await world.api.create_work_pool(f"new-{uuid4()}", pool_type="process", base_job_template=template)
    with pytest.raises(RequestRefusedError) as updated:
        await world.api.update_work_pool_template(world.pool, template)
    assert (created.value.status_code, updated.value.status_code) == (422, 422)
    assert created.value.detail == updated.value.detail


async def test_name_with_a_slash_is_refused(world: World) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        await world.api.create_work_pool("a/b", pool_type="process", base_job_template={})
    assert caught.value.status_code == 422


async def test_template_is_replaced(world: World) -> None:
    template = {"job_configuration": {"x": 1}, "variables": {"properties": {}}}
    await world.api.update_work_pool_template(world.pool, template)
    assert (await world.api.read_work_pool(world.pool)).base_job_template == template


async def test_template_of_missing_pool_cannot_be_replaced(world: World) -> None:
    with pytest.raises(ObjectNotFoundError):
        await world.api.update_work_pool_template("no-such-pool", TEMPLATE)


async def test_queues_come_by_priority(world: World) -> None:
    await world.other.add_work_queue(world.pool, "last", priority=3)
    await world.other.add_work_queue(world.pool, "second", priority=2)
    await world.other.pause_work_queue(world.pool, "last")
    queues = await world.api.read_work_queues(world.pool, [])
    assert [(queue.name, queue.is_paused) for queue in queues] == [
        ("default", False),
        ("second", False),
        ("last", True),
    ]


async def test_only_named_queues_are_read_and_unknown_names_are_no_error(world: World) -> None:
    await world.other.add_work_queue(world.pool, "a", priority=2)
    queues = await world.api.read_work_queues(world.pool, ["a", "unknown"])
    assert [queue.name for queue in queues] == ["a"]


async def test_queues_of_missing_pool_are_an_error(world: World) -> None:
    with pytest.raises(ObjectNotFoundError):
        await world.api.read_work_queues("no-such-pool", [])


async def test_heartbeat_makes_the_worker_known(world: World) -> None:
    await world.api.send_worker_heartbeat(world.pool, "worker 1", 30)
    assert await world.other.worker_names(world.pool) == ["worker 1"]


async def test_self_hosted_server_takes_metadata_and_has_no_worker_id_to_tell(world: World) -> None:
    metadata = WorkerMetadata(integrations=[Integration(name="prefect-x", version="1.0")])
    worker_id = await world.api.send_worker_heartbeat(
        world.pool, "worker 1", 30, metadata=metadata, wants_id=True
    )
    assert worker_id is None
    assert await world.other.worker_names(world.pool) == ["worker 1"]


async def test_heartbeat_to_deleted_pool_tells_that_it_is_gone(world: World) -> None:
    await world.other.delete_work_pool(world.pool)
    for wants_id in (False, True):
        with pytest.raises(ObjectNotFoundError) as caught:
            await world.api.send_worker_heartbeat(world.pool, "worker", 0.1, wants_id=wants_id)
        assert caught.value.detail == f'Work pool "{world.pool}" not found.'


# Scheduled runs


async def test_scheduled_run_comes_with_what_a_worker_needs_but_without_its_state(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, tags=["of-deployment"])
    run_id = await world.other.schedule(
        deployment_id, name="a run", tags=["of-run"], job_variables={"command": "x"}
    )
    [run] = await world.api.get_scheduled_flow_runs(
        world.pool, queue_names=[], scheduled_before=world.other.now(), limit=10
    )
    assert run.state is None
    assert (run.id, run.name, run.deployment_id) == (run_id, "a run", deployment_id)
    assert run.work_queue_name == "default"
    assert sorted(run.tags) == ["of-deployment", "of-run"]
    assert run.job_variables == {"command": "x"}
    assert (run.infrastructure_pid, run.start_time, run.empirical_policy.retry_type) == (None, None, None)
    assert run.expected_start_time == run.next_scheduled_start_time
    read = await world.api.read_flow_run(run_id)
    late = run.estimated_start_time_delta
    assert run == attrs.evolve(read, state=None, tags=run.tags, estimated_start_time_delta=late)


async def test_only_runs_that_are_due_are_returned_oldest_first(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool)
    now = world.other.now()
    late = await world.other.schedule(deployment_id, at=now - timedelta(seconds=10))
    later = await world.other.schedule(deployment_id, at=now - timedelta(seconds=20))
    exactly = await world.other.schedule(deployment_id, at=now)
    await world.other.schedule(deployment_id, at=now + timedelta(milliseconds=1))
    runs = await world.api.get_scheduled_flow_runs(world.pool, queue_names=[], scheduled_before=now, limit=10)
    assert [run.id for run in runs] == [later, late, exactly]


async def test_run_that_is_late_tells_the_servers_time(world: World) -> None:
    now = world.other.now()
    await world.scheduled(at=now - timedelta(seconds=30))
    [late] = await world.found()
    assert late.read_at is not None
    assert now <= late.read_at <= world.other.now()


async def test_servers_time_is_not_to_be_told_from_a_run_that_is_not_late(world: World) -> None:
    begun = await world.scheduled()
    await world.other.set_state(begun, "Running")
    await world.propose(begun, "Crashed")
    await world.propose(begun, "AwaitingRetry")
    soon = await world.scheduled(at=world.other.now() + timedelta(seconds=60))
    found = await world.api.get_scheduled_flow_runs(
        world.pool,
        queue_names=[],
        scheduled_before=world.other.now() + timedelta(seconds=120),
        limit=10,
    )
    assert [(run.id, run.read_at) for run in found] == [(begun, None), (soon, None)]


async def test_run_that_is_scheduled_anew_is_late_by_its_first_time(world: World) -> None:
    first = world.other.now() - timedelta(seconds=30)
    run_id = await world.scheduled(at=first)
    at = world.other.now() + timedelta(seconds=60)
    again = ProposedState(type=StateType.SCHEDULED, name="Scheduled", scheduled_time=at)
    await world.api.set_flow_run_state(run_id, again)
    run = await world.api.read_flow_run(run_id)
    assert (run.next_scheduled_start_time, run.expected_start_time) == (at, first)
    assert run.read_at is not None
    assert first + timedelta(seconds=30) <= run.read_at <= world.other.now()


async def test_runs_of_the_future_take_the_place_of_those_that_are_due(world: World) -> None:
    """In the page, and in the slots that the pool has: the priority of their queues comes first."""
    await world.other.add_work_queue(world.pool, "urgent", priority=1)
    deployment_id = await world.other.add_deployment(world.pool, queue_name="urgent")
    now = world.other.now()
    due = await world.scheduled(at=now - timedelta(seconds=30))
    soon = await world.other.schedule(deployment_id, at=now + timedelta(seconds=60))

    async def found(limit: int) -> list[UUID]:
        runs = await world.api.get_scheduled_flow_runs(
            world.pool, queue_names=[], scheduled_before=now + timedelta(seconds=120), limit=limit
        )
        return [run.id for run in runs]

    assert await found(2) == [soon, due]
    assert await found(1) == [soon]


async def test_no_more_runs_are_returned_than_asked_for(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool)
    now = world.other.now()
    runs = [
        await world.other.schedule(deployment_id, at=now - timedelta(seconds=age)) for age in (30, 20, 10)
    ]
    assert await world.due(limit=2) == runs[:2]
    assert await world.due(limit=0) == []


@pytest.mark.parametrize(
    ("limit", "detail"),
    [
        (201, "Invalid limit: must be less than or equal to 200."),
        (-1, "Invalid limit: must be greater than or equal to 0."),
    ],
)
async def test_limit_out_of_range_is_refused(world: World, limit: int, detail: str) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        await world.due(limit=limit)
    assert (caught.value.status_code, caught.value.detail) == (422, detail)


async def test_runs_of_other_queues_are_not_returned(world: World) -> None:
    await world.other.add_work_queue(world.pool, "a", priority=2)
    in_default = await world.scheduled()
    in_a = await world.other.schedule(await world.other.add_deployment(world.pool, queue_name="a"))
    assert await world.due("a") == [in_a]
    assert await world.due("default") == [in_default]
    assert set(await world.due("a", "default")) == {in_a, in_default}


async def test_priority_of_the_queue_goes_before_age(world: World) -> None:
    await world.other.add_work_queue(world.pool, "urgent", priority=1)
    old = await world.scheduled(at=world.other.now() - timedelta(seconds=60))
    deployment_id = await world.other.add_deployment(world.pool, queue_name="urgent")
    urgent = await world.other.schedule(deployment_id)
    assert await world.due() == [urgent, old]
    assert await world.due(limit=1) == [urgent]


async def test_unknown_queue_is_an_error(world: World) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.due("unknown")
    assert caught.value.detail == f"Work pool queue '{world.pool}/unknown' not found."


async def test_runs_of_missing_pool_are_an_error(world: World) -> None:
    await world.other.delete_work_pool(world.pool)
    with pytest.raises(ObjectNotFoundError):
        await world.due()


async def test_paused_pool_gives_nothing(world: World) -> None:
    await world.scheduled()
    await world.other.pause_work_pool(world.pool)
    assert await world.due() == []


async def test_paused_queue_gives_nothing(world: World) -> None:
    await world.scheduled()
    await world.other.pause_work_queue(world.pool, "default")
    assert await world.due() == []
    assert await world.due("default") == []


async def test_runs_of_a_deleted_queue_are_lost_to_workers(world: World) -> None:
    await world.other.add_work_queue(world.pool, "a", priority=2)
    run_id = await world.other.schedule(await world.other.add_deployment(world.pool, queue_name="a"))
    await world.other.delete_work_queue(world.pool, "a")
    assert await world.due() == []
    assert (await world.api.read_flow_run(run_id)).id == run_id


@pytest.mark.parametrize("active", ["Pending", "Running"])
async def test_active_runs_count_against_the_limit_of_the_queue(world: World, active: str) -> None:
    await world.other.add_work_queue(world.pool, "a", priority=2, concurrency_limit=2)
    deployment_id = await world.other.add_deployment(world.pool, queue_name="a")
    now = world.other.now()
    runs = [
        await world.other.schedule(deployment_id, at=now - timedelta(seconds=age)) for age in (30, 20, 10)
    ]
    assert await world.due() == runs[:2]
    await world.other.set_state(runs[0], active)
    assert await world.due() == runs[1:2]
    await world.other.set_state(runs[1], active)
    assert await world.due() == []
    await world.other.set_state(runs[0], "Completed")
    assert await world.due() == runs[2:]


async def test_active_runs_count_against_the_limit_of_the_pool(world: World) -> None:
    pool = f"limited {uuid4()}"
    await world.other.add_work_pool(pool, base_job_template={}, concurrency_limit=1)
    world = attrs.evolve(world, pool=pool)
    first = await world.scheduled(at=world.other.now() - timedelta(seconds=20))
    second = await world.scheduled(at=world.other.now() - timedelta(seconds=10))
    assert await world.due() == [first]
    await world.other.set_state(first, "Running")
    assert await world.due() == []
    await world.other.set_state(first, "Completed")
    assert await world.due() == [second]


async def test_claimed_run_is_not_returned_until_it_is_given_back(world: World) -> None:
    run_id = await world.scheduled()
    await world.propose(run_id, "Pending")
    assert await world.due() == []
    await world.propose(run_id, "Scheduled")
    assert await world.due() == [run_id]


# Cancelling runs


async def test_cancelling_runs_are_found_by_pool_and_queue(world: World) -> None:
    await world.other.add_work_queue(world.pool, "a", priority=2)
    in_a = await world.other.schedule(await world.other.add_deployment(world.pool, queue_name="a"))
    in_default, running = await world.scheduled(), await world.scheduled()
    for run_id in (in_a, in_default, running):
        await world.other.set_state(run_id, "Running")
    for run_id in (in_a, in_default):
        await world.other.set_state(run_id, "Cancelling")

    async def found(*queue_names: str) -> set[UUID]:
        runs = await world.api.find_cancelling_flow_runs(world.pool, queue_names=queue_names)
        assert {run.state.name for run in runs if run.state} <= {"Cancelling"}
        return {run.id for run in runs}

    assert await found() == {in_a, in_default}
    assert await found("a") == {in_a}
    assert await found("a", "default") == {in_a, in_default}
    assert await found("unknown") == set()


async def test_missing_pool_has_no_cancelling_runs(world: World) -> None:
    assert await world.api.find_cancelling_flow_runs("no-such-pool", queue_names=[]) == []


# Changes of states


async def test_changes_of_a_pools_runs_are_told_in_order_as_far_as_asked_for(world: World) -> None:
    elsewhere = attrs.evolve(world, pool=f"other {uuid4()}")
    await world.other.add_work_pool(elsewhere.pool, base_job_template={})
    before = await world.scheduled()
    pool = await world.api.read_work_pool(world.pool)
    wanted = {StateType.SCHEDULED, StateType.CANCELLING}
    with trio.fail_after(60):
        async with world.api.open_state_changes(pool.id, wanted) as changes:
            await elsewhere.scheduled()
            run_id = await world.scheduled()
            for name in ("Running", "Cancelling", "Cancelled"):
                await world.other.set_state(run_id, name)
            await world.other.set_state(before, "Crashed")
            await world.other.set_state(before, "AwaitingRetry")
            told_of = [await anext(changes) for _ in range(3)]
    assert [(change.flow_run_id, change.state_type) for change in told_of] == [
        (run_id, StateType.SCHEDULED),
        (run_id, StateType.CANCELLING),
        (before, StateType.SCHEDULED),
    ]
    assert all(change.occurred <= world.other.now() for change in told_of)
    assert {change.queue_name for change in told_of} == {"default"}


# Single objects


async def test_flow_run_is_read_with_its_state(world: World) -> None:
    at = world.other.now() + LONG_AGO
    run_id = await world.scheduled(at=at)
    run = await world.api.read_flow_run(run_id)
    assert run.state is not None
    assert (run.state.type, run.state.name, run.state.message) == (StateType.SCHEDULED, "Scheduled", None)
    assert run.state.state_details.scheduled_time == at
    assert run.state.state_details.transition_id is None
    assert run.job_variables == {}


async def test_start_time_is_that_of_the_first_running_state(world: World) -> None:
    run_id = await world.scheduled()
    await world.propose(run_id, "Pending")
    assert (await world.api.read_flow_run(run_id)).start_time is None
    await world.other.set_state(run_id, "Running")
    started = (await world.api.read_flow_run(run_id)).start_time
    assert started is not None
    await world.propose(run_id, "Crashed")
    await world.propose(run_id, "AwaitingRetry")
    await world.other.set_state(run_id, "Running")
    assert (await world.api.read_flow_run(run_id)).start_time == started


async def test_run_that_ends_before_it_ran_has_a_start_time(world: World) -> None:
    run_id = await world.scheduled()
    await world.propose(run_id, "Crashed")
    assert (await world.api.read_flow_run(run_id)).start_time is not None


async def test_states_are_told_in_order_each_with_its_transition_id(world: World) -> None:
    run_id = await world.scheduled()
    claim = ProposedState(type=StateType.PENDING, name="Pending")
    await world.api.set_flow_run_state(run_id, claim)
    await world.other.set_state(run_id, "Running")
    await world.other.set_state(run_id, "Completed")
    states = await world.api.read_flow_run_states(run_id)
    assert [state.name for state in states] == ["Scheduled", "Pending", "Running", "Completed"]
    assert states[1].state_details.transition_id == claim.transition_id


async def test_states_tell_when_they_were_entered(world: World) -> None:
    before = world.other.now()
    run_id = await world.scheduled(at=before + LONG_AGO)
    answer = await world.propose(run_id, "Pending")
    await world.other.set_state(run_id, "Running")
    states = await world.api.read_flow_run_states(run_id)
    times = [state.timestamp for state in states if state.timestamp is not None]
    assert len(times) == 3
    in_order = [before, *times, world.other.now()]
    assert in_order == sorted(in_order)
    assert answer.state == states[1]
    assert (await world.api.read_flow_run(run_id)).state == states[2]


async def test_state_is_known_by_its_id_wherever_it_is_shown(world: World) -> None:
    run_id = await world.scheduled()
    [polled] = await world.found()
    [scheduled] = await world.api.read_flow_run_states(run_id)
    assert polled.state_id == scheduled.id
    await world.propose(run_id, "Pending")
    answer = await world.propose(run_id, "Running")
    states = await world.api.read_flow_run_states(run_id)
    read = await world.api.read_flow_run(run_id)
    assert answer.state is not None
    assert states[-1].id == answer.state.id == read.state_id
    assert len({state.id for state in states}) == len(states)


async def test_retry_that_a_late_claim_has_met_can_be_put_back_and_goes_on_where_it_was(world: World) -> None:
    run_id = await world.scheduled()
    [polled] = await world.found()
    await world.api.update_flow_run_policy(run_id, FlowRunPolicy(retries=1, retry_delay=60))
    await put_into(world, run_id, "Running")
    assert told(await world.propose(run_id, "Failed"))[1] == "AwaitingRetry"
    claim = ProposedState(type=StateType.PENDING, name="Pending")
    assert (await world.api.set_flow_run_state(run_id, claim)).status is SetStateStatus.ACCEPT
    history = await world.api.read_flow_run_states(run_id)
    verdict = judge_claim(history, {claim.transition_id}, polled.state_id)
    assert isinstance(verdict, Late)
    again = await world.api.set_flow_run_state(run_id, ProposedState.again(verdict.left_as))
    run = await world.api.read_flow_run(run_id)
    assert (again.status, run.empirical_policy.retry_type) == (SetStateStatus.ACCEPT, "in_process")
    assert run.state is not None
    assert run.state.state_details.scheduled_time == history[-2].state_details.scheduled_time
    assert told(await world.propose(run_id, "Running"))[0] == "WAIT"


async def test_end_that_a_refused_claim_has_overwritten_can_be_put_back(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    run_id = await world.other.schedule(deployment_id)
    found_as = (await world.api.read_flow_run(run_id)).state_id
    await put_into(world, run_id, "Completed")
    await world.propose(await world.other.schedule(deployment_id), "Pending")
    refused = await world.propose(run_id, "Pending")
    assert told(refused)[1] == "AwaitingConcurrencySlot"
    assert refused.state is not None
    late = judge_refusal(await world.api.read_flow_run_states(run_id), refused.state, found_as)
    assert late is not None
    await world.api.set_flow_run_state(run_id, ProposedState.again(late.left_as), force=True)
    state = (await world.api.read_flow_run(run_id)).state
    assert state is not None
    assert state.name == "Completed"


async def test_deleted_flow_run_has_no_states(world: World) -> None:
    run_id = await world.scheduled()
    await world.other.delete_flow_run(run_id)
    assert await world.api.read_flow_run_states(run_id) == []


async def test_end_of_a_run_that_a_late_claim_has_revived_can_be_put_back(world: World) -> None:
    run_id = await world.scheduled()
    await world.propose(run_id, "Pending")
    await world.other.set_state(run_id, "Running")
    await world.other.set_state(run_id, "Completed")
    claim = ProposedState(type=StateType.PENDING, name="Pending")
    assert (await world.api.set_flow_run_state(run_id, claim)).status is SetStateStatus.ACCEPT
    verdict = judge_claim(await world.api.read_flow_run_states(run_id), {claim.transition_id})
    assert isinstance(verdict, Late)
    await world.api.set_flow_run_state(run_id, ProposedState.again(verdict.left_as), force=True)
    state = (await world.api.read_flow_run(run_id)).state
    assert state is not None
    assert (state.type, state.name) == (StateType.COMPLETED, "Completed")


async def test_deleted_flow_run_is_not_found(world: World) -> None:
    run_id = await world.scheduled()
    await world.other.delete_flow_run(run_id)
    with pytest.raises(ObjectNotFoundError) as read:
        await world.api.read_flow_run(run_id)
    with pytest.raises(ObjectNotFoundError) as proposed_for:
        await world.propose(run_id, "Pending")
    with pytest.raises(ObjectNotFoundError) as noted:
        await world.api.set_infrastructure_pid(run_id, "1")
    with pytest.raises(ObjectNotFoundError) as labelled:
        await world.api.update_flow_run_labels(run_id, {"a": "b"})
    with pytest.raises(ObjectNotFoundError) as shown:
        await world.api.read_flow_run_document(run_id)
    assert {error.value.detail for error in (read, noted, shown)} == {"Flow run not found"}
    assert proposed_for.value.detail == labelled.value.detail == f"Flow run with id {run_id} not found"
    assert labelled.value.request == f"PATCH /flow_runs/{run_id}/labels"
    assert await world.due() == []


async def test_infrastructure_pid_is_recorded(world: World) -> None:
    run_id = await world.scheduled()
    await world.api.set_infrastructure_pid(run_id, "host:123")
    assert (await world.api.read_flow_run(run_id)).infrastructure_pid == "host:123"


async def test_run_that_waits_and_is_nowhere_any_more_is_cancelled_by_the_server(world: World) -> None:
    run_id = await world.scheduled()
    await world.api.set_infrastructure_pid(run_id, "host:123")
    await world.api.set_infrastructure_pid(run_id, "")
    assert (await world.api.read_flow_run(run_id)).infrastructure_pid is None
    await world.propose(run_id, "Cancelling")
    state = (await world.api.read_flow_run(run_id)).state
    assert state is not None
    assert state.name == "Cancelled"


async def test_labels_are_added_to_those_that_a_run_has(world: World) -> None:
    run_id = await world.scheduled()
    run = await world.api.read_flow_run(run_id)
    given = {"prefect.flow.id": str(run.flow_id), "prefect.deployment.id": str(run.deployment_id)}
    assert await world.other.labels(run_id) == given
    await world.api.update_flow_run_labels(run_id, {"worker": "w", "pool": "p"})
    await world.api.update_flow_run_labels(run_id, {"pool": "q"})
    await world.api.update_flow_run_labels(run_id, {})
    assert await world.other.labels(run_id) == given | {"worker": "w", "pool": "q"}


DOCUMENTED_STATES = ["Scheduled", "Pending", "Submitting", "Running", "Suspended", "Cancelling", "Completed"]


@pytest.mark.parametrize("state", DOCUMENTED_STATES)
async def test_document_of_a_run_shows_the_same(prefect_server: PrefectServer, state: str) -> None:
    async def act(world: World) -> AsyncIterator[dict[str, Any]]:
        deployment_id = await world.other.add_deployment(world.pool, tags=["of-deployment"])
        run_id = await world.other.schedule(
            deployment_id,
            at=world.other.now() + LONG_AGO,
            name="a run",
            parameters={"x": [1, {"y": None}]},
            job_variables={"command": "z"},
            retries=2,
        )
        await put_into(world, run_id, state)
        await world.api.update_flow_run_labels(run_id, {"worker": "w"})
        await world.api.set_infrastructure_pid(run_id, "host:1")
        document = await world.api.read_flow_run_document(run_id)
        assert document["id"] == document["state"]["state_details"]["flow_run_id"] == str(run_id)
        assert document["deployment_id"] == document["labels"]["prefect.deployment.id"]
        assert document["state_id"] == document["state"]["id"]
        assert document.pop("work_pool_name") == world.pool
        # Of what has paused a run the fake keeps no account.
        del document["empirical_policy"]["pause_keys"]
        yield {key: comparable(value) for key, value in document.items()}

    fake, real = await on_both(prefect_server, act)
    assert fake == real


def comparable(value: Any) -> Any:
    """A value of a document without what differs from server to server: times, ids, spans of time."""
    match value:
        case dict():
            return {key: comparable(inner) for key, inner in value.items()}
        case list():
            return [comparable(inner) for inner in value]
        case float():
            return "a number"
        case str():
            for kind, parse in (("an id", UUID), ("a time", datetime.fromisoformat)):
                with suppress(ValueError):
                    parse(value)
                    return kind
    return value


async def test_deployment_is_read(world: World) -> None:
    before = world.other.now()
    deployment_id = await world.other.add_deployment(world.pool, job_variables={"command": "y"}, tags=["a"])
    deployment = await world.api.read_deployment(deployment_id)
    assert (deployment.id, deployment.name) == (deployment_id, "a deployment")
    assert (deployment.job_variables, deployment.tags) == ({"command": "y"}, ["a"])
    assert deployment.updated is not None
    assert before <= deployment.updated <= world.other.now()


async def test_self_hosted_server_knows_no_versions_and_branches(world: World) -> None:
    deployment = await world.api.read_deployment(await world.other.add_deployment(world.pool))
    assert (deployment.version_id, deployment.version_info) == (None, None)
    assert (deployment.branch, deployment.base, deployment.root) == (None, None, None)


async def test_deleted_deployment_takes_its_scheduled_runs_along(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool)
    claimed, waiting = await world.other.schedule(deployment_id), await world.other.schedule(deployment_id)
    await world.propose(claimed, "Pending")
    await world.other.delete_deployment(deployment_id)
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_deployment(deployment_id)
    assert caught.value.detail == "Deployment not found"
    with pytest.raises(ObjectNotFoundError):
        await world.api.read_flow_run(waiting)
    assert (await world.api.read_flow_run(claimed)).deployment_id == deployment_id


async def test_run_of_a_deleted_deployment_cannot_be_claimed(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool)
    run_id = await world.other.schedule(deployment_id)
    await world.propose(run_id, "Pending")
    await world.other.delete_deployment(deployment_id)
    await world.propose(run_id, "Scheduled")
    result = await world.propose(run_id, "Pending")
    assert (result.status, result.details.reason) == (SetStateStatus.ABORT, "Deployment not found.")


# Deploying


SCHEMA = {"type": "object", "properties": {"width": {"type": "integer"}}, "required": ["width"]}
CRON = {"cron": "0 9 * * *", "timezone": "Europe/Berlin", "day_or": True}
HOURLY = {"interval": 3600.0, "anchor_date": "2020-01-01T00:00:00Z", "timezone": "UTC"}


async def drafted(world: World, **fields: Any) -> DeploymentDraft:
    """A deployment of a new flow, which is not on the server yet."""
    flow = await world.api.create_flow(f"flow {uuid4()}")
    draft = DeploymentDraft(name="d", flow_id=flow.id, work_pool_name=world.pool)
    return attrs.evolve(draft, **fields)


async def deployed(world: World, **fields: Any) -> Deployment:
    return await world.api.create_deployment(await drafted(world, **fields))


def definitions(deployment: Deployment) -> list[Any]:
    schedules = [(each.slug or "", each.active, dict(each.schedule)) for each in deployment.schedules]
    return sorted(schedules, key=lambda schedule: schedule[0])


async def test_flow_of_a_name_is_made_once(world: World) -> None:
    name = f"flow {uuid4()}"
    flow = await world.api.create_flow(name)
    assert (flow.name, flow.tags) == (name, [])
    assert (await world.api.create_flow(name)).id == flow.id
    assert (await world.api.read_flow(flow.id)).name == name


@pytest.mark.parametrize("name", ["", "a/b", "50%", "<a>"])
async def test_flow_cannot_have_every_name(world: World, name: str) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        await world.api.create_flow(name)
    assert caught.value.status_code == 422


async def test_created_deployment_is_what_the_draft_says(world: World) -> None:
    draft = await drafted(
        world,
        work_queue_name="high",
        entrypoint="app:resize",
        description="makes it smaller",
        tags=["b", "a"],
        version="1",
        parameter_openapi_schema=SCHEMA,
        enforce_parameter_schema=False,
        concurrency_limit=2,
        schedules=[
            DeploymentSchedule(schedule=CRON, slug="daily"),
            DeploymentSchedule(schedule=HOURLY, slug="hourly", active=False),
        ],
    )
    created = await world.api.create_deployment(draft)
    assert (created.name, created.flow_id, created.paused) == ("d", draft.flow_id, False)
    assert (created.work_pool_name, created.work_queue_name) == (world.pool, "high")
    assert (created.entrypoint, created.description, created.version) == (
        "app:resize",
        "makes it smaller",
        "1",
    )
    assert (created.tags, created.parameters, created.job_variables) == (["b", "a"], {}, {})
    assert (created.parameter_openapi_schema, created.enforce_parameter_schema) == (SCHEMA, False)
    assert created.concurrency_limit == 2
    assert definitions(created) == [("daily", True, CRON), ("hourly", False, HOURLY)]
    by_id = await world.api.read_deployment(created.id)
    flow = await world.api.read_flow(draft.flow_id)
    assert await world.api.read_deployment_by_name(flow.name, "d") == by_id
    assert attrs.evolve(by_id, schedules=[], updated=None) == attrs.evolve(
        created, schedules=[], updated=None
    )
    assert definitions(by_id) == definitions(created)


async def test_deployments_are_counted_by_pool_and_flow(world: World) -> None:
    drafts = [await drafted(world), await drafted(world), await drafted(world)]
    names = [(await world.api.read_flow(draft.flow_id)).name for draft in drafts]
    for draft in (drafts[0], attrs.evolve(drafts[0], name="e"), drafts[1]):
        await world.api.create_deployment(draft)
    counted = [
        await world.api.count_deployments(world.pool, flow_names=chosen)
        for chosen in (names, names[:1], names[1:], names[2:], ["no such flow"], [])
    ]
    assert counted == [3, 2, 1, 0, 0, 0]
    assert await world.api.count_deployments("no such pool", flow_names=names) == 0


async def test_least_that_a_draft_may_say_is_enough(world: World) -> None:
    created = await deployed(world)
    assert (created.work_queue_name, created.concurrency_limit, created.schedules) == ("default", None, [])
    assert (created.entrypoint, created.description, created.version, created.tags) == (None, None, None, [])


@pytest.mark.parametrize(
    ("schedule", "stored"),
    [
        ({"cron": "@daily"}, {"cron": "@daily", "timezone": None, "day_or": True}),
        ({"interval": 60, "anchor_date": "2026-01-01T00:00:00Z"}, {"interval": 60.0, "timezone": "UTC"}),
        ({"interval": 60}, {"interval": 60.0, "timezone": "UTC"}),
        ({"rrule": "FREQ=DAILY"}, {"rrule": "DTSTART:20200101T000000\nFREQ=DAILY", "timezone": "UTC"}),
        (
            {"rrule": "DTSTART:20250101T000000\nRRULE:FREQ=DAILY", "timezone": "Asia/Tokyo"},
            {"rrule": "DTSTART:20250101T000000\nRRULE:FREQ=DAILY", "timezone": "Asia/Tokyo"},
        ),
    ],
)
async def test_what_a_schedule_leaves_out_is_filled_in(
    world: World, schedule: dict[str, Any], stored: dict[str, Any]
) -> None:
    [created] = (await deployed(world, schedules=[DeploymentSchedule(schedule=schedule)])).schedules
    anchor = created.schedule.get("anchor_date")
    assert {key: value for key, value in created.schedule.items() if key != "anchor_date"} == stored
    assert (anchor is not None) == ("interval" in schedule)
    assert anchor is None or schedule.get("anchor_date") in {None, anchor}


async def test_schedule_of_no_kind_is_refused(world: World) -> None:
    with pytest.raises(RequestRefusedError) as of_new:
        await deployed(world, schedules=[DeploymentSchedule(schedule={"every": "day"})])
    deployment = await deployed(world)
    with pytest.raises(RequestRefusedError) as added:
        await world.api.create_deployment_schedule(deployment.id, DeploymentSchedule(schedule={}))
    assert (of_new.value.status_code, added.value.status_code) == (422, 422)


async def test_deployment_without_its_pool_or_flow_is_refused(world: World) -> None:
    with pytest.raises(ObjectNotFoundError) as of_pool:
        await deployed(world, work_pool_name="no-such-pool")
    assert of_pool.value.detail == 'Work pool "no-such-pool" not found.'
    with pytest.raises(RequestRefusedError) as of_flow:
        await world.api.create_deployment(attrs.evolve(await drafted(world), flow_id=MISSING))
    assert type(of_flow.value) is RequestRefusedError
    assert of_flow.value.status_code == 409


async def test_creating_a_deployment_again_replaces_its_schedules_and_their_runs(world: World) -> None:
    draft = await drafted(world, schedules=[DeploymentSchedule(schedule=CRON, slug="daily")], version="1")
    first = await world.api.create_deployment(draft)
    await world.other.pause_schedule(first.id, schedule_id(first))
    await world.api.create_deployment_schedule(first.id, DeploymentSchedule(schedule=HOURLY, slug="more"))
    [made, *_] = await world.other.runs_of_schedules(first.id)
    by_hand = await world.other.schedule(first.id)

    second = await world.api.create_deployment(draft)
    assert second.id == first.id
    assert definitions(second) == [("daily", True, CRON)]
    assert schedule_id(second) != schedule_id(first)
    with pytest.raises(ObjectNotFoundError):
        await world.api.read_flow_run(made)
    assert (await world.api.read_flow_run(by_hand)).id == by_hand
    assert (await world.api.create_deployment(attrs.evolve(draft, schedules=None))).schedules == []


def schedule_id(deployment: Deployment) -> UUID:
    [schedule] = deployment.schedules
    assert schedule.id is not None
    return schedule.id


async def test_updating_a_deployment_leaves_its_schedules_alone(world: World) -> None:
    draft = await drafted(world, schedules=[DeploymentSchedule(schedule=CRON)], concurrency_limit=2)
    before = await world.api.create_deployment(draft)
    await world.other.pause_schedule(before.id, schedule_id(before))
    changes: dict[str, Any] = {
        "description": "new",
        "version": "2",
        "entrypoint": "app:new",
        "tags": ["x"],
        "parameter_openapi_schema": SCHEMA,
        "work_queue_name": "high",
        "concurrency_limit": 3,
    }
    await world.api.update_deployment(before.id, attrs.evolve(draft, schedules=None, **changes))
    after = await world.api.read_deployment(before.id)
    assert {key: getattr(after, key) for key in changes} == changes
    assert (schedule_id(after), after.schedules[0].active) == (schedule_id(before), False)
    assert before.updated is not None
    assert after.updated is not None
    assert after.updated > before.updated

    await world.api.update_deployment(before.id, draft)
    last = await world.api.read_deployment(before.id)
    assert (last.description, last.version, last.entrypoint, last.tags) == (None, None, None, [])
    assert (last.work_queue_name, last.concurrency_limit) == ("default", 2)
    await world.api.update_deployment(before.id, attrs.evolve(draft, concurrency_limit=None))
    assert (await world.api.read_deployment(before.id)).concurrency_limit is None


async def test_updating_a_deployment_deletes_the_runs_to_come_of_its_schedules(world: World) -> None:
    draft = await drafted(world, schedules=[DeploymentSchedule(schedule=HOURLY)])
    deployment = await world.api.create_deployment(draft)
    [made, *_] = await world.other.runs_of_schedules(deployment.id)
    by_hand = await world.other.schedule(deployment.id, at=world.other.now() + timedelta(hours=1))
    await world.api.update_deployment(deployment.id, attrs.evolve(draft, version="2"))
    with pytest.raises(ObjectNotFoundError):
        await world.api.read_flow_run(made)
    assert (await world.api.read_flow_run(by_hand)).id == by_hand


async def test_schedules_are_added_changed_and_deleted_one_by_one(world: World) -> None:
    deployment = await deployed(world)
    daily = await world.api.create_deployment_schedule(
        deployment.id, DeploymentSchedule(schedule=CRON, slug="daily")
    )
    hourly = await world.api.create_deployment_schedule(
        deployment.id, DeploymentSchedule(schedule=HOURLY, active=False)
    )
    assert daily.id is not None
    assert hourly.id is not None
    assert (daily.slug, daily.active, hourly.slug, hourly.active) == ("daily", True, None, False)
    noon = CRON | {"cron": "0 12 * * *"}
    changed = attrs.evolve(daily, schedule=noon, active=False, slug=None)
    await world.api.update_deployment_schedule(deployment.id, changed)
    await world.api.delete_deployment_schedule(deployment.id, hourly.id)
    [left] = (await world.api.read_deployment(deployment.id)).schedules
    assert left == attrs.evolve(changed, slug="daily")


async def test_deleting_a_schedule_deletes_the_runs_that_nobody_has_claimed(world: World) -> None:
    deployment = await deployed(world, schedules=[DeploymentSchedule(schedule=HOURLY)])
    [made, *_] = await world.other.runs_of_schedules(deployment.id)
    await world.api.delete_deployment_schedule(deployment.id, schedule_id(deployment))
    with pytest.raises(ObjectNotFoundError):
        await world.api.read_flow_run(made)


async def test_slug_is_given_to_one_schedule_only(world: World) -> None:
    deployment = await deployed(world, schedules=[DeploymentSchedule(schedule=CRON, slug="s")])
    with pytest.raises(RequestRefusedError) as caught:
        await world.api.create_deployment_schedule(
            deployment.id, DeploymentSchedule(schedule=HOURLY, slug="s")
        )
    assert type(caught.value) is RequestRefusedError
    assert caught.value.status_code == 409


async def test_what_is_not_deployed_cannot_be_changed(world: World) -> None:
    schedule = DeploymentSchedule(schedule=CRON, id=MISSING)
    draft, deployment = await drafted(world), await deployed(world)
    with pytest.raises(ObjectNotFoundError) as read:
        await world.api.read_deployment_by_name("no such flow", "d")
    with pytest.raises(ObjectNotFoundError) as updated:
        await world.api.update_deployment(MISSING, draft)
    with pytest.raises(ObjectNotFoundError) as added:
        await world.api.create_deployment_schedule(MISSING, schedule)
    with pytest.raises(ObjectNotFoundError) as changed:
        await world.api.update_deployment_schedule(deployment.id, schedule)
    with pytest.raises(ObjectNotFoundError) as deleted:
        await world.api.delete_deployment_schedule(deployment.id, MISSING)
    with pytest.raises(ObjectNotFoundError) as run:
        await world.api.create_flow_run(MISSING)
    assert read.value.request == "GET /deployments/name/no%20such%20flow/d"
    assert {error.value.detail for error in (read, run)} == {"Deployment not found"}
    assert {error.value.detail for error in (updated, added)} == {"Deployment not found."}
    assert {error.value.detail for error in (changed, deleted)} == {"Schedule not found."}


@pytest.mark.parametrize(("flow_name", "name"), [("a/b", "d"), ("flow", ""), ("..", "d")])
async def test_deployment_of_an_impossible_name_is_not_found(world: World, flow_name: str, name: str) -> None:
    with pytest.raises(ObjectNotFoundError, match="nothing can have the name"):
        await world.api.read_deployment_by_name(flow_name, name)


async def test_run_is_created_with_its_parameters_over_those_of_the_deployment(world: World) -> None:
    deployment = await deployed(world, parameter_openapi_schema=SCHEMA, tags=["a"])
    before = world.other.now()
    run = await world.api.create_flow_run(deployment.id, parameters={"width": 3}, name="mine")
    assert (run.name, run.deployment_id, run.flow_id) == ("mine", deployment.id, deployment.flow_id)
    assert (run.parameters, run.tags, run.run_count) == ({"width": 3}, ["a"], 0)
    assert run.state is not None
    assert run.state.label == "Scheduled"
    due = run.state.state_details.scheduled_time
    assert due is not None
    assert before <= due <= world.other.now()
    [polled] = await world.api.get_scheduled_flow_runs(
        world.pool, queue_names=[], scheduled_before=world.other.now(), limit=10
    )
    assert (polled.id, polled.parameters) == (run.id, {"width": 3})


async def test_run_is_created_for_a_time_and_gets_a_name_of_its_own(world: World) -> None:
    deployment = await deployed(world)
    at = world.other.now() + timedelta(hours=1)
    first = await world.api.create_flow_run(deployment.id, scheduled_time=at)
    second = await world.api.create_flow_run(deployment.id, scheduled_time=at)
    assert first.state is not None
    assert (first.state.name, first.state.state_details.scheduled_time) == ("Scheduled", at)
    assert first.id != second.id
    assert first.name
    assert first.name != second.name
    assert await world.due() == []


@pytest.mark.server
async def test_parameters_that_do_not_fit_are_a_plain_refusal_that_names_them(
    prefect_server: PrefectServer,
) -> None:
    async with open_world(prefect_server) as world:
        deployment = await deployed(world, parameter_openapi_schema=SCHEMA)
        lenient = await deployed(world, parameter_openapi_schema=SCHEMA, enforce_parameter_schema=False)
        with pytest.raises(RequestRefusedError, match="field 'width'") as caught:
            await world.api.create_flow_run(deployment.id, parameters={"width": "wide"})
        assert type(caught.value) is RequestRefusedError
        run = await world.api.create_flow_run(lenient.id, parameters={"width": "wide"})
        assert run.parameters == {"width": "wide"}


# Policies and leases


async def test_policy_of_a_run_is_replaced_as_a_whole(world: World) -> None:
    run_id = await world.scheduled()
    policy = FlowRunPolicy(retries=1, retry_delay=7, pause_keys=["k"], resuming=True, retry_type="reschedule")
    await world.api.update_flow_run_policy(run_id, policy)
    assert (await world.api.read_flow_run(run_id)).empirical_policy == policy
    await world.api.update_flow_run_policy(run_id, FlowRunPolicy(retries=2))
    assert (await world.api.read_flow_run(run_id)).empirical_policy == FlowRunPolicy(retries=2)


async def test_policy_and_place_of_a_run_are_recorded_together(world: World) -> None:
    run_id = await world.scheduled()
    await world.api.update_flow_run_policy(run_id, FlowRunPolicy(retries=1), infrastructure_pid="7:here")
    run = await world.api.read_flow_run(run_id)
    assert (run.empirical_policy.retries, run.infrastructure_pid) == (1, "7:here")
    await world.api.update_flow_run_policy(run_id, FlowRunPolicy(retries=2))
    assert (await world.api.read_flow_run(run_id)).infrastructure_pid == "7:here"
    await world.api.update_flow_run_policy(run_id, FlowRunPolicy(retries=3), infrastructure_pid="")
    run = await world.api.read_flow_run(run_id)
    assert (run.empirical_policy.retries, run.infrastructure_pid) == (3, None)


async def test_policy_that_a_worker_sets_decides_on_retries(world: World) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, "Running")
    run = await world.api.read_flow_run(run_id)
    assert run.run_count == 1
    policy = attrs.evolve(run.empirical_policy, retries=1, retry_delay=60)
    await world.api.update_flow_run_policy(run_id, policy)
    before = world.other.now()
    result = await world.propose(run_id, "Failed")
    assert told(result) == ("REJECT", "AwaitingRetry", "Retrying")
    assert result.state is not None
    due = result.state.state_details.scheduled_time
    assert due is not None
    assert before + timedelta(seconds=60) <= due <= world.other.now() + timedelta(seconds=60)
    after = await world.api.read_flow_run(run_id)
    assert after.empirical_policy == attrs.evolve(policy, retry_type="in_process")
    assert told(await world.propose(run_id, "Running", force=True))[0] == "ACCEPT"
    assert (await world.api.read_flow_run(run_id)).run_count == 2
    assert told(await world.propose(run_id, "Failed")) == ("ACCEPT", "Failed", None)


async def test_failed_run_that_is_tried_again_keeps_what_it_has_to_tell(world: World) -> None:
    run_id = await world.scheduled(retries=1)
    await put_into(world, run_id, "Running")
    state = proposed("Failed", message="broken", data={"type": "reference"})
    result = await world.api.set_flow_run_state(run_id, state)
    assert result.state is not None
    assert (result.state.message, result.state.data) == ("broken", {"type": "reference"})


async def test_list_of_delays_is_refused_for_a_flow_run(world: World) -> None:
    run_id = await world.scheduled()
    with pytest.raises(RequestRefusedError) as caught:
        await world.api.update_flow_run_policy(run_id, FlowRunPolicy(retries=2, retry_delay=[1, 2]))
    assert caught.value.status_code == 422


async def test_policy_of_a_deleted_run_cannot_be_set(world: World) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.update_flow_run_policy(MISSING, FlowRunPolicy())
    assert caught.value.detail == "Flow run not found"


def lease_of(result: OrchestrationResult) -> UUID | None:
    assert result.state is not None
    return result.state.state_details.deployment_concurrency_lease_id


async def test_lease_comes_with_the_slot_and_stays_with_the_run(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    run_id = await world.other.schedule(deployment_id, retries=1)
    lease_id = lease_of(await world.propose(run_id, "Pending"))
    assert lease_id is not None
    for name in ("Submitting", "Running", "Failed", "Running"):
        assert lease_of(await world.propose(run_id, name)) == lease_id
    await world.api.renew_concurrency_lease(lease_id, 60)
    await world.api.renew_concurrency_lease(lease_id, 300.5)
    run = await world.api.read_flow_run(run_id)
    assert run.state is not None
    assert run.state.state_details.deployment_concurrency_lease_id == lease_id
    assert told(await world.propose(run_id, "Completed"))[0] == "ACCEPT"
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.renew_concurrency_lease(lease_id, 60)
    assert caught.value.status_code == 410
    assert caught.value.detail == "Lease not found - it may have expired or been revoked"


async def test_next_claim_has_a_lease_of_its_own(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    run_id = await world.other.schedule(deployment_id)
    first = lease_of(await world.propose(run_id, "Pending"))
    await world.propose(run_id, "Scheduled")
    second = lease_of(await world.propose(run_id, "Pending"))
    assert None not in {first, second}
    assert first != second


async def test_run_without_a_slot_has_no_lease(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    first, second = await world.other.schedule(deployment_id), await world.other.schedule(deployment_id)
    await world.propose(first, "Pending")
    assert lease_of(await world.propose(second, "Pending")) is None
    assert lease_of(await world.propose(await world.scheduled(), "Pending")) is None


async def test_run_that_is_claimed_by_force_has_no_lease(world: World) -> None:
    run_id = await world.other.schedule(await world.other.add_deployment(world.pool, concurrency_limit=1))
    assert lease_of(await world.propose(run_id, "Pending", force=True)) is None


@pytest.mark.parametrize("seconds", [59, 86_401])
async def test_lease_is_renewed_for_a_minute_to_a_day(world: World, seconds: float) -> None:
    run_id = await world.other.schedule(await world.other.add_deployment(world.pool, concurrency_limit=1))
    lease_id = lease_of(await world.propose(run_id, "Pending"))
    assert lease_id is not None
    with pytest.raises(RequestRefusedError) as caught:
        await world.api.renew_concurrency_lease(lease_id, seconds)
    assert caught.value.status_code == 422


async def test_run_that_is_left_for_later_gives_its_slot_to_another_one(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    run_id = await world.other.schedule(deployment_id, retries=1)
    next_id = await world.other.schedule(deployment_id)
    lease_id = lease_of(await world.propose(run_id, "Pending"))
    assert lease_id is not None
    await world.propose(run_id, "Running")
    assert told(await world.propose(run_id, "Failed")) == ("REJECT", "AwaitingRetry", "Retrying")
    run = await world.api.read_flow_run(run_id)
    policy = attrs.evolve(run.empirical_policy, retry_type="reschedule")
    await world.api.update_flow_run_policy(run_id, policy)
    assert told(await world.propose(next_id, "Pending"))[0] == "REJECT"

    await world.api.release_concurrency_lease(lease_id)
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.renew_concurrency_lease(lease_id, 60)
    assert caught.value.status_code == 410
    assert told(await world.propose(next_id, "Pending"))[0] == "ACCEPT"
    assert told(await world.propose(run_id, "Pending"))[1] == "AwaitingConcurrencySlot"
    await world.propose(next_id, "Running")
    assert told(await world.propose(next_id, "Completed"))[0] == "ACCEPT"

    again = await world.propose(run_id, "Pending")
    assert told(again)[0] == "ACCEPT"
    assert lease_of(again) not in {None, lease_id}


async def test_slot_is_given_back_but_once(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    first, second, third = [await world.other.schedule(deployment_id) for _ in range(3)]
    lease_id = lease_of(await world.propose(first, "Pending"))
    assert lease_id is not None
    await world.api.release_concurrency_lease(lease_id)
    assert told(await world.propose(second, "Pending"))[0] == "ACCEPT"
    await world.api.release_concurrency_lease(lease_id)
    await world.api.release_concurrency_lease(MISSING)
    assert told(await world.propose(third, "Pending"))[1] == "AwaitingConcurrencySlot"


async def test_flow_is_read(world: World) -> None:
    deployment = await world.api.read_deployment(await world.other.add_deployment(world.pool))
    flow = await world.api.read_flow(deployment.flow_id)
    assert flow.id == deployment.flow_id
    assert flow.name.startswith("a flow")


async def test_missing_flow_is_not_found(world: World) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_flow(MISSING)
    assert caught.value.detail == "Flow not found"


# Blocks, variables and the registry of worker types


@pytest.mark.parametrize(
    ("type_slug", "data"),
    [
        ("secret", {"value": "hush"}),
        ("secret", {"value": {"user": "u", "passwords": ["p", None]}}),
        ("local-file-system", {"basepath": "/data"}),
    ],
)
async def test_block_is_read_with_its_secrets(world: World, type_slug: str, data: dict[str, Any]) -> None:
    name = f"block-{uuid4()}"
    block_id = await world.other.add_block(type_slug, name, data)
    by_name = await world.api.read_block_document(type_slug, name)
    by_id = await world.api.read_block_document_by_id(str(block_id))
    assert by_name == by_id
    assert {key: by_name.data[key] for key in data} == data


@pytest.mark.parametrize("type_slug", ["secret", "no-such-type", "an odd %?#é type"])
async def test_missing_block_is_not_found(world: World, type_slug: str) -> None:
    await world.other.add_block("local-file-system", name := f"block-{uuid4()}", {"basepath": "/data"})
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_block_document(type_slug, name)
    assert (caught.value.status_code, caught.value.detail) == (404, "Block document not found")
    shown = {"an odd %?#é type": "an%20odd%20%25%3F%23%C3%A9%20type"}.get(type_slug, type_slug)
    path = f"/block_types/slug/{shown}/block_documents/name/{name}"
    assert caught.value.request == f"GET {path}?include_secrets=true"


async def test_missing_block_is_not_found_by_its_id_either(world: World) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_block_document_by_id(str(MISSING))
    assert (caught.value.status_code, caught.value.detail) == (404, "Block document not found")
    assert caught.value.request == f"GET /block_documents/{MISSING}?include_secrets=true"


@pytest.mark.parametrize("block_document_id", ["abc", "", "a/b", "../flows"])
async def test_block_id_that_is_no_uuid_is_not_found(world: World, block_document_id: str) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_block_document_by_id(block_document_id)
    assert caught.value.detail == f"{block_document_id!r} is not a UUID"


@pytest.mark.parametrize("value", ["text", "", 3, 1.5, True, None, [1, {"a": None}], {"a": {"b": []}}])
async def test_variable_has_the_value_that_it_was_given(world: World, value: Any) -> None:
    name = f"v{uuid4().hex}"
    await world.other.add_variable(name, value)
    assert await world.api.read_variable(name) == value


@pytest.mark.parametrize("name", ["no_such_variable", "odd %?#é name"])
async def test_missing_variable_is_not_found(world: World, name: str) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        await world.api.read_variable(name)
    assert (caught.value.status_code, caught.value.detail) == (404, "Variable not found.")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
async def test_name_that_nothing_can_have_is_not_taken_for_a_missing_api(world: World, name: str) -> None:
    with pytest.raises(ObjectNotFoundError) as variable:
        await world.api.read_variable(name)
    with pytest.raises(ObjectNotFoundError) as block:
        await world.api.read_block_document("secret", name)
    with pytest.raises(ObjectNotFoundError) as of_type:
        await world.api.read_block_document(name, "block")
    details = {error.value.detail for error in (variable, block, of_type)}
    assert details == {f"nothing can have the name {name!r}"}


async def test_registry_knows_the_packages_of_prefects_own_worker_types(world: World) -> None:
    packages = await world.api.read_worker_packages()
    assert packages["process"] == "prefect"
    assert packages["docker"] == "prefect-docker"
    assert packages["kubernetes"] == "prefect-kubernetes"
    assert "prefect-agent" not in packages


# Events and logs


def event(resource: dict[str, str], *related: dict[str, str]) -> Event:
    return Event(
        id=uuid4(),
        occurred=datetime.now(UTC),
        event="test.happened",
        resource=resource,
        related=list(related),
        payload={"a": [1, None]},
    )


GOOD_RESOURCE = {"prefect.resource.id": "test.1"}


async def test_events_are_taken_repetitions_included(world: World) -> None:
    first = event(GOOD_RESOURCE, {"prefect.resource.id": "test.2", "prefect.resource.role": "r"})
    second = attrs.evolve(event(GOOD_RESOURCE), follows=first.id)
    assert await world.api.send_events([first, second]) is None  # type: ignore[func-returns-value]
    assert await world.api.send_events([first]) is None  # type: ignore[func-returns-value]
    assert await world.api.send_events([]) is None  # type: ignore[func-returns-value]


BAD_EVENTS = {
    "resource without id": event({"a": "b"}),
    "related resource without role": event(GOOD_RESOURCE, {"prefect.resource.id": "x"}),
    "related resource without id": event(GOOD_RESOURCE, {"prefect.resource.role": "x"}),
    "too many related resources": event(
        GOOD_RESOURCE, *[{"prefect.resource.id": "x", "prefect.resource.role": "r"}] * 101
    ),
}


@pytest.mark.parametrize("bad", BAD_EVENTS.values(), ids=BAD_EVENTS)
async def test_one_bad_event_makes_the_whole_batch_refused(world: World, bad: Event) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        await world.api.send_events([event(GOOD_RESOURCE), bad])
    assert caught.value.status_code == 422


async def test_log_lines_are_kept_in_order(world: World) -> None:
    run_id = await world.scheduled()
    now = datetime.now(UTC)
    await world.api.send_logs(
        [
            LogLine(
                name="test",
                level=20,
                message=f"line {number}",
                timestamp=now + timedelta(seconds=number),
                flow_run_id=run_id,
            )
            for number in range(3)
        ]
    )
    await world.api.send_logs([LogLine(name="test", level=20, message="of no run", timestamp=now)])
    assert await world.other.log_messages(run_id) == ["line 0", "line 1", "line 2"]


# Orchestration


def told(result: OrchestrationResult) -> tuple[str, str | None, str | None]:
    """Status, name of the resulting state, reason."""
    return (result.status, result.state.name if result.state else None, result.details.reason)


async def put_into(world: World, run_id: UUID, name: str) -> None:
    """Bring a scheduled run into a state by the way that leads there in life."""
    through = {
        "Suspended": "Running",
        "Paused": "Running",
        "Cancelling": "Running",
        "Submitting": "Pending",
        "InfrastructurePending": "Submitting",
        "AwaitingRetry": "Crashed",
    }
    if name == "Scheduled":
        return
    if name in through:
        await put_into(world, run_id, through[name])
    assert await world.other.set_state(run_id, name) == "ACCEPT"


async def test_claim_is_accepted_and_keeps_the_scheduled_time(world: World) -> None:
    at = world.other.now() + LONG_AGO
    run_id = await world.scheduled(at=at)
    state = proposed("Pending", message="why")
    result = await world.api.set_flow_run_state(run_id, state)
    assert told(result) == ("ACCEPT", "Pending", None)
    assert result.state is not None
    assert result.state.message == "why"
    assert result.state.state_details.scheduled_time == at
    assert result.state.state_details.transition_id == state.transition_id
    assert (await world.api.read_flow_run(run_id)).state == result.state


async def test_claim_of_a_run_as_it_was_found_is_proved_by_its_answer(world: World) -> None:
    run_id = await world.scheduled(at=world.other.now() + LONG_AGO)
    [found] = await world.found()
    claim = proposed("Pending")
    assert is_proved(claim, await world.api.set_flow_run_state(run_id, claim), found)
    assert not is_proved(claim, await world.api.set_flow_run_state(run_id, claim), found)


@pytest.mark.parametrize("state", ["Completed", "Failed", "Crashed", "AwaitingRetry"])
async def test_claim_of_a_run_that_others_have_begun_meanwhile_is_not_proved(
    world: World, state: str
) -> None:
    run_id = await world.scheduled(at=world.other.now() + LONG_AGO)
    [found] = await world.found()
    await put_into(world, run_id, "Running")
    await put_into(world, run_id, state)
    claim = proposed("Pending")
    answer = await world.api.set_flow_run_state(run_id, claim)
    assert answer.status is SetStateStatus.ACCEPT
    assert not is_proved(claim, answer, found)


async def test_claim_with_a_scheduled_time_of_its_own_has_that(world: World) -> None:
    run_id = await world.scheduled(at=world.other.now() + LONG_AGO)
    at = world.other.now() + timedelta(hours=1)
    result = await world.api.set_flow_run_state(run_id, proposed("Pending", scheduled_time=at))
    assert result.state is not None
    assert result.state.state_details.scheduled_time == at


async def test_repeated_claim_is_known_by_its_transition_id(world: World) -> None:
    run_id = await world.scheduled()
    state = proposed("Pending")
    await world.api.set_flow_run_state(run_id, state)
    again = await world.api.set_flow_run_state(run_id, state)
    assert told(again) == ("REJECT", "Pending", "This run has already made this state transition.")
    assert again.state is not None
    assert again.state.state_details.transition_id == state.transition_id


async def test_second_claim_by_somebody_else_is_aborted(world: World) -> None:
    run_id = await world.scheduled()
    first = proposed("Pending")
    await world.api.set_flow_run_state(run_id, first)
    result = await world.propose(run_id, "Pending")
    reason = "This run is in a PENDING state and cannot transition to a PENDING state."
    assert told(result) == ("ABORT", "Pending", reason)
    assert result.state is not None
    assert result.state.state_details.transition_id == first.transition_id


async def test_submitting_follows_pending_once(world: World) -> None:
    at = world.other.now() + LONG_AGO
    run_id = await world.scheduled(at=at)
    await world.propose(run_id, "Pending")
    result = await world.propose(run_id, "Submitting")
    assert told(result) == ("ACCEPT", "Submitting", None)
    assert result.state is not None
    assert result.state.state_details.scheduled_time == at
    assert (await world.propose(run_id, "Submitting")).status is SetStateStatus.ABORT
    assert (await world.propose(run_id, "Pending")).status is SetStateStatus.ABORT


async def test_repeated_submitting_is_known_by_its_transition_id(world: World) -> None:
    run_id = await world.scheduled()
    await world.propose(run_id, "Pending")
    state = proposed("Submitting")
    await world.api.set_flow_run_state(run_id, state)
    again = await world.api.set_flow_run_state(run_id, state)
    assert told(again) == ("REJECT", "Submitting", "This run has already made this state transition.")
    reason = "This run is in a PENDING state and cannot transition to a PENDING state."
    assert told(await world.propose(run_id, "Submitting")) == ("ABORT", "Submitting", reason)


async def test_several_runs_are_submitted_in_one_request(world: World) -> None:
    times = [world.other.now() + LONG_AGO * number for number in (1, 2, 3)]
    deployment_id = await world.other.add_deployment(world.pool)
    run_ids = [await world.other.schedule(deployment_id, at=at) for at in times]
    for run_id in run_ids:
        await world.propose(run_id, "Pending")
    await world.propose(run_ids[2], "Running")
    state = proposed("Submitting", message="why")
    answers = await world.api.bulk_set_flow_run_state([*run_ids, MISSING], state)
    late = "This run is in a RUNNING state and cannot transition to a PENDING state."
    assert {run_id: told(answer) for run_id, answer in answers.items()} == {
        run_ids[0]: ("ACCEPT", "Submitting", None),
        run_ids[1]: ("ACCEPT", "Submitting", None),
        run_ids[2]: ("ABORT", "Running", late),
    }
    for run_id, at in zip(run_ids[:2], times, strict=False):
        now = (await world.api.read_flow_run(run_id)).state
        assert now is not None
        assert now.message == "why"
        assert now.state_details == StateDetails(transition_id=state.transition_id, scheduled_time=at)
        answer = answers[run_id].state
        assert answer is not None
        assert (answer.id, answer.state_details) == (now.id, StateDetails(transition_id=state.transition_id))


async def test_repetition_for_several_runs_is_known_by_its_transition_id(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool)
    run_ids = [await world.other.schedule(deployment_id) for _ in range(2)]
    for run_id in run_ids:
        await world.propose(run_id, "Pending")
    state = proposed("Submitting")
    await world.api.bulk_set_flow_run_state(run_ids, state)
    reason = "This run has already made this state transition."
    again = await world.api.bulk_set_flow_run_state(run_ids, state)
    assert [told(again[run_id]) for run_id in run_ids] == [("REJECT", "Submitting", reason)] * 2
    for run_id in run_ids:
        alone = await world.api.set_flow_run_state(run_id, state)
        assert told(alone) == ("REJECT", "Submitting", reason)
        assert alone.has_made(state)


async def test_runs_that_are_claimed_together_are_given_the_time_of_one_of_them(world: World) -> None:
    """For which reason they are not: see `PrefectAPI.bulk_set_flow_run_state`."""
    times = [world.other.now() + LONG_AGO * number for number in (1, 2, 3)]
    deployment_id = await world.other.add_deployment(world.pool)
    run_ids = [await world.other.schedule(deployment_id, at=at) for at in times]
    await world.api.bulk_set_flow_run_state(run_ids, proposed("Pending"))
    states = [(await world.api.read_flow_run(run_id)).state for run_id in run_ids]
    [time] = {state.state_details.scheduled_time for state in states if state is not None}
    assert time in times


async def test_runs_that_are_submitted_together_keep_their_leases(world: World) -> None:
    limited = await world.other.add_deployment(world.pool, concurrency_limit=5)
    free = await world.other.add_deployment(world.pool)
    run_ids = [await world.other.schedule(of) for of in (limited, free, limited, free)]
    leases = [await lease_of_claim(world, run_id) for run_id in run_ids]
    await world.api.bulk_set_flow_run_state(run_ids, proposed("Submitting"))
    for run_id, lease in zip(run_ids, leases, strict=True):
        state = (await world.api.read_flow_run(run_id)).state
        assert state is not None
        assert state.state_details.deployment_concurrency_lease_id == lease


async def lease_of_claim(world: World, run_id: UUID) -> UUID | None:
    state = (await world.propose(run_id, "Pending")).state
    assert state is not None
    return state.state_details.deployment_concurrency_lease_id


@pytest.mark.parametrize("number", [0, LARGEST_BULK + 1])
async def test_number_of_runs_in_one_request_has_a_limit(world: World, number: int) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        await world.api.bulk_set_flow_run_state([MISSING] * number, proposed("Submitting"))
    assert refused.value.is_of_body


@pytest.mark.parametrize("state", ["Running", "Cancelled"])
async def test_submitting_comes_too_late_for_a_run_that_goes_or_is_cancelled(
    world: World, state: str
) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    reason = f"This run is in a {state.upper()} state and cannot transition to a PENDING state."
    assert told(await world.propose(run_id, "Submitting")) == ("ABORT", state, reason)


async def test_submitting_on_a_cancelling_run_is_rejected(world: World) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, "Cancelling")
    reason = "Cannot transition flows that are cancelling to a state other than Cancelled."
    assert told(await world.propose(run_id, "Submitting")) == ("REJECT", "Cancelling", reason)


@pytest.mark.parametrize("state", ["Scheduled", "Completed", "Failed", "Crashed"])
async def test_submitting_claims_a_run_that_nobody_has_and_revives_one_that_has_ended(
    world: World, state: str
) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    assert told(await world.propose(run_id, "Submitting")) == ("ACCEPT", "Submitting", None)


@pytest.mark.parametrize("proposal", ["Pending", "Submitting", "Scheduled", "AwaitingRetry", "Running"])
async def test_run_that_has_a_result_is_not_revived(world: World, proposal: str) -> None:
    run_id = await world.scheduled()
    await world.other.set_state(run_id, "Completed", data={"type": "reference"})
    assert told(await world.propose(run_id, proposal)) == (
        "REJECT",
        "Completed",
        "Run is already COMPLETED.",
    )
    assert told(await world.propose(run_id, "Cancelled")) == ("ACCEPT", "Cancelled", None)


@pytest.mark.parametrize("data", [{}, {"type": "unpersisted"}, "text", [1]])
async def test_run_whose_result_is_nowhere_can_be_revived(world: World, data: Any) -> None:
    run_id = await world.scheduled()
    await world.other.set_state(run_id, "Completed", data=data)
    kept = (await world.api.read_flow_run_states(run_id))[-1].data
    assert kept == (None if data == {"type": "unpersisted"} else data)
    assert told(await world.propose(run_id, "Submitting")) == ("ACCEPT", "Submitting", None)


@pytest.mark.parametrize("force", [False, True])
async def test_result_of_a_run_is_not_overwritten_with_none(world: World, force: bool) -> None:
    run_id = await world.scheduled()
    await world.other.set_state(run_id, "Completed", data={"type": "reference", "key": "1"})
    reason = "Cannot overwrite a COMPLETED state that carries persisted result data with one that does not."
    assert told(await world.propose(run_id, "Completed", force=force)) == ("REJECT", "Completed", reason)
    other = proposed("Completed", data={"type": "reference", "key": "2"})
    result = await world.api.set_flow_run_state(run_id, other, force=force)
    assert told(result) == ("ACCEPT", "Completed", None)


async def test_claim_by_force_takes_no_slot_of_its_deployment_and_yet_gives_one_back(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    first, forced, third = [await world.other.schedule(deployment_id) for _ in range(3)]
    await world.propose(first, "Pending")
    assert told(await world.propose(forced, "Pending", force=True)) == ("ACCEPT", "Pending", None)
    await world.propose(forced, "Crashed")
    assert told(await world.propose(third, "Pending")) == ("ACCEPT", "Pending", None)


@pytest.mark.parametrize("state", ["Scheduled", "Pending", "Running", "Suspended", "Crashed", "Completed"])
async def test_cancelled_is_accepted_of_a_run_in_any_state(world: World, state: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    assert told(await world.propose(run_id, "Cancelled")) == ("ACCEPT", "Cancelled", None)


@pytest.mark.parametrize("state", ["Pending", "Running"])
@pytest.mark.parametrize(
    "proposal", ["Pending", "Submitting", "Scheduled", "AwaitingRetry", "Crashed", "Cancelled"]
)
async def test_own_proposal_repeated_is_known_whatever_it_was(
    world: World, state: str, proposal: str
) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    ours = proposed(proposal)
    first = await world.api.set_flow_run_state(run_id, ours)
    again = await world.api.set_flow_run_state(run_id, ours)
    if first.status is SetStateStatus.ACCEPT:
        assert told(again) == ("REJECT", proposal, "This run has already made this state transition.")
    else:
        assert told(again) == told(first)


@pytest.mark.parametrize("state", ["Pending", "Running", "Cancelled"])
async def test_claim_of_a_run_that_is_taken_or_cancelled_is_aborted(world: World, state: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    reason = f"This run is in a {state.upper()} state and cannot transition to a PENDING state."
    assert told(await world.propose(run_id, "Pending")) == ("ABORT", state, reason)


@pytest.mark.parametrize("state", ["Completed", "Failed", "Crashed"])
async def test_claim_of_a_run_that_has_ended_otherwise_is_accepted(world: World, state: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    assert told(await world.propose(run_id, "Pending")) == ("ACCEPT", "Pending", None)


@pytest.mark.parametrize(
    "proposal", ["Pending", "Running", "Completed", "Failed", "Crashed", "AwaitingRetry"]
)
async def test_cancelling_run_can_only_become_cancelled(world: World, proposal: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, "Cancelling")
    reason = "Cannot transition flows that are cancelling to a state other than Cancelled."
    assert told(await world.propose(run_id, proposal)) == ("REJECT", "Cancelling", reason)
    assert told(await world.propose(run_id, "Cancelled")) == ("ACCEPT", "Cancelled", None)


@pytest.mark.parametrize("state", ["Completed", "Failed", "Crashed", "Cancelled"])
@pytest.mark.parametrize("proposal", ["Crashed", "Cancelling"])
async def test_ended_run_cannot_crash_or_be_cancelled(world: World, state: str, proposal: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    reason = f"Run is already in terminal state {state.upper()}."
    assert told(await world.propose(run_id, proposal)) == ("ABORT", state, reason)


@pytest.mark.parametrize("state", ["Pending", "Submitting", "Running", "Crashed", "Failed", "Suspended"])
@pytest.mark.parametrize("proposal", ["Scheduled", "AwaitingRetry"])
async def test_run_can_be_rescheduled_and_is_polled_again(world: World, state: str, proposal: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    at = world.other.now() + LONG_AGO
    result = await world.api.set_flow_run_state(run_id, proposed(proposal, scheduled_time=at))
    assert told(result) == ("ACCEPT", proposal, None)
    assert result.state is not None
    assert result.state.state_details.scheduled_time == at
    assert await world.due() == [run_id]


async def test_scheduled_state_without_a_time_is_due_now(world: World) -> None:
    run_id = await world.scheduled()
    await world.propose(run_id, "Pending")
    before = world.other.now()
    result = await world.propose(run_id, "Scheduled")
    assert result.state is not None
    assert result.state.state_details.scheduled_time is not None
    assert before <= result.state.state_details.scheduled_time <= world.other.now()


@pytest.mark.parametrize("state", ["Scheduled", "Pending"])
async def test_run_may_not_start_before_its_time(world: World, state: str) -> None:
    run_id = await world.scheduled(at=world.other.now() + timedelta(seconds=3600))
    await put_into(world, run_id, state)
    result = await world.propose(run_id, "Running")
    assert told(result) == ("WAIT", state, "Scheduled time is in the future")
    assert 3590 < result.details.delay_seconds <= 3600


async def test_run_may_start_when_its_time_has_come(world: World) -> None:
    run_id = await world.scheduled(at=world.other.now())
    assert told(await world.propose(run_id, "Running")) == ("ACCEPT", "Running", None)


async def test_force_overrides_the_rules(world: World) -> None:
    run_id = await world.scheduled(at=world.other.now() + timedelta(hours=1))
    for name in ("Running", "Cancelling", "Crashed", "Pending", "Pending", "Completed", "Crashed"):
        assert told(await world.propose(run_id, name, force=True)) == ("ACCEPT", name, None)


async def test_force_does_not_keep_the_scheduled_time(world: World) -> None:
    run_id = await world.scheduled()
    result = await world.propose(run_id, "Pending", force=True)
    assert result.state is not None
    assert result.state.state_details.scheduled_time is None


@pytest.mark.parametrize("force", [False, True])
async def test_run_that_no_worker_started_is_cancelled_at_once(world: World, force: bool) -> None:
    run_id = await world.scheduled()
    result = await world.propose(run_id, "Cancelling", force=force)
    reason = "Scheduled flow run has no infrastructure to terminate."
    assert told(result) == ("REJECT", "Cancelled", reason)


async def test_suspended_run_is_cancelled_at_once(world: World) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, "Suspended")
    result = await world.propose(run_id, "Cancelling")
    reason = "Suspended flow run has no infrastructure to terminate."
    assert told(result) == ("REJECT", "Cancelled", reason)


async def test_scheduled_run_with_infrastructure_becomes_cancelling(world: World) -> None:
    run_id = await world.scheduled()
    await world.api.set_infrastructure_pid(run_id, "host:1")
    assert told(await world.propose(run_id, "Cancelling")) == ("ACCEPT", "Cancelling", None)


@pytest.mark.parametrize("state", ["Pending", "Submitting", "Running", "Paused"])
async def test_run_that_is_under_way_becomes_cancelling(world: World, state: str) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, state)
    assert told(await world.propose(run_id, "Cancelling")) == ("ACCEPT", "Cancelling", None)


async def test_suspended_run_may_crash(world: World) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, "Suspended")
    assert told(await world.propose(run_id, "Crashed")) == ("ACCEPT", "Crashed", None)


async def test_only_a_running_run_can_be_suspended(world: World) -> None:
    run_id = await world.scheduled()
    await put_into(world, run_id, "Pending")
    reason = "Cannot suspend flows that are not currently running."
    assert told(await world.propose(run_id, "Suspended")) == ("REJECT", "Pending", reason)


async def test_retry_in_the_runs_own_process_is_not_polled_but_a_rescheduled_one_is(world: World) -> None:
    run_id = await world.scheduled(retries=1)
    await put_into(world, run_id, "Running")
    failed = await world.api.set_flow_run_state(run_id, proposed("Failed", message="broken"))
    assert told(failed) == ("REJECT", "AwaitingRetry", "Retrying")
    assert failed.state is not None
    assert failed.state.message == "broken"
    assert (await world.api.read_flow_run(run_id)).empirical_policy.retry_type == "in_process"
    assert await world.due() == []

    assert told(await world.propose(run_id, "Crashed")) == ("ACCEPT", "Crashed", None)
    assert told(await world.propose(run_id, "AwaitingRetry")) == ("ACCEPT", "AwaitingRetry", None)
    assert (await world.api.read_flow_run(run_id)).empirical_policy.retry_type == "reschedule"
    assert await world.due() == [run_id]


async def test_retries_run_out(world: World) -> None:
    run_id = await world.scheduled(retries=1)
    for expected in ("AwaitingRetry", "Failed"):
        assert await world.other.set_state(run_id, "Running") == "ACCEPT"
        result = await world.propose(run_id, "Failed")
        assert result.state is not None
        assert result.state.name == expected
    assert (await world.api.read_flow_run(run_id)).empirical_policy.retry_type is None


async def test_run_over_the_limit_of_its_deployment_is_put_off(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    first, second = await world.other.schedule(deployment_id), await world.other.schedule(deployment_id)
    assert (await world.propose(first, "Pending")).status is SetStateStatus.ACCEPT
    before = world.other.now()
    result = await world.propose(second, "Pending")
    reason = "Deployment concurrency limit reached."
    assert told(result) == ("REJECT", "AwaitingConcurrencySlot", reason)
    assert result.state is not None
    assert result.state.type is StateType.SCHEDULED
    due = result.state.state_details.scheduled_time
    assert due is not None
    assert before + timedelta(seconds=29) < due < before + timedelta(seconds=60)
    assert await world.due() == []


async def test_slot_of_a_deployment_is_free_again_when_its_run_ends_or_is_given_back(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1)
    runs = [await world.other.schedule(deployment_id) for _ in range(3)]
    for run_id, end in zip(runs, ("Completed", "Scheduled", "Crashed"), strict=True):
        assert (await world.propose(run_id, "Pending")).status is SetStateStatus.ACCEPT
        assert (await world.propose(run_id, "Submitting")).status is SetStateStatus.ACCEPT
        assert await world.other.set_state(run_id, end) == "ACCEPT"


async def test_run_over_the_limit_is_cancelled_where_the_deployment_says_so(world: World) -> None:
    deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=1, cancel_new=True)
    first, second = await world.other.schedule(deployment_id), await world.other.schedule(deployment_id)
    await world.propose(first, "Pending")
    result = await world.propose(second, "Pending")
    reason = "Deployment concurrency limit reached."
    assert told(result) == ("REJECT", "Cancelled", reason)
    assert result.state is not None
    assert result.state.message == reason


# The whole table of transitions, and walks through it: whatever the real server answers, so does the fake.

STARTS = [
    "Scheduled",
    "Late",
    "Pending",
    "Submitting",
    "InfrastructurePending",
    "Running",
    "Cancelling",
    "Suspended",
    "Paused",
    "AwaitingRetry",
    "Completed",
    "Failed",
    "TimedOut",
    "Crashed",
    "Cancelled",
]
PROPOSALS = [
    "Scheduled",
    "AwaitingRetry",
    "Late",
    "Pending",
    "Submitting",
    "InfrastructurePending",
    "Running",
    "Completed",
    "Failed",
    "Crashed",
    "Cancelled",
    "Cancelling",
    "Suspended",
]


async def observe(world: World, run_id: UUID, result: OrchestrationResult) -> dict[str, Any]:
    """All that both servers must agree on after a proposal."""
    run = await world.api.read_flow_run(run_id)
    assert run.state is not None
    assert run.state == result.state
    return {
        "answer": told(result),
        "delay": result.details.delay_seconds,
        "type": run.state.type,
        "message": run.state.message,
        "has a time": run.state.state_details.scheduled_time is not None,
        "has a transition id": run.state.state_details.transition_id is not None,
        "has started": run.start_time is not None,
        "retry type": run.empirical_policy.retry_type,
        "is polled": run_id in await world.due(),
    }


async def on_both(
    server: PrefectServer, act: Callable[[World], AsyncIterator[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async with open_world(None) as fake, open_world(server) as real:
        return [seen async for seen in act(fake)], [seen async for seen in act(real)]


@pytest.mark.parametrize(
    ("start", "force"),
    [
        *((start, False) for start in STARTS),
        # Force skips nearly everything, so a few starts tell it all.
        *((start, True) for start in ("Scheduled", "Cancelling", "Suspended", "Completed")),
    ],
)
async def test_every_transition_is_judged_alike(
    prefect_server: PrefectServer,
    start: str,
    force: bool,
) -> None:
    async def act(world: World) -> AsyncIterator[dict[str, Any]]:
        deployment_id = await world.other.add_deployment(world.pool)
        for name in PROPOSALS:
            run_id = await world.other.schedule(deployment_id)
            await put_into(world, run_id, start)
            result = await world.propose(run_id, name, force=force)
            yield {"proposal": name} | await observe(world, run_id, result)

    fake, real = await on_both(prefect_server, act)
    assert fake == real


@pytest.mark.parametrize("seed", range(8))
async def test_random_walks_end_alike(prefect_server: PrefectServer, seed: int) -> None:
    async def act(world: World) -> AsyncIterator[dict[str, Any]]:
        dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
        deployment_id = await world.other.add_deployment(world.pool, concurrency_limit=2)
        runs = [await world.other.schedule(deployment_id, retries=1) for _ in range(3)]
        for _ in range(20):
            which = dice.randrange(3)
            name, force = dice.choice(PROPOSALS), dice.random() < 0.1
            if dice.random() < 0.1:
                await world.api.set_infrastructure_pid(runs[which], "host:1")
            result = await world.propose(runs[which], name, force=force)
            yield {"run": which, "proposal": name} | await observe(world, runs[which], result)

    fake, real = await on_both(prefect_server, act)
    assert fake == real


# What no self-hosted server shows: the client before answers as those of Prefect Cloud.


@attrs.frozen
class Script:
    """An API that gives prepared answers in turn and remembers the bodies that it was sent."""

    answers: list[httpx.Response]
    bodies: list[Any] = attrs.field(factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.bodies.append(json.loads(request.content) if request.content else None)
        return self.answers.pop(0)


@asynccontextmanager
async def open_client_of(script: Script) -> AsyncIterator[PrefectClient]:
    url = "http://api.test/api"
    transport = httpx.MockTransport(script)
    async with httpx.AsyncClient(transport=transport, base_url=f"{url}/") as http:
        condition = Condition()
        config = TransportConfig(url=url, max_retries=0)
        yield PrefectClient(Transport(http, config, condition, lambda: 0.5), condition)


METADATA = WorkerMetadata(integrations=[Integration(name="prefect-x", version="1.0")])


@pytest.mark.parametrize("body", [str(MISSING), f'"{MISSING}"'], ids=["bare", "as JSON"])
async def test_heartbeat_is_answered_with_the_id_of_the_worker(body: str) -> None:
    script = Script([httpx.Response(200, text=body)])
    async with open_client_of(script) as client:
        answer = await client.send_worker_heartbeat("pool", "w", 29.7, metadata=METADATA, wants_id=True)
    assert answer == MISSING
    assert script.bodies == [
        {
            "name": "w",
            "heartbeat_interval_seconds": 30,
            "metadata": {"integrations": [{"name": "prefect-x", "version": "1.0"}]},
            "return_id": True,
        }
    ]


async def test_plain_heartbeat_has_no_field_that_an_old_server_does_not_know() -> None:
    script = Script([httpx.Response(204)])
    async with open_client_of(script) as client:
        assert await client.send_worker_heartbeat("pool", "w", 0) is None
    assert script.bodies == [{"name": "w", "heartbeat_interval_seconds": 1}]


UNUSABLE = {
    "refused": httpx.Response(422, json={"detail": "return_id: extra inputs are not permitted"}),
    "of another kind": httpx.Response(200, json={"id": str(MISSING)}),
    "no id": httpx.Response(200, json="42"),
}


@pytest.mark.parametrize("answer", UNUSABLE.values(), ids=UNUSABLE)
async def test_heartbeat_goes_out_without_an_id_if_there_is_none_to_get(answer: httpx.Response) -> None:
    script = Script([answer, httpx.Response(204)])
    async with open_client_of(script) as client:
        assert await client.send_worker_heartbeat("pool", "w", 30, metadata=METADATA, wants_id=True) is None
        assert client.condition.reachable
    first, second = script.bodies
    assert first == second | {"return_id": True}
    assert "metadata" in second


async def test_heartbeat_that_is_refused_altogether_is_an_error() -> None:
    script = Script([httpx.Response(422, json={"detail": "no"}), httpx.Response(422, json={"detail": "no"})])
    async with open_client_of(script) as client:
        with pytest.raises(RequestRefusedError):
            await client.send_worker_heartbeat("pool", "w", 30, wants_id=True)


async def test_agent_is_no_worker_type() -> None:
    registry = {
        "prefect": {"process": {"type": "process"}, "prefect-agent": {"type": "prefect-agent"}},
        "prefect-x": {"x": {}, "y": {}},
        "prefect-empty": {},
    }
    async with open_client_of(Script([httpx.Response(200, json=registry)])) as client:
        packages = await client.read_worker_packages()
    assert packages == {"process": "prefect", "x": "prefect-x", "y": "prefect-x"}


@pytest.mark.parametrize("answer", [{"prefect": None}, {"prefect": ["process"]}, [], None, "registry"])
async def test_registry_that_makes_no_sense_is_reported(answer: Any) -> None:
    async with open_client_of(Script([httpx.Response(200, json=answer)])) as client:
        with pytest.raises(MalformedAnswerError, match="GET /collections/views/aggregate-worker-metadata"):
            await client.read_worker_packages()


async def test_version_and_branch_of_a_deployment_are_read() -> None:
    ids = {"id": str(uuid4()), "flow_id": str(uuid4())}
    related = {"version_id": str(uuid4()), "base": str(uuid4()), "root": str(uuid4())}
    info = {"type": "vcs:github", "version": "abc", "branch": "ignored"}
    answer = {"name": "d", "version_info": info, "branch": "feature"} | ids | related
    async with open_client_of(Script([httpx.Response(200, json=answer)])) as client:
        deployment = await client.read_deployment(UUID(ids["id"]))
    assert deployment.version_info == VersionInfo(type="vcs:github", version="abc")
    assert deployment.branch == "feature"
    assert {key: str(getattr(deployment, key)) for key in related} == related


# The suite itself


def test_every_operation_is_asked_of_both_servers() -> None:
    operations = {name for name in vars(PrefectAPI) if not name.startswith("_")} - {"condition"}
    asked = _asked_of_both(Path(__file__).read_text())
    assert operations - asked == set(), "no test of the contract asks for these"
    assert len(operations) == OPERATIONS


# How many a worker makes use of; all that it may ask of a server.
OPERATIONS = 35


def _asked_of_both(source: str) -> set[str]:
    """The methods of `PrefectAPI` that are called by tests of a world, which every one of them sees twice."""
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and "world" in {argument.arg for argument in node.args.args}
    ]
    return {
        call.func.attr
        for function in functions
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "world.api"
    }


def test_operation_that_is_asked_for_elsewhere_does_not_count() -> None:
    source = """
async def test_of_both(world): await world.api.read_flow(1)
async def test_of_one(fake): await fake.api.read_deployment(1)
async def helper(world): await world.api.send_logs([])
"""
    assert _asked_of_both(source) == {"read_flow"}
