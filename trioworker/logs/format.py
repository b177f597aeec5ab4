"""What a line of the worker's log looks like: text in the form of Prefect's console, or JSON."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from trioworker.printable import in_one_line, printable

TEXT_FORMAT: Final = "%(asctime)s.%(msecs)03d | %(levelname)-7s | %(name)s - %(message)s"
TIME_FORMAT: Final = "%H:%M:%S"

# What a line may be about, by the names that Prefect's records have for it.
_SUBJECTS: Final = ("flow_run_id", "flow_run_name", "worker_name", "work_pool_name")
# What else a format made for Prefect's records may name.
_OTHER_SUBJECTS: Final = (
    "deployment_name",
    "flow_name",
    "work_pool_id",
    "worker_id",
    "task_run_id",
    "task_run_name",
)

_OWN_LOGGERS: Final = "trioworker"

# The colours that Prefect's logging.yml gives to the levels, as terminals want them.
LEVEL_COLORS: Final[Mapping[str, str]] = {
    "INFO": "\x1b[36m",
    "WARNING": "\x1b[38;5;184m",
    "ERROR": "\x1b[38;5;160m",
    "CRITICAL": "\x1b[91m",
}
_COLOR_OFF: Final = "\x1b[0m"


class TextFormatter(logging.Formatter):
    """A line of text; what a line is not about is empty where the format names it.

    Args:
        format: as for `logging.Formatter`; by default the form of Prefect's console.
        datefmt: the form of the time.
        style: how `format` is written.

    Raises:
        ValueError: `format` is not what `style` says.
    """

    def __init__(
        self,
        format: str | None = TEXT_FORMAT,  # noqa: A002 - so it is called in logging.yml
        datefmt: str | None = TIME_FORMAT,
        style: Literal["%", "{", "$"] = "%",
    ) -> None:
        super().__init__(format, datefmt, style, defaults=dict.fromkeys(_SUBJECTS + _OTHER_SUBJECTS, ""))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - so it is called there
        """The line. What it says and is about stands in one, if it is the worker's own.

        What functions log that are served may have several lines, as they please.
        """
        shown = copy.copy(record)
        for subject in _SUBJECTS + _OTHER_SUBJECTS:
            if isinstance(value := getattr(record, subject, None), str):
                setattr(shown, subject, in_one_line(value))
        if record.name.partition(".")[0] == _OWN_LOGGERS:
            shown.message = in_one_line(record.message)
        return super().formatMessage(shown)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - so it is called there
        """The lines of a traceback."""
        return printable(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII, whatever the message contains."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: when, how grave, from where, what, and what it is about as far as that is known."""
        line: dict[str, str] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message_of(record),
        }
        for subject in _SUBJECTS:
            if value := getattr(record, subject, None):
                line[subject] = str(value)
        if exception := self._exception_of(record):
            line["exception"] = exception
        return json.dumps({key: _as_unicode(text) for key, text in line.items()})

    def _exception_of(self, record: logging.LogRecord) -> str | None:
        if record.exc_info and record.exc_info[0] is not None:
            return self.formatException(record.exc_info)
        return record.exc_text


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # a caller's arguments that do not fit its message
        return f"{record.msg} {record.args!r}"


def _as_unicode(text: str) -> str:
    """`text` without lone surrogates, for which JSON has a spelling but most readers of JSON have no use."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class WorkerNames(logging.Filter):
    """Adds to each record whose it is, under the names that Prefect's records have; lets everything pass.

    Attributes:
        worker_name: the worker's name, once it is known.
        work_pool_name: the name of its work pool, once it is known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.worker_name: str | None = None
        self.work_pool_name: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete a record."""
        for subject, value in (("worker_name", self.worker_name), ("work_pool_name", self.work_pool_name)):
            if value is not None and not hasattr(record, subject):
                setattr(record, subject, value)
        return True


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to a terminal, or what stands in for one.

    Args:
        stream: where to write.
        colors: how to switch on the colour of each level, by its name; none without colours.
    """

    def __init__(self, stream: TextIO, colors: Mapping[str, str]) -> None:
        super().__init__(stream)
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its level in colour."""
        line = super().format(record)
        color = self._colors.get(record.levelname)
        if color is None or not isinstance(self.formatter, TextFormatter):
            return line
        return line.replace(record.levelname, f"{color}{record.levelname}{_COLOR_OFF}", 1)


def colors_wanted(stream: Any, environment: Mapping[str, str], *, enabled: bool) -> bool:
    """Whether lines on `stream` shall have colours.

    Args:
        stream: where they go; None if there is no such place.
        environment: may ask for none by ``NO_COLOR``, or know a terminal that has none.
        enabled: Prefect's setting ``PREFECT_LOGGING_COLORS``.
    """
    if not enabled or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream is not None and bool(stream.isatty())
