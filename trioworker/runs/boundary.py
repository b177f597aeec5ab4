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
    name = active.flow_run.name
    try:
        yield
    except NotOursError as reason:
        active.note_end(RunEnd.LOST, str(reason))
        run_log.info(f"{lost} flow run '{active.flow_run.id}': {reason}")
    except (APIError, InfrastructureError, UnsettledError) as error:
        # There is no way left to speak for this run, for now.
        active.note_end(RunEnd.UNSETTLED, str(error))
        run_log.alarm(f"Flow run '{name}' is left as it is: {error}")
    except Exception as error:
        active.note_end(RunEnd.UNSETTLED, f"{type(error).__name__}: {error}")
        _logger.exception("Flow run %r is left as it is, because of a bug", name)
