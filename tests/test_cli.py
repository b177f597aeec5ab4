"""`trioworker start`, called in this process on a fake API, in virtual time."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from support import FOREVER, POOL, URL, World, settings

from trioworker import Surroundings, WorkerConfig, __version__
from trioworker.__main__ import main
from trioworker.api.condition import Condition
from trioworker.api.errors import NotAuthenticatedError
from trioworker.command.cli import trioworker as command
from trioworker.command.local_server import LocalServer, LocalServerError
from trioworker.errors import ConfigurationError
from trioworker.infrastructure.protocol import Assignment
from trioworker.testing import FakeInfrastructure, Script
from trioworker.testing.fake_infrastructure import FakeJob

Clock = trio.testing.MockClock

WORKER = ("start", "-p", POOL, "-n", "me")

STARTED = "Worker 'me' started!"
STOPPED = "Worker 'me' stopped!"
BOUND = "Once told to stop, the worker is gone within 28 s (drain 20 s, kill grace 5 s, flush 3 s)."
DISCOVERED = f"Discovered type 'process' for work pool '{POOL}'."

TEMPLATE = {
    "job_configuration": {"command": "{{ command }}"},
    "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
}


@pytest.fixture(autouse=True)
def logging_left_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "trioworker", "trioworker.flow_runs")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


@attrs.frozen
class Ended:
    """How a call of the command ended.

    Attributes:
        exit_code: its exit code.
        lines: what it wrote to standard output.
        errors: what it wrote to standard error.
    """

    exit_code: int
    lines: list[str]
    errors: list[str]

    @property
    def json(self) -> list[dict[str, str]]:
        """What it wrote to standard error, all of which is JSON."""
        return [json.loads(line) for line in self.errors]


class User:
    """Calls the command, in a directory that is home to no settings, and with nothing set but the API's URL.

    Attributes:
        directory: where that is.
    """

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.directory = directory
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self._streams: dict[str, object] = {}
        for name in [*os.environ]:
            if name.startswith(("PREFECT_", "TRIOWORKER_")) or name == "NO_COLOR":
                monkeypatch.delenv(name)
        monkeypatch.chdir(directory)
        self.sets(HOME=str(directory), PREFECT_API_URL=URL)

    def sets(self, **variables: str | None) -> None:
        """Set environment variables; None is for none of that name."""
        for name, value in variables.items():
            if value is None:
                self._monkeypatch.delenv(name)
            else:
                self._monkeypatch.setenv(name, value)

    def has(self, **streams: object) -> None:
        """Have the command read from or write to something else, by the names in `sys`."""
        self._streams.update(streams)

    def writes(self, name: str, content: object) -> Path:
        """Write JSON to a file."""
        file = self.directory / name
        file.write_text(json.dumps(content))
        return file

    async def calls(self, *words: object, surroundings: Surroundings | None) -> Ended:
        """Call the command and wait for its end, for hours of virtual time at the most."""
        # Streams must be put back before pytest puts back those that it captured.
        with pytest.MonkeyPatch.context() as patch:
            for name, stream in self._streams.items():
                patch.setattr(sys, name, stream)
            with trio.fail_after(10_000), pytest.raises(SystemExit) as ended, standard_error_put_back():
                await command.main([str(word) for word in words], "trioworker", obj=surroundings)
        out, err = self._capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out.splitlines(), err.splitlines())


@contextmanager
def standard_error_put_back() -> Iterator[None]:
    """Undo what the command does to have standard error for JSON alone."""
    stream, copy = sys.stderr, os.dup(2)
    try:
        yield
    finally:
        if sys.stderr is not stream:
            os.close(sys.stderr.fileno())
            sys.stderr = stream
        os.dup2(copy, 2)
        os.close(copy)


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> User:
    return User(tmp_path, monkeypatch, capfd)


def _not_wanted(config: WorkerConfig, condition: Condition) -> Any:
    pytest.fail("the API was opened")


# For a command that fails before it looks at them.
NOWHERE = Surroundings(open_api=_not_wanted)


class Configurations(list[WorkerConfig]):
    """The configurations that workers came with; they were sent away with an error at once."""

    @property
    def surroundings(self) -> Surroundings:
        return Surroundings(open_api=self._open_api)

    def _open_api(self, config: WorkerConfig, condition: Condition) -> Any:
        self.append(config)
        raise ConfigurationError("Enough is known.")


class Terminal(io.StringIO):
    """A terminal, on which somebody types, or is shown, something."""

    def isatty(self) -> bool:
        return True


async def terminated_after(seconds: float) -> None:
    await trio.sleep(seconds)
    # Else it would be the end of the tests.
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    signal.raise_signal(signal.SIGTERM)


# Options


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("-n", "somebody"), "name", "somebody"),
        (("--name", "somebody"), "name", "somebody"),
        (("-p", "other"), "pool", "other"),
        (("--pool", "other"), "pool", "other"),
        (("-q", "high", "--work-queue", "low"), "queues", ("high", "low")),
        (("-t", "docker"), "worker_type", "docker"),
        (("--type", "docker"), "worker_type", "docker"),
        (("--prefetch-seconds", "30"), "prefetch_seconds", 30),
        (("--websocket",), "websocket", True),
        (("--no-websocket",), "websocket", False),
        (("--run-once",), "run_once", True),
        (("-l", "3"), "limit", 3),
        (("--limit", "3"), "limit", 3),
        (("--launch-rate", "2.5"), "launch_rate", 2.5),
        (("--launch-rate", "inf"), "launch_rate", math.inf),
        (("--with-healthcheck",), "with_healthcheck", True),
        (("--no-create-pool-if-not-found",), "create_pool_if_not_found", False),
        (("--drain-timeout", "1.5"), "drain_timeout", 1.5),
        (("--kill-grace", "0"), "kill_grace", 0),
        (("--base-job-template", "template.json"), "base_job_template", TEMPLATE),
    ],
)
async def test_option_arrives_in_the_configuration(
    autojump_clock: Clock, user: User, words: tuple[str, ...], field: str, value: Any
) -> None:
    user.writes("template.json", TEMPLATE)
    configurations = Configurations()
    await user.calls(*WORKER, *words, surroundings=configurations.surroundings)
    (config,) = configurations
    expected = attrs.evolve(plain_config(user.directory), **{field: value})
    assert attrs.evolve(config, settings=expected.settings) == expected


def plain_config(directory: Path) -> WorkerConfig:
    return WorkerConfig(pool=POOL, name="me", settings=settings({}, directory))


async def test_defaults_are_those_of_the_library(autojump_clock: Clock, user: User) -> None:
    configurations = Configurations()
    await user.calls("start", "-p", POOL, surroundings=configurations.surroundings)
    (config,) = configurations
    assert re.fullmatch(r"ProcessWorker [0-9a-f-]{36}", config.name)
    expected = plain_config(user.directory)
    assert attrs.evolve(config, name="me", settings=expected.settings) == expected


async def test_settings_are_those_of_the_process(autojump_clock: Clock, user: User) -> None:
    user.sets(PREFECT_WORKER_QUERY_SECONDS="7")
    (user.directory / ".env").write_text("PREFECT_WORKER_PREFETCH_SECONDS=77\n")
    configurations = Configurations()
    await user.calls(*WORKER, surroundings=configurations.surroundings)
    (config,) = configurations
    assert config.settings.worker_query_seconds == 7
    assert config.effective_prefetch_seconds == 77


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--limit", "0"), "'--limit'"),
        (("--limit", "few"), "'--limit': 'few' is not a valid whole number."),
        (("--launch-rate", "0"), "'--launch-rate'"),
        (("--launch-rate", "nan"), "'--launch-rate': nan is no number."),
        (("--prefetch-seconds", "-1"), "'--prefetch-seconds'"),
        (("--drain-timeout", "soon"), "'--drain-timeout': 'soon' is not a valid number of seconds."),
        (("--drain-timeout", "nan"), "'--drain-timeout': nan is no number of seconds."),
        (("--kill-grace", "-0.1"), "'--kill-grace'"),
        (("--kill-grace", "-NaN"), "'--kill-grace': -NaN is no number of seconds."),
        (("--install-policy", "sometimes"), "'--install-policy'"),
        (("--log-format", "xml"), "'--log-format'"),
        (("--name",), "'--name' requires an argument"),
        (("--nmae", "x"), "--nmae"),
        (("an argument",), "an argument"),
    ],
)
async def test_wrong_use_is_answered_with_the_usage(
    autojump_clock: Clock, user: User, words: tuple[str, ...], complaint: str
) -> None:
    ended = await user.calls(*WORKER, *words, surroundings=NOWHERE)
    assert ended.exit_code == 2
    assert ended.errors[0] == "Usage: trioworker start [OPTIONS]"
    assert complaint in ended.errors[-1]
    assert ended.lines == []


# A worker's life


async def test_run_once_sees_what_is_due_to_its_end(autojump_clock: Clock, user: User, world: World) -> None:
    run = world.schedule(Script(seconds=100))
    ended = await user.calls(*WORKER, "--run-once", surroundings=world.surroundings)
    assert ended == Ended(0, [DISCOVERED, STARTED, STOPPED], ended.errors)
    assert world.states(run)[-1] == "Completed"
    assert world.now == 100
    # The log is that of Prefect's console.
    assert any(line.endswith("Flow run 'run-1' submitted to infrastructure") for line in ended.errors)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ("-q", "typo"),
            "Nothing was polled, since a work queue is missing: Work pool queue 'pool/typo' not found.",
        ),
        (
            ("-p", "typo", "--no-create-pool-if-not-found"),
            "Work pool 'typo' does not exist, and this worker may not create it.",
        ),
    ],
)
async def test_run_once_on_what_is_not_there_is_an_error_that_names_it(
    autojump_clock: Clock, user: User, world: World, words: tuple[str, ...], error: str
) -> None:
    ended = await user.calls(*WORKER, "--run-once", *words, surroundings=world.surroundings)
    assert (ended.exit_code, ended.errors) == (1, [f"Error: {error}"])
    assert not [line for line in ended.lines if "Waiting" in line]


async def test_worker_goes_on_until_it_is_told_to_stop(
    autojump_clock: Clock, user: User, world: World, nursery: trio.Nursery
) -> None:
    nursery.start_soon(terminated_after, 1000)
    ended = await user.calls(*WORKER, surroundings=world.surroundings)
    assert ended.exit_code == 0
    assert ended.lines == [
        DISCOVERED,
        STARTED,
        BOUND,
        "Received SIGTERM: stopping; no flow run is going on.",
        STOPPED,
    ]
    assert world.now == 1000


async def test_runs_that_were_cut_off_make_the_command_fail(
    autojump_clock: Clock, user: User, world: World, nursery: trio.Nursery
) -> None:
    world.schedule(Script(seconds=FOREVER))
    nursery.start_soon(terminated_after, 10)
    ended = await user.calls(*WORKER, "--drain-timeout", 2, surroundings=world.surroundings)
    assert ended.exit_code == 1
    assert ended.lines[2:] == [
        "Once told to stop, the worker is gone within 10 s (drain 2 s, kill grace 5 s, flush 3 s).",
        (
            "Received SIGTERM: taking no more flow runs, and waiting up to 2 s for 1 flow run to end."
            " Send it again to stop them now."
        ),
        "Stopping 1 flow run now: SIGTERM, and SIGKILL after 5 s.",
        "Cut off 1 flow run: reported as crashed.",
        STOPPED,
    ]
    assert world.now == 12


async def test_worker_that_is_stopped_before_it_polls_does_not_say_that_it_started(
    autojump_clock: Clock, user: User, world: World, nursery: trio.Nursery
) -> None:
    world.api.start_outage()
    nursery.start_soon(terminated_after, 10)
    ended = await user.calls(*WORKER, surroundings=world.surroundings)
    assert ended.exit_code == 0
    assert ended.lines == [
        "The Prefect API does not answer: no connection: refused. Trying again until it does.",
        "Received SIGTERM: stopping; no flow run is going on.",
        STOPPED,
    ]


async def test_signals_are_python_s_again_afterwards(autojump_clock: Clock, user: User, world: World) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    await user.calls(*WORKER, "--run-once", surroundings=world.surroundings)
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert after == before


async def test_colours_are_for_terminals(autojump_clock: Clock, user: User, world: World) -> None:
    user.sets(TERM="xterm")
    user.has(stdout=(terminal := Terminal()))
    world.api.add_work_pool("paused", is_paused=True)
    await user.calls("start", "-p", "paused", "-n", "me", "--run-once", surroundings=world.surroundings)
    warning, discovered, started, _ = terminal.getvalue().splitlines()
    assert warning.startswith("\x1b[33mThe work pool 'paused' is currently paused.")
    assert discovered == "Discovered type 'process' for work pool 'paused'.\x1b[0m"
    assert started == f"\x1b[32m{STARTED}\x1b[0m"


@pytest.mark.parametrize("variable", [{"PREFECT_LOGGING_COLORS": "false"}, {"NO_COLOR": "1"}])
async def test_colours_can_be_done_without(
    autojump_clock: Clock, user: User, world: World, variable: dict[str, str]
) -> None:
    user.sets(TERM="xterm", **variable)
    user.has(stdout=(terminal := Terminal()))
    await user.calls(*WORKER, "--run-once", surroundings=world.surroundings)
    assert terminal.getvalue().splitlines() == [DISCOVERED, STARTED, STOPPED]


# Errors


@pytest.mark.parametrize("stdin", [io.StringIO("pool\n"), None], ids=["a file", "nothing"])
async def test_pool_must_be_named_where_nobody_can_be_asked(
    autojump_clock: Clock, user: User, stdin: io.StringIO | None
) -> None:
    user.has(stdin=stdin)
    ended = await user.calls("start", surroundings=NOWHERE)
    assert ended.exit_code == 2
    assert ended.errors[0] == "Usage: trioworker start [OPTIONS]"
    assert ended.errors[-1] == "Error: Missing option '-p' / '--pool': the name of the work pool."


async def test_pool_is_asked_for_at_a_terminal(autojump_clock: Clock, user: User) -> None:
    user.has(stdin=Terminal("typed\n"))
    configurations = Configurations()
    ended = await user.calls("start", surroundings=configurations.surroundings)
    assert ended.lines == ["Work pool name: "]
    assert [config.pool for config in configurations] == ["typed"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"\xff\xfe\x00", "is not a text file."),
        (b'{\n"job_configuration": 1,}', "is not JSON: "),
        (b"[1, 2]", "must be a JSON object, not list."),
        (b"null", "must be a JSON object, not NoneType."),
        (b'{"variables": {}}', "must have an object 'job_configuration'."),
        (b'{"variables": [], "job_configuration": {}}', "must have an object 'variables'."),
    ],
)
async def test_useless_template_is_named(
    autojump_clock: Clock, user: User, content: bytes | None, complaint: str
) -> None:
    file = user.directory / "template.json"
    if content is not None:
        file.write_bytes(content)
    ended = await user.calls(*WORKER, "--base-job-template", file, surroundings=NOWHERE)
    assert ended.exit_code == 1
    (line,) = ended.errors
    assert line.startswith(f"Error: The base job template {file} {complaint}")


async def test_place_where_a_template_is_no_json_is_told(autojump_clock: Clock, user: User) -> None:
    (user.directory / "t.json").write_text('{\n  "variables": {}\n  "job_configuration": {}}')
    ended = await user.calls(*WORKER, "--base-job-template", "t.json", surroundings=NOWHERE)
    assert ended.errors[0].endswith(" in line 3, column 3.")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("NaN", "holds what JSON cannot: Out of range float values are not JSON compliant"),
        ("1e999", "holds what JSON cannot: Out of range float values are not JSON compliant"),
        (r'"\ud800"', r"holds half a character, such as \ud800, which is no Unicode text."),
        ("[" * 100_000 + "]" * 100_000, "is nested too deeply."),
        ("1" * 5_000, "cannot be read: Exceeds the limit (4300 digits)"),
    ],
)
async def test_value_in_a_template_that_cannot_be_sent_is_refused_in_one_line(
    autojump_clock: Clock, user: User, value: str, complaint: str
) -> None:
    (user.directory / "t.json").write_text(f'{{"variables": {{}}, "job_configuration": {{"a": {value}}}}}')
    ended = await user.calls(*WORKER, "--base-job-template", "t.json", surroundings=NOWHERE)
    assert ended.exit_code == 1
    (line,) = ended.errors
    assert line.startswith(f"Error: The base job template t.json {complaint}")


@pytest.mark.parametrize(
    ("options", "what"), [(("-p", "x\udcff"), "work pool"), (("-p", "p", "-n", "x\udcff"), "worker")]
)
async def test_name_that_is_no_unicode_is_refused_in_one_line(
    autojump_clock: Clock, user: User, options: tuple[str, ...], what: str
) -> None:
    ended = await user.calls("start", *options, surroundings=NOWHERE)
    assert ended.exit_code == 1
    assert ended.errors == [rf"Error: The name of the {what} is no Unicode text: 'x\udcff'."]


async def test_template_is_that_of_the_pool_which_is_created(
    autojump_clock: Clock, user: User, world: World
) -> None:
    user.writes("t.json", TEMPLATE)
    ended = await user.calls(
        *("start", "-p", "new", "-n", "me", "--run-once", "--base-job-template", "t.json"),
        surroundings=world.surroundings,
    )
    assert ended.exit_code == 0
    assert "Work pool 'new' created." in ended.lines
    assert (await world.api.read_work_pool("new")).base_job_template == TEMPLATE


async def test_nothing_starts_without_an_api(autojump_clock: Clock, user: User) -> None:
    user.sets(PREFECT_API_URL=None)
    ended = await user.calls(*WORKER, surroundings=NOWHERE)
    assert ended.exit_code == 1
    assert ended.errors[0].startswith("Error: PREFECT_API_URL is not set")
    assert "--local-server" in ended.errors[0]


async def test_api_is_the_real_one_unless_another_is_handed_in(autojump_clock: Clock, user: User) -> None:
    user.sets(PREFECT_API_URL="https://127.0.0.1:9/api", PREFECT_API_SSL_CERT_FILE="/nowhere/ca.pem")
    ended = await user.calls(*WORKER, surroundings=None)
    assert ended.exit_code == 1
    assert ended.errors[0].startswith("Error: the certificate file /nowhere/ca.pem")


async def test_setting_that_cannot_be_right_is_named_with_its_source(
    autojump_clock: Clock, user: User
) -> None:
    user.sets(PREFECT_WORKER_QUERY_SECONDS="often")
    ended = await user.calls(*WORKER, surroundings=NOWHERE)
    assert ended.exit_code == 1
    assert "PREFECT_WORKER_QUERY_SECONDS='often' (environment variable)" in ended.errors[0]


async def test_error_from_deep_within_the_worker_is_a_line_for_the_user(
    autojump_clock: Clock, user: User, world: World
) -> None:
    world.api.fail("read_work_pool", NotAuthenticatedError("GET /work_pools/pool", 401, "who?"))
    ended = await user.calls(*WORKER, surroundings=world.surroundings)
    assert ended.exit_code == 1
    assert ended.lines == []
    (line,) = ended.errors
    assert line.startswith(f"Error: The API at {URL} (environment variable) wants to know who you are")


async def test_bug_is_no_message_for_the_user(autojump_clock: Clock, user: User, world: World) -> None:
    surroundings = attrs.evolve(world.surroundings, infrastructure=_broken)
    with pytest.raises(ZeroDivisionError):
        await command.main(WORKER, "trioworker", obj=surroundings)


def _broken(worker_type: str, config: WorkerConfig) -> Any:
    raise ZeroDivisionError("nobody has thought of that")


async def test_notices_about_settings_come_before_anything_is_begun(
    autojump_clock: Clock, user: User
) -> None:
    user.sets(PREFECT_LOGGING_ROOT_LEVEL="LOUD")
    user.sets(PREFECT_CLIENT_METRICS_ENABLED="1")
    ended = await user.calls(*WORKER, surroundings=Configurations().surroundings)
    level, metrics = ended.lines
    assert level.startswith("PREFECT_LOGGING_ROOT_LEVEL (environment variable): 'LOUD' is no level")
    assert metrics.startswith("PREFECT_CLIENT_METRICS_ENABLED (environment variable): this worker serves no")
    assert ended.errors == ["Error: Enough is known."]


# Types of worker


@pytest.fixture
def moonbase(world: World) -> Surroundings:
    """The world, but with what is really installed; its pool `moon` is of a type that nobody has."""
    world.api.add_work_pool("moon", pool_type="moonbase")
    return attrs.evolve(world.surroundings, infrastructure=Surroundings().infrastructure)


MOON = ("start", "-p", "moon", "-n", "me")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), "--name me"),
        (
            ("-q", "a b", "-q", "c", "-l", "3", "--prefetch-seconds", "0", "--run-once"),
            "--name me --work-queue 'a b' --work-queue c --prefetch-seconds 0 --run-once --limit 3",
        ),
        (
            ("--with-healthcheck", "--no-create-pool-if-not-found"),
            "--name me --with-healthcheck --no-create-pool-if-not-found",
        ),
        (("--create-pool-if-not-found",), "--name me --create-pool-if-not-found"),
        (("--base-job-template", "t.json"), "--name me --base-job-template t.json"),
        # Prefect's command does not know these.
        (("--drain-timeout", "1", "--kill-grace", "1", "--log-format", "text"), "--name me"),
    ],
)
async def test_command_of_prefect_that_serves_the_pool_has_the_options_that_were_given(
    autojump_clock: Clock, user: User, moonbase: Surroundings, words: tuple[str, ...], options: str
) -> None:
    user.sets(PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1", PREFECT_WORKER_WEBSERVER_PORT="0")
    user.writes("t.json", TEMPLATE)
    ended = await user.calls(*MOON, *words, surroundings=moonbase)
    assert ended.exit_code == 1
    assert ended.errors[0].startswith("Error: Unable to start worker.")
    assert ended.errors[-1] == f"  prefect worker start --pool 'moon' --type moonbase {options}"


@pytest.mark.parametrize(
    ("stdin", "stdout"), [(io.StringIO, Terminal), (Terminal, io.StringIO)], ids=["no input", "no output"]
)
async def test_nothing_is_installed_where_nobody_can_be_asked(
    autojump_clock: Clock,
    user: User,
    moonbase: Surroundings,
    stdin: type[io.StringIO],
    stdout: type[io.StringIO],
) -> None:
    user.has(stdin=stdin(), stdout=(shown := stdout()))
    ended = await user.calls(*MOON, surroundings=moonbase)
    assert ended.exit_code == 1
    assert "Nothing is installed without asking, and there is no terminal to ask on." in shown.getvalue()


async def test_registry_is_asked_where_somebody_can_be_asked(
    autojump_clock: Clock, user: User, world: World, moonbase: Surroundings
) -> None:
    user.has(stdin=Terminal(), stdout=(terminal := Terminal()))
    await user.calls(*MOON, surroundings=moonbase)
    assert "Could not find a package for worker type 'moonbase'." in terminal.getvalue()
    assert world.api.count("read_worker_packages") == 1


async def test_install_policy_never_asks_nobody(
    autojump_clock: Clock, user: User, world: World, moonbase: Surroundings
) -> None:
    ended = await user.calls(*MOON, "--install-policy", "NEVER", surroundings=moonbase)
    assert ended.exit_code == 1
    assert ended.lines == ["Discovered type 'moonbase' for work pool 'moon'."]
    assert world.api.count("read_worker_packages") == 0
    assert ended.errors[-1].endswith("--name me --install-policy never")


# A server on this machine


SERVER = "http://127.0.0.1:4200/api"


@attrs.define
class StandIn:
    """What `open_local_server` would do, without a server.

    Attributes:
        url: the server's API.
        error: raised when it is to be opened.
        slow: whether it is never there.
        arguments: what it was called with.
        open: whether it is there.
    """

    url: str = SERVER
    error: LocalServerError | None = None
    slow: bool = False
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    open: bool = False

    @asynccontextmanager
    async def __call__(self, **arguments: Any) -> AsyncIterator[LocalServer]:
        self.arguments = arguments
        arguments["on_notice"]("Starting a local Prefect server.")
        await trio.sleep(FOREVER if self.slow else 10)
        if self.error is not None:
            raise self.error
        self.open = True
        try:
            yield LocalServer(
                self.url, self.url.removesuffix("/api"), Path("server.log"), keeper=cast("Any", None)
            )
        finally:
            self.open = False


@pytest.fixture
def server(user: User, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr("trioworker.command.local_server.open_local_server", stand_in)
    user.sets(PREFECT_API_URL=None, TRIOWORKER_PYTHON=sys.executable)
    return stand_in


LOCAL = (*WORKER, "--local-server")


async def test_worker_works_for_the_local_server(
    autojump_clock: Clock, user: User, world: World, server: StandIn
) -> None:
    served: list[tuple[str | None, bool]] = []

    def open_api(config: WorkerConfig, condition: Condition) -> Any:
        served.append((config.settings.api_url, server.open))
        return world.surroundings.open_api(config, condition)

    surroundings = attrs.evolve(world.surroundings, open_api=open_api)
    ended = await user.calls(*LOCAL, "--run-once", surroundings=surroundings)
    assert ended.exit_code == 0
    assert ended.lines == [
        "Starting a local Prefect server.",
        f"For other terminals: export PREFECT_API_URL={SERVER}",
        DISCOVERED,
        STARTED,
        STOPPED,
    ]
    assert served == [(SERVER, True)]
    assert not server.open


async def test_server_has_the_user_s_settings(autojump_clock: Clock, user: User, server: StandIn) -> None:
    user.sets(PREFECT_HOME=str(user.directory / "home"), PREFECT_SERVER_API_PORT="4242")
    await user.calls(*LOCAL, surroundings=Configurations().surroundings)
    arguments = dict(server.arguments)
    assert arguments.pop("environment")["PREFECT_SERVER_API_PORT"] == "4242"
    del arguments["on_notice"]
    assert arguments == {"python": sys.executable, "home": user.directory / "home", "preferred_port": 4242}


async def test_port_that_was_taken_is_told(autojump_clock: Clock, user: User, server: StandIn) -> None:
    user.sets(PREFECT_SERVER_API_PORT="4242")
    ended = await user.calls(*LOCAL, surroundings=Configurations().surroundings)
    assert ended.lines[1] == "Port 4242 is taken, so the server has another one."


async def test_api_url_that_does_not_count_is_told_with_its_source(
    autojump_clock: Clock, user: User, server: StandIn
) -> None:
    user.sets(PREFECT_API_URL=URL)
    configurations = Configurations()
    ended = await user.calls(*LOCAL, surroundings=configurations.surroundings)
    assert ended.lines[0] == (
        "PREFECT_API_URL (environment variable) does not count: the worker works for the local server."
    )
    assert [config.settings.api_url for config in configurations] == [SERVER]


async def test_server_that_does_not_start_ends_the_command(
    autojump_clock: Clock, user: User, server: StandIn
) -> None:
    server.error = LocalServerError("The server died.")
    ended = await user.calls(*LOCAL, surroundings=NOWHERE)
    assert (ended.exit_code, ended.errors) == (1, ["Error: The server died."])


@pytest.mark.parametrize(
    ("options", "seconds", "parts"),
    [
        ((), "33", "drain 20 s, kill grace 5 s, flush 3 s"),
        (("--drain-timeout", "0.5", "--kill-grace", "0.5"), "9", "drain 0.5 s, kill grace 0.5 s, flush 3 s"),
    ],
)
async def test_time_that_the_server_may_take_to_end_is_part_of_the_bound(
    *,
    autojump_clock: Clock,
    user: User,
    world: World,
    server: StandIn,
    nursery: trio.Nursery,
    options: tuple[str, ...],
    seconds: str,
    parts: str,
) -> None:
    nursery.start_soon(terminated_after, 100)
    ended = await user.calls(*LOCAL, *options, surroundings=world.surroundings)
    assert (
        f"Once told to stop, the worker is gone within {seconds} s ({parts}, local server 5 s)."
        in ended.lines
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--type", "docker"), "Unable to start worker."),
        (("--type", "docker", "--install-policy", "never"), "Unable to start worker."),
        (("--type", "trio"), "The flow runs of work pool 'pool' are calls of functions"),
        (("--type", "prefect-agent"), "'prefect-agent' typed work pools work with Prefect Agents"),
        (("--name", "a/b"), "Worker name cannot contain '/' or '%'"),
    ],
)
async def test_no_server_is_started_for_what_cannot_be(
    autojump_clock: Clock, user: User, server: StandIn, words: tuple[str, ...], complaint: str
) -> None:
    ended = await user.calls(*LOCAL, *words, surroundings=NOWHERE)
    assert ended.exit_code == 1
    assert ended.errors[0].startswith(f"Error: {complaint}")
    assert "Starting a local Prefect server." not in ended.lines


async def test_type_that_cannot_be_for_a_local_server_is_told_as_for_any_other(
    autojump_clock: Clock, user: User, server: StandIn
) -> None:
    ended = await user.calls(*LOCAL, "--type", "docker", "--limit", "3", surroundings=NOWHERE)
    assert ended.lines == ["Nothing is installed without asking, and there is no terminal to ask on."]
    assert ended.errors[-1] == (f"  prefect worker start --pool '{POOL}' --type docker --name me --limit 3")


async def test_local_server_is_asked_for_a_package_that_may_be_installed(
    autojump_clock: Clock, user: User, world: World, server: StandIn
) -> None:
    world.api.worker_packages.clear()
    surroundings = attrs.evolve(world.surroundings, infrastructure=Surroundings().infrastructure)
    words = ("--type", "docker", "--install-policy", "always")
    ended = await user.calls(*LOCAL, *words, surroundings=surroundings)
    assert ended.exit_code == 1
    assert ended.lines[-1] == "Could not find a package for worker type 'docker'."
    assert world.api.count("read_worker_packages") == 1


async def test_server_that_is_still_starting_can_be_done_without(
    autojump_clock: Clock, user: User, server: StandIn, nursery: trio.Nursery
) -> None:
    server.slow = True
    nursery.start_soon(terminated_after, 5)
    ended = await user.calls(*LOCAL, surroundings=NOWHERE)
    assert ended == Ended(0, ["Starting a local Prefect server.", "Received SIGTERM: stopping."], [])


async def test_server_outlives_the_drain(
    autojump_clock: Clock, user: User, world: World, server: StandIn, nursery: trio.Nursery
) -> None:
    run = world.schedule(Script(seconds=15))
    nursery.start_soon(terminated_after, 12)

    async def look() -> None:
        await trio.sleep(24)
        seen.append((world.states(run)[-1], server.open))

    seen: list[tuple[str, bool]] = []
    nursery.start_soon(look)
    ended = await user.calls(*LOCAL, surroundings=world.surroundings)
    assert ended.exit_code == 0
    assert seen == [("Running", True)]
    assert world.states(run)[-1] == "Completed"
    assert not server.open


# JSON


class Loud(FakeInfrastructure):
    """Infrastructure whose flow runs write to the standard error that they inherit."""

    def prepare(self, assignment: Assignment) -> FakeJob:
        os.write(2, b"something that is not JSON\n")
        return super().prepare(assignment)


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("--log-format", "JSON"), {}),
        (("--log-format", "json"), {"TRIOWORKER_LOG_FORMAT": "text"}),
        ((), {"TRIOWORKER_LOG_FORMAT": "json"}),
    ],
)
async def test_json_is_all_there_is_on_standard_error(
    autojump_clock: Clock, user: User, world: World, words: tuple[str, ...], variables: dict[str, str]
) -> None:
    user.sets(**variables)
    world.schedule()
    loud = Loud(world.api)
    surroundings = attrs.evolve(world.surroundings, infrastructure=lambda *_: loud)
    ended = await user.calls(*WORKER, *words, "--run-once", surroundings=surroundings)
    assert ended.exit_code == 0
    own = [line["message"] for line in ended.json if line["logger"] == "trioworker"]
    assert own == [DISCOVERED, STARTED, STOPPED]
    assert {line["logger"] for line in ended.json} == {"trioworker", "trioworker.flow_runs"}
    assert {(line["worker_name"], line["work_pool_name"]) for line in ended.json} == {("me", POOL)}
    # What flow runs write goes where their other output goes.
    assert ended.lines == ["something that is not JSON"]


async def test_json_can_be_wanted_in_a_file(autojump_clock: Clock, user: User, world: World) -> None:
    (user.directory / ".env").write_text("TRIOWORKER_LOG_FORMAT=json\n")
    ended = await user.calls(*WORKER, "--run-once", surroundings=world.surroundings)
    assert ended.lines == []
    assert [line["message"] for line in ended.json] == [DISCOVERED, STARTED, STOPPED]


async def test_option_for_text_wins_over_the_variable(
    autojump_clock: Clock, user: User, world: World
) -> None:
    user.sets(TRIOWORKER_LOG_FORMAT="json")
    ended = await user.calls(*WORKER, "--log-format", "text", "--run-once", surroundings=world.surroundings)
    assert ended.lines == [DISCOVERED, STARTED, STOPPED]


async def test_error_is_json_too(autojump_clock: Clock, user: User, world: World) -> None:
    world.api.fail("read_work_pool", NotAuthenticatedError("GET /work_pools/pool", 401, "who?"))
    ended = await user.calls(*WORKER, "--log-format", "json", surroundings=world.surroundings)
    assert ended.exit_code == 1
    (line,) = ended.json
    assert line["level"] == "ERROR"
    assert line["message"].startswith(f"The API at {URL}")


async def test_bug_is_json_too(autojump_clock: Clock, user: User, world: World) -> None:
    surroundings = attrs.evolve(world.surroundings, infrastructure=_broken)
    ended = await user.calls(*WORKER, "--log-format", "json", surroundings=surroundings)
    assert ended.exit_code == 1
    line = ended.json[-1]
    assert line["level"] == "CRITICAL"
    assert line["message"] == "The worker met with a bug: nobody has thought of that"
    assert line["exception"].endswith("ZeroDivisionError: nobody has thought of that")


async def test_setting_that_cannot_be_right_is_json_before_the_settings_are_known(
    autojump_clock: Clock, user: User
) -> None:
    user.sets(TRIOWORKER_LOG_FORMAT="json")
    user.sets(PREFECT_WORKER_QUERY_SECONDS="often")
    ended = await user.calls(*WORKER, surroundings=NOWHERE)
    assert ended.exit_code == 1
    (line,) = ended.json
    assert "PREFECT_WORKER_QUERY_SECONDS='often'" in line["message"]


async def test_wrong_use_of_the_pool_is_json_with_its_exit_code(autojump_clock: Clock, user: User) -> None:
    user.has(stdin=None)
    ended = await user.calls("start", "--log-format", "json", surroundings=NOWHERE)
    assert ended.exit_code == 2
    (line,) = ended.json
    assert line["message"].startswith("Missing option '-p' / '--pool'")


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("--nonsense", "start", "--log-format", "json"), None),
        (("strat", "--log-format", "json"), None),
        ((*WORKER, "--nonsense", "--log-format", "json"), None),
        ((*WORKER, "--log-format=JSON", "--limit", "many"), None),
        ((*WORKER, "--log-format", "text", "--nonsense", "--log-format", "json"), None),
        ((*WORKER, "--nonsense"), "json"),
        ((*WORKER, "--name"), "JSON"),
        ((*WORKER, "an argument"), "json"),
        (("strat",), "json"),
        ((), "json"),
    ],
)
async def test_wrong_call_is_json_with_its_exit_code_where_json_is_asked_for(
    autojump_clock: Clock, user: User, words: tuple[str, ...], setting: str | None
) -> None:
    if setting is not None:
        user.sets(TRIOWORKER_LOG_FORMAT=setting)
    ended = await user.calls(*words, surroundings=NOWHERE)
    assert ended.exit_code == 2
    assert ended.lines == []
    (line,) = ended.json
    assert line["level"] == "ERROR"
    assert line["message"]


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ((*WORKER, "--nonsense"), None),
        ((*WORKER, "--nonsense", "--log-format", "text"), "json"),
        ((*WORKER, "--log-format"), None),
        ((*WORKER, "--", "--log-format", "json"), None),
    ],
)
async def test_wrong_call_shows_the_usage_where_json_is_not_asked_for(
    autojump_clock: Clock, user: User, words: tuple[str, ...], setting: str | None
) -> None:
    if setting is not None:
        user.sets(TRIOWORKER_LOG_FORMAT=setting)
    ended = await user.calls(*words, surroundings=NOWHERE)
    assert ended.exit_code == 2
    assert ended.errors[0].startswith("Usage: trioworker start")


# The program


def test_program_runs_the_command_and_leaves_httpx_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trioworker", "--version"])
    # Put back afterwards, whether or not it was there.
    monkeypatch.delitem(sys.modules, "httpx._main", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"trioworker {__version__}\n"
    assert "httpx._main" not in sys.modules


def test_ctrl_c_in_the_first_instant_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    # What the tests have made may be garbage one day.
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("trioworker.command.cli.trioworker.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


async def test_help_names_every_option(autojump_clock: Clock, user: User) -> None:
    ended = await user.calls("start", "--help", surroundings=NOWHERE)
    assert ended.exit_code == 0
    shown = set(re.split(r"[\s,]+", "\n".join(ended.lines)))
    start = command.commands["start"]
    declared = {name for option in start.params for name in (*option.opts, *option.secondary_opts)}
    assert declared <= shown
    assert {"-n", "--pool", "--local-server", "--log-format", "--no-create-pool-if-not-found"} <= declared
