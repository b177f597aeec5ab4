"""`logging.yml`, as Prefect reads it: the file or a default, placeholders, overrides by variables."""

from __future__ import annotations

import importlib
import json
import logging
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

from trioworker.logs.format import TEXT_FORMAT, TIME_FORMAT
from trioworker.settings import Settings

_CONSOLE_HANDLER: Final = "prefect.logging.handlers.PrefectConsoleHandler"
_SAFE_STREAM_HANDLER: Final = "prefect.logging.handlers._SafeStreamHandler"
CONSOLE_HANDLERS: Final = frozenset({_CONSOLE_HANDLER, _SAFE_STREAM_HANDLER})
API_HANDLERS: Final = frozenset(
    {"prefect.logging.handlers.APILogHandler", "prefect.logging.handlers.WorkerAPILogHandler"}
)
TEXT_FORMATTER: Final = "prefect.logging.formatters.PrefectFormatter"
JSON_FORMATTER: Final = "prefect.logging.formatters.JsonFormatter"

# Of settings that only the file's own placeholders ask for: Prefect's defaults.
_DEFAULTS_ELSEWHERE: Final = {
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "ERROR",
}


@attrs.frozen(eq=False, repr=False)
class LoggingFile:
    """What a `logging.yml` says, and what of it cannot be used.

    Attributes:
        content: the configuration, in the form of `logging.config`'s dictionaries.
        name: the file, for the user.
        overrides: the variable that gave a value in `content`, by the keys that lead there.
        problems: what the user has to be told, each in a line; the methods add to it.
    """

    content: Mapping[str, Any]
    name: str
    overrides: Mapping[tuple[str, ...], str] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)

    def complain(self, problem: str, *keys: str) -> None:
        """Take note of a problem with the value to which `keys` lead."""
        variable = self.overrides.get(keys)
        place = f"{variable} (environment variable)" if variable else f"{self.name}, {'.'.join(keys)}"
        line = f"{place}: {problem}."
        if line not in self.problems:  # several loggers may use it
            self.problems.append(line)

    def table(self, *keys: str) -> dict[str, Any]:
        """The table to which `keys` lead; empty where there is none."""
        value: Any = self.content
        for key in keys:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        if isinstance(value, dict):
            return value
        if value is not None:
            self.complain(f"expected a table, not {value!r}", *keys)
        return {}

    def level(self, *keys: str) -> int | None:
        """The level in the table to which `keys` lead, if one is written there."""
        written = self.table(*keys).get("level")
        if written is None:
            return None
        levels = logging.getLevelNamesMapping()
        name = str(written).strip().upper()
        if name in levels:
            return levels[name]
        if name.isdecimal():
            return int(name)
        self.complain(f"{written!r} is no level; there are {', '.join(levels)}", *keys, "level")
        return None

    def names(self, *keys: str) -> list[str]:
        """The names in the list, or the text with commas, to which `keys` lead."""
        *path, last = keys
        written = self.table(*path).get(last) or []
        if isinstance(written, str):
            written = written.split(",")
        if isinstance(written, list):
            return [str(name).strip() for name in written]
        self.complain(f"expected a list of names, not {written!r}", *keys)
        return []


def read_logging_file(settings: Settings) -> LoggingFile:
    """Read the file that `PREFECT_LOGGING_CONFIG_PATH` names, or what Prefect's own says if there is none.

    A file that cannot be used is a problem of the result, never an error.
    """
    content, name, problems = _content(settings)
    overrides = _overrides(content, settings.environment)
    for keys, variable in overrides.items():
        _override(content, keys, settings.environment[variable])
    return LoggingFile(content, name, overrides, problems)


def _content(settings: Settings) -> tuple[dict[str, Any], str, list[str]]:
    path = settings.logging_config_path
    if path is None:
        return _usual(settings), "Prefect's logging.yml", []
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        problems = []
        if (source := settings.source_of("logging_config_path")) != "default":
            problems.append(
                f"PREFECT_LOGGING_CONFIG_PATH={str(path)!r} ({source}): there is no such file,"
                " so the worker's log has its usual form."
            )
        return _usual(settings), "Prefect's logging.yml", problems
    except (OSError, ValueError) as error:
        return _unusable(settings, path, f"cannot be read ({error})")
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        return _unusable(settings, path, "cannot be read without PyYAML (pip install pyyaml)")
    text, unknown = _filled_in(text, {**_DEFAULTS_ELSEWHERE, **settings.variables()})
    problems = [
        f"{path}: the placeholder {name} stands for no setting whose value the worker knows."
        for name in unknown
    ]
    content = _parsed(yaml, text)
    if isinstance(content, str):
        return _unusable(settings, path, content)
    return content, str(path), problems


def _unusable(settings: Settings, path: Path, why: str) -> tuple[dict[str, Any], str, list[str]]:
    return _usual(settings), str(path), [f"{path} {why}, so the worker's log has its usual form."]


def _filled_in(text: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with its placeholders replaced, and the names of those for which there is no value."""
    template = string.Template(text)
    return template.safe_substitute(values), [
        name for name in template.get_identifiers() if name not in values
    ]


def _parsed(yaml: ModuleType, text: str) -> dict[str, Any] | str:
    """The content of a YAML file, or what is wrong with it."""
    try:
        # By way of JSON, all keys are text, nothing contains itself, and no table stands in two places.
        content = json.loads(json.dumps(yaml.safe_load(text), default=str))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        return f"is not valid YAML ({' '.join(str(error).split())})"
    if not isinstance(content, dict):
        return "is no table of keys and values"
    return content


def _usual(settings: Settings) -> dict[str, Any]:
    """What of Prefect's own logging.yml bears on a worker."""
    standard = {"()": TEXT_FORMATTER, "format": TEXT_FORMAT, "datefmt": TIME_FORMAT}
    return {
        "formatters": {
            "simple": {"format": "%(asctime)s.%(msecs)03d | %(message)s", "datefmt": TIME_FORMAT},
            "standard": standard,
            "debug": {
                "format": TEXT_FORMAT.replace(" | %(name)s", " | %(threadName)-12s | %(name)s"),
                "datefmt": TIME_FORMAT,
            },
            "json": {"class": JSON_FORMATTER, "format": "default"},
        },
        "handlers": {
            "console": {
                "level": 0,
                "class": _CONSOLE_HANDLER,
                "formatter": "standard",
                "stream": "ext://sys.stderr",
            },
            "debug": {
                "level": 0,
                "class": _SAFE_STREAM_HANDLER,
                "formatter": "debug",
                "stream": "ext://sys.stderr",
            },
        },
        "loggers": {
            "prefect": {"level": settings.logging_level},
            "prefect.flow_runs": {"level": "NOTSET", "handlers": []},
            "prefect.workers": {"level": "NOTSET", "handlers": []},
        },
        "root": {"level": "WARNING", "handlers": ["console"]},
    }


def _overrides(content: Mapping[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """The variables that replace values, as in `PREFECT_LOGGING_ROOT_LEVEL`. No other source has such."""
    found = {}
    for keys in _leaves(content):
        variable = re.sub(r"[^0-9a-zA-Z]+", "_", f"PREFECT_LOGGING_{'_'.join(keys)}").upper()
        if environment.get(variable):
            found[keys] = variable
    return found


def _leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        keys = (*above, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, keys)
        else:
            yield keys


def _override(content: dict[str, Any], keys: tuple[str, ...], text: str) -> None:
    *path, last = keys
    for key in path:
        content = content[key]
    content[last] = text.split(",") if isinstance(content[last], list) else text
