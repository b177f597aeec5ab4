"""What the fake offers beyond `PrefectAPI`: virtual time, records of what happened, and ways to break it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing

from trioworker.api.client import PrefectAPI
from trioworker.api.condition import OUTAGE_AFTER, Condition, ConditionChange
from trioworker.api.errors import (
    APIError,
    APIUnavailableError,
    MalformedAnswerError,
    NotAuthenticatedError,
    ObjectNotFoundError,
)
from trioworker.api.models import (
    BlockDocument,
    Deployment,
    DeploymentDraft,
    DeploymentSchedule,
    Event,
    FlowRun,
    FlowRunPolicy,
    Integration,
    ProposedState,
    SetStateStatus,
    StateType,
    WorkerMetadata,
)
from trioworker.testing import Call, FakePrefectAPI, LeaseRenewal

PENDING = StateType.PENDING


def claim() -> ProposedState:
    return ProposedState(type=PENDING, name="Pending")


def fake_with_run(fake: FakePrefectAPI) -> FlowRun:
    fake.add_work_pool("pool")
    return fake.schedule(fake.add_deployment("flow", "pool"))


CRON = DeploymentSchedule(schedule={"cron": "0 9 * * *"})


def claimed_lease(fake: FakePrefectAPI, deployment: Deployment) -> UUID:
    """The lease of a new run that has taken a slot of its deployment."""
    state = fake.set_state(fake.schedule(deployment).id, "Pending").state
    assert state is not None
    assert state.state_details.deployment_concurrency_lease_id is not None
    return state.state_details.deployment_concurrency_lease_id


async def due(fake: FakePrefectAPI, before: datetime) -> list[FlowRun]:
    return await fake.get_scheduled_flow_runs("pool", queue_names=[], scheduled_before=before, limit=10)


def test_fake_is_a_prefect_api() -> None:
    api: PrefectAPI = FakePrefectAPI()
    assert api.condition.reachable


# Time


async def test_clock_is_trios(autojump_clock: trio.testing.MockClock) -> None:
    await trio.sleep(100)
    fake = FakePrefectAPI(epoch=datetime(2030, 1, 1, tzinfo=UTC))
    assert fake.now() == datetime(2030, 1, 1, tzinfo=UTC)
    await trio.sleep(90.5)
    assert fake.seconds() == 90.5
    assert fake.now() == datetime(2030, 1, 1, 0, 1, 30, 500_000, tzinfo=UTC)


def test_clock_starts_at_first_use_when_made_outside_of_trio() -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    assert fake.history(run.id) == [("Scheduled", 0)]

    async def use() -> float:
        await trio.sleep(5)
        assert fake.seconds() == 0
        await trio.sleep(5)
        return fake.seconds()

    assert trio.run(use, clock=trio.testing.MockClock(autojump_threshold=0)) == 5


async def test_history_and_calls_have_exact_times(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    await trio.sleep(10)
    state = claim()
    await fake.set_flow_run_state(run.id, state)
    await trio.sleep(5)
    fake.set_state(run.id, "Running")
    await trio.sleep(60)
    fake.set_state(run.id, "Completed")
    assert fake.history(run.id) == [("Scheduled", 0), ("Pending", 10), ("Running", 15), ("Completed", 75)]
    assert fake.times("set_flow_run_state") == [10]
    assert fake.count("read_flow") == 0
    arguments = {"flow_run_id": run.id, "state": state, "force": False}
    assert fake.calls == [Call(method="set_flow_run_state", at=10, arguments=arguments)]


async def test_heartbeats_are_recorded(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    for _ in range(2):
        await trio.sleep(30)
        await fake.send_worker_heartbeat("pool", "worker", 30.4)
    assert [(beat.worker_name, beat.interval_seconds, beat.at) for beat in fake.heartbeats] == [
        ("worker", 30, 30),
        ("worker", 30, 60),
    ]


async def test_heartbeat_is_recorded_with_its_metadata_and_answered_with_an_id_as_by_prefect_cloud() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    fake.worker_id = UUID(int=5)
    metadata = WorkerMetadata(integrations=[Integration(name="prefect-x", version="1")])
    answers = [
        await fake.send_worker_heartbeat("pool", "w", 30, metadata=metadata, wants_id=True),
        await fake.send_worker_heartbeat("pool", "w", 30),
    ]
    assert answers == [UUID(int=5), None]
    assert [beat.metadata for beat in fake.heartbeats] == [metadata, None]
    assert [call.arguments["wants_id"] for call in fake.calls] == [True, False]


async def test_document_of_a_run_tells_its_times(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    run = fake.schedule(fake.add_deployment("flow", "pool"), at=2, parameters={"x": 1})
    await trio.sleep(5)
    fake.set_state(run.id, "Running")
    await trio.sleep(10)
    running = await fake.read_flow_run_document(run.id)
    fake.set_state(run.id, "Completed")
    await trio.sleep(10)
    ended = await fake.read_flow_run_document(run.id)
    shown = ("start_time", "end_time", "expected_start_time", "next_scheduled_start_time")
    started, due, end = (fake.moment(seconds).isoformat() for seconds in (5, 2, 15))
    assert [running[key] for key in shown] == [started, None, due, None]
    assert [ended[key] for key in shown] == [started, end, due, None]
    assert (running["total_run_time"], running["estimated_run_time"]) == (0, 10)
    assert (ended["total_run_time"], ended["estimated_run_time"]) == (10, 10)
    assert (running["estimated_start_time_delta"], running["parameters"]) == (3, {"x": 1})


async def test_run_can_be_scheduled_for_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    deployment = fake.add_deployment("flow", "pool")
    by_seconds = fake.schedule(deployment, at=60)
    by_time = fake.schedule(deployment.id, at=fake.now() + timedelta(seconds=60))
    assert await due(fake, fake.moment(59)) == []
    assert [run.id for run in await due(fake, fake.moment(60))] == [by_seconds.id, by_time.id]


async def test_too_early_start_is_told_how_long_to_wait(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    run = fake.schedule(fake.add_deployment("flow", "pool"), at=20)
    await trio.sleep(4)
    result = fake.set_state(run.id, "Running")
    assert (result.status, result.details.delay_seconds) == (SetStateStatus.WAIT, 16)
    await trio.sleep(16)
    assert fake.set_state(run.id, "Running").status is SetStateStatus.ACCEPT


async def test_state_can_be_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)

    async def live() -> None:
        await trio.sleep(3)
        fake.set_state(run.id, "Running")
        await trio.sleep(4)
        fake.set_state(run.id, "Failed", message="broken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        ended = await fake.wait_for_state(run.id, "Completed", "Failed")
    assert trio.current_time() == 7
    assert ended.state is not None
    assert ended.state.message == "broken"


# Breaking it


async def test_every_method_is_a_checkpoint() -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    block_id = str(fake.add_block("secret", "block", {}))
    fake.add_variable("variable", 1)
    limited = fake.add_deployment("flow", "pool", name="limited", concurrency_limit=1, schedules=[CRON])
    [known] = limited.schedules
    draft = DeploymentDraft(name="new", flow_id=run.flow_id, work_pool_name="pool")
    lease_id = claimed_lease(fake, limited)

    async def listen() -> None:
        async with fake.open_state_changes(fake.work_pool("pool").id, [PENDING]):
            pass

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: fake.read_work_pool("pool"),
        lambda: fake.create_work_pool("other", pool_type="x", base_job_template={}),
        lambda: fake.update_work_pool_template("pool", {}),
        lambda: fake.read_work_queues("pool", []),
        lambda: fake.send_worker_heartbeat("pool", "w", 30),
        lambda: due(fake, fake.now()),
        lambda: fake.find_cancelling_flow_runs("pool", queue_names=[]),
        lambda: fake.read_flow_run(run.id),
        lambda: fake.read_flow_run_states(run.id),
        lambda: fake.set_flow_run_state(run.id, claim()),
        lambda: fake.bulk_set_flow_run_state([run.id], claim()),
        lambda: fake.set_infrastructure_pid(run.id, "1"),
        lambda: fake.read_deployment(run.deployment_id or run.id),
        lambda: fake.read_flow(run.flow_id),
        lambda: fake.read_flow_run_document(run.id),
        lambda: fake.update_flow_run_labels(run.id, {}),
        lambda: fake.update_flow_run_policy(run.id, FlowRunPolicy(retries=1)),
        lambda: fake.renew_concurrency_lease(lease_id, 60),
        lambda: fake.release_concurrency_lease(lease_id),
        lambda: fake.create_flow("a flow"),
        lambda: fake.create_deployment(draft),
        lambda: fake.update_deployment(limited.id, draft),
        lambda: fake.read_deployment_by_name("flow", "limited"),
        lambda: fake.count_deployments("pool", flow_names=["flow"]),
        lambda: fake.create_deployment_schedule(limited.id, CRON),
        lambda: fake.update_deployment_schedule(limited.id, known),
        lambda: fake.delete_deployment_schedule(limited.id, known.id or run.id),
        lambda: fake.create_flow_run(limited.id),
        lambda: fake.read_block_document("secret", "block"),
        lambda: fake.read_block_document_by_id(block_id),
        lambda: fake.read_variable("variable"),
        fake.read_worker_packages,
        listen,
        lambda: fake.send_events([]),
        lambda: fake.send_logs([]),
    ]
    for call in calls:
        with trio.testing.assert_checkpoints():
            await call()
    methods = {name for name in vars(PrefectAPI) if not name.startswith("_")} - {"condition"}
    assert {call.method for call in fake.calls} == methods


async def test_latency_passes_before_anything_happens(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI(latency=0.5)
    run = fake_with_run(fake)
    fake.latencies["send_logs"] = math.inf
    await fake.set_flow_run_state(run.id, claim())
    assert fake.history(run.id)[-1] == ("Pending", 0.5)
    with trio.move_on_after(1000) as scope:
        await fake.send_logs([])
    assert scope.cancelled_caught
    await fake.read_flow_run(run.id)
    assert trio.current_time() == 1001


async def test_nothing_gets_through_an_outage(autojump_clock: trio.testing.MockClock) -> None:
    changes: list[tuple[float, ConditionChange]] = []
    condition = Condition(lambda change: changes.append((trio.current_time(), change)))
    fake = FakePrefectAPI(condition=condition)
    run = fake_with_run(fake)
    await fake.read_work_pool("pool")
    with fake.outage("no connection: test"):
        for _ in range(3):
            with pytest.raises(APIUnavailableError, match="no connection: test"):
                await fake.set_flow_run_state(run.id, claim())
            with pytest.raises(APIUnavailableError):
                await fake.read_work_pool("pool")
            await trio.sleep(3)
    assert fake.history(run.id) == [("Scheduled", 0)]
    assert not fake.condition.reachable
    await fake.set_flow_run_state(run.id, claim())
    assert not fake.condition.reachable
    await fake.read_work_pool("pool")
    assert changes == [
        (3, ConditionChange(reachable=False, reason="no connection: test")),
        (9, ConditionChange(reachable=True, seconds=9)),
    ]


async def test_retries_take_as_long_as_those_of_the_real_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = FakePrefectAPI(max_retries=5)
    run = fake_with_run(fake)
    fake.start_outage()
    with pytest.raises(APIUnavailableError):
        await fake.read_flow_run(run.id)
    assert fake.times("read_flow_run") == [0, 0.5, 2.5, 6.5, 14.5, 30.5]
    fake.end_outage()
    await fake.read_flow_run(run.id)
    assert trio.current_time() == 30.5


async def test_errors_come_in_order_and_then_it_works() -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    refused = NotAuthenticatedError("GET /flow_runs", 401, "who?")
    fake.fail("read_flow_run", refused, times=2)
    fake.malform_answer("read_flow_run")
    caught = []
    for _ in range(3):
        with pytest.raises(APIError) as error:
            await fake.read_flow_run(run.id)
        caught.append(type(error.value))
    assert caught == [NotAuthenticatedError, NotAuthenticatedError, MalformedAnswerError]
    assert (await fake.read_flow_run(run.id)).id == run.id


@pytest.mark.parametrize("method", ["fail", "malform_answer"])
async def test_api_that_does_not_know_us_or_makes_no_sense_is_lost(
    autojump_clock: trio.testing.MockClock, method: str
) -> None:
    fake = FakePrefectAPI()
    fake_with_run(fake)
    for _ in range(2):
        if method == "fail":
            fake.fail("read_work_pool", NotAuthenticatedError("GET /work_pools/pool", 401, "who?"))
        else:
            fake.malform_answer("read_work_pool")
        with pytest.raises(APIError):
            await fake.read_work_pool("pool")
        await trio.sleep(OUTAGE_AFTER)
    assert not fake.condition.reachable


async def test_request_refused_for_cause_counts_as_an_answer() -> None:
    fake = FakePrefectAPI()
    with pytest.raises(ObjectNotFoundError):
        await fake.read_work_pool("missing")
    assert fake.condition.reachable


async def test_claim_whose_answer_was_lost_is_known_on_repetition(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    fake.lose_answer("set_flow_run_state")
    state = claim()
    with pytest.raises(APIUnavailableError):
        await fake.set_flow_run_state(run.id, state)
    assert fake.history(run.id) == [("Scheduled", 0), ("Pending", 0)]
    result = await fake.set_flow_run_state(run.id, state)
    assert result.status is SetStateStatus.REJECT
    assert result.state is not None
    assert result.state.state_details.transition_id == state.transition_id


async def test_refusal_can_get_lost_too() -> None:
    fake = FakePrefectAPI()
    fake.lose_answer("read_work_pool")
    with pytest.raises(APIUnavailableError):
        await fake.read_work_pool("missing")
    with pytest.raises(ObjectNotFoundError):
        await fake.read_work_pool("missing")


async def test_lost_answer_is_repeated_with_the_same_transition_id(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = FakePrefectAPI(max_retries=1)
    run = fake_with_run(fake)
    fake.lose_answer("set_flow_run_state")
    result = await fake.set_flow_run_state(run.id, claim())
    assert result.status is SetStateStatus.REJECT
    assert fake.times("set_flow_run_state") == [0, 0.5]


@pytest.mark.parametrize(
    "method",
    [
        "read_flow_run_document",
        "update_flow_run_labels",
        "read_block_document",
        "read_block_document_by_id",
        "read_variable",
        "read_worker_packages",
    ],
)
async def test_faults_come_to_what_a_worker_asks_of_single_objects_too(method: str) -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    fake.worker_packages = {"x": "prefect-x"}
    fake.add_variable("variable", [1])
    block_id = str(fake.add_block("secret", "block", {"value": 1}))
    requests: dict[str, tuple[Callable[[], Awaitable[object]], object]] = {
        "read_flow_run_document": (lambda: name_in_document(fake, run), run.name),
        "update_flow_run_labels": (lambda: fake.update_flow_run_labels(run.id, {"a": "b"}), None),
        "read_block_document": (
            lambda: fake.read_block_document("secret", "block"),
            BlockDocument(data={"value": 1}),
        ),
        "read_block_document_by_id": (
            lambda: fake.read_block_document_by_id(block_id),
            BlockDocument(data={"value": 1}),
        ),
        "read_variable": (lambda: fake.read_variable("variable"), [1]),
        "read_worker_packages": (fake.read_worker_packages, {"x": "prefect-x"}),
    }
    request, answer = requests[method]
    fake.fail(method, NotAuthenticatedError("GET /", 401, "who?"))
    with pytest.raises(NotAuthenticatedError):
        await request()
    assert "a" not in fake.labels(run.id)
    fake.lose_answer(method)
    with pytest.raises(APIUnavailableError):
        await request()
    assert ("a" in fake.labels(run.id)) == (method == "update_flow_run_labels")
    with fake.outage(), pytest.raises(APIUnavailableError):
        await request()
    assert await request() == answer
    assert fake.count(method) == 4
    assert fake.condition.reachable


async def name_in_document(fake: FakePrefectAPI, run: FlowRun) -> object:
    return (await fake.read_flow_run_document(run.id))["name"]


@pytest.mark.parametrize("method", ["set_flow_run_states", "condition", "add_work_pool"])
def test_misspelt_method_is_reported(method: str) -> None:
    with pytest.raises(ValueError, match="PrefectAPI has no method"):
        FakePrefectAPI().lose_answer(method)


async def test_what_json_cannot_hold_is_reported_to_the_sender() -> None:
    fake = FakePrefectAPI()
    event = Event(
        id=fake_with_run(fake).id, occurred=fake.now(), event="x", resource={}, payload={"a": object()}
    )
    with pytest.raises(TypeError, match="not JSON serializable"):
        await fake.send_events([event])


# The rest of the world


@pytest.mark.parametrize("claimed", [False, True])
def test_cancelling_depends_on_whether_a_worker_has_the_run(claimed: bool) -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    if claimed:
        fake.set_state(run.id, "Pending")
    fake.cancel(run.id)
    assert fake.history(run.id)[-1][0] == ("Cancelling" if claimed else "Cancelled")


async def test_retry_in_process_can_be_set_directly() -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    fake.set_state(run.id, "Running")
    fake.set_state(run.id, "AwaitingRetry", retry_type="in_process")
    assert (await fake.read_flow_run(run.id)).empirical_policy.retry_type == "in_process"
    assert await due(fake, fake.now()) == []


async def test_what_a_caller_does_to_an_answer_leaves_the_fake_alone() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool", base_job_template={"variables": {}, "job_configuration": {"a": [1]}})
    pool = await fake.read_work_pool("pool")
    pool.base_job_template["job_configuration"]["a"].append(2)
    assert fake.work_pool("pool").base_job_template["job_configuration"] == {"a": [1]}


async def test_block_and_variable_can_be_replaced_and_are_the_fakes_own() -> None:
    fake = FakePrefectAPI()
    data: dict[str, Any] = {"value": [1]}
    first = fake.add_block("secret", "block", data)
    fake.add_variable("variable", data)
    data["value"].append(2)
    (await fake.read_block_document("secret", "block")).data["value"].append(3)
    (await fake.read_variable("variable"))["value"].append(3)
    assert (await fake.read_block_document_by_id(str(first))).data == {"value": [1]}
    assert await fake.read_variable("variable") == {"value": [1]}
    assert fake.add_block("secret", "block", {}) == first
    assert fake.add_block("json", "block", {}) != first
    fake.add_variable("variable", None)
    assert (await fake.read_block_document("secret", "block")).data == {}
    assert await fake.read_variable("variable") is None


async def test_state_set_by_hand_can_have_a_result() -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    fake.set_state(run.id, "Completed", data={"type": "reference"})
    result = await fake.set_flow_run_state(run.id, claim())
    assert (result.status, result.details.reason) == (SetStateStatus.REJECT, "Run is already COMPLETED.")
    assert result.state is not None
    assert result.state.data == {"type": "reference"}


def test_paused_pool_and_queue_can_be_resumed() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool", is_paused=True)
    fake.pause_work_pool("pool", paused=False)
    assert not fake.work_pool("pool").is_paused


@pytest.mark.parametrize("name", ["Dreaming", "running"])
def test_state_of_unknown_name_needs_its_type(name: str) -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    with pytest.raises(ValueError, match="give its state_type"):
        fake.set_state(run.id, name)
    assert fake.set_state(run.id, name, state_type=StateType.RUNNING).status is SetStateStatus.ACCEPT


def test_missing_objects_are_reported_with_what_to_do() -> None:
    fake = FakePrefectAPI()
    with pytest.raises(LookupError, match="make one with add_work_pool"):
        fake.add_deployment("flow", "missing")


# Deployments and leases


def test_deployment_is_as_it_was_added() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    added = fake.add_deployment(
        "flow",
        "pool",
        queue_name="high",
        parameters={"a": 1},
        parameter_schema={"type": "object"},
        enforce_parameter_schema=False,
        schedules=[CRON],
        concurrency_limit=3,
    )
    assert fake.deployments == [added]
    assert fake.deployment(added.id) == added
    assert (added.work_pool_name, added.work_queue_name) == ("pool", "high")
    assert (added.parameters, added.parameter_openapi_schema) == ({"a": 1}, {"type": "object"})
    assert (added.enforce_parameter_schema, added.concurrency_limit) == (False, 3)
    assert [dict(each.schedule)["cron"] for each in added.schedules] == ["0 9 * * *"]
    with pytest.raises(LookupError, match="make one with add_deployment"):
        fake.deployment(UUID(int=1))


async def test_run_has_the_parameters_of_its_deployment_and_its_own() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    deployment = fake.add_deployment("flow", "pool", parameters={"a": 1, "b": [1]})
    fake.schedule(deployment, parameters={"b": [2]}, retries=2, retry_delay=5)
    [run] = await due(fake, fake.now())
    assert run.parameters == {"a": 1, "b": [2]}
    assert run.empirical_policy == FlowRunPolicy(retries=2, retry_delay=5)
    run.parameters["b"].append(3)
    assert fake.flow_run(run.id).parameters == {"a": 1, "b": [2]}


async def test_run_that_is_created_is_made_once_though_the_answer_was_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = FakePrefectAPI(max_retries=1)
    fake.add_work_pool("pool")
    deployment = fake.add_deployment("flow", "pool")
    fake.lose_answer("create_flow_run")
    created = await fake.create_flow_run(deployment.id)
    assert [run.id for run in fake.flow_runs] == [created.id]
    assert fake.count("create_flow_run") == 2


async def test_renewals_of_a_lease_are_recorded(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    lease_id = claimed_lease(fake, fake.add_deployment("flow", "pool", concurrency_limit=1))
    await trio.sleep(10)
    await fake.renew_concurrency_lease(lease_id, 300)
    assert fake.lease_renewals == [LeaseRenewal(lease_id=lease_id, lease_seconds=300, at=10)]


async def test_slot_of_a_lease_that_has_run_out_goes_to_another_run() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    deployment = fake.add_deployment("flow", "pool", concurrency_limit=1)
    lease_id = claimed_lease(fake, deployment)
    fake.expire_lease(lease_id)
    with pytest.raises(ObjectNotFoundError):
        await fake.renew_concurrency_lease(lease_id, 60)
    assert fake.lease_renewals == []
    claimed_lease(fake, deployment)
    first = fake.flow_runs[0]
    result = fake.set_state(first.id, "Running")
    assert result.status is SetStateStatus.REJECT
    assert result.details.reason == "Deployment concurrency limit reached after lease expiry."
    assert result.state is not None
    assert result.state.type is StateType.CANCELLED
    with pytest.raises(LookupError, match="run out or was given back"):
        fake.expire_lease(lease_id)


async def test_run_whose_lease_has_run_out_takes_the_slot_again_if_it_is_free() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    deployment = fake.add_deployment("flow", "pool", concurrency_limit=1)
    old = claimed_lease(fake, deployment)
    fake.expire_lease(old)
    [run] = fake.flow_runs
    state = fake.set_state(run.id, "Running").state
    assert state is not None
    new = state.state_details.deployment_concurrency_lease_id
    assert new not in {None, old}
    waiting = fake.schedule(deployment)
    assert fake.set_state(waiting.id, "Pending").status is SetStateStatus.REJECT
    fake.set_state(run.id, "Completed")
    assert fake.set_state(waiting.id, "Pending").status is SetStateStatus.ACCEPT


def test_paused_schedule_says_so_until_it_is_resumed() -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    deployment = fake.add_deployment("flow", "pool", schedules=[CRON])
    [schedule] = deployment.schedules
    assert schedule.id is not None
    for paused in (True, False):
        fake.pause_schedule(deployment.id, schedule.id, paused=paused)
        assert fake.deployment(deployment.id).schedules == [attrs.evolve(schedule, active=not paused)]


@pytest.mark.parametrize("schedule", [{}, {"timezone": "UTC"}, {"cron": "* * * * *", "interval": 1}])
def test_schedule_must_be_of_one_kind(schedule: dict[str, Any]) -> None:
    fake = FakePrefectAPI()
    fake.add_work_pool("pool")
    with pytest.raises(ValueError, match="one of cron, interval and rrule"):
        fake.add_deployment("flow", "pool", schedules=[DeploymentSchedule(schedule=schedule)])


async def test_deployment_of_an_impossible_name_or_without_a_pool_makes_the_server_fail() -> None:
    fake = FakePrefectAPI()
    run = fake_with_run(fake)
    draft = DeploymentDraft(name="a/b", flow_id=run.flow_id, work_pool_name="pool")
    with pytest.raises(APIUnavailableError, match="500"):
        await fake.create_deployment(draft)
    with pytest.raises(APIUnavailableError, match="500"):
        await fake.update_deployment(run.deployment_id or run.id, attrs.evolve(draft, work_pool_name="gone"))
