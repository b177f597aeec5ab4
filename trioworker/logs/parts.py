"""The handlers, formatters and filters that a `logging.yml` describes.

Classes of Prefect's are never imported: for those that a worker needs there are own ones.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO

from trioworker.logs.file import (
    API_HANDLERS,
    CONSOLE_HANDLERS,
    JSON_FORMATTER,
    TEXT_FORMATTER,
    LoggingFile,
)
from trioworker.logs.format import ConsoleHandler, JsonFormatter, TextFormatter

if TYPE_CHECKING:
    from logging.config import DictConfigurator

OpenConsole = Callable[[TextIO], ConsoleHandler]

_SAMPLE: Final = logging.makeLogRecord(
    {"name": "trioworker", "levelno": logging.INFO, "levelname": "INFO", "msg": "sample"}
)


class LoggingParts:
    """Makes what a file describes, each when it is first asked for.

    What cannot be made is a problem of the file, never an error.

    Args:
        file: describes them.
        open_console: makes a handler for the terminal, in the usual form, on the given stream.
    """

    def __init__(self, file: LoggingFile, open_console: OpenConsole) -> None:
        self._file = file
        self._open_console = open_console
        self._handlers: dict[str, logging.Handler | None] = {}
        self._formatters: dict[str, logging.Formatter] = {}
        self._filters: dict[str, Any] = {}

    def handler(self, name: str, *asked_by: str) -> logging.Handler | None:
        """The handler of this name, or None if there is none to be had.

        Args:
            name: its name.
            asked_by: the keys that lead to where it is named.
        """
        if name not in self._file.table("handlers"):
            self._file.complain(f"there is no handler {name!r}", *asked_by)
            return None
        if name not in self._handlers:
            self._handlers[name] = None  # so that handlers that lead to each other come to an end
            self._handlers[name] = self._make_handler("handlers", name)
        return self._handlers[name]

    def _make_handler(self, *keys: str) -> logging.Handler | None:
        description = self._file.table(*keys)
        kind = str(description.get("()") or description.get("class") or "")
        if kind in API_HANDLERS:
            return None  # the worker sends its lines to the API itself
        if kind in CONSOLE_HANDLERS:
            return self._make_console(description, *keys)
        if not kind or self._is_prefects(kind, *keys):
            if not kind:
                self._file.complain("this handler has no class", *keys)
            return None
        return self._make_handler_of_class(kind, description, *keys)

    def _make_console(self, description: Mapping[str, Any], *keys: str) -> logging.Handler:
        streams = {"ext://sys.stderr": sys.stderr, "ext://sys.stdout": sys.stdout}
        stream = description.get("stream", "ext://sys.stderr")
        if stream not in streams:
            self._file.complain(f"{stream!r} is none of {', '.join(streams)}", *keys, "stream")
        handler = self._open_console(streams.get(stream, sys.stderr))
        handler.setLevel(self._file.level(*keys) or logging.NOTSET)
        if name := description.get("formatter"):
            handler.setFormatter(self._formatter(str(name), *keys, "formatter"))
        for name in self._filters_made(*keys):
            handler.addFilter(self._filters[name])
        return handler

    def _make_handler_of_class(
        self, kind: str, description: Mapping[str, Any], *keys: str
    ) -> logging.Handler | None:
        ready = {**description, "level": self._file.level(*keys), "filters": self._filters_made(*keys)}
        if name := description.get("formatter"):
            self._formatter(str(name), *keys, "formatter")
        # Those that it hands its records on to.
        behind = self._file.names(*keys, "handlers")
        for name in [description.get("target"), *behind]:
            if isinstance(name, str) and name in self._file.table("handlers"):
                self.handler(name, *keys)
        made = self._made(lambda: self._configurator().configure_handler(self._resolved(ready)), *keys)
        if made is not None and not isinstance(made, logging.Handler):
            self._file.complain(f"{kind} is no handler of Python's logging", *keys)
            return None
        return made

    def _filters_made(self, *keys: str) -> list[str]:
        """The filters that are named there and could be made."""
        names = self._file.names(*keys, "filters")
        return [name for name in names if self._make_filter(name, *keys, "filters")]

    def _make_filter(self, name: str, *asked_by: str) -> bool:
        if name not in self._file.table("filters"):
            self._file.complain(f"there is no filter {name!r}", *asked_by)
            return False
        if name not in self._filters:
            keys = ("filters", name)
            description = self._file.table(*keys)
            foreign = self._is_prefects(str(description.get("()")), *keys)
            made = (
                None
                if foreign
                else self._made(
                    lambda: self._configurator().configure_filter(self._resolved(description)), *keys
                )
            )
            self._filters[name] = made
        return self._filters[name] is not None

    def _formatter(self, name: str, *asked_by: str) -> logging.Formatter:
        """The formatter of this name, or the usual one where there is none to be had."""
        if name not in self._formatters:
            made = None
            if name in self._file.table("formatters"):
                made = self._make_formatter("formatters", name)
            else:
                self._file.complain(f"there is no formatter {name!r}", *asked_by)
            self._formatters[name] = made or TextFormatter()
        return self._formatters[name]

    def _make_formatter(self, *keys: str) -> logging.Formatter | None:
        description = self._file.table(*keys)
        kind = description.get("()") or description.get("class") or TEXT_FORMATTER
        if kind == JSON_FORMATTER:
            return JsonFormatter()
        if kind != TEXT_FORMATTER and self._is_prefects(str(kind), *keys):
            return None

        def make() -> logging.Formatter:
            made: logging.Formatter
            if kind == TEXT_FORMATTER:
                made = self._text_formatter(description)
            else:
                made = self._configurator().configure_formatter(self._resolved(description))
            # A format that names what records do not have would spoil every line.
            made.format(_SAMPLE)
            return made

        formatter: logging.Formatter | None = self._made(make, *keys)
        return formatter

    def _text_formatter(self, description: Mapping[str, Any]) -> TextFormatter:
        if any("://" in str(value) for value in description.values()):
            description = self._resolved(description)
        style = description.get("style", "%")
        return TextFormatter(description.get("format"), description.get("datefmt"), style)

    def _configurator(self) -> DictConfigurator:
        """What knows all that Python's own configuration knows: factories, arguments of handlers, references.

        It finds what is made so far in tables of its own. Most workers have no use for it, and do not import it.
        """
        from logging.config import DictConfigurator  # noqa: PLC0415

        made = {"formatters": self._formatters, "filters": self._filters, "handlers": self._handlers}
        return DictConfigurator({"version": 1, **made})

    def _resolved(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """A description that gives what it refers to (`ext://sys.stdout`) for the reference."""
        resolved: dict[str, Any] = self._configurator().convert(dict(description))
        return resolved

    def _made(self, make: Callable[[], Any], *keys: str) -> Any:
        """What `make` makes, or None if that fails."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - the class may be the user's own and do anything
            # Python's configuration puts words of its own before the reason.
            reason = error.__cause__ or error
            words = " ".join(f"{type(reason).__name__}: {reason}".split())
            self._file.complain(f"this cannot be used ({words})", *keys)
            return None

    def _is_prefects(self, kind: str, *keys: str) -> bool:
        if not kind.startswith("prefect."):
            return False
        self._file.complain(f"{kind} needs Prefect, which the worker does not import", *keys)
        return True
