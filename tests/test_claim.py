"""Whether a claim that the server has accepted may be acted upon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import attrs
import pytest
import trio
import trio.testing
from support import World

from trioworker.api.models import (
    FlowRun,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
    StateDetails,
    StateType,
)
from trioworker.runs.claim import (
    Cancelling,
    Granted,
    Late,
    Lost,
    is_proved,
    judge_claim,
    judge_refusal,
    overtaken,
)

Clock = trio.testing.MockClock

OURS, THEIRS = uuid4(), uuid4()


def state(state_type: StateType, transition_id: UUID | None = None) -> State:
    return State(type=state_type, state_details=StateDetails(transition_id=transition_id))


SCHEDULED = state(StateType.SCHEDULED)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_first_claim_after_scheduling_is_granted() -> None:
    assert judge_claim([SCHEDULED, state(StateType.PENDING, OURS)], {OURS}) == Granted()


def test_claim_of_a_run_that_is_to_be_cancelled_is_good_for_that() -> None:
    history = [SCHEDULED, state(StateType.PENDING, OURS), state(StateType.CANCELLING)]
    assert judge_claim(history, {OURS}) == Cancelling()


@pytest.mark.parametrize("decided", [StateType.SCHEDULED, StateType.RUNNING])
def test_claim_that_others_have_decided_over_is_lost(decided: StateType) -> None:
    assert judge_claim([SCHEDULED, state(StateType.PENDING, OURS), state(decided)], {OURS}) == Lost()


def test_claim_of_a_run_that_others_have_ended_is_not_good() -> None:
    ended = state(StateType.CANCELLED)
    assert judge_claim([SCHEDULED, state(StateType.PENDING, OURS), ended], {OURS}) == Late(ended)


def test_claim_that_arrived_before_the_end_but_took_effect_after_it_has_revived_the_run() -> None:
    running, ended = state(StateType.RUNNING), state(StateType.COMPLETED)
    theirs, ours = state(StateType.PENDING, THEIRS), state(StateType.PENDING, OURS)
    assert judge_claim([SCHEDULED, theirs, running, ours, ended], {OURS}) == Late(ended)
    assert judge_claim([SCHEDULED, ours, theirs, running, ended], {OURS}) == Late(ended)


def test_of_two_claims_the_first_is_granted_though_the_second_was_accepted() -> None:
    history = [SCHEDULED, state(StateType.PENDING, OURS), state(StateType.PENDING, THEIRS)]
    assert judge_claim(history, {OURS}) == Granted()
    assert judge_claim(history, {THEIRS}) == Lost()


def test_claim_that_another_worker_has_gone_on_from_is_theirs() -> None:
    submitting = State(type=StateType.PENDING, name="Submitting")
    history = [SCHEDULED, state(StateType.PENDING, OURS), state(StateType.PENDING, THEIRS), submitting]
    assert judge_claim(history, {OURS}) == Lost()
    assert judge_claim([*history, state(StateType.CANCELLING)], {OURS}) == Lost()


def test_second_claim_is_the_others() -> None:
    history = [SCHEDULED, state(StateType.PENDING, THEIRS), state(StateType.PENDING, OURS)]
    assert judge_claim(history, {OURS}) == Lost()
    assert judge_claim(history, {THEIRS}) == Granted()


def test_claim_of_a_run_that_somebody_runs_is_the_others() -> None:
    history = [SCHEDULED, state(StateType.RUNNING), state(StateType.PENDING, OURS)]
    assert judge_claim(history, {OURS}) == Lost()


@pytest.mark.parametrize(
    "final", [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
)
def test_claim_of_a_run_that_has_ended_revives_it(final: StateType) -> None:
    ended = state(final)
    assert judge_claim([SCHEDULED, ended, state(StateType.PENDING, OURS)], {OURS}) == Late(ended)


def test_claim_that_left_no_trace_is_not_acted_upon() -> None:
    assert judge_claim([SCHEDULED], {OURS}) == Lost()
    assert judge_claim([], {OURS}) == Lost()


def sequence(*types: StateType, ours_at: int) -> list[State]:
    """A history, with ids, and a claim of ours."""
    return [
        State(
            id=uuid4(),
            type=each,
            state_details=StateDetails(transition_id=OURS if place == ours_at else None),
        )
        for place, each in enumerate(types)
    ]


BEGUN_BY_OTHERS = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)


def test_claim_of_a_retry_that_others_have_come_to_is_late() -> None:
    history = sequence(*BEGUN_BY_OTHERS, StateType.SCHEDULED, StateType.PENDING, ours_at=4)
    assert judge_claim(history, {OURS}, history[0].id) == Late(history[3])
    # Found as that retry, it is a retry for whoever is free.
    assert judge_claim(history, {OURS}, history[3].id) == Granted()


def test_claim_that_arrived_before_a_retry_of_others_but_took_effect_after_it_is_late() -> None:
    history = sequence(
        StateType.SCHEDULED, StateType.PENDING, *BEGUN_BY_OTHERS[1:], StateType.SCHEDULED, ours_at=1
    )
    assert judge_claim(history, {OURS}, history[0].id) == Late(history[4])


def test_claim_of_a_run_that_others_have_given_back_is_good() -> None:
    history = sequence(
        StateType.SCHEDULED, StateType.PENDING, StateType.SCHEDULED, StateType.PENDING, ours_at=3
    )
    assert judge_claim(history, {OURS}, history[0].id) == Granted()


@pytest.mark.parametrize("left_as", [StateType.COMPLETED, StateType.SCHEDULED])
def test_refusal_that_has_overwritten_what_others_have_left_is_seen(left_as: StateType) -> None:
    history = sequence(*BEGUN_BY_OTHERS, left_as, StateType.SCHEDULED, ours_at=-1)
    assert judge_refusal(history, history[-1], history[0].id) == Late(history[3])


@pytest.mark.parametrize("before", [(), BEGUN_BY_OTHERS[1:], BEGUN_BY_OTHERS[1:2]])
def test_refusal_that_has_overwritten_nothing_is_only_a_refusal(before: tuple[StateType, ...]) -> None:
    history = sequence(StateType.SCHEDULED, *before, StateType.SCHEDULED, ours_at=-1)
    assert judge_refusal(history, history[-1], history[0].id) is None


async def test_run_that_ended_between_poll_and_claim_is_put_back_to_its_end(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working() as worker:
        await trio.sleep(0.5)
        world.api.set_state(run.id, "Running")
        world.api.set_state(run.id, "Completed")
        await trio.sleep(5)
        assert worker.runs_in_hand == 0
    assert world.states(run)[-1] == "Completed"
    assert world.infrastructure.executions == []


async def test_end_is_put_back_though_the_run_could_not_be_prepared(
    autojump_clock: Clock, world: World
) -> None:
    """What keeps us from running it says nothing about a run that another worker has brought to its end."""
    run = world.schedule(job_variables={"env": "no mapping"})
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working():
        await trio.sleep(0.5)
        world.api.set_state(run.id, "Running")
        world.api.set_state(run.id, "Completed")
        await trio.sleep(5)
    assert world.states(run)[-1] == "Completed"
    assert "Crashed" not in world.states(run)


async def test_run_of_another_worker_is_not_cancelled_because_its_deployment_is_gone(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["set_flow_run_state"] = 1
    async with world.working():
        await trio.sleep(0.5)
        world.api.set_state(run.id, "Running")
        world.api.delete_deployment(world.deployment.id)
        await trio.sleep(5)
    assert world.states(run)[-1] == "Running"


def test_states_that_we_have_proposed_since_the_claim_are_ours_too() -> None:
    submitting = uuid4()
    history = [SCHEDULED, state(StateType.PENDING, OURS), state(StateType.PENDING, submitting)]
    assert judge_claim(history, {OURS, submitting}) == Granted()


def test_run_that_ended_between_our_states_is_somebody_elses() -> None:
    submitting, ended = uuid4(), state(StateType.COMPLETED)
    history = [SCHEDULED, state(StateType.PENDING, OURS), ended, state(StateType.PENDING, submitting)]
    assert judge_claim(history, {OURS, submitting}) == Late(ended)


DUE = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = FlowRun(id=uuid4(), name="red-fox", flow_id=uuid4(), next_scheduled_start_time=DUE)
CLAIM = ProposedState(type=StateType.PENDING, name="Pending")


def kept(state_type: StateType, transition_id: UUID | None = None) -> State:
    """A state as the server has it."""
    return attrs.evolve(state(state_type, transition_id), id=uuid4())


def test_nothing_is_overtaken_by_the_only_claim() -> None:
    claim, submitting = kept(StateType.PENDING, OURS), kept(StateType.PENDING, OURS)
    scheduled = kept(StateType.SCHEDULED)
    assert overtaken([scheduled, claim], claim, {OURS}) is None
    assert overtaken([scheduled, claim, submitting], submitting, {OURS}) is None


def test_nothing_is_overtaken_by_the_claim_of_a_run_that_is_tried_again() -> None:
    theirs, running = kept(StateType.PENDING, THEIRS), kept(StateType.RUNNING)
    claim = kept(StateType.PENDING, OURS)
    history = [kept(StateType.SCHEDULED), theirs, running, kept(StateType.SCHEDULED), claim]
    assert overtaken(history, claim, {OURS}) is None


@pytest.mark.parametrize("left_as", [StateType.COMPLETED, StateType.FAILED, StateType.SCHEDULED])
def test_end_of_our_run_is_overtaken_by_what_we_had_asked_for_before(left_as: StateType) -> None:
    claim, left = kept(StateType.PENDING, OURS), kept(left_as)
    late, later = kept(StateType.PENDING, OURS), kept(StateType.PENDING, OURS)
    history = [kept(StateType.SCHEDULED), claim, kept(StateType.RUNNING), left]
    assert overtaken([*history, late], late, {OURS}) == left
    assert overtaken([*history, late, later], later, {OURS}) == left


def test_end_is_overtaken_also_by_what_arrived_before_it() -> None:
    late, ended = kept(StateType.PENDING, OURS), kept(StateType.COMPLETED)
    history = [kept(StateType.SCHEDULED), kept(StateType.PENDING, OURS), late, kept(StateType.RUNNING), ended]
    assert overtaken(history, late, {OURS}) == ended


def test_what_others_have_claimed_is_not_overtaken_by_us() -> None:
    theirs = kept(StateType.PENDING, THEIRS)
    history = [kept(StateType.SCHEDULED), kept(StateType.PENDING, OURS), kept(StateType.FAILED), theirs]
    assert overtaken(history, theirs, {OURS}) is None
    assert overtaken(history, None, {OURS}) is None
    assert overtaken([*history, ended := kept(StateType.COMPLETED)], ended, {OURS}) is None


def answer(
    status: SetStateStatus = SetStateStatus.ACCEPT,
    state_type: StateType = StateType.PENDING,
    transition_id: UUID = CLAIM.transition_id,
    scheduled_time: datetime | None = DUE,
) -> OrchestrationResult:
    details = StateDetails(transition_id=transition_id, scheduled_time=scheduled_time)
    return OrchestrationResult(status=status, state=State(type=state_type, state_details=details))


def test_claim_that_has_taken_over_the_time_of_the_run_is_proved() -> None:
    assert is_proved(CLAIM, answer(), FOUND)


@pytest.mark.parametrize(
    "doubtful",
    [
        answer(scheduled_time=None),
        answer(scheduled_time=DUE + timedelta(seconds=1)),
        answer(SetStateStatus.REJECT),
        answer(transition_id=THEIRS),
        answer(state_type=StateType.SCHEDULED),
        OrchestrationResult(status=SetStateStatus.ACCEPT),
    ],
    ids=["of a run that ended", "of a retry", "repeated", "of somebody else", "put off", "stateless"],
)
def test_claim_is_not_proved_by_any_other_answer(doubtful: OrchestrationResult) -> None:
    assert not is_proved(CLAIM, doubtful, FOUND)


def test_claim_of_a_run_without_a_time_is_not_proved() -> None:
    assert not is_proved(
        CLAIM, answer(scheduled_time=None), attrs.evolve(FOUND, next_scheduled_start_time=None)
    )


async def test_claim_that_is_proved_needs_no_history(autojump_clock: Clock, world: World) -> None:
    run = world.schedule()
    async with world.working():
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.count("read_flow_run_states") == 0


async def test_claim_whose_answer_got_lost_is_judged_by_the_history(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.lose_answer("set_flow_run_state")
    async with world.working():
        await world.api.wait_for_state(run.id, "Completed")
    assert world.api.count("read_flow_run_states") == 1


async def test_claim_that_was_long_ago_when_the_run_is_prepared_is_judged_by_the_history(
    autojump_clock: Clock, world: World
) -> None:
    run = world.schedule()
    world.api.latencies["read_deployment"] = 15
    async with world.working():
        await world.api.wait_for_state(run.id, "Pending")
        # Somebody takes the run away, and another worker is quicker than the slow answer.
        world.api.set_state(run.id, "Scheduled")
        world.api.set_state(run.id, "Pending")
        await trio.sleep(60)
    assert world.states(run) == ["Scheduled", "Pending", "Scheduled", "Pending"]
    assert world.infrastructure.executions == []
