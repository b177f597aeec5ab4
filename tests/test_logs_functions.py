"""What functions log, on the terminal of the command line: where it is shown, and from which level on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import support
import trio
from flow_support import Stage
from support import World

from trioworker import CurrentFlowRun
from trioworker.api.models import FlowRun
from trioworker.infrastructure.trio_flows.current import RunInContext, run_in_context
from trioworker.logs.configuration import configure_logging
from trioworker.logs.functions import show_logs_of_functions

RUN = UUID(int=1)
_OURS = ("trioworker", "trioworker.flow_runs")


@pytest.fixture(autouse=True)
def logging_left_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, *_OURS, "shop")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


# Standard error, where the log goes.
Terminal = pytest.CaptureFixture[str]


@pytest.fixture
def terminal(capsys: Terminal) -> Terminal:
    return capsys


@pytest.fixture
def in_run() -> Iterator[None]:
    """The test is called by a flow run, so to speak."""
    run = CurrentFlowRun(id=RUN, name="brave-bee", flow_name="work", deployment_id=None, tags=(), attempt=1)
    token = run_in_context.set(RunInContext(flow_run=run, owner=None, send=None))
    yield
    run_in_context.reset(token)


def configure(directory: Path, *, as_json: bool = False, **values: str) -> None:
    configure_logging(support.settings(values, directory), as_json=as_json)
    show_logs_of_functions()


def shown(terminal: Terminal) -> list[str]:
    """What the lines say, without their times."""
    return [line.partition(" | ")[2] for line in terminal.readouterr().err.splitlines()]


@pytest.mark.usefixtures("in_run")
class TestWithinARun:
    def test_lines_are_shown_from_info_on(self, tmp_path: Path, terminal: Terminal) -> None:
        configure(tmp_path)
        logging.getLogger("shop").debug("a")
        logging.getLogger("shop").info("b")
        logging.getLogger("shop.of.pictures").warning("c")
        assert shown(terminal) == [
            "INFO    | shop - Flow run 'brave-bee': b",
            "WARNING | shop.of.pictures - Flow run 'brave-bee': c",
        ]

    @pytest.mark.parametrize(
        ("level", "lines"),
        [("DEBUG", ["debug", "info", "error"]), ("INFO", ["info", "error"]), ("ERROR", ["error"])],
    )
    def test_level_is_that_of_prefect_s_setting(
        self, tmp_path: Path, terminal: Terminal, level: str, lines: list[str]
    ) -> None:
        configure(tmp_path, PREFECT_LOGGING_LEVEL=level)
        for number, word in ((logging.DEBUG, "debug"), (logging.INFO, "info"), (logging.ERROR, "error")):
            logging.getLogger("shop").log(number, word)
        assert [line.rpartition(" ")[2] for line in shown(terminal)] == lines

    def test_level_of_a_logger_of_the_program_s_counts(self, tmp_path: Path, terminal: Terminal) -> None:
        configure(tmp_path)
        logging.getLogger("shop").setLevel(logging.ERROR)
        logging.getLogger("shop").warning("a")
        assert shown(terminal) == []

    def test_line_in_json_names_its_run(self, tmp_path: Path, terminal: Terminal) -> None:
        configure(tmp_path, as_json=True)
        logging.getLogger("shop").info("a")
        line = json.loads(terminal.readouterr().err)
        assert (line["message"], line["logger"]) == ("a", "shop")
        assert (line["flow_run_id"], line["flow_run_name"]) == (str(RUN), "brave-bee")

    def test_line_is_shown_once(self, tmp_path: Path, terminal: Terminal) -> None:
        configure(tmp_path)
        logging.getLogger().error("of the root logger")
        logging.getLogger("trioworker.flow_runs").error("of the worker")
        assert len(shown(terminal)) == 2

    def test_root_level_of_prefect_s_settings_does_not_keep_lines_back(
        self, tmp_path: Path, terminal: Terminal
    ) -> None:
        configure(tmp_path, PREFECT_LOGGING_ROOT_LEVEL="CRITICAL")
        logging.getLogger("shop").info("a")
        assert shown(terminal) == ["INFO    | shop - Flow run 'brave-bee': a"]


class TestElsewhere:
    def test_libraries_are_as_quiet_as_before(self, tmp_path: Path, terminal: Terminal) -> None:
        """Such as the HTTP client of the worker itself, which tells of each request."""
        configure(tmp_path)
        logging.getLogger("httpx").info("a")
        logging.getLogger("httpx").warning("b")
        assert shown(terminal) == ["WARNING | httpx - b"]

    def test_lines_of_the_worker_are_shown_once(self, tmp_path: Path, terminal: Terminal) -> None:
        configure(tmp_path)
        logging.getLogger("trioworker").warning("a")
        logging.getLogger("trioworker.flow_runs").info("b")
        assert shown(terminal) == ["WARNING | trioworker - a", "INFO    | trioworker.flow_runs - b"]


async def test_lines_of_functions_and_their_tasks_are_shown_and_sent(
    autojump_clock: object, tmp_path: Path, terminal: Terminal
) -> None:
    configure(tmp_path)
    stage = Stage(World(tmp_path))

    @stage.app.flow()
    async def work() -> None:
        logging.getLogger("shop").info("of the function")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part, 1)
            await trio.sleep(1)
            nursery.start_soon(part, 2)

    async def part(number: int) -> None:
        logging.getLogger("shop").info("of task %d", number)

    run: FlowRun = stage.schedule()
    await stage.finish(run)
    of_functions = [line for line in shown(terminal) if " shop - " in line]
    words = ["of the function", "of task 1", "of task 2"]
    assert of_functions == [f"INFO    | shop - Flow run 'run-1': {each}" for each in words]
    assert [line.message for line in stage.lines(run)] == words
    # After the worker, nothing of it is left but what shows lines on the terminal.
    assert len(logging.getLogger().handlers) == 1
