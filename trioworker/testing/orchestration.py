"""How a Prefect server answers a proposed state, as far as a worker can meet it.

Pure functions: what is known of the run goes in, the verdict comes out. The order of the rules is the
server's, and the first rule that has an opinion decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import attrs

from trioworker.api.models import FlowRunPolicy, SetStateStatus, State, StateDetails, StateType
from trioworker.lean_attrs import frozen

# The server's default for a run that waits for a slot of its deployment's concurrency limit.
SLOT_WAIT_SECONDS = 30

# How a flow's result is described that was stored nowhere; the server forgets it.
_UNPERSISTED = "unpersisted"

_ACTIVE = frozenset({StateType.PENDING, StateType.RUNNING, StateType.CANCELLING})


@frozen(kw_only=True)
class DeploymentFacts:
    """What the rules want to know of a run's deployment.

    Attributes:
        concurrency_limit: how many of its runs may be active at once; None for any number.
        slots_taken: how many are.
        cancel_new: whether a run that finds no slot is cancelled instead of rescheduled.
    """

    concurrency_limit: int | None = None
    slots_taken: int = 0
    cancel_new: bool = False


@frozen(kw_only=True)
class Situation:
    """A run and what somebody proposes for it.

    Attributes:
        state: the state on record.
        proposed: the state that is proposed.
        now: the server's time.
        deployment: None if it was deleted.
        policy: the run's `empirical_policy`, which says how often and when `Failed` becomes `AwaitingRetry`.
        has_infrastructure: whether a worker has recorded where the run runs.
        has_lost_lease: whether the lease that the state names has run out.
        run_count: how often the run has been `Running`.
    """

    state: State
    proposed: State
    now: datetime
    deployment: DeploymentFacts | None
    policy: FlowRunPolicy = attrs.field(factory=FlowRunPolicy)
    has_infrastructure: bool = False
    has_lost_lease: bool = False
    run_count: int = 0


@frozen(kw_only=True)
class Verdict:
    """The answer.

    Attributes:
        status: what the caller is told.
        state: the state to put on record; None to leave what is there.
        reason: why, unless the proposal was accepted.
        delay_seconds: how long to wait, with `WAIT`.
        policy: the run's `empirical_policy` from now on.
    """

    status: SetStateStatus
    policy: FlowRunPolicy
    state: State | None = None
    reason: str | None = None
    delay_seconds: int = 0


def decide(situation: Situation, *, force: bool = False) -> Verdict:
    """Answer a proposed state.

    Args:
        situation: the run and the proposal.
        force: skip every rule that Prefect lets a caller skip.
    """
    for rule in _FORCED_RULES if force else _RULES:
        verdict = rule(situation)
        if verdict is not None:
            return verdict
    if force:
        return Verdict(status=SetStateStatus.ACCEPT, state=situation.proposed, policy=situation.policy)
    state = _with_kept_lease(situation, _with_kept_time(situation))
    return Verdict(status=SetStateStatus.ACCEPT, state=state, policy=_policy_after(situation))


def takes_slot(situation: Situation, verdict: Verdict, *, force: bool = False) -> bool:
    """Whether one more slot of the deployment is taken, on a lease of its own; a claim by force takes none.

    A run that has lost its lease while its infrastructure was being made takes another slot when it starts.
    """
    if force or verdict.state is None:
        return False
    if verdict.state.type is StateType.RUNNING:
        return _starts_without_its_slot(situation)
    return verdict.state.type is StateType.PENDING and situation.state.type not in _ACTIVE


def _starts_without_its_slot(situation: Situation) -> bool:
    return (
        situation.has_lost_lease
        and situation.state.type is StateType.PENDING
        and situation.proposed.type is StateType.RUNNING
        and situation.deployment is not None
        and situation.deployment.concurrency_limit is not None
    )


def frees_slot(situation: Situation, verdict: Verdict) -> bool:
    """Whether a slot of the deployment is given back, be it one that another run took.

    A run that retries in its own process keeps its slot.
    """
    if verdict.state is None or situation.state.type not in _ACTIVE or verdict.state.type in _ACTIVE:
        return False
    return not (verdict.status is SetStateStatus.REJECT and verdict.state.name == "AwaitingRetry")


def _reject(situation: Situation, reason: str, state: State | None = None) -> Verdict:
    return Verdict(status=SetStateStatus.REJECT, reason=reason, state=state, policy=situation.policy)


def _abort(situation: Situation, reason: str) -> Verdict:
    return Verdict(status=SetStateStatus.ABORT, reason=reason, policy=situation.policy)


def _same_transition(situation: Situation) -> Verdict | None:
    known = situation.state.state_details.transition_id
    if known is None or known != situation.proposed.state_details.transition_id:
        return None
    return _reject(situation, "This run has already made this state transition.")


def _terminal(situation: Situation) -> Verdict | None:
    never = {StateType.CANCELLING, StateType.PAUSED, StateType.CRASHED}
    if not situation.state.type.is_final or situation.proposed.type not in never:
        return None
    return _abort(situation, f"Run is already in terminal state {situation.state.type}.")


def _result_kept(situation: Situation) -> Verdict | None:
    """A run that has a result stays completed, unless it ends in another way after all."""
    if situation.state.type is not StateType.COMPLETED or not _is_persisted(situation.state.data):
        return None
    if situation.proposed.type.is_final:
        return None
    return _reject(situation, "Run is already COMPLETED.")


def _result_not_lost(situation: Situation) -> Verdict | None:
    if {situation.state.type, situation.proposed.type} != {StateType.COMPLETED}:
        return None
    if not _is_persisted(situation.state.data) or _is_persisted(situation.proposed.data):
        return None
    reason = "Cannot overwrite a COMPLETED state that carries persisted result data with one that does not."
    return _reject(situation, reason)


def _is_persisted(data: Any) -> bool:
    return isinstance(data, dict) and bool(data) and data.get("type") != _UNPERSISTED


def _cancelling(situation: Situation) -> Verdict | None:
    if situation.state.type is not StateType.CANCELLING or situation.proposed.type is StateType.CANCELLED:
        return None
    return _reject(situation, "Cannot transition flows that are cancelling to a state other than Cancelled.")


def _nothing_to_cancel(situation: Situation) -> Verdict | None:
    if situation.proposed.type is not StateType.CANCELLING:
        return None
    state = situation.state
    waiting = state.type is StateType.SCHEDULED and not situation.has_infrastructure
    if waiting or state.name == "Resuming":
        reason = "Scheduled flow run has no infrastructure to terminate."
    elif state.type is StateType.PAUSED and state.name == "Suspended":
        reason = "Suspended flow run has no infrastructure to terminate."
    else:
        return None
    return _reject(situation, reason, State(type=StateType.CANCELLED, name="Cancelled"))


def _second_claim(situation: Situation) -> Verdict | None:
    state, proposed = situation.state, situation.proposed
    if proposed.type is not StateType.PENDING:
        return None
    if state.type is StateType.PENDING and proposed.name not in {state.name, "Pending"}:
        return None
    if state.type not in {*_ACTIVE, StateType.CANCELLED}:
        return None
    return _abort(situation, f"This run is in a {state.type} state and cannot transition to a PENDING state.")


def _concurrency_limit(situation: Situation) -> Verdict | None:
    if situation.proposed.type is not StateType.PENDING or situation.state.type in _ACTIVE:
        return None
    deployment = situation.deployment
    if deployment is None:
        return _abort(situation, "Deployment not found.")
    limit = deployment.concurrency_limit
    if limit == 0:
        return _abort(
            situation,
            "The deployment concurrency limit is 0. The flow will deadlock if submitted again.",
        )
    if limit is None or deployment.slots_taken < limit:
        return None
    reason = "Deployment concurrency limit reached."
    if deployment.cancel_new:
        return _reject(situation, reason, State(type=StateType.CANCELLED, name="Cancelled", message=reason))
    later = situation.now + timedelta(seconds=SLOT_WAIT_SECONDS)
    waiting = State(
        type=StateType.SCHEDULED,
        name="AwaitingConcurrencySlot",
        state_details=StateDetails(scheduled_time=later),
    )
    return _reject(situation, reason, waiting)


def _slot_lost(situation: Situation) -> Verdict | None:
    """A run whose lease has run out starts only if there is still a slot for it."""
    deployment = situation.deployment
    if not _starts_without_its_slot(situation) or deployment is None:
        return None
    limit = deployment.concurrency_limit
    if limit is None or deployment.slots_taken < limit:
        return None
    message = (
        "Deployment concurrency slot lost during provisioning - no slots available to continue execution"
    )
    cancelled = State(type=StateType.CANCELLED, name="Cancelled", message=message)
    return _reject(situation, "Deployment concurrency limit reached after lease expiry.", cancelled)


def _late(situation: Situation) -> Verdict | None:
    if situation.proposed.type is not StateType.SCHEDULED or situation.proposed.name != "Late":
        return None
    if situation.state.type is not StateType.SCHEDULED:
        return _reject(situation, "Only scheduled flows can be marked late.")
    if situation.state.name == "Late":
        return _reject(situation, "This flow run is already marked late.")
    return None


def _pause(situation: Situation) -> Verdict | None:
    if situation.proposed.type is not StateType.PAUSED or situation.state.type is StateType.RUNNING:
        return None
    verb = "suspend" if situation.proposed.name == "Suspended" else "pause"
    return _reject(situation, f"Cannot {verb} flows that are not currently running.")


def _resume(situation: Situation) -> Verdict | None:
    if situation.state.type is not StateType.PAUSED or situation.proposed.type is not StateType.PENDING:
        return None
    # The server shows its enumeration's names here.
    reason = "This run cannot transition to the StateType.PENDING state from the StateType.PAUSED state."
    return _reject(situation, reason)


def _too_early(situation: Situation) -> Verdict | None:
    starting = {StateType.SCHEDULED, StateType.PENDING}
    if situation.proposed.type is not StateType.RUNNING or situation.state.type not in starting:
        return None
    scheduled_time = situation.state.state_details.scheduled_time
    if scheduled_time is None:
        return None
    delay = scheduled_time - situation.now
    seconds = math.floor(delay.total_seconds()) + round(delay.microseconds / 1e6)
    if seconds <= 0:
        return None
    return Verdict(
        status=SetStateStatus.WAIT,
        reason="Scheduled time is in the future",
        delay_seconds=seconds,
        policy=situation.policy,
    )


def _retry(situation: Situation) -> Verdict | None:
    if situation.state.type is not StateType.RUNNING or situation.proposed.type is not StateType.FAILED:
        return None
    policy = situation.policy
    if policy.retries is None or situation.run_count > policy.retries:
        return None
    # The server takes no list of delays for a flow run.
    delay = timedelta(seconds=policy.retry_delay if isinstance(policy.retry_delay, int) else 0)
    waiting = State(
        type=StateType.SCHEDULED,
        name="AwaitingRetry",
        message=situation.proposed.message,
        data=situation.proposed.data,
        state_details=StateDetails(scheduled_time=situation.now + delay),
    )
    return Verdict(
        status=SetStateStatus.REJECT,
        reason="Retrying",
        state=_with_kept_lease(situation, waiting),
        policy=attrs.evolve(policy, retry_type="in_process", pause_keys=[], resuming=False),
    )


_RULES: tuple[Callable[[Situation], Verdict | None], ...] = (
    _same_transition,
    _terminal,
    _result_kept,
    _result_not_lost,
    _cancelling,
    _nothing_to_cancel,
    _second_claim,
    _slot_lost,
    _concurrency_limit,
    _late,
    _pause,
    _resume,
    _too_early,
    _retry,
)
_FORCED_RULES = (_result_not_lost, _nothing_to_cancel)


def _policy_after(situation: Situation) -> FlowRunPolicy:
    policy, state, proposed = situation.policy, situation.state, situation.proposed
    if state.type.is_final and not proposed.type.is_final:
        retry_type = "reschedule" if proposed.type is StateType.SCHEDULED else None
        return attrs.evolve(policy, retry_type=retry_type, pause_keys=[], resuming=False)
    if state.type is StateType.RUNNING and proposed.type is StateType.FAILED:
        return attrs.evolve(policy, retry_type=None)
    return policy


def _with_kept_time(situation: Situation) -> State:
    """A claimed run keeps its scheduled time, and so do the finer states of a pending one."""
    state, proposed = situation.state, situation.proposed
    if proposed.type is not StateType.PENDING:
        return proposed
    claim = state.type is StateType.SCHEDULED and proposed.state_details.scheduled_time is None
    if not claim and state.type is not StateType.PENDING:
        return proposed
    return _with_time(proposed, state.state_details.scheduled_time)


def _with_kept_lease(situation: Situation, state: State) -> State:
    """The lease is shown by every later state that the server is sent, long after it was given back too."""
    from_claim = {situation.state.type, state.type} == {StateType.PENDING}
    if state.state_details.deployment_concurrency_lease_id is not None and not from_claim:
        return state
    return with_lease(state, situation.state.state_details.deployment_concurrency_lease_id)


def with_lease(state: State, lease_id: UUID | None) -> State:
    """The state, with this lease on a slot of its deployment's concurrency limit."""
    details = attrs.evolve(state.state_details, deployment_concurrency_lease_id=lease_id)
    return attrs.evolve(state, state_details=details)


def _with_time(state: State, scheduled_time: datetime | None) -> State:
    return attrs.evolve(state, state_details=attrs.evolve(state.state_details, scheduled_time=scheduled_time))


def recorded(state: State, *, now: datetime) -> State:
    """What the server makes of a state that it is sent, or that a rule of its own has led to.

    One that is scheduled for no time is so for now, and a result that is nowhere is none.
    """
    if state.type is StateType.SCHEDULED and state.state_details.scheduled_time is None:
        state = _with_time(state, now)
    if isinstance(state.data, dict) and state.data.get("type") == _UNPERSISTED:
        state = attrs.evolve(state, data=None)
    return attrs.evolve(state, id=uuid4(), timestamp=now)
