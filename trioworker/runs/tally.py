"""How many runs the worker's end has cut off, and what has become of them."""

from __future__ import annotations

from collections import Counter

from trioworker.api.models import StateType
from trioworker.notices import count_runs
from trioworker.runs.active import ActiveRun, RunEnd

__all__ = ["Tally"]

_LEFT = "left running"
_UNSETTLED = "not reported"

# What is said of runs by their state, in this order.
_BY_STATE = {
    StateType.CRASHED: "reported as crashed",
    StateType.SCHEDULED: "offered to any worker again",
    StateType.CANCELLED: "cancelled",
}
_BY_ITSELF = "ended by themselves in that moment"
_ORDER = (*_BY_STATE.values(), _BY_ITSELF, _LEFT, _UNSETTLED)


class Tally:
    """The runs that were cut off, counted."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, run: ActiveRun) -> None:
        """Count a run for which there is nothing left to do, if it was cut off."""
        match run.ending and run.ending.how:
            case RunEnd.LEFT:
                self._counts[_LEFT] += 1
            case RunEnd.UNSETTLED:
                self._counts[_UNSETTLED] += 1
            case RunEnd.CUT_OFF:
                state_type = None if run.state is None else run.state.type
                self._counts[_BY_ITSELF if state_type is None else _BY_STATE.get(state_type, _BY_ITSELF)] += 1

    @property
    def unsettled(self) -> bool:
        """Whether the API does not know of all of them what has become of them."""
        return self._counts[_UNSETTLED] > 0

    @property
    def sentence(self) -> str:
        """What has become of them all; empty if there were none."""
        if not (total := self._counts.total()):
            return ""
        kinds = [kind for kind in _ORDER if self._counts[kind]]
        parts = kinds if len(kinds) == 1 else [f"{self._counts[kind]} {kind}" for kind in kinds]
        return f"Cut off {count_runs(total)}: {', '.join(parts)}."
