"""What becomes of a run whose process is gone: the whole table of decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from trioworker.api.models import FlowRun, FlowRunPolicy, State, StateDetails, StateType
from trioworker.runs.conclusion import (
    Conclusion,
    Leave,
    Propose,
    awaiting_retry,
    cancelled,
    conclude,
    crashed,
    scheduled,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
OURS, THEIRS = uuid4(), uuid4()


def flow_run(
    state_type: StateType | None,
    name: str | None = None,
    *,
    transition_id: UUID | None = None,
    place: str | None = None,
    retry_type: str | None = None,
) -> FlowRun:
    state = None
    if state_type is not None:
        state = State(type=state_type, name=name, state_details=StateDetails(transition_id=transition_id))
    return FlowRun(
        id=uuid4(),
        name="red-fox",
        flow_id=uuid4(),
        state=state,
        infrastructure_pid=place,
        empirical_policy=FlowRunPolicy(retry_type=retry_type),
    )


def concluded(run: FlowRun, *, cancel_requested: bool = False) -> Conclusion:
    return conclude(
        run,
        ended="It ended.",
        known_places={"1001", None},
        own_transition_ids={OURS},
        cancel_requested=cancel_requested,
        now=NOW,
    )


def proposed(conclusion: Conclusion) -> list[str]:
    assert isinstance(conclusion, Propose)
    return [state.name for state in conclusion.states]


@pytest.mark.parametrize("cancel_requested", [True, False])
@pytest.mark.parametrize("final", [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED])
def test_final_state_stands(final: StateType, cancel_requested: bool) -> None:
    assert isinstance(concluded(flow_run(final), cancel_requested=cancel_requested), Leave)


def test_crash_stands_unless_it_came_of_a_cancellation() -> None:
    assert isinstance(concluded(flow_run(StateType.CRASHED)), Leave)
    assert proposed(concluded(flow_run(StateType.CRASHED), cancel_requested=True)) == ["Cancelled"]


@pytest.mark.parametrize("cancel_requested", [True, False])
def test_cancelling_becomes_cancelled(cancel_requested: bool) -> None:
    """Also without word of it from the poll: the server rejects everything else."""
    conclusion = concluded(flow_run(StateType.CANCELLING), cancel_requested=cancel_requested)
    assert proposed(conclusion) == ["Cancelled"]


@pytest.mark.parametrize("transition_id", [OURS, None])
def test_running_without_a_process_is_a_crash(transition_id: UUID | None) -> None:
    run = flow_run(StateType.RUNNING, "Running", transition_id=transition_id, place="1001")
    conclusion = concluded(run)
    assert proposed(conclusion) == ["Crashed"]
    assert isinstance(conclusion, Propose)
    assert conclusion.states[0].message == "It ended."


def test_running_whose_place_was_never_reported_is_a_crash() -> None:
    assert proposed(concluded(flow_run(StateType.RUNNING))) == ["Crashed"]


def test_running_after_a_cancellation_is_cancelled() -> None:
    run = flow_run(StateType.RUNNING, place="1001")
    assert proposed(concluded(run, cancel_requested=True)) == ["Cancelled"]


def test_running_elsewhere_is_left_alone() -> None:
    assert isinstance(concluded(flow_run(StateType.RUNNING, place="other-host:7")), Leave)


def test_pending_of_ours_is_a_crash() -> None:
    assert proposed(concluded(flow_run(StateType.PENDING, transition_id=OURS))) == ["Crashed"]


@pytest.mark.parametrize("transition_id", [THEIRS, None])
def test_pending_of_somebody_else_is_left_alone(transition_id: UUID | None) -> None:
    assert isinstance(concluded(flow_run(StateType.PENDING, transition_id=transition_id)), Leave)


def test_suspended_is_left_alone() -> None:
    assert isinstance(concluded(flow_run(StateType.PAUSED, "Suspended")), Leave)


def test_paused_without_a_process_is_a_crash() -> None:
    """A flow that is paused, unlike a suspended one, waits in its process, and that is gone."""
    assert proposed(concluded(flow_run(StateType.PAUSED, "Paused"))) == ["Crashed"]


def test_retry_in_process_is_taken_from_the_process() -> None:
    run = flow_run(StateType.SCHEDULED, "AwaitingRetry", retry_type="in_process")
    conclusion = concluded(run)
    assert proposed(conclusion) == ["Crashed", "AwaitingRetry"]
    assert isinstance(conclusion, Propose)
    assert conclusion.states[1].scheduled_time == NOW


@pytest.mark.parametrize(
    ("name", "retry_type"),
    [("AwaitingRetry", None), ("AwaitingRetry", "reschedule"), ("Scheduled", None), ("Resuming", None)],
)
def test_run_that_is_scheduled_anew_is_left_to_the_workers(name: str, retry_type: str | None) -> None:
    assert isinstance(concluded(flow_run(StateType.SCHEDULED, name, retry_type=retry_type)), Leave)


def test_run_without_any_state_is_a_crash() -> None:
    assert proposed(concluded(flow_run(None))) == ["Crashed"]


@pytest.mark.parametrize("state_type", list(StateType))
@pytest.mark.parametrize("cancel_requested", [True, False])
def test_no_state_is_without_a_conclusion(state_type: StateType, cancel_requested: bool) -> None:
    conclusion = concluded(flow_run(state_type), cancel_requested=cancel_requested)
    assert isinstance(conclusion, Leave | Propose)


def test_states_say_what_they_are() -> None:
    assert crashed("why").type is StateType.CRASHED
    assert cancelled().message == "Flow run was cancelled successfully."
    assert scheduled("why", NOW).scheduled_time == NOW
    assert awaiting_retry("why", NOW).name == "AwaitingRetry"


def test_each_proposal_has_a_transition_id_of_its_own() -> None:
    assert crashed("why").transition_id != crashed("why").transition_id
