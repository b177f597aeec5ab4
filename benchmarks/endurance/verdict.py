"""Whether a run has come to the end that is true of it: pure judgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.apparatus.rest import StateSeen
from benchmarks.faults.journal import Journal

_FINAL: Final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def problem(history: Sequence[StateSeen], journal: Journal, *, was_cancelled: bool) -> str | None:
    """What is wrong with a run; None if nothing is.

    Args:
        history: all states that it has been in.
        journal: what its flow has noted.
        was_cancelled: whether somebody wanted it cancelled.
    """
    if not history:
        return "lost: the server does not know it"
    last = history[-1]
    claims = sum(state.type == "PENDING" and state.name == "Pending" for state in history)
    if last.type not in _FINAL:
        return f"lost: it is {last.name} for ever"
    if journal.executions > claims:
        return f"executed {journal.executions} times, claimed {claims} times"
    return _untrue(last, journal, was_cancelled=was_cancelled)


def _untrue(last: StateSeen, journal: Journal, *, was_cancelled: bool) -> str | None:
    """In how far a final state is not true."""
    match last.type:
        case "COMPLETED" if not journal.ended:
            return "Completed, though its flow has not come to its end"
        case "CANCELLED" if not was_cancelled:
            return "Cancelled, though nobody wanted that"
        # A flow whose own request of the server fails is Failed, and that is true.
        case "FAILED" if journal.ended:
            return f"Failed, though its flow has come to its end: {last.message}"
    return None
