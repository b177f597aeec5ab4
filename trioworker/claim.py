"""Whether a claim that the server has accepted may be acted upon: a pure decision.

The server cannot be asked to accept a claim only of a run that is still waiting. It takes the claim of a run
that has ended meanwhile for the wish to run it once more, and on SQLite it now and then accepts the claims of
two workers that come at the same moment. A run's history tells what really happened: a good claim is the
first one after the run was scheduled.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import attrs

from trioworker.api.models import State, StateType


@attrs.frozen
class Granted:
    """The run is this worker's to execute."""


@attrs.frozen
class Cancelling:
    """The run is this worker's, and somebody wants it cancelled."""


@attrs.frozen
class Lost:
    """The run is somebody else's by now, or nobody's; it is best left alone."""


@attrs.frozen
class Revived:
    """The run had ended, in `ended_as`; that is to be put back."""

    ended_as: State


Verdict = Granted | Cancelling | Lost | Revived


def judge_claim(history: Sequence[State], transition_id: UUID) -> Verdict:
    """Judge a claim by the run's history.

    Args:
        history: all states of the run, oldest first; none if it was deleted.
        transition_id: of our claim.
    """
    ours = [state.state_details.transition_id == transition_id for state in history]
    if True not in ours:
        return Lost()
    place = ours.index(True)
    before = history[place - 1] if place else None
    # Claims that came later were accepted by mistake, and their workers see it as we do.
    after = [state for state in history[place + 1 :] if state.type is not StateType.PENDING]
    if before is not None and before.type.is_final:
        return Lost() if after else Revived(before)
    if before is not None and before.type is not StateType.SCHEDULED:
        return Lost()
    if not after:
        return Granted()
    return Cancelling() if after[-1].type is StateType.CANCELLING else Lost()
