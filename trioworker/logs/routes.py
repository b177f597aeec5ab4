"""From the loggers in a `logging.yml` written for Prefect's worker to the loggers of this one.

Prefect's worker logs as `prefect.workers.TYPE.NAME`, and about its runs as `prefect.flow_runs.worker`; this one as
`trioworker`, and about its runs as `trioworker.flow_runs`. What the file says of the former and of the loggers above
them holds for the latter.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from trioworker.lean_attrs import frozen
from trioworker.logs.file import LoggingFile
from trioworker.logs.parts import LoggingParts, OpenConsole

WORKER_LOGGER: Final = "trioworker"
RUNS_LOGGER: Final = "trioworker.flow_runs"

# For each logger of ours, those that speak for it in the file, from the nearest to the one below the root.
_STAND_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    WORKER_LOGGER: (WORKER_LOGGER, "prefect.workers.process", "prefect.workers", "prefect"),
    RUNS_LOGGER: (RUNS_LOGGER, "prefect.flow_runs.worker", "prefect.flow_runs", "prefect"),
}


@frozen
class Route:
    """Where the records of one logger go.

    Attributes:
        logger: the logger's name; empty for the root logger.
        level: the least level that counts.
        handlers: what it has of its own; one may stand twice, as it may on two loggers above each other.
        propagate: whether the loggers above get its records too.
    """

    logger: str
    level: int
    handlers: tuple[logging.Handler, ...]
    propagate: bool = True


def plan_routes(file: LoggingFile, open_console: OpenConsole) -> tuple[Route, ...]:
    """Make the handlers that a file asks for, and say which loggers get them.

    Only what a logger of this process uses is made. What cannot be made is left out, and a problem of the file.

    Args:
        file: what the user wants.
        open_console: makes a handler for the terminal, in the usual form, on the given stream.
    """
    planner = _Planner(file, LoggingParts(file, open_console))
    root = planner.root()
    ours = [planner.ours(logger, root) for logger in _STAND_FOR]
    if file.problems and not any(
        (*root.handlers, *(handler for route in ours for handler in route.handlers))
    ):
        # Better in the usual form than silent, where a mistake has left no handler at all.
        console = (open_console(sys.stderr),)
        ours = [attrs.evolve(route, handlers=console) for route in ours]
    return (root, *ours, *planner.others())


@attrs.frozen(eq=False, repr=False)
class _Planner:
    file: LoggingFile
    parts: LoggingParts

    def root(self) -> Route:
        level = self.file.level("root")
        return Route("", logging.WARNING if level is None else level, self._handlers("root"))

    def ours(self, logger: str, root: Route) -> Route:
        """One of the loggers of this worker, which stands where others stand in the file."""
        level: int | None = None
        handlers: list[logging.Handler] = []
        propagate = True
        for name in _STAND_FOR[logger]:
            if name in self.file.table("loggers"):
                level = level or self.file.level("loggers", name)
                if propagate:
                    handlers += self._handlers("loggers", name)
                    propagate = self._propagates(name)
        if propagate and logger == RUNS_LOGGER:
            # Above it in name is the worker's own logger, whose handlers are not all meant for it.
            handlers += root.handlers
            propagate = False
        return Route(logger, level or root.level, tuple(handlers), propagate)

    def others(self) -> Iterator[Route]:
        """The loggers that are neither of Prefect nor of this worker's two, as they are written."""
        spoken_for = {name for names in _STAND_FOR.values() for name in names}
        for name in self.file.table("loggers"):
            if name not in spoken_for and name.partition(".")[0] != "prefect":
                level = self.file.level("loggers", name) or logging.NOTSET
                yield Route(name, level, self._handlers("loggers", name), self._propagates(name))

    def _handlers(self, *keys: str) -> tuple[logging.Handler, ...]:
        names = self.file.names(*keys, "handlers")
        found = (self.parts.handler(name, *keys, "handlers") for name in names)
        return tuple(dict.fromkeys(handler for handler in found if handler is not None))

    def _propagates(self, name: str) -> bool:
        # A variable can only say it in words.
        written = self.file.table("loggers", name).get("propagate")
        return str(written).strip().lower() not in {"false", "no", "off", "0"}
