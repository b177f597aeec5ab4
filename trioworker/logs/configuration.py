"""Python's logging on the command line, as `PREFECT_LOGGING_*` and `logging.yml` want it."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, TypeGuard

from trioworker.logs.file import read_logging_file
from trioworker.logs.format import (
    LEVEL_COLORS,
    ConsoleHandler,
    JsonFormatter,
    TextFormatter,
    WorkerNames,
    colors_wanted,
)
from trioworker.logs.routes import RUNS_LOGGER, WORKER_LOGGER, plan_routes
from trioworker.settings import Settings


def configure_logging(
    settings: Settings, *, as_json: bool = False, identity: WorkerNames | None = None
) -> list[str]:
    """Write the log to standard error in the form of Prefect's console, or where `logging.yml` says.

    Only for a process that is the command's own: it takes charge of the root logger too.

    Args:
        settings: `PREFECT_LOGGING_LEVEL`, `PREFECT_WORKER_DEBUG_MODE` (which includes everything) and so on.
        as_json: whether what would go to a terminal goes to standard error as JSON.
        identity: added to each record.

    Returns:
        What of `logging.yml` could not be used, each in a line for the user.
    """

    def open_console(stream: TextIO) -> ConsoleHandler:
        colored = colors_wanted(stream, settings.environment, enabled=settings.logging_colors)
        handler = ConsoleHandler(stream, LEVEL_COLORS if colored else {})
        handler.setFormatter(TextFormatter())
        return handler

    file = read_logging_file(settings)
    completion = identity or WorkerNames()
    for route in plan_routes(file, open_console):
        logger = logging.getLogger(route.logger)
        logger.handlers = list(route.handlers)
        logger.propagate = route.propagate
        logger.setLevel(route.level)
        for handler in route.handlers:
            handler.addFilter(completion)
            if as_json and _is_console(handler):
                handler.setStream(sys.stderr)
                handler.setFormatter(JsonFormatter())
    if settings.worker_debug_mode:
        for name in (WORKER_LOGGER, RUNS_LOGGER):
            logging.getLogger(name).setLevel(logging.DEBUG)
    # Python's own warnings would be lines of another form.
    logging.captureWarnings(as_json)
    return list(file.problems)


def _is_console(handler: logging.Handler) -> TypeGuard[logging.StreamHandler[TextIO]]:
    return isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stdout, sys.stderr}
