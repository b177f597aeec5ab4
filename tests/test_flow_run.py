"""Every way that a flow run's life can go, on a fake API and fake infrastructure, in virtual time."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing
from support import FOREVER, POOL, World

from trioworker.api.errors import APIUnavailableError, RequestRefusedError
from trioworker.api.models import FlowRun, OrchestrationResult, ProposedState, SetStateStatus
from trioworker.infrastructure.exit_status import exit_hint, exit_message
from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError, Outcome
from trioworker.testing import Call, FakeJob, Kill, Script

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def proposals(world: World, name: str) -> list[ProposedState]:
    """Every time that the worker proposed a state of this name."""
    states = [call.arguments["state"] for call in world.api.calls if call.method == "set_flow_run_state"]
    return [state for state in states if state.name == name]


async def work(world: World, run: FlowRun, *until: str, **options: Any) -> None:
    """Let a worker work until a run has one of these states, and drain it."""
    async with world.working(**options):
        await world.api.wait_for_state(run.id, *until)


# Claiming


async def test_worker_makes_these_requests_for_a_run_and_no_others(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(reports=True))
    await work(world, run, "Completed")
    of_the_run = [
        call.method
        for call in world.api.calls
        if call.method
        not in {
            "read_work_pool",
            "read_work_queues",
            "get_scheduled_flow_runs",
            "find_cancelling_flow_runs",
            "open_state_changes",
            "send_worker_heartbeat",
            "send_events",
            "send_logs",
        }
    ]
    at_once = [sorted(of_the_run[:3]), of_the_run[3:4], sorted(of_the_run[4:])]
    assert at_once == [
        ["read_deployment", "read_flow", "set_flow_run_state"],
        ["set_flow_run_state"],
        ["set_infrastructure_pid", "update_flow_run_labels"],
    ]


async def test_run_that_somebody_else_claims_first_is_left_to_them(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working() as worker:
        # Between the poll that lists it and the claim.
        await trio.sleep(0.5)
        world.api.set_state(run.id, "Pending")
        await trio.sleep(5)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Pending"]
    assert world.infrastructure.executions == []
    assert any(line.startswith(f"Aborted submission of flow run '{run.id}': ") for line in world.log(run))


async def test_run_that_was_cancelled_meanwhile_is_not_started(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working() as worker:
        await trio.sleep(0.5)
        world.api.cancel(run.id)
        await trio.sleep(30)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Cancelled"]
    assert world.infrastructure.executions == []


async def test_run_that_must_wait_for_a_slot_of_its_deployment_is_started_later(
    autojump_clock: Clock, world: World
) -> None:
    """The server answers such a claim with REJECT and a later time."""
    world.deployment = world.api.add_deployment("flow", POOL, name="one at a time", concurrency_limit=1)
    first = world.schedule(Script(seconds=5))
    second = world.schedule()
    await work(world, second, "Completed")
    assert world.states(first) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]
    assert world.states(second) == [
        "Scheduled",
        "AwaitingConcurrencySlot",
        "Pending",
        "Submitting",
        "Running",
        "Completed",
    ]


async def test_rejected_claim_frees_the_slot_of_the_worker(autojump_clock: Clock, world: World) -> None:
    limited = world.api.add_deployment("flow", POOL, name="one at a time", concurrency_limit=1)
    world.api.schedule(limited)
    rejected = world.api.schedule(limited)
    world.infrastructure.script = Script(seconds=FOREVER)
    async with world.working(limit=2, drain_timeout=0) as worker:
        await world.api.wait_for_state(rejected.id, "AwaitingConcurrencySlot")
        await trio.sleep(1)
        assert worker.runs_in_hand == 1


async def test_lost_answer_to_a_claim_is_asked_for_with_the_same_transition_id(
    autojump_clock: Clock, world: World
) -> None:
    """The server takes a repetition under another id for a second claim, and the run would be stranded."""
    run = world.schedule()
    world.api.lose_answer("set_flow_run_state", times=2)
    await work(world, run, "Completed")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]
    claims = proposals(world, "Pending")
    assert len(claims) == 3
    assert len({claim.transition_id for claim in claims}) == 1


async def test_each_claim_has_a_transition_id_of_its_own(autojump_clock: Clock, world: World) -> None:
    runs = [world.schedule() for _ in range(3)]
    async with world.working():
        for run in runs:
            await world.api.wait_for_state(run.id, "Completed")
    assert len({claim.transition_id for claim in proposals(world, "Pending")}) == 3


async def test_claim_is_repeated_for_as_long_as_the_api_is_away(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.fail("set_flow_run_state", APIUnavailableError("gone"), times=20)
    await work(world, run, "Completed")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]


async def test_server_that_says_wait_is_asked_again_when_it_said(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(at=60)
    async with world.working(prefetch_seconds=60):
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.history(run.id)[-2:] == [("Running", 60), ("Completed", 61)]


async def test_refused_claim_ends_the_matter_for_this_worker(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule()
    sibling = world.schedule()
    world.api.fail("set_flow_run_state", RequestRefusedError("POST /set_state", 422, "not like this"))
    await work(world, sibling, "Completed")
    assert "is left as it is: POST /set_state was refused with 422: not like this" in caplog.text
    assert run.id not in [each.assignment.flow_run_id for each in world.infrastructure.executions]


# Preparing


async def test_assignment_says_who_the_run_is(autojump_clock: Clock, world: World) -> None:
    world.deployment = world.api.add_deployment(
        "my flow", POOL, name="nightly", job_variables={"command": "of deployment", "env": {"A": "1"}}
    )
    run = world.schedule(job_variables={"command": "of run"}, name="red-fox")
    await work(world, run, "Completed", name="the worker")
    assignment = world.infrastructure.execution(run.id).assignment
    assert assignment.flow_run_name == "red-fox"
    assert assignment.configuration == {"command": "of run", "env": {"A": "1"}}
    assert assignment.environment == {
        "PREFECT__FLOW_RUN_ID": str(run.id),
        "PREFECT__FLOW_ID": str(run.flow_id),
        "PREFECT__FLOW_NAME": "my flow",
        "PREFECT__WORKER_NAME": "the worker",
        "PREFECT__DEPLOYMENT_ID": str(world.deployment.id),
        "PREFECT__DEPLOYMENT_NAME": "nightly",
    }


async def test_template_may_refer_to_the_environment_of_the_worker(
    autojump_clock: Clock, world: World
) -> None:
    template = {
        "job_configuration": {"command": "in {{ $REGION }}"},
        "variables": {"type": "object", "properties": {}},
    }
    await world.api.update_work_pool_template(POOL, template)
    run = world.schedule()
    async with world.working({"REGION": "the north"}):
        await world.api.wait_for_state(run.id, "Completed")
    assert world.infrastructure.execution(run.id).assignment.configuration == {"command": "in the north"}


async def test_run_whose_deployment_goes_while_it_is_claimed_is_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["read_deployment"] = 1
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Pending")
        world.api.delete_deployment(world.deployment.id)
        await trio.sleep(5)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Pending", "Cancelled"]
    assert world.message(run) == f"Deployment {world.deployment.id} no longer exists, cancelled run."
    assert world.infrastructure.executions == []


async def test_template_that_cannot_be_rendered_crashes_the_run_with_the_reason(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(job_variables={"env": "not a mapping"})
    sibling = world.schedule()
    await work(world, sibling, "Completed")
    message = world.message(run)
    assert message is not None
    assert message.startswith(
        "Failed to submit flow run to infrastructure: The job configuration cannot be built: "
    )
    assert "env" in message
    assert world.states(run)[-1] == "Crashed"


async def test_configuration_that_the_infrastructure_refuses_crashes_the_run_with_the_reason(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(cannot_prepare=InfrastructureError("command must be text")))
    await work(world, run, "Crashed")
    assert world.message(run) == "Failed to submit flow run to infrastructure: command must be text"
    assert world.states(run) == ["Scheduled", "Pending", "Crashed"]


async def test_preparation_waits_for_an_api_that_is_away(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    gone = APIUnavailableError("gone")
    world.api.fail("read_deployment", gone, times=5)
    world.api.fail("read_flow", gone, times=5)
    await work(world, run, "Completed")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]


async def test_pool_that_goes_while_a_run_is_claimed_crashes_the_run(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 50
    async with world.working(create_pool_if_not_found=False):
        await trio.sleep(5)
        world.api.delete_work_pool(POOL)
        await world.api.wait_for_state(run.id, "Crashed")
    assert world.message(run) == "Failed to submit flow run to infrastructure: its work pool is gone"


# Starting


async def test_run_that_cannot_be_started_crashes_and_frees_its_slot(
    autojump_clock: Clock, world: World
) -> None:
    broken = world.schedule(Script(cannot_start=InfrastructureError("command 'nope' was not found")))
    async with world.working(limit=1) as worker:
        await world.api.wait_for_state(broken.id, "Crashed")
        await trio.sleep(1)
        assert worker.runs_in_hand == 0
        sibling = world.schedule()
        await world.api.wait_for_state(sibling.id, "Completed")
    assert (
        world.message(broken) == "Failed to submit flow run to infrastructure: command 'nope' was not found"
    )
    line = f"Failed to submit flow run '{broken.name}' to infrastructure: command 'nope' was not found"
    assert line in world.log(broken)


async def test_run_that_cannot_be_started_does_not_touch_its_siblings(
    autojump_clock: Clock, world: World
) -> None:
    siblings = [world.schedule(Script(seconds=40)) for _ in range(2)]
    world.schedule(Script(cannot_start=InfrastructureError("no")))
    world.schedule(Script(cannot_start=ZeroDivisionError("a bug")))
    async with world.working():
        for sibling in siblings:
            await world.api.wait_for_state(sibling.id, "Completed")
    assert [world.infrastructure.execution(sibling.id).cancelled_at for sibling in siblings] == [None, None]


async def test_bug_in_the_infrastructure_crashes_the_run_alone(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule(Script(cannot_start=ZeroDivisionError("a bug")))
    await work(world, run, "Crashed")
    assert world.message(run) == "Failed to submit flow run to infrastructure: ZeroDivisionError: a bug"
    assert "Traceback" in caplog.text


async def test_bug_in_the_infrastructure_while_a_run_goes_on_crashes_the_run(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(ends=None, breaks=ZeroDivisionError("a bug")))
    await work(world, run, "Crashed")
    message = world.message(run)
    assert message is not None
    assert "ZeroDivisionError: a bug" in message


async def test_identifier_is_reported(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    await work(world, run, "Completed")
    execution = world.infrastructure.execution(run.id)
    assert world.api.flow_run(run.id).infrastructure_pid == execution.identifier


async def test_run_goes_on_when_its_identifier_cannot_be_reported(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.fail("set_infrastructure_pid", RequestRefusedError("PATCH", 422, "odd"))
    await work(world, run, "Completed")
    assert any("process id could not be reported" in line for line in world.log(run))


async def test_run_that_ends_while_its_identifier_waits_to_be_reported_is_concluded(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=5))
    world.api.latencies["set_infrastructure_pid"] = math.inf
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Completed")
        await trio.sleep(1)
        assert worker.runs_in_hand == 0


async def test_run_that_is_over_in_no_time_is_concluded(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=0, ends=None))
    await work(world, run, "Crashed")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Crashed"]


# Ending


@pytest.mark.parametrize("final", ["Completed", "Failed", "Cancelled", "Crashed", "TimedOut"])
async def test_final_state_of_the_flow_is_left_alone(autojump_clock: Clock, world: World, final: str) -> None:
    run = world.schedule(Script(ends=final))
    await work(world, run, final)
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", final]
    assert [call.arguments["state"].name for call in calls(world, "set_flow_run_state")] == [
        "Pending",
        "Submitting",
    ]


def calls(world: World, method: str) -> list[Call]:
    return [call for call in world.api.calls if call.method == method]


@pytest.mark.parametrize("final", ["Completed", "Failed", "Cancelled", "Crashed"])
async def test_end_of_a_run_that_reports_it_is_not_asked_for(
    autojump_clock: Clock, world: World, final: str
) -> None:
    run = world.schedule(Script(ends=final, reports=True))
    await work(world, run, final)
    assert world.states(run)[-2:] == ["Running", final]
    assert world.api.count("read_flow_run") == 0


async def test_run_that_reports_a_retry_is_looked_at(autojump_clock: Clock, world: World) -> None:
    """The server has made another attempt of the failure, so there is no end to report."""
    run = world.schedule(Script(ends="Failed", reports=True), retries=1)
    await work(world, run, "Running")
    assert world.api.count("read_flow_run") > 0


async def test_good_exit_without_final_state_is_a_crash(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(ends=None))
    await work(world, run, "Crashed")
    assert world.message(run) == exit_message(0)
    assert exit_hint(0) in world.log(run)


async def test_run_that_dies_before_it_says_anything_is_a_crash(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(begins=None, ends=None, status=127))
    await work(world, run, "Crashed")
    message = world.message(run)
    assert message is not None
    assert message.startswith("Process exited with status code: 127.")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Crashed"]


async def test_flow_that_is_suspended_is_left_alone(autojump_clock: Clock, world: World) -> None:
    """The server would accept a crash, and the run could not be resumed."""
    run = world.schedule(Script(ends="Suspended"))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Suspended")
        await trio.sleep(100)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Suspended"]


async def test_suspended_flow_that_is_resumed_runs_again(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(ends="Suspended"))
    async with world.working():
        await world.api.wait_for_state(run.id, "Suspended")
        await trio.sleep(30)
        world.infrastructure.scripts[run.id] = Script()
        world.api.set_state(run.id, "Resuming")
        await world.api.wait_for_state(run.id, "Completed")
    assert len(world.infrastructure.executions) == 2


async def test_retry_that_was_to_wait_in_the_process_is_made_anybodys(
    autojump_clock: Clock, world: World
) -> None:
    """No worker is ever offered such a run: its own process was to go on, and that is gone."""
    run = world.schedule(Script(ends="AwaitingRetry", retry_type="in_process"))
    async with world.working():
        await world.api.wait_for_state(run.id, "AwaitingRetry")
        world.infrastructure.scripts[run.id] = Script()
        await world.api.wait_for_state(run.id, "Completed")
    assert world.states(run) == [
        "Scheduled",
        "Pending",
        "Submitting",
        "Running",
        "AwaitingRetry",
        "Crashed",
        "AwaitingRetry",
        "Pending",
        "Submitting",
        "Running",
        "Completed",
    ]


async def test_lost_answer_does_not_stop_the_retry_from_being_made_anybodys(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(ends="AwaitingRetry", retry_type="in_process", seconds=5))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        world.api.lose_answer("set_flow_run_state", times=2)
        await world.api.wait_for_state(run.id, "AwaitingRetry")
        world.infrastructure.scripts[run.id] = Script()
        await world.api.wait_for_state(run.id, "Completed")
    assert world.states(run)[4:7] == ["AwaitingRetry", "Crashed", "AwaitingRetry"]


async def test_retry_that_the_flow_waits_for_itself_is_none_of_the_workers_business(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(begins="Running", seconds=300))
    async with world.working():
        await world.api.wait_for_state(run.id, "Running")
        world.api.set_state(run.id, "AwaitingRetry", retry_type="in_process")
        await trio.sleep(100)
        world.api.set_state(run.id, "Running", force=True)
        await world.api.wait_for_state(run.id, "Completed")
    assert world.states(run) == [
        "Scheduled",
        "Pending",
        "Submitting",
        "Running",
        "AwaitingRetry",
        "Running",
        "Completed",
    ]


async def test_run_that_reschedules_itself_is_taken_again(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(ends="AwaitingRetry", retry_type="reschedule"))
    async with world.working():
        await world.api.wait_for_state(run.id, "AwaitingRetry")
        world.infrastructure.scripts[run.id] = Script()
        await world.api.wait_for_state(run.id, "Completed")
    assert "Crashed" not in world.states(run)


async def test_run_that_somebody_else_has_claimed_since_is_left_to_them(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(begins=None, ends=None, seconds=5))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Submitting")
        await trio.sleep(1)
        world.api.set_state(run.id, "Scheduled", force=True)
        world.api.set_state(run.id, "Pending")
        await trio.sleep(20)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Scheduled", "Pending"]


async def test_final_state_is_delivered_when_the_api_returns(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(ends=None, status=1, seconds=5))
    async with world.working(limit=1) as worker:
        await trio.sleep(1)
        world.api.start_outage()
        await trio.sleep(500)
        assert worker.runs_in_hand == 1
        world.api.end_outage()
        await world.api.wait_for_state(run.id, "Crashed")
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Crashed"]
    assert world.now <= 562


async def test_lost_answer_to_a_final_state_does_no_harm(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(ends=None, seconds=5))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        world.api.lose_answer("set_flow_run_state")
        await world.api.wait_for_state(run.id, "Crashed")
        await trio.sleep(5)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Crashed"]


async def test_final_state_is_not_overwritten_when_the_flow_is_quicker(
    autojump_clock: Clock, world: World
) -> None:
    """Between reading the state and proposing a crash, the true end may arrive from elsewhere."""
    run = world.schedule(Script(ends=None, seconds=5))
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        world.api.latencies["set_flow_run_state"] = 2
        await trio.sleep(6)
        world.api.set_state(run.id, "Completed")
        await trio.sleep(10)
        assert worker.runs_in_hand == 0
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]


async def test_run_that_was_deleted_meanwhile_frees_its_slot(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule(Script(seconds=5))
    async with world.working() as worker:
        await trio.sleep(1)
        world.api.delete_flow_run(run.id)
        await trio.sleep(6)
        assert worker.runs_in_hand == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_state_that_keeps_changing_is_given_up_after_some_looks(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule(Script(ends=None, seconds=5))
    judge = world.api.set_flow_run_state

    async def reject_crash(
        flow_run_id: UUID, state: ProposedState, *, force: bool = False
    ) -> OrchestrationResult:
        if state.name != "Crashed":
            return await judge(flow_run_id, state, force=force)
        await trio.lowlevel.checkpoint()
        return OrchestrationResult(status=SetStateStatus.REJECT, state=world.api.flow_run(run.id).state)

    world.api.set_flow_run_state = reject_crash  # type: ignore[method-assign]
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        await trio.sleep(6)
        assert worker.runs_in_hand == 0
    assert "is left as it is: its state keeps changing" in caplog.text
    assert world.api.count("read_flow_run") == 5


# Cancelling


async def test_cancelled_run_is_killed_with_the_grace_of_prefect(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working(kill_grace=5):
        await trio.sleep(30)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    # Found by the poll at 40.
    assert world.infrastructure.execution(run.id).kills == [Kill(grace=30, at=40, intent="cancel")]
    assert world.api.history(run.id)[-2:] == [("Cancelling", 30), ("Cancelled", 70)]


async def test_cancelled_run_that_complies_is_cancelled_at_once(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working():
        await trio.sleep(30)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.api.history(run.id)[-1] == ("Cancelled", 40)


async def test_cancelled_run_whose_engine_reports_a_crash_is_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    """Prefect's engine that could not be told of the cancellation forces `Crashed` before it goes."""
    run = world.schedule(Script(seconds=FOREVER, terminated="Crashed", reachable=False))
    async with world.working():
        await trio.sleep(30)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.states(run)[-4:] == ["Running", "Cancelling", "Crashed", "Cancelled"]


async def test_cancelled_run_whose_engine_tells_of_a_crash_is_cancelled(
    autojump_clock: Clock, world: World
) -> None:
    script = Script(seconds=FOREVER, terminated="Crashed", reachable=False, reports=True)
    run = world.schedule(script)
    async with world.working():
        await trio.sleep(30)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.states(run)[-4:] == ["Running", "Cancelling", "Crashed", "Cancelled"]


async def test_cancelled_run_is_cancelled_though_its_end_is_not_heard_of_at_first(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working():
        await trio.sleep(30)
        world.api.cancel(run.id)
        world.api.fail("set_flow_run_state", APIUnavailableError("gone"), times=5)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.states(run)[-2:] == ["Cancelling", "Cancelled"]


async def test_run_that_is_cancelled_while_it_is_prepared_is_not_started(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["read_flow"] = 100
    async with world.working():
        await world.api.wait_for_state(run.id, "Pending")
        await trio.sleep(1)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.infrastructure.executions == []
    assert world.states(run) == ["Scheduled", "Pending", "Cancelling", "Cancelled"]


async def test_run_that_is_cancelled_while_it_starts_is_killed(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER, start_seconds=60))
    async with world.working():
        await world.api.wait_for_state(run.id, "Pending")
        await trio.sleep(1)
        world.api.cancel(run.id)
        await world.api.wait_for_state(run.id, "Cancelled")
    assert world.states(run)[-2:] == ["Cancelling", "Cancelled"]
    assert world.now == 60


async def test_cancellation_of_one_run_does_not_touch_its_siblings(
    autojump_clock: Clock, world: World
) -> None:
    sibling = world.schedule(Script(seconds=90))
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working():
        await trio.sleep(5)
        world.api.cancel(run.id)
        await world.api.wait_for_state(sibling.id, "Completed")
    assert world.infrastructure.execution(sibling.id).kills == []


async def test_cancellations_are_seen_to_during_the_drain(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working(drain_timeout=1000) as worker:
        await trio.sleep(5)
        worker.shutdown()
        world.api.cancel(run.id)
    assert world.states(run)[-1] == "Cancelled"
    assert world.now == 20


async def test_cut_off_cuts_the_grace_of_a_cancelled_run_short(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working(kill_grace=5) as worker:
        await trio.sleep(5)
        world.api.cancel(run.id)
        await trio.sleep(20)
        worker.stop()
    assert world.infrastructure.execution(run.id).ended_at == 30
    assert world.states(run)[-1] == "Cancelled"


# Cut off by the end of the worker


async def test_run_that_is_cut_off_before_its_launch_is_given_back(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["read_flow"] = 100
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Pending")
        await trio.sleep(5)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled"]
    assert world.message(run) == "Given back by worker 'worker': the worker was stopped."
    assert world.now == 5


async def test_run_that_was_given_back_is_run_by_another_worker(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.latencies["read_flow"] = 100
    async with world.working(name="one") as one:
        await world.api.wait_for_state(run.id, "Pending")
        one.stop()
    world.api.latencies.clear()
    async with world.working(name="two"):
        await world.api.wait_for_state(run.id, "Completed")
    execution = world.infrastructure.execution(run.id)
    assert execution.assignment.environment["PREFECT__WORKER_NAME"] == "two"


async def test_run_that_is_cut_off_while_it_is_claimed_is_left_scheduled(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 100
    async with world.working() as worker:
        await trio.sleep(5)
        worker.stop()
    assert world.states(run) == ["Scheduled"]
    # The claim may be on its way, so it is asked for until the last moment.
    assert world.now == 5 + 5 + 3


async def test_claim_that_took_effect_though_its_answer_never_came_is_given_back(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.lose_answer("set_flow_run_state")
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Pending")
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled"]


async def test_lost_answer_to_giving_back_does_no_harm(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.latencies["read_flow"] = 100
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Pending")
        world.api.lose_answer("set_flow_run_state")
        await trio.sleep(5)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled"]


async def test_run_that_another_worker_claimed_is_not_given_back(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 100
    async with world.working() as worker:
        await trio.sleep(5)
        world.api.set_state(run.id, "Pending")
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending"]


async def test_run_that_is_cut_off_while_it_starts_is_given_back(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(start_seconds=100))
    async with world.working() as worker:
        await trio.sleep(5)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Scheduled"]
    assert world.infrastructure.executions == []


async def test_run_that_was_started_though_the_start_was_cut_off_is_not_given_back(
    autojump_clock: Clock, world: World
) -> None:
    """Not every kind of infrastructure can interrupt a start that is under way."""
    run = world.schedule()

    async def start_slowly(  # noqa: ASYNC128
        job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        world.api.set_state(run.id, "Running")
        task_status.started("4711")
        await trio.sleep_forever()
        raise AssertionError

    world.infrastructure.run = start_slowly  # type: ignore[method-assign]
    async with world.working(kill_grace=30) as worker:
        await trio.sleep(5)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Submitting", "Running", "Crashed"]


async def test_run_that_is_cut_off_is_reported_only_once_its_process_is_gone(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
    async with world.working(kill_grace=5) as worker:
        await trio.sleep(10)
        worker.stop()
    assert world.infrastructure.execution(run.id).ended_at == 15
    assert world.api.history(run.id)[-1] == ("Crashed", 15)


async def test_run_that_ends_well_within_the_grace_is_left_as_it_is(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(seconds=12, ignores_terminate=True))
    async with world.working(kill_grace=5) as worker:
        await trio.sleep(10)
        worker.stop()
    assert world.states(run)[-1] == "Completed"
    assert world.now == 12


async def test_run_that_is_cut_off_while_it_is_concluded_is_concluded(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule(Script(ends=None, seconds=5))
    async with world.working() as worker:
        await trio.sleep(1)
        world.api.latencies["read_flow_run"] = 3
        await trio.sleep(5)
        worker.stop()
    assert world.states(run)[-1] == "Crashed"


async def test_run_that_cannot_be_reported_in_time_is_said_to_be_left(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.schedule(Script(seconds=FOREVER))
    async with world.working(kill_grace=5, flush_timeout=3) as worker:
        await trio.sleep(10)
        world.api.start_outage()
        worker.stop()
    assert world.now == 18
    assert world.states(run)[-1] == "Running"
    assert f"Flow run {run.name!r} is left as it is: the API did not answer in time" in caplog.messages


# The log of a run


async def test_lines_about_a_run_go_to_its_log_on_the_server(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(name="red-fox")
    await work(world, run, "Completed")
    assert world.log(run) == [
        f"Worker 'worker' submitting flow run '{run.id}'",
        "Flow run 'red-fox' submitted to infrastructure",
    ]
    assert {line.name for line in world.api.logs} == {"prefect.flow_runs.worker"}


async def test_lines_stay_here_when_logging_to_the_api_is_off(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="trioworker")
    run = world.schedule()
    async with world.working({"PREFECT_LOGGING_TO_API_ENABLED": "false"}):
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.logs == []
    assert f"Worker 'worker' submitting flow run '{run.id}'" in caplog.messages


async def test_run_that_nobody_knows_any_more_cannot_be_claimed(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working() as worker:
        await trio.sleep(0.5)
        world.api.delete_flow_run(run.id)
        await trio.sleep(5)
        assert worker.runs_in_hand == 0
    assert world.infrastructure.executions == []


# What an outside view of the whole life has brought up


async def test_run_that_has_not_begun_when_the_worker_is_told_to_stop_is_given_back_and_not_launched(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["read_flow"] = 2
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Pending")
        worker.shutdown()
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled"]
    assert world.infrastructure.executions == []
    assert not worker.cut_off


async def test_claim_that_is_on_its_way_at_the_hard_stop_is_waited_for_and_given_back(
    autojump_clock: Clock, world: World
) -> None:
    """It takes effect in any case; nobody may be left Pending by that."""
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working() as worker:
        await trio.sleep(0.5)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled"]
    assert world.now == 2


async def test_object_that_the_server_cannot_serve_costs_its_run_and_not_the_slot(
    autojump_clock: Clock, world: World
) -> None:
    sick, well = world.schedule(), world.schedule(at=100)
    world.api.fail("read_deployment", APIUnavailableError("500"), times=9)
    async with world.working(limit=1):
        await world.api.wait_for_state(sick.id, "Crashed")
        await world.api.wait_for_state(well.id, "Completed")
    assert world.message(sick) == "Failed to submit flow run to infrastructure: 500"


async def test_run_for_which_there_is_no_room_is_given_back(autojump_clock: Clock, world: World) -> None:
    run = world.schedule(Script(cannot_start=InfrastructureFullError("no more files")))
    async with world.working():
        await trio.sleep(5)
        world.infrastructure.scripts[run.id] = Script()
        await world.api.wait_for_state(run.id, "Completed")
    assert world.states(run)[:4] == ["Scheduled", "Pending", "Submitting", "Scheduled"]


async def test_infrastructure_that_breaks_while_it_is_cut_off_reaches_nobody_else(
    autojump_clock: Clock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run, other = world.schedule(Script(seconds=FOREVER)), world.schedule(Script(seconds=FOREVER))
    execute = world.infrastructure.run

    async def break_when_cancelled(  # noqa: ASYNC128
        job: FakeJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        try:
            return await execute(job, task_status=task_status)
        except trio.Cancelled:
            if job.assignment.flow_run_id == run.id:
                raise ZeroDivisionError from None  # noqa: ASYNC104
            raise

    world.infrastructure.run = break_when_cancelled  # type: ignore[method-assign]
    async with world.working() as worker:
        await world.api.wait_for_state(run.id, "Running")
        await world.api.wait_for_state(other.id, "Running")
        worker.stop()
    assert world.states(run)[-1] == world.states(other)[-1] == "Crashed"
