"""What is said about a run: in its log on the server, and in short in the worker's own."""

from __future__ import annotations

import logging
import traceback

from trioworker.api.models import FlowRun, LogLine, State
from trioworker.infrastructure.trio_flows.run_logs import sendable
from trioworker.infrastructure.trio_flows.services import Services
from trioworker.lean_attrs import frozen

_logger = logging.getLogger("trioworker.flow_runs")

# Under which Prefect's engine logs about a run.
_ENGINE_ON_SERVER = "prefect.flow_runs"


@frozen
class RunReport:
    """Says things about one run.

    Attributes:
        flow_run: the run.
        services: takes the lines to the server.
    """

    flow_run: FlowRun
    services: Services

    def say(self, level: int, message: str, *, details: str = "") -> None:
        """Say something; the details only on the server."""
        run = self.flow_run
        subject = {"flow_run_id": str(run.id), "flow_run_name": run.name}
        _logger.log(level, "Flow run '%s': %s", run.name, message, extra=subject)
        if self.services.send_log is not None:
            text = f"{message}\n{details}" if details else message
            line = LogLine(
                name=_ENGINE_ON_SERVER,
                level=level,
                message=sendable(text.rstrip()),
                timestamp=self.services.now(),
                flow_run_id=run.id,
            )
            self.services.send_log(line)

    def say_error(self, what: str, error: BaseException) -> None:
        """Say that something failed, with the traceback."""
        details = "".join(traceback.format_exception(error))
        self.say(logging.ERROR, f"{what}: {_represented(error)}", details=details)


def in_short(error: BaseException) -> str:
    """An exception as Prefect has it in the message of a state; of a group, those that it holds."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(in_short(each) for each in error.exceptions)
    return "".join(traceback.format_exception_only(error)).strip()


def shown(state: State | None) -> str:
    """A state as Prefect's log lines have it."""
    if state is None:
        return "no state"
    parts = [repr(state.message)] if state.message else []
    if state.label.lower() != state.type.lower():
        parts.append(f"type={state.type.value}")
    return f"{state.label}({', '.join(parts)})"


def _represented(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - the exception is somebody else's
        return in_short(error)
