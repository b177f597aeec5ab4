"""How a case gets into the matrix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from play import Case, Play

Script = Callable[[Play], Awaitable[None]]


def collect(cases: list[Case], **common: Any) -> Callable[..., Callable[[Script], Script]]:
    """A decorator that turns functions into cases and puts them on a list; it takes the fields of `Case`.

    Args:
        cases: the list.
        common: fields of all of them.
    """

    def case(pool: str = "main", **fields: Any) -> Callable[[Script], Script]:
        def put(play: Script) -> Script:
            cases.append(Case(play.__name__.replace("_", "-"), play, pool, **common, **fields))
            return play

        return put

    return case
