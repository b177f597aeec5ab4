"""What to make of a run whose process has ended: pure decisions.

Most runs have reported their own final state by then, and nothing is left to do. The others would stay
`Running` for ever if nobody spoke for them.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from datetime import datetime
from uuid import UUID

from trioworker.api.models import FlowRun, ProposedState, State, StateType
from trioworker.lean_attrs import frozen


@frozen
class Leave:
    """The run needs nothing more from this worker."""

    reason: str


@frozen
class Propose:
    """States to propose, in order.

    Attributes:
        states: the states.
        handed_on: the retry that they leave to any worker, if they do: its slot and its place go with it.
    """

    states: tuple[ProposedState, ...]
    handed_on: State | None = None


Conclusion = Leave | Propose


def conclude(  # noqa: PLR0911 - a table, one row a return
    flow_run: FlowRun,
    *,
    ended: str,
    known_places: AbstractSet[str | None],
    own_transition_ids: AbstractSet[UUID],
    cancel_requested: bool,
    knows_running: bool = False,
    now: datetime,
) -> Conclusion:
    """Decide what a run needs whose process is gone, or never was.

    Args:
        flow_run: the run as the server has it now.
        ended: how it ended, as a sentence for the state's message.
        known_places: the `infrastructure_pid` that this worker reported for it, and the one it had before.
        own_transition_ids: of the states that this worker proposed for it.
        cancel_requested: whether this worker was asked to cancel it, and did.
        knows_running: whether its being `Running` was proposed by this worker too, and not by a process of its own.
        now: the time of day.
    """
    state = flow_run.state
    if state is None:
        return Propose((crashed(ended),))
    match state.type:
        case StateType.CANCELLING:
            return Propose((cancelled(),))
        case StateType.CRASHED if cancel_requested:
            # Terminated without word of a cancellation, Prefect's engine reports a crash before it goes.
            return Propose((cancelled(),))
        case final if final.is_final:
            return Leave(f"it ended {state.label}")
        case StateType.PAUSED if state.name == "Suspended":
            return Leave("it is suspended and goes on in another process")
        case StateType.SCHEDULED:
            if state.name == "AwaitingRetry" and flow_run.empirical_policy.retry_type == "in_process":
                # It meant to wait for the retry itself, so no worker is ever offered it. A crash takes that
                # intention away, after which the retry is anybody's.
                return Propose((crashed(ended), awaiting_retry(ended, now)), handed_on=state)
            return Leave("it is scheduled anew")
        case StateType.PENDING if state.state_details.transition_id not in own_transition_ids:
            return Leave("somebody else has claimed it since")
        case StateType.RUNNING if (
            knows_running and state.state_details.transition_id not in own_transition_ids
        ):
            return Leave("somebody else has begun it")
        case StateType.RUNNING if flow_run.infrastructure_pid not in {None, *known_places}:
            return Leave("it runs elsewhere by now")
        case _:
            return Propose((cancelled() if cancel_requested else crashed(ended),))


def reschedule(conclusion: Conclusion, flow_run: FlowRun, *, ended: str, now: datetime) -> Conclusion:
    """Have a run tried again in place of its crash, be that to be reported yet or reported by the run's engine.

    Args:
        conclusion: what `conclude` has decided.
        flow_run: the run as the server has it now.
        ended: how it ended, as a sentence for the state's message.
        now: the time of day.
    """
    retry = awaiting_retry(ended, now)
    match conclusion:
        case Leave() if flow_run.state is not None and flow_run.state.type is StateType.CRASHED:
            return Propose((retry,), handed_on=flow_run.state)
        case Propose(states=(only,), handed_on=None) if only.type is StateType.CRASHED:
            # Of a run that once has waited for a retry itself, only an end takes that intention away.
            waits_itself = flow_run.empirical_policy.retry_type == "in_process"
            return Propose((only, retry) if waits_itself else (retry,), handed_on=flow_run.state)
    return conclusion


def submitting() -> ProposedState:
    """A run that a worker has prepared and is about to start."""
    return ProposedState(type=StateType.PENDING, name="Submitting")


def crashed(message: str) -> ProposedState:
    """The end of a run that something outside its flow put an end to."""
    return ProposedState(type=StateType.CRASHED, name="Crashed", message=message)


def cancelled(message: str = "Flow run was cancelled successfully.") -> ProposedState:
    """The end of a run that somebody wanted ended."""
    return ProposedState(type=StateType.CANCELLED, name="Cancelled", message=message)


def scheduled(message: str, due: datetime) -> ProposedState:
    """A run that any worker may take, and start at the given time."""
    return ProposedState(type=StateType.SCHEDULED, name="Scheduled", message=message, scheduled_time=due)


def awaiting_retry(message: str, now: datetime) -> ProposedState:
    """A run whose next attempt any worker may begin at once."""
    return ProposedState(type=StateType.SCHEDULED, name="AwaitingRetry", message=message, scheduled_time=now)
