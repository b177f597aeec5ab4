"""Python's logging on the command line, in the form that Prefect's worker uses."""

from __future__ import annotations

import logging
import sys

from trioworker.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Write the worker's log to standard error, from `PREFECT_LOGGING_LEVEL` upwards.

    `PREFECT_WORKER_DEBUG_MODE` includes everything.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s.%(msecs)03d | %(levelname)-7s | %(name)s - %(message)s", datefmt="%H:%M:%S"
        )
    )
    logger = logging.getLogger("trioworker")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if settings.worker_debug_mode else settings.logging_level)
