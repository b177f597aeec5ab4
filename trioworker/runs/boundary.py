"""The failure boundary of a run: whatever goes wrong with it ends here, and touches no other."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from trioworker.api.errors import APIError
from trioworker.infrastructure.protocol import InfrastructureError
from trioworker.runs.active import ActiveRun, RunEnd
from trioworker.runs.log import RunLog
from trioworker.runs.settlement import UnsettledError

__all__ = ["NotOursError", "failure_boundary"]

_logger = logging.getLogger(__name__)


class NotOursError(Exception):
    """Not a failure: the run goes to somebody else, or nowhere; the message says why."""


@contextmanager
def failure_boundary(active: ActiveRun, run_log: RunLog, *, lost: str) -> Iterator[None]:
    """Let no error leave the block; the run's end tells of it.

    Args:
        active: the run.
        run_log: told of it, too.
        lost: how the line begins that says why the run is not ours.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        # An error that met with a cancellation: that one goes on.
        errors, others = group.split(Exception)
        for error in _leaves(errors):
            _end_with(error, active, run_log, lost)
        if others is not None:
            raise others from group.__cause__
    except Exception as error:  # noqa: BLE001 - see above
        _end_with(error, active, run_log, lost)


def _end_with(error: Exception, active: ActiveRun, run_log: RunLog, lost: str) -> None:
    name = active.flow_run.name
    match error:
        case NotOursError():
            active.note_end(RunEnd.LOST, str(error))
            run_log.info(f"{lost} flow run '{active.flow_run.id}': {error}")
        case APIError() | InfrastructureError() | UnsettledError():
            # There is no way left to speak for this run, for now.
            active.note_end(RunEnd.UNSETTLED, str(error))
            run_log.alarm(f"Flow run '{name}' is left as it is: {error}")
        case _:
            active.note_end(RunEnd.UNSETTLED, f"{type(error).__name__}: {error}")
            _logger.error("Flow run %r is left as it is, because of a bug", name, exc_info=error)


def _leaves(error: Exception | None) -> Iterator[Exception]:
    """The errors of a group, or the one."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error is not None:
        yield error
