"""Whether a run went as it should, by its history: a worker that fails runs is not measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from benchmarks.apparatus.rest import StateSeen
from benchmarks.failures import FailedRunError

_WELL = {"Pending": 1, "Running": 1}


def expect(side: str, what: str, history: Sequence[StateSeen], end: str) -> None:
    """Make sure that a run was claimed once, ran once, and came to its proper end.

    Args:
        side: which worker executed it.
        what: which run it is.
        history: its states, oldest first.
        end: the name of the state that has to be the last.

    Raises:
        FailedRunError: it was otherwise; the message has all of its states.
    """
    names = [state.name for state in history]
    counts = {name: names.count(name) for name in _WELL}
    if names and names[-1] == end and counts == _WELL:
        return
    told = ", ".join(f"{state.name} ({state.message})" if state.message else state.name for state in history)
    raise FailedRunError(f"{side} failed {what}: it should have ended {end}, and was {told or 'nothing'}")


def entered(history: Sequence[StateSeen], name: str) -> datetime:
    """When a run first came to be in a state of this name, of which it is known to have been in one."""
    return next(state.at for state in history if state.name == name)


def seconds_between(history: Sequence[StateSeen], first: str, second: str) -> float:
    """Seconds from a run's first being in one state to its first being in another."""
    return (entered(history, second) - entered(history, first)).total_seconds()
