"""Whether a claim that the server has accepted may be acted upon: pure decisions.

The server cannot be asked to accept a claim only of a run that is still waiting. It takes the claim of a run
that has ended meanwhile for the wish to run it once more, from one worker or from several in turn. A run's history
tells what really happened: a good claim directly follows the run's being scheduled, nobody has begun it since it was
found, and nothing but later claims follows.

The order of the history is that in which the requests arrived, which is not always that in which they took
effect: a claim that had to wait its turn may stand before the states of a run that began and ended meanwhile.

Mostly the answer to the claim tells as much, in the order of effect: a claim takes over the scheduled time of the
state that it follows, but only from one that is scheduled. If that is the time for which the run was found to be due,
nobody had begun it when the claim took effect, and no history need be read. There is only one such claim: the server
changes the state of a run under a lock, and accepts no claim of one that is Pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from uuid import UUID

from trioworker.api.models import (
    FlowRun,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
    StateType,
)
from trioworker.lean_attrs import frozen

# The name of the state that claims a run; finer ones follow when a worker acts upon its claim.
_CLAIM = "Pending"


@frozen
class Granted:
    """The run is this worker's to execute."""


@frozen
class Cancelling:
    """The run is this worker's, and somebody wants it cancelled."""


@frozen
class Lost:
    """The run is somebody else's by now, or nobody's; it is best left alone."""


@frozen
class Late:
    """Somebody else has run it, and left it in `left_as`; if the claim took effect after that, it is to be put back.

    It has ended, or waits to be tried again, mostly by whoever has begun it.
    """

    left_as: State


Verdict = Granted | Cancelling | Lost | Late


def is_proved(claim: ProposedState, answer: OrchestrationResult, found: FlowRun) -> bool:
    """Whether the answer to a claim shows that it followed the very state in which the run was found to be due.

    Args:
        claim: what was proposed.
        answer: the server's answer to that.
        found: the run as it was found.
    """
    state = answer.state
    if answer.status is not SetStateStatus.ACCEPT or state is None or state.type is not StateType.PENDING:
        return False
    details = state.state_details
    if details.transition_id != claim.transition_id or claim.scheduled_time is not None:
        return False
    return details.scheduled_time is not None and details.scheduled_time == found.next_scheduled_start_time


def judge_claim(
    history: Sequence[State], own_transition_ids: AbstractSet[UUID], found_as: UUID | None = None
) -> Verdict:
    """Judge a claim by the run's history.

    Args:
        history: all states of the run, oldest first; none if it was deleted.
        own_transition_ids: of our claim, and of the states that we have proposed since.
        found_as: the id of the state that the run was in when it was found to be due.
    """
    ours = [state.state_details.transition_id in own_transition_ids for state in history]
    if True not in ours:
        return Lost()
    place = ours.index(True)
    others = [state for state, is_ours in zip(history, ours, strict=True) if not is_ours]
    later = list(zip(history, ours, strict=True))[place + 1 :]
    # Claims that came later were accepted by mistake, and their workers see it as we do, unless they have gone on.
    after = [state for state, _ in later if state.type is not StateType.PENDING]
    gone_on = any(_is_acted_upon(state) for state, is_ours in later if not is_ours)
    follows_scheduling = place == 0 or history[place - 1].type is StateType.SCHEDULED
    if follows_scheduling and not gone_on and not _was_begun_since(found_as, others):
        if not after:
            return Granted()
        if after[-1].type is StateType.CANCELLING:
            return Cancelling()
    left_as = _left_by_others(others, found_as)
    return Lost() if left_as is None else Late(left_as)


def judge_refusal(history: Sequence[State], refused_as: State, found_as: UUID | None) -> Late | None:
    """Whether a claim that had no slot of the deployment's concurrency limit has overwritten what others have done.

    The server then has the run wait, or cancels it, though it may have ended or be somebody's by then.

    Args:
        history: all states of the run, oldest first.
        refused_as: the state that the server made of the run in answer to the claim.
        found_as: the id of the state that the run was in when it was found to be due.
    """
    left_as = _left_by_others([state for state in history if state.id != refused_as.id], found_as)
    return None if left_as is None else Late(left_as)


def overtaken(
    history: Sequence[State], current: State | None, own_transition_ids: AbstractSet[UUID]
) -> State | None:
    """The state that a request of ours has overwritten which took effect when the run was past it; None if none has.

    A request whose answer is lost is repeated, and may itself take effect much later: the server then takes it for
    the wish to run once more what has ended by then, or what somebody has been offered.

    Args:
        history: all states of the run, oldest first.
        current: the state that it has now.
        own_transition_ids: of all states that we have proposed for it.
    """
    if current is None or current.type is not StateType.PENDING:
        return None
    if current.state_details.transition_id not in own_transition_ids:
        return None
    before = [state for state in history if state.id != current.id]
    ours = [state.state_details.transition_id in own_transition_ids for state in before]
    while before and ours[-1] and before[-1].type is StateType.PENDING:
        before.pop()
        ours.pop()
    if not before:
        return None
    last = before[-1]
    # One that was given back is scheduled after a claim of ours, and one that we have claimed before it.
    is_over = last.type.is_final or (last.type is StateType.SCHEDULED and True in ours)
    return last if is_over else None


def _left_by_others(others: Sequence[State], found_as: UUID | None) -> State | None:
    """The state in which others have left a run that they have executed; None if they have not, or still do."""
    if not others:
        return None
    last = others[-1]
    waits = last.type is StateType.SCHEDULED and _was_begun_since(found_as, others)
    return last if last.type.is_final or waits else None


def _is_acted_upon(state: State) -> bool:
    """Whether the worker that has claimed a run is about to start it."""
    return state.type is StateType.PENDING and state.name not in {None, _CLAIM}


def _was_begun_since(found_as: UUID | None, others: Sequence[State]) -> bool:
    ids = [state.id for state in others]
    if found_as is None or found_as not in ids:
        return False
    return any(state.type is StateType.RUNNING for state in others[ids.index(found_as) :])
