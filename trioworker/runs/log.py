"""Lines about one flow run: into the worker's own log, and into the run's log on the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from trioworker.api.models import FlowRun, LogLine
from trioworker.outbox import Outbox

_logger = logging.getLogger("trioworker.flow_runs")

# The names under which Prefect's worker and what it executes runs with log about a run, which people filter by.
_WORKER_ON_SERVER = "prefect.flow_runs.worker"
_RUNNER_ON_SERVER = "prefect.flow_runs"


class RunLog:
    """The log of one run, as far as the worker writes it.

    Args:
        flow_run: the run.
        outbox: takes the lines to the server; None to keep them here.
        now: the time of day.
    """

    def __init__(self, flow_run: FlowRun, outbox: Outbox | None, now: Callable[[], datetime]) -> None:
        self._flow_run = flow_run
        self._outbox = outbox
        self._now = now

    def debug(self, message: str) -> None:
        """Something for whoever looks into a fault; stays on this machine."""
        self._write_here(logging.DEBUG, message)

    def note(self, message: str) -> None:
        """Something that is as it should be, and that the run's states tell too; stays on this machine."""
        self._write_here(logging.INFO, message)

    def alarm(self, message: str) -> None:
        """Something that went wrong, and that the run's states tell too; stays on this machine."""
        self._write_here(logging.ERROR, message)

    def info(self, message: str) -> None:
        """Something that is as it should be."""
        self._write(logging.INFO, message)

    def warning(self, message: str) -> None:
        """Something that is not as it should be, but harms nothing."""
        self._write(logging.WARNING, message)

    def hook_warning(self, message: str) -> None:
        """As `warning`, about the hooks of the run's flow."""
        self._write(logging.WARNING, message, _RUNNER_ON_SERVER)

    def error(self, message: str) -> None:
        """Something that went wrong."""
        self._write(logging.ERROR, message)

    def _write_here(self, level: int, message: str) -> None:
        subject = {"flow_run_id": str(self._flow_run.id), "flow_run_name": self._flow_run.name}
        if not any(name in message for name in subject.values()):
            # On the server the line stands among those of its run, here among those of all.
            message = f"Flow run '{self._flow_run.name}': {message}"
        _logger.log(level, message, extra=subject)

    def _write(self, level: int, message: str, name_on_server: str = _WORKER_ON_SERVER) -> None:
        self._write_here(level, message)
        if self._outbox is not None:
            self._outbox.log(
                LogLine(
                    name=name_on_server,
                    level=level,
                    message=message,
                    timestamp=self._now(),
                    flow_run_id=self._flow_run.id,
                )
            )
