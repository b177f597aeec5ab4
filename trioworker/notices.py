"""What the worker tells the person who watches it; the library itself prints nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from trioworker.lean_attrs import frozen

_logger = logging.getLogger("trioworker")


@frozen
class Notice:
    """One line about a change of condition.

    Attributes:
        message: the line.
        warning: whether something wants attention.
    """

    message: str
    warning: bool = False


Notify = Callable[[Notice], None]


def log_notice(notice: Notice) -> None:
    """Put a notice into Python's log: what a worker does with notices unless told otherwise."""
    _logger.log(logging.WARNING if notice.warning else logging.INFO, notice.message)


def count_runs(number: int) -> str:
    """A number of flow runs, in words."""
    return "1 flow run" if number == 1 else f"{number} flow runs"
