"""The worker's log on the command line: the lines, and what becomes of a `logging.yml`."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioworker.command.client_metrics import client_metrics_notice
from trioworker.logs.configuration import configure_logging
from trioworker.logs.format import (
    LEVEL_COLORS,
    ConsoleHandler,
    JsonFormatter,
    TextFormatter,
    WorkerNames,
    colors_wanted,
)
from trioworker.settings import Settings

WORKER = logging.getLogger("trioworker")
RUNS = logging.getLogger("trioworker.flow_runs")
ELSEWHERE = logging.getLogger("some.library")

CONSOLE = "prefect.logging.handlers.PrefectConsoleHandler"
NULL = "handlers: {a: {class: logging.NullHandler, formatter: f, filters: [g]}}\nroot: {handlers: [a]}\n"

PREFECT_CLASSES = """
version: 1
disable_existing_loggers: false
formatters:
  standard:
    (): prefect.logging.formatters.PrefectFormatter
    format: "%(levelname)s %(name)s: %(message)s"
    flow_run_fmt: "of a flow: %(message)s"
  json: {class: prefect.logging.formatters.JsonFormatter, format: default}
handlers:
  console: {class: prefect.logging.handlers.PrefectConsoleHandler, formatter: standard}
  api: {class: prefect.logging.handlers.APILogHandler}
  worker_api: {class: prefect.logging.handlers.WorkerAPILogHandler}
  file: {class: logging.FileHandler, filename: FILE, formatter: standard}
"""


def record(message: str = "hello", **attributes: Any) -> logging.LogRecord:
    fixed = {"name": "trioworker.flow_runs", "levelno": logging.INFO, "levelname": "INFO", "msg": message}
    return logging.makeLogRecord(fixed | attributes)


def as_json(made: logging.LogRecord) -> dict[str, str]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert line.isascii()
    decoded: dict[str, str] = json.loads(line)
    return decoded


# --- The lines.


def test_text_has_the_form_of_prefects_console() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 25_000).astimezone()

    line = TextFormatter().format(record("Worker 'a' submitting", created=moment.timestamp(), msecs=25))

    assert line == "07:08:09.025 | INFO    | trioworker.flow_runs - Worker 'a' submitting"


def test_text_format_may_name_what_a_line_is_not_about() -> None:
    formatter = TextFormatter("[%(flow_run_name)s] %(message)s")

    assert formatter.format(record()) == "[] hello"
    assert formatter.format(record(flow_run_name="brave-owl")) == "[brave-owl] hello"


EVIL = "a\n12:00:00.000 | ERROR   | trioworker - b\x1b[2J\x9b1m\r\u2028\u202ec"
HARMLESS = r"a\n12:00:00.000 | ERROR   | trioworker - b\x1b[2J\x9b1m\r\u2028\u202ec"


def test_line_of_the_worker_is_one_without_control_characters() -> None:
    shown = TextFormatter("%(flow_run_name)s: %(message)s").format(record(EVIL, flow_run_name=EVIL))

    assert shown == f"{HARMLESS}: {HARMLESS}"


def test_line_of_a_function_that_is_served_is_as_it_pleases_but_for_what_it_is_about() -> None:
    formatter = TextFormatter("%(flow_run_name)s: %(message)s")

    shown = formatter.format(record("a\nb\x1b[1mc", name="shop", flow_run_name=EVIL))

    assert shown == f"{HARMLESS}: a\nb\x1b[1mc"


def test_record_is_left_as_it_is_for_others() -> None:
    evil = record(EVIL, flow_run_name=EVIL)

    TextFormatter().format(evil)

    assert as_json(evil)["message"] == EVIL
    assert as_json(evil)["flow_run_name"] == EVIL


def test_traceback_has_lines_but_no_other_control_characters() -> None:
    try:
        raise ValueError("a\x1b[2J\tb")  # noqa: TRY301 - caught as others are
    except ValueError:
        failed = record("failed", exc_info=sys.exc_info())

    lines = TextFormatter().format(failed).splitlines()

    assert len(lines) > 2
    assert lines[-1] == "ValueError: a\\x1b[2J\tb"


def test_json_says_when_in_utc_how_grave_from_where_and_what() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 25_000, tzinfo=UTC)

    assert as_json(record("hello %s", args=("you",), created=moment.timestamp())) == {
        "timestamp": "2024-05-06T07:08:09.025000+00:00",
        "level": "INFO",
        "logger": "trioworker.flow_runs",
        "message": "hello you",
    }


def test_json_says_what_a_line_is_about() -> None:
    identity = WorkerNames()
    identity.worker_name, identity.work_pool_name = "w", "p"
    about_run = record(flow_run_id="1", flow_run_name="brave-owl")
    assert identity.filter(about_run)

    line = as_json(about_run)

    subjects = {key: line[key] for key in ("flow_run_id", "flow_run_name", "worker_name", "work_pool_name")}
    assert subjects == {
        "flow_run_id": "1",
        "flow_run_name": "brave-owl",
        "worker_name": "w",
        "work_pool_name": "p",
    }


def test_json_has_an_exception_as_text() -> None:
    try:
        int("no good")
    except ValueError:
        line = as_json(record(exc_info=sys.exc_info()))

    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("invalid literal for int() with base 10: 'no good'")


def test_json_has_no_exception_where_there_was_none() -> None:
    assert "exception" not in as_json(record(exc_info=(None, None, None)))


def test_json_line_survives_arguments_that_do_not_fit_its_message() -> None:
    assert as_json(record("%d runs", args=("many",)))["message"] == "%d runs ('many',)"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_json_line_is_valid_whatever_the_message_contains(message: str) -> None:
    found = as_json(record(message))["message"]

    found.encode()  # fails on what is not Unicode
    if message.encode(errors="replace").decode() == message:
        assert found == message


def test_lone_surrogate_in_json_becomes_the_replacement_character() -> None:
    assert as_json(record("a\ud800b\nc"))["message"] == "a\ufffdb\nc"


# --- Colours.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_level_is_in_colour() -> None:
    terminal = Terminal()
    handler = ConsoleHandler(terminal, LEVEL_COLORS)
    handler.setFormatter(TextFormatter("%(levelname)-7s | %(message)s"))

    handler.handle(record("no ERROR", levelname="ERROR"))
    handler.handle(record("plain", levelname="DEBUG"))

    colored, plain = terminal.getvalue().splitlines()
    assert colored == "\x1b[38;5;160mERROR\x1b[0m   | no ERROR"
    assert plain == "DEBUG   | plain"


def test_json_is_never_in_colour() -> None:
    terminal = Terminal()
    handler = ConsoleHandler(terminal, LEVEL_COLORS)
    handler.setFormatter(JsonFormatter())

    handler.handle(record())

    assert json.loads(terminal.getvalue())["level"] == "INFO"


@pytest.mark.parametrize(
    ("stream", "environment", "enabled", "expected"),
    [
        (Terminal(), {}, True, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True, True),
        (Terminal(), {}, False, False),
        (Terminal(), {"NO_COLOR": "1"}, True, False),
        (Terminal(), {"TERM": "dumb"}, True, False),
        (io.StringIO(), {}, True, False),
        (None, {}, True, False),
    ],
)
def test_colours_are_for_terminals_whose_user_does_not_mind(
    stream: object, environment: Mapping[str, str], enabled: bool, expected: bool
) -> None:
    assert colors_wanted(stream, environment, enabled=enabled) is expected


# --- The configuration of this process.

_LOGGERS = ("", "trioworker", "trioworker.flow_runs", "some.library", "py.warnings")


@pytest.fixture(autouse=True)
def logging_left_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate, logger.filters[:]) for logger in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, (handlers, level, propagate, filters) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers, logger.propagate, logger.filters = handlers, propagate, filters
        logger.setLevel(level)


class Log:
    """Configures the logging of this process, and shows what comes of it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._directory = directory
        self._capsys = capsys
        self.file = directory / "file.log"
        self.yaml = directory / "prefect" / "logging.yml"
        self.yaml.parent.mkdir()
        self.problems: list[str] = []

    def write(self, text: str) -> None:
        self.yaml.write_text(text.replace("FILE", str(self.file)), encoding="utf-8")

    def configure(self, *, as_json: bool = False, **environment: str) -> None:
        home = {"HOME": str(self._directory), "PREFECT_HOME": str(self.yaml.parent)}
        settings = Settings.load(home | environment, self._directory)
        self.problems = configure_logging(settings, as_json=as_json)

    def console(self) -> list[str]:
        """The lines on standard error since the last call, without their times."""
        out, err = self._capsys.readouterr()
        assert not out
        return [line.partition(" | ")[2] or line for line in err.splitlines()]

    def in_file(self) -> list[str]:
        return self.file.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(tmp_path, capsys)


def speak() -> None:
    for logger in (WORKER, RUNS, ELSEWHERE):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logger.log(level, "%s", level)


def test_by_default_information_of_the_worker_and_warnings_of_others_are_shown(log: Log) -> None:
    log.configure()

    speak()

    assert log.console() == [
        "INFO    | trioworker - 20",
        "WARNING | trioworker - 30",
        "INFO    | trioworker.flow_runs - 20",
        "WARNING | trioworker.flow_runs - 30",
        "WARNING | some.library - 30",
    ]
    assert log.problems == []


def test_level_holds_for_the_worker_and_not_for_others(log: Log) -> None:
    log.configure(PREFECT_LOGGING_LEVEL="ERROR")

    speak()

    assert log.console() == ["WARNING | some.library - 30"]


def test_debug_mode_shows_everything_of_the_worker(log: Log) -> None:
    log.configure(PREFECT_LOGGING_LEVEL="ERROR", PREFECT_WORKER_DEBUG_MODE="1")

    speak()

    assert [line for line in log.console() if "DEBUG" in line] == [
        "DEBUG   | trioworker - 10",
        "DEBUG   | trioworker.flow_runs - 10",
    ]


def test_to_configure_twice_shows_nothing_twice(log: Log) -> None:
    log.configure()
    log.configure()

    WORKER.info("once")

    assert log.console() == ["INFO    | trioworker - once"]


def test_json_takes_in_the_warnings_of_python(log: Log) -> None:
    log.configure(as_json=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)  # catch_warnings has undone it
        warnings.warn("old", UserWarning, stacklevel=1)

    (line,) = log.console()
    assert json.loads(line)["logger"] == "py.warnings"


def test_variables_override_what_prefects_own_file_says(log: Log) -> None:
    log.configure(
        PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT="%(name)s!",
        PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL="WARNING",
    )

    WORKER.info("")
    RUNS.info("")

    assert log.console() == ["trioworker!"]


def test_variable_with_an_unfit_value_is_named(log: Log) -> None:
    log.configure(PREFECT_LOGGING_ROOT_LEVEL="LOUD")

    (problem,) = log.problems
    assert problem.startswith("PREFECT_LOGGING_ROOT_LEVEL (environment variable): 'LOUD' is no level; ")


# --- logging.yml.


def test_file_replaces_the_defaults(log: Log) -> None:
    log.write(
        PREFECT_CLASSES
        + """
loggers:
  prefect: {level: DEBUG, handlers: [file, api]}
  prefect.workers: {level: "${PREFECT_LOGGING_LEVEL}", handlers: [worker_api]}
  some.library: {level: INFO}
root: {level: ERROR, handlers: [console]}
"""
    )
    log.configure(PREFECT_LOGGING_LEVEL="warning")

    speak()

    expected = [
        "WARNING trioworker: 30",
        "DEBUG trioworker.flow_runs: 10",
        "INFO trioworker.flow_runs: 20",
        "WARNING trioworker.flow_runs: 30",
    ]
    assert log.problems == []
    assert log.in_file() == expected
    assert log.console() == [*expected, "INFO some.library: 20", "WARNING some.library: 30"]


def test_handlers_of_the_worker_are_not_those_of_its_runs(log: Log) -> None:
    log.write(
        PREFECT_CLASSES
        + """
loggers:
  prefect: {level: INFO}
  prefect.workers: {handlers: [file], propagate: false}
root: {handlers: [console]}
"""
    )
    log.configure()

    WORKER.info("of the worker")
    RUNS.info("of a run")

    assert log.in_file() == ["INFO trioworker: of the worker"]
    assert log.console() == ["INFO trioworker.flow_runs: of a run"]


def test_loggers_of_the_worker_itself_may_stand_in_the_file(log: Log) -> None:
    log.write("loggers: {prefect: {level: INFO}, trioworker.flow_runs: {level: ERROR}}")
    log.configure()

    assert (WORKER.level, RUNS.level) == (logging.INFO, logging.ERROR)


def test_json_on_the_console_leaves_files_as_they_are(log: Log) -> None:
    log.write(
        PREFECT_CLASSES.replace("formatter: standard}", "formatter: standard, stream: ext://sys.stdout}", 1)
        + "root: {level: INFO, handlers: [console, file]}"
    )
    log.configure(as_json=True)

    WORKER.info("hello")

    (line,) = log.console()
    assert json.loads(line)["message"] == "hello"
    assert log.in_file() == ["INFO trioworker: hello"]


def test_console_may_be_json_by_the_file(log: Log) -> None:
    log.write(
        PREFECT_CLASSES.replace("formatter: standard", "formatter: json")
        + "root: {level: INFO, handlers: [console]}"
    )
    log.configure()

    WORKER.info("hello")

    assert json.loads(log.console()[0])["message"] == "hello"


class Loud(logging.Handler):
    """A handler of a user's own."""

    heard: list[str] = []  # noqa: RUF012 - asked from outside

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.prefix + self.format(record))


def only_greetings(record: logging.LogRecord) -> bool:
    return record.msg.startswith("hello")


def make_filter() -> Callable[[logging.LogRecord], bool]:
    return only_greetings


def test_own_classes_filters_and_handlers_behind_handlers_are_used(log: Log) -> None:
    log.write(
        f"""
filters: {{greetings: {{(): {__name__}.make_filter}}}}
formatters: {{upper: {{class: {__name__}.Upper}}}}
handlers:
  loud: {{class: {__name__}.Loud, prefix: "> ", level: INFO, filters: [greetings], formatter: upper}}
  memory: {{class: logging.handlers.MemoryHandler, capacity: 1, target: loud}}
root: {{level: DEBUG, handlers: [memory]}}
"""
    )
    Loud.heard.clear()
    log.configure()

    for message in ("hello you", "good-bye"):
        WORKER.info(message)

    assert log.problems == []
    assert Loud.heard == ["> HELLO YOU"]


class Upper(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).upper()


def test_placeholders_are_filled_in_as_prefect_does(log: Log) -> None:
    log.write(
        """
handlers: {file: {class: logging.FileHandler, filename: "${PREFECT_HOME}/$$x.log", level: $PREFECT_LOGGING_LEVEL}}
root: {level: $PREFECT_SERVER_LOGGING_LEVEL, handlers: [file]}
"""
    )
    log.configure()

    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.FileHandler)
    assert handler.baseFilename == f"{log.yaml.parent}/$x.log"
    assert handler.level == logging.INFO
    assert log.problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "YAML is not valid YAML (while parsing a flow node"),
        ("just words", "YAML is no table of keys and values"),
        ("a: &a {b: *a}", "YAML is not valid YAML (Circular reference detected)"),
        ("{[1]: 2}", "YAML is not valid YAML ("),
        ("loggers: 5", "YAML, loggers: expected a table, not 5."),
        ("root: {handlers: {a: b}}", "YAML, root.handlers: expected a list of names, not {'a': 'b'}."),
        ("root: {level: LOUD}", "YAML, root.level: 'LOUD' is no level; there are "),
        ("root: {handlers: [ghost]}", "YAML, root.handlers: there is no handler 'ghost'."),
        (
            "root: {level: $PREFECT_GHOST}",
            "YAML: the placeholder PREFECT_GHOST stands for no setting whose value the worker knows.",
        ),
        (
            "handlers: {a: {class: no.such.Handler}}\nroot: {handlers: [a]}",
            "YAML, handlers.a: this cannot be used (ModuleNotFoundError: No module named 'no').",
        ),
        (
            "handlers: {a: {class: logging.FileHandler, filename: /no/such/x}}\nroot: {handlers: [a]}",
            "YAML, handlers.a: this cannot be used (FileNotFoundError: ",
        ),
        (
            "handlers: {a: {class: logging.Formatter}}\nroot: {handlers: [a]}",
            "YAML, handlers.a: logging.Formatter is no handler of Python's logging.",
        ),
        (
            "handlers: {a: {level: INFO}}\nroot: {handlers: [a]}",
            "YAML, handlers.a: this handler has no class.",
        ),
        (
            "handlers: {a: {class: prefect.x.Y}}\nroot: {handlers: [a]}",
            "YAML, handlers.a: prefect.x.Y needs Prefect, which the worker does not import.",
        ),
        (
            f"handlers: {{a: {{class: {CONSOLE}, stream: x}}}}\nroot: {{handlers: [a]}}",
            "YAML, handlers.a.stream: 'x' is none of ext://sys.stderr, ext://sys.stdout.",
        ),
        (NULL + "formatters: {f: {}}", "YAML, handlers.a.filters: there is no filter 'g'."),
        (NULL + "filters: {g: {}}", "YAML, handlers.a.formatter: there is no formatter 'f'."),
        (
            NULL + "formatters: {f: {}}\nfilters: {g: {(): prefect.x.Y}}",
            "YAML, filters.g: prefect.x.Y needs Prefect, which the worker does not import.",
        ),
        (
            NULL + "filters: {g: {}}\nformatters: {f: {class: prefect.x.Y}}",
            "YAML, formatters.f: prefect.x.Y needs Prefect, which the worker does not import.",
        ),
        (
            NULL + "filters: {g: {}}\nformatters: {f: {format: '%(nobody)s'}}",
            "YAML, formatters.f: this cannot be used (",
        ),
    ],
)
def test_what_cannot_be_used_is_a_problem_with_file_and_key_and_the_worker_is_not_silent(
    log: Log, text: str, problem: str
) -> None:
    log.write(text)

    log.configure()

    assert log.problems[0].startswith(problem.replace("YAML", str(log.yaml), 1)), log.problems
    assert all("\n" not in line for line in log.problems)
    WORKER.error("still here")
    if "NullHandler" not in text:
        assert any("still here" in line for line in log.console())


def test_the_rest_of_a_file_with_a_mistake_counts(log: Log) -> None:
    log.write(PREFECT_CLASSES + "root: {level: INFO, handlers: [ghost, file]}")
    log.configure()

    WORKER.info("hello")

    assert len(log.problems) == 1
    assert log.in_file() == ["INFO trioworker: hello"]


def test_what_no_logger_of_the_worker_uses_is_not_made(log: Log) -> None:
    log.write(
        PREFECT_CLASSES
        + """
  broken: {class: no.such.Handler}
loggers: {prefect.server: {handlers: [broken, file]}, prefect.task_runs: {handlers: [broken]}}
root: {handlers: [console]}
"""
    )
    log.configure()

    assert log.problems == []
    assert not log.file.exists()


def test_file_that_is_named_and_missing_is_a_problem(log: Log) -> None:
    log.configure(PREFECT_LOGGING_SETTINGS_PATH="/no/such.yml")

    (problem,) = log.problems
    assert problem == (
        "PREFECT_LOGGING_CONFIG_PATH='/no/such.yml' (environment variable): there is no such file,"
        " so the worker's log has its usual form."
    )


def test_file_that_is_no_text_is_a_problem(log: Log) -> None:
    log.yaml.write_bytes(b"\xff\xfe")

    log.configure()

    assert log.problems[0].startswith(f"{log.yaml} cannot be read ('utf-8' codec")


def test_missing_parser_is_a_problem_that_says_what_to_install(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write("root: {}")
    monkeypatch.setitem(sys.modules, "yaml", None)

    log.configure()

    (problem,) = log.problems
    assert problem == (
        f"{log.yaml} cannot be read without PyYAML (pip install pyyaml),"
        " so the worker's log has its usual form."
    )


def test_parser_is_not_imported_without_a_file(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from trioworker.logs.configuration import configure_logging\n"
        "from trioworker.settings import Settings\n"
        "assert configure_logging(Settings.load(os.environ, pathlib.Path())) == []\n"
        "assert not {'yaml', 'rich', 'asyncclick', 'prefect'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", script], env={"HOME": str(tmp_path)}, cwd=tmp_path, check=True)


# --- Prefect as the judge.

_STANDARD = PREFECT_CLASSES.replace("FILE", "ext://DIRECTORY").partition("  file:")[0]

SETUPS: dict[str, tuple[str | None, dict[str, str]]] = {
    "nothing": (None, {}),
    "level": (None, {"PREFECT_LOGGING_LEVEL": "WARNING"}),
    "format by variable": (None, {"PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(name)s %(message)s"}),
    "another formatter by variable": (None, {"PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "debug"}),
    "levels by variable": (
        None,
        {
            "PREFECT_LOGGING_ROOT_LEVEL": "ERROR",
            "PREFECT_LOGGING_LOGGERS_PREFECT_WORKERS_LEVEL": "DEBUG",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        },
    ),
    "file": (
        _STANDARD
        + """
loggers:
  prefect: {level: "${PREFECT_LOGGING_LEVEL}"}
  prefect.workers: {level: ERROR}
  prefect.flow_runs: {level: DEBUG, propagate: true}
root: {level: INFO, handlers: [console]}
""",
        {},
    ),
    "no propagation": (
        _STANDARD
        + """
loggers:
  prefect: {level: INFO, handlers: [console], propagate: false}
  prefect.workers: {level: NOTSET, handlers: [console]}
  prefect.flow_runs: {propagate: false}
root: {level: DEBUG, handlers: [console]}
""",
        {"PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING"},
    ),
    "root level alone": (_STANDARD + "root: {level: ERROR, handlers: [console]}", {}),
}

# For each set-up, configures Prefect's logging and returns what it writes to standard error.
PREFECT_LOGGER = """
import io, json, logging, os, sys
import prefect
from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import PROCESS_LOGGING_CONFIG, setup_logging

real = sys.stderr
answer = {}
for setup, environment in json.load(sys.stdin).items():
    os.environ.clear()
    os.environ.update(environment)
    refresh_global_settings_context()
    for logger in [logging.getLogger(), *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.handlers, logger.level, logger.propagate = [], 0, True
            logger._cache.clear()
    sys.stderr = io.StringIO()
    PROCESS_LOGGING_CONFIG.clear()
    setup_logging(incremental=False)
    for name in ("prefect.workers.process.w", "prefect.flow_runs.worker", "some.library"):
        for level in (10, 20, 30, 40, 50):
            logging.getLogger(name).log(level, "message %s", level)
    answer[setup] = sys.stderr.getvalue()
    sys.stderr = real
print(json.dumps(answer))
"""


def _without_times(text: str) -> list[str]:
    return [line.partition(" | ")[2] or line for line in text.splitlines()]


@pytest.mark.process
def test_lines_are_those_that_prefects_worker_would_write_but_for_the_names_of_loggers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environments: dict[str, dict[str, str]] = {}
    for setup, (text, environment) in SETUPS.items():
        home = tmp_path / setup
        home.mkdir()
        if text is not None:
            (home / "logging.yml").write_text(text, encoding="utf-8")
        usual = {"HOME": str(home), "PREFECT_HOME": str(home), "PREFECT_LOGGING_TO_API_ENABLED": "0"}
        environments[setup] = usual | environment

    answered = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREFECT_LOGGER],
        input=json.dumps(environments),
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert answered.returncode == 0, answered.stderr
    theirs = json.loads(answered.stdout.splitlines()[-1])
    for setup, environment in environments.items():
        assert configure_logging(Settings.load(environment, tmp_path)) == []
        for logger in (WORKER, RUNS, ELSEWHERE):
            for level in (10, 20, 30, 40, 50):
                logger.log(level, "message %s", level)
        ours = _without_times(capsys.readouterr().err)
        expected = (
            theirs[setup]
            .replace("prefect.workers.process.w", "trioworker")
            .replace("prefect.flow_runs.worker", "trioworker.flow_runs")
        )
        assert ours == _without_times(expected), setup
        assert ours, setup


# --- Metrics.


def test_metrics_that_are_switched_off_are_no_matter(tmp_path: Path) -> None:
    settings = Settings.load({"HOME": str(tmp_path), "PREFECT_CLIENT_METRICS_PORT": "1"}, tmp_path)

    assert client_metrics_notice(settings) is None


def test_metrics_that_are_switched_on_are_refused_in_one_line(tmp_path: Path) -> None:
    settings = Settings.load({"HOME": str(tmp_path), "PREFECT_CLIENT_ENABLE_METRICS": "true"}, tmp_path)

    notice = client_metrics_notice(settings)

    assert notice is not None
    assert notice.warning
    assert notice.message == (
        "PREFECT_CLIENT_METRICS_ENABLED (environment variable): this worker serves no Prometheus metrics, so"
        " nothing of its own is on port 4201; flow runs are given the setting as ever."
    )
