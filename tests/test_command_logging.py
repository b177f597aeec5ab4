"""What an operator sees of the worker's log, and of what the command says itself."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncclick as click
import command
import pytest
from command import COMPLETES, MODULE, Command, Launcher, Prefect, free_port

from trioworker.api.errors import APIError
from trioworker.command.output import CommandOutput
from trioworker.errors import ConfigurationError
from trioworker.notices import Notice

launch = command.launch
prefect = command.prefect

# Becomes the command with its standard error in a file.
_SPLIT = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
os.execvp(sys.argv[2], sys.argv[2:])
"""

PRINTS = "print('to output', flush=True)\nprint('to error', file=sys.stderr, flush=True)\n" + COMPLETES

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| [A-Z]{4,8} *\| trioworker[a-z_.]* - .+")


def split(stderr: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", _SPLIT, str(stderr), *MODULE)


def json_lines(stderr: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in stderr.read_text().splitlines()]


def write_logging_yml(directory: Path, text: str) -> Path:
    home = directory / "prefect"
    home.mkdir(exist_ok=True)
    path = home / "logging.yml"
    path.write_text(text, encoding="utf-8")
    return path


async def give_up(launch: Launcher, *options: str, **how: Any) -> Command:
    """Start a worker that finds no API and does not wait for one, and wait for its end."""
    api = f"http://127.0.0.1:{free_port()}/api"
    worker = await launch("start", "-p", "pool", *options, api=api, TRIOWORKER_GIVE_UP_AFTER="0.1", **how)
    assert await worker.exit_code() == 1
    return worker


@pytest.mark.process
class TestText:
    async def test_lines_about_a_run_look_as_prefects_worker_writes_them(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))

        worker = await launch("start", "-p", pool, "-n", "w", "--run-once", api=prefect.url)

        assert await worker.exit_code() == 0
        (line,) = worker.lines_with("submitting flow run")
        assert LINE.fullmatch(line)
        assert line.endswith(f" | INFO    | trioworker.flow_runs - Worker 'w' submitting flow run '{run}'")
        assert not worker.lines_with("DEBUG")
        assert worker.lines_with("w' st") == ["Worker 'w' started!", "Worker 'w' stopped!"]

    async def test_level_silences_the_log_but_not_the_command(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        await prefect.run(await prefect.deployment(pool, COMPLETES))

        worker = await launch(
            "start", "-p", pool, "-n", "w", "--run-once", api=prefect.url, PREFECT_LOGGING_LEVEL="WARNING"
        )

        assert await worker.exit_code() == 0
        assert not [line for line in worker.output.splitlines() if LINE.match(line)]
        assert worker.lines_with("Worker 'w' started!")

    async def test_debug_mode_shows_everything(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))

        worker = await launch(
            *("start", "-p", pool, "--run-once"),
            api=prefect.url,
            PREFECT_LOGGING_LEVEL="CRITICAL",
            PREFECT_WORKER_DEBUG_MODE="1",
        )

        assert await worker.exit_code() == 0
        assert worker.lines_with(f"submitting flow run '{run}'")

    @pytest.mark.parametrize(
        ("settings", "colored"),
        [({}, True), ({"NO_COLOR": "1"}, False), ({"PREFECT_LOGGING_COLORS": "false"}, False)],
    )
    async def test_terminal_has_colours_unless_the_user_minds(
        self, launch: Launcher, settings: dict[str, str], colored: bool
    ) -> None:
        warned = {"TERM": "xterm", "PREFECT_CLIENT_METRICS_ENABLED": "1"}

        worker = await give_up(launch, terminal=True, **warned, **settings)

        assert worker.lines_with("no Prometheus metrics")
        assert (b"\x1b[" in bytes(worker._written)) is colored


@pytest.mark.process
class TestJson:
    async def test_each_line_on_standard_error_is_json_and_standard_output_is_for_the_flows(
        self, launch: Launcher, prefect: Prefect, tmp_path: Path
    ) -> None:
        stderr = tmp_path / "stderr"
        pool = await prefect.pool()
        run = await prefect.run(await prefect.deployment(pool, PRINTS), name="brave-owl")

        worker = await launch(
            *("start", "-p", pool, "-n", "w", "--run-once", "--log-format", "json"),
            api=prefect.url,
            program=split(stderr),
            PREFECT_WORKER_DEBUG_MODE="1",
        )

        assert await worker.exit_code() == 0
        assert worker.output.splitlines() == ["to output", "to error"]
        lines = json_lines(stderr)
        messages = [line["message"] for line in lines]
        assert "Worker 'w' started!" in messages
        assert messages[-1] == "Worker 'w' stopped!"
        assert {line["worker_name"] for line in lines} == {"w"}
        assert {line["work_pool_name"] for line in lines} == {pool}
        about_run = [line for line in lines if line["logger"] == "trioworker.flow_runs"]
        assert messages.count(f"Worker 'w' submitting flow run '{run}'") == 1
        assert {(line["flow_run_id"], line["flow_run_name"]) for line in about_run} == {(run, "brave-owl")}
        assert all(line["timestamp"].endswith("+00:00") for line in lines)

    async def test_error_that_ends_the_command_is_json(self, launch: Launcher, tmp_path: Path) -> None:
        stderr = tmp_path / "stderr"

        worker = await give_up(launch, program=split(stderr), TRIOWORKER_LOG_FORMAT="json")

        assert worker.output == ""
        last = json_lines(stderr)[-1]
        assert last["level"] == "ERROR"
        assert "TRIOWORKER_GIVE_UP_AFTER" in last["message"]

    async def test_call_without_a_pool_is_json_with_the_exit_code_of_a_wrong_call(
        self, launch: Launcher, tmp_path: Path
    ) -> None:
        stderr = tmp_path / "stderr"

        refused = await launch("start", "--log-format", "json", program=split(stderr))

        assert await refused.exit_code() == 2
        (line,) = json_lines(stderr)
        assert line["message"].startswith("Missing option '-p' / '--pool'")

    async def test_setting_that_cannot_be_read_is_json(self, launch: Launcher, tmp_path: Path) -> None:
        stderr = tmp_path / "stderr"

        refused = await launch(
            *("start", "-p", "pool"),
            program=split(stderr),
            PREFECT_WORKER_QUERY_SECONDS="soon",
            TRIOWORKER_LOG_FORMAT="json",
        )

        assert await refused.exit_code() == 1
        (line,) = json_lines(stderr)
        assert line["message"].startswith("PREFECT_WORKER_QUERY_SECONDS='soon'")

    async def test_option_counts_more_than_the_setting(self, launch: Launcher) -> None:
        worker = await give_up(launch, "--log-format", "text", TRIOWORKER_LOG_FORMAT="json")

        assert worker.lines_with("Error: ")
        assert "{" not in worker.output


@pytest.mark.process
class TestLoggingFile:
    async def test_file_handler_and_level_count(
        self, launch: Launcher, prefect: Prefect, tmp_path: Path
    ) -> None:
        write_logging_yml(
            tmp_path,
            """
version: 1
formatters: {short: {format: "%(levelname)s %(flow_run_name)s %(message)s"}}
handlers: {file: {class: logging.FileHandler, filename: "${PREFECT_HOME}/worker.log", formatter: short}}
loggers: {prefect: {level: WARNING}, prefect.flow_runs: {level: INFO, handlers: [file]}}
""",
        )
        pool = await prefect.pool()
        run = await prefect.run(await prefect.deployment(pool, COMPLETES), name="brave-owl")

        worker = await launch("start", "-p", pool, "-n", "w", "--run-once", api=prefect.url)

        assert await worker.exit_code() == 0
        written = (tmp_path / "prefect" / "worker.log").read_text().splitlines()
        assert f"INFO brave-owl Worker 'w' submitting flow run '{run}'" in written
        assert not worker.lines_with("submitting flow run")

    async def test_broken_file_is_one_line_and_the_worker_goes_on(
        self, launch: Launcher, tmp_path: Path
    ) -> None:
        path = write_logging_yml(tmp_path, "handlers: [")

        worker = await give_up(launch)

        (line,) = worker.lines_with(str(path))
        assert "is not valid YAML" in line
        assert worker.lines_with("TRIOWORKER_GIVE_UP_AFTER")


@pytest.mark.process
async def test_metrics_are_refused_in_one_line(launch: Launcher) -> None:
    worker = await give_up(launch, PREFECT_CLIENT_METRICS_ENABLED="true", PREFECT_CLIENT_METRICS_PORT="4321")

    (line,) = worker.lines_with("PREFECT_CLIENT_METRICS_ENABLED")
    assert line.startswith("PREFECT_CLIENT_METRICS_ENABLED (environment variable): this worker serves no")
    assert "4321" in line


class TestCommandOutput:
    def test_text_goes_to_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        output = CommandOutput("text", {})

        output.show(Notice("attention", warning=True))
        output.say("started")

        assert capsys.readouterr() == ("attention\nstarted\n", "")

    def test_json_goes_to_standard_error_with_a_level(self, capsys: pytest.CaptureFixture[str]) -> None:
        output = CommandOutput("json", {})
        output.identity.worker_name = "w"

        output.show(Notice("attention", warning=True))
        output.show(Notice("started"))

        out, err = capsys.readouterr()
        lines = [json.loads(line) for line in err.splitlines()]
        assert not out
        assert [(line["level"], line["message"]) for line in lines] == [
            ("WARNING", "attention"),
            ("INFO", "started"),
        ]
        assert lines[0]["worker_name"] == "w"

    @pytest.mark.parametrize("error", [ConfigurationError("mend it"), APIError("mend it")])
    def test_error_for_the_user_ends_the_command(
        self, capsys: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        with (
            pytest.raises(click.ClickException, match="mend it"),
            CommandOutput("text", {}).ending_with_errors(),
        ):
            raise error
        with pytest.raises(SystemExit) as ended, CommandOutput("json", {}).ending_with_errors():
            raise error

        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert json.loads(line)["message"] == "mend it"

    def test_bug_is_json_with_its_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended, CommandOutput("json", {}).ending_with_errors():
            _ = dict[str, str]()["nothing"]

        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert json.loads(line)["level"] == "CRITICAL"
        assert json.loads(line)["exception"].endswith("KeyError: 'nothing'")

    @pytest.mark.parametrize(
        ("log_format", "make"),
        [
            ("text", lambda: KeyError("bug")),
            ("json", lambda: click.exceptions.Exit(3)),
            ("json", click.Abort),
            ("json", KeyboardInterrupt),
        ],
    )
    def test_what_others_see_to_is_left_alone(
        self, log_format: str, make: Callable[[], BaseException]
    ) -> None:
        error = make()

        with pytest.raises(type(error)) as caught, CommandOutput(log_format, {}).ending_with_errors():
            raise error

        assert caught.value is error
