"""What is right, and since when: pure decisions about what was seen.

A run is right when three things hold, and go on holding: it is in a final state, this state is true, and no process
of it goes on with nobody who watches it. `Completed` is true if the flow came to its end; `Cancelled` if it did not
and somebody wanted that; `Crashed` and `Failed` if it did not and nobody did. Nothing is right if the same attempt
began twice. States that are no end, such as `Running`, do not count as right, even where they are true.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs


@attrs.frozen(kw_only=True)
class Moment:
    """What was seen of a run at one moment.

    Attributes:
        at: seconds since the fault; negative before it.
        type: the type of the run's state, such as "RUNNING".
        name: the name of that state.
        living: how many processes of the run there are.
        unwatched: how many of these are watched by no living worker.
        began: how often the flow has begun.
        most_of_an_attempt: how often one attempt of it has begun.
        ended: whether it has come to its end.
    """

    at: float
    type: str
    name: str
    living: int = 0
    unwatched: int = 0
    began: int = 0
    most_of_an_attempt: int = 0
    ended: bool = False


@attrs.frozen(kw_only=True)
class Verdict:
    """What became of a run.

    Attributes:
        state: the name of its last state.
        right_after: seconds from the fault until all was right, and stayed so; None if it never was.
        left: processes of it at the end.
        unwatched: seconds during which a process of it went on with nobody who watched it.
        began: how often the flow began.
        most_of_an_attempt: how often one attempt of it began.
        ended: whether it came to its end.
        watched: seconds from the fault to the end of the watch.
    """

    state: str
    right_after: float | None
    left: int
    unwatched: float
    began: int
    most_of_an_attempt: int
    ended: bool
    watched: float


def is_right(moment: Moment, *, is_cancelled: bool) -> bool:
    """Whether all is right at a moment.

    Args:
        moment: what was seen.
        is_cancelled: whether somebody has asked for the run to be cancelled.
    """
    if moment.unwatched or moment.most_of_an_attempt > 1:
        return False
    match moment.type:
        case "COMPLETED":
            return moment.ended
        case "CANCELLED":
            return is_cancelled and not moment.ended
        case "CRASHED" | "FAILED":
            return not is_cancelled and not moment.ended
        case _:
            return False


def is_over(moments: Sequence[Moment], *, is_cancelled: bool, held: float) -> bool:
    """Whether nothing more is to be expected: all has been right for so many seconds, and no process is there."""
    since = _right_since(moments, is_cancelled=is_cancelled)
    return since is not None and not moments[-1].living and moments[-1].at - since >= held


def judge(moments: Sequence[Moment], *, is_cancelled: bool) -> Verdict:
    """Judge what became of a run.

    Args:
        moments: what was seen since the fault was inflicted, at least once, in order.
        is_cancelled: whether somebody has asked for the run to be cancelled.
    """
    last = moments[-1]
    since = _right_since(moments, is_cancelled=is_cancelled)
    return Verdict(
        state=last.name,
        right_after=None if since is None or last.living else max(since, 0.0),
        left=last.living,
        unwatched=sum(then.at - now.at for now, then in pairwise(moments) if now.unwatched),
        began=last.began,
        most_of_an_attempt=last.most_of_an_attempt,
        ended=last.ended,
        watched=last.at,
    )


def _right_since(moments: Sequence[Moment], *, is_cancelled: bool) -> float | None:
    since: float | None = None
    for moment in moments:
        if not is_right(moment, is_cancelled=is_cancelled):
            since = None
        elif since is None:
            since = moment.at
    return since
