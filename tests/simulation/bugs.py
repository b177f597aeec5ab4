"""What the product itself takes for a bug: a line in its log, with the error."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Collector", "bugs_collected"]


class Collector(logging.Handler):
    """Takes the log.

    Attributes:
        bugs: what it says of bugs.
        tell: told every line of it, if anybody wants to know.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bugs: list[str] = []
        self.tell: Callable[[str], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        if self.tell is not None:
            self.tell(f"  log: {record.getMessage()}")
        if record.exc_info:
            error = "".join(traceback.format_exception(*record.exc_info))
            self.bugs.append(f"{record.getMessage()}\n{error}")


@contextmanager
def bugs_collected(*, talkative: bool = False) -> Iterator[Collector]:
    """For the length of a block, write no log, but collect what it would say of bugs.

    Args:
        talkative: whether every line is wanted.
    """
    logger = logging.getLogger("trioworker")
    collector = Collector()
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG if talkative else logging.ERROR)
    logger.propagate = False
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)
        logger.level, logger.propagate = before
