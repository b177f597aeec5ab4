"""What functions log that are called for flow runs, shown where the lines about those runs are shown."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

from trioworker.infrastructure.trio_flows.current import run_in_context
from trioworker.logs.format import JsonFormatter
from trioworker.logs.routes import RUNS_LOGGER, WORKER_LOGGER
from trioworker.printable import in_one_line


class _ByContext(logging.Handler):
    """Sends the records of flow runs where lines about runs go, and all others where they went before.

    Args:
        others: the handlers for records that are no flow run's.
        others_level: from which level on these want them.
    """

    def __init__(self, others: Sequence[logging.Handler], others_level: int) -> None:
        super().__init__()
        self._others = others
        self._others_level = others_level

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record on, with the run that it is about."""
        run = run_in_context.get()
        if run is not None:
            record.flow_run_id = str(run.flow_run.id)
            record.flow_run_name = run.flow_run.name
            _hand_on(record, logging.getLogger(RUNS_LOGGER).handlers, of_run=run.flow_run.name)
        elif record.levelno >= self._others_level:
            _hand_on(record, self._others)


def _hand_on(
    record: logging.LogRecord, handlers: Sequence[logging.Handler], *, of_run: str | None = None
) -> None:
    for handler in handlers:
        if record.levelno >= handler.level:
            is_text = not isinstance(handler.formatter, JsonFormatter)
            handler.handle(_named(record, of_run) if is_text and of_run is not None else record)


def _named(record: logging.LogRecord, flow_run_name: str) -> logging.LogRecord:
    """A record that says in its text whose it is, as all lines about runs do."""
    named = copy.copy(record)
    try:
        named.msg, named.args = f"Flow run '{in_one_line(flow_run_name)}': {record.getMessage()}", ()
    except (TypeError, ValueError, KeyError):
        # Arguments that do not fit the message are complained of where the record is formatted.
        return record
    return named


def show_logs_of_functions() -> None:
    """Let functions log from the level on from which lines about flow runs are shown; after `configure_logging`.

    Only for a process that is the command's own: it takes charge of the root logger.
    """
    root = logging.getLogger()
    root.handlers = [_ByContext(root.handlers, root.level)]
    root.setLevel(min(root.level, logging.getLogger(RUNS_LOGGER).getEffectiveLevel()))


def enable_own_loggers() -> None:
    """Let the worker log again after a `logging.config`, which silences by default whoever was there before."""
    for name in (WORKER_LOGGER, *logging.root.manager.loggerDict):
        if name.partition(".")[0] == WORKER_LOGGER:
            logging.getLogger(name).disabled = False
