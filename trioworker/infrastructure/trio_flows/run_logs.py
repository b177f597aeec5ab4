"""Standard `logging` within functions, sent to the log of the run that they are called for."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

import trio

from trioworker.api.models import LogLine
from trioworker.infrastructure.trio_flows.current import RunInContext, run_in_context

# Bytes of a message; with the rest of a line that is what Prefect allows it by default.
_LARGEST = 990_000
_CUT = "... [truncated]"

# That lines get lost must not make more lines.
_OWN = "trioworker"


class _OwnLevel(int):
    """A level that a worker has set: as soon as the program sets the same one, it is another object."""


class RunLogHandler(logging.Handler):
    """Sends what is logged in the context of a flow run to that run's log, from whatever thread.

    Trio's tasks and threads inherit that context; a bare `threading.Thread` has to be given a copy of it.
    A record with `send_to_api=False` among its extras stays here, as with Prefect.

    Args:
        now: the time of day.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._now = now
        self._trio = trio.lowlevel.current_trio_token()

    def attach(self) -> None:
        """Get what is logged; to be called again, since programs may configure `logging` at any time."""
        root = logging.getLogger()
        if self not in root.handlers:
            root.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, if it belongs to a run of this worker's."""
        _show_as_if_unconfigured(record, self)
        run = run_in_context.get()
        if run is None or run.owner is not self or run.send is None:
            return
        if record.name.partition(".")[0] == _OWN or not getattr(record, "send_to_api", True):
            return
        try:
            message = self.format(_fresh(record))
        except Exception:  # noqa: BLE001 - a message that cannot be formatted is its author's
            self.handleError(record)
            return
        self._send(run, record, message)

    def _send(self, run: RunInContext, record: logging.LogRecord, message: str) -> None:
        if _current_token() is self._trio:
            self._send_from_trio(run, record, message, timedelta(0))
            return

        def send() -> None:
            age = timedelta(seconds=max(0.0, time.time() - record.created))
            self._send_from_trio(run, record, message, age)

        # A thread that outlives the program has nobody left to tell.
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(send)

    def _send_from_trio(
        self, run: RunInContext, record: logging.LogRecord, message: str, age: timedelta
    ) -> None:
        assert run.send is not None  # noqa: S101 - asked before
        run.send(
            LogLine(
                name=record.name,
                level=record.levelno,
                message=sendable(message),
                timestamp=self._now() - age,
                flow_run_id=run.flow_run.id,
            )
        )


def _fresh(record: logging.LogRecord) -> logging.LogRecord:
    """A copy to be formatted: formatters leave traces in a record, which other handlers would show."""
    record = copy.copy(record)
    record.exc_text = None
    return record


def sendable(text: str) -> str:
    """Text as every server can store it: cut where it would take no more, and without what no database calls text."""
    encoded = text.replace("\0", "\\x00").encode(errors="backslashreplace")
    if len(encoded) <= _LARGEST:
        return encoded.decode()
    return encoded[: _LARGEST - len(_CUT)].decode(errors="ignore") + _CUT


def _current_token() -> trio.lowlevel.TrioToken | None:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def _show_as_if_unconfigured(record: logging.LogRecord, handler: RunLogHandler) -> None:
    """Show a warning where Python does if a program has configured no logging: our handlers are no configuration."""
    last_resort = logging.lastResort
    if last_resort is None or record.levelno < last_resort.level:
        return
    found = list(_handlers_of(record.name))
    if found[:1] == [handler] and all(isinstance(each, RunLogHandler) for each in found):
        last_resort.handle(record)


def _handlers_of(name: str) -> Iterator[logging.Handler]:
    """The handlers that get what a logger logs."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def _is_configured() -> bool:
    """Whether the program has a logging of its own, whose levels are to be left alone."""
    root = logging.getLogger()
    others = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return root.level != logging.WARNING or any(
        not isinstance(handler, (RunLogHandler, logging.NullHandler))
        for logger in (root, *others)
        for handler in logger.handlers
    )


@contextmanager
def sending_run_logs(now: Callable[[], datetime]) -> Iterator[RunLogHandler]:
    """Send what functions log for the length of a block.

    What a program's own configuration of `logging` does not let through never gets here. In a program that has none,
    which would let through warnings alone, everything from INFO on does, until the last worker is gone or the program
    sets a level. A program that wants a configuration had better make it before: `logging.basicConfig` does nothing
    once there is any handler, unless it is told to `force` it.
    """
    root = logging.getLogger()
    handler = RunLogHandler(now)
    if not _is_configured():
        root.setLevel(_OwnLevel(logging.INFO))
    handler.attach()
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        _put_level_back(root)


def _put_level_back(root: logging.Logger) -> None:
    """Give the root logger its usual level, unless the program has set one or another worker still wants ours."""
    is_wanted = any(isinstance(other, RunLogHandler) for other in root.handlers)
    if isinstance(root.level, _OwnLevel) and not is_wanted:
        root.setLevel(logging.WARNING)
