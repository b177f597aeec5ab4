"""Whether a claim that the server has accepted may be acted upon: a pure decision.

The server cannot be asked to accept a claim only of a run that is still waiting. It takes the claim of a run
that has ended meanwhile for the wish to run it once more, and on SQLite it now and then accepts the claims of
two workers that come at the same moment. A run's history tells what really happened: a good claim directly
follows the run's being scheduled, and nothing but later claims follows it.

The order of the history is that in which the requests arrived, which is not always that in which they took
effect: a claim that had to wait its turn may stand before the states of a run that began and ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
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
    """The run has ended, in `ended_as`; if the claim took effect after that, the end is to be put back."""

    ended_as: State


Verdict = Granted | Cancelling | Lost | Revived


def judge_claim(history: Sequence[State], own_transition_ids: AbstractSet[UUID]) -> Verdict:
    """Judge a claim by the run's history.

    Args:
        history: all states of the run, oldest first; none if it was deleted.
        own_transition_ids: of our claim, and of the states that we have proposed since.
    """
    ours = [state.state_details.transition_id in own_transition_ids for state in history]
    if True not in ours:
        return Lost()
    place = ours.index(True)
    # Claims that came later were accepted by mistake, and their workers see it as we do.
    after = [state for state in history[place + 1 :] if state.type is not StateType.PENDING]
    if place == 0 or history[place - 1].type is StateType.SCHEDULED:
        if not after:
            return Granted()
        if after[-1].type is StateType.CANCELLING:
            return Cancelling()
    others = [state for state, is_ours in zip(history, ours, strict=True) if not is_ours]
    return Revived(others[-1]) if others[-1].type.is_final else Lost()
