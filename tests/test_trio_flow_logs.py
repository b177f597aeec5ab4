"""Standard `logging` within functions: what arrives in the log of which run, and what a program notices of it."""

from __future__ import annotations

import contextvars
import functools
import io
import logging
import logging.config
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from flow_support import Stage
from support import World

from trioworker import TrioFlows
from trioworker.api.models import FlowRun, LogLine
from trioworker.infrastructure.trio_flows.current import run_in_context
from trioworker.infrastructure.trio_flows.run_logs import RunLogHandler, sendable, sending_run_logs

Clock = trio.testing.MockClock

logger = logging.getLogger("of_a_program.part")


@contextmanager
def logging_of_a_program(level: int | None = None) -> Iterator[io.StringIO]:
    """The logging of a program: without a level, of one that has configured none. Pytest's own is put aside."""
    root = logging.getLogger()
    handlers, usual, root.handlers = root.handlers, root.level, []
    others = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    kept = [(each, each.handlers, each.level, each.propagate, each.disabled) for each in others]
    for each in others:
        each.handlers = [handler for handler in each.handlers if isinstance(handler, logging.NullHandler)]
    shown = io.StringIO()
    if level is None:
        root.setLevel(logging.WARNING)
    else:
        logging.basicConfig(level=level, stream=shown, format="%(message)s")
    try:
        yield shown
    finally:
        root.handlers = handlers
        root.setLevel(usual)
        for each, its_handlers, its_level, propagate, disabled in kept:
            each.handlers, each.propagate, each.disabled = its_handlers, propagate, disabled
            each.setLevel(its_level)


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(World(tmp_path))


@pytest.fixture
def configured() -> Iterator[io.StringIO]:
    with logging_of_a_program(logging.INFO) as shown:
        yield shown


def unconfigured(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Play a test in a program that has configured no logging."""

    @functools.wraps(test)
    async def play(**fixtures: Any) -> None:
        # No fixture: pytest adds handlers of its own once those are set up.
        with logging_of_a_program():
            await test(**fixtures)

    return play


def messages(stage: Stage, run: FlowRun) -> list[str]:
    return [line.message for line in stage.lines(run)]


async def test_lines_arrive_in_the_log_of_the_run(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    @stage.app.flow()
    async def work() -> None:
        await trio.sleep(2)
        logger.info("hello %s", "you")
        logger.log(35, "odd")
        logger.debug("too fine")

    run = stage.schedule()
    await stage.finish(run)
    assert stage.lines(run) == [
        LogLine(
            name="of_a_program.part",
            level=level,
            message=message,
            timestamp=stage.world.api.moment(2),
            flow_run_id=run.id,
        )
        for level, message in [(20, "hello you"), (35, "odd")]
    ]
    # And where they would have been shown without us.
    assert "hello you\nodd\n" in configured.getvalue()


async def test_lines_of_tasks_and_threads_that_a_function_starts_are_its_own(
    stage: Stage, configured: io.StringIO
) -> None:
    def in_thread() -> None:
        logger.info("thread")

    async def in_task() -> None:
        logger.info("task")
        await trio.to_thread.run_sync(in_thread)

    @stage.app.flow()
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_task)
            await trio.lowlevel.checkpoint()

    run = stage.schedule()
    await stage.finish(run)
    assert messages(stage, run) == ["task", "thread"]


async def test_lines_of_a_sync_function_arrive(stage: Stage, configured: io.StringIO) -> None:
    @stage.app.flow()
    def work() -> None:
        logger.info("sync")

    run = stage.schedule()
    await stage.finish(run)
    [line] = stage.lines(run)
    assert line.message == "sync"
    assert line.timestamp <= stage.world.api.now()


async def test_runs_that_go_on_at_once_have_each_their_own_lines(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    @stage.app.flow()
    async def work(n: int) -> None:
        for _ in range(3):
            logger.info("of %d", n)
            await trio.sleep(1)

    runs = [stage.schedule(parameters={"n": n}) for n in range(5)]
    await stage.finish(*runs)
    assert [messages(stage, run) for run in runs] == [[f"of {n}"] * 3 for n in range(5)]


@unconfigured
async def test_two_workers_in_one_process_have_each_their_own_lines(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    stages = Stage(World(tmp_path)), Stage(World(tmp_path))

    def declare(app: TrioFlows, name: str) -> None:
        @app.flow(name="work")
        async def work() -> None:
            await trio.sleep(1)
            logger.info("of %s", name)

    for stage, name in zip(stages, ("one", "two"), strict=True):
        declare(stage.app, name)
    runs = [stage.schedule() for stage in stages]
    async with stages[0].working():
        async with stages[1].working():
            await stages[1].ended(runs[1])
        await stages[0].ended(runs[0])
        assert logging.getLogger().level == logging.INFO
    assert [messages(stage, run) for stage, run in zip(stages, runs, strict=True)] == [["of one"], ["of two"]]
    assert logging.getLogger().level == logging.WARNING


@unconfigured
async def test_level_is_put_back_by_the_last_worker(autojump_clock: Clock) -> None:
    root = logging.getLogger()
    first, second = sending_run_logs(_noon), sending_run_logs(_noon)
    with first:
        second.__enter__()
    assert root.level == logging.INFO
    second.__exit__(None, None, None)
    assert root.level == logging.WARNING
    assert root.handlers == []


def _noon() -> datetime:
    return datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_tracebacks_are_told(autojump_clock: Clock, stage: Stage, configured: io.StringIO) -> None:
    @stage.app.flow()
    async def work() -> None:
        try:
            raise ValueError("inner")  # noqa: TRY301
        except ValueError:
            logger.exception("caught")

    run = stage.schedule()
    await stage.finish(run)
    [message] = messages(stage, run)
    assert message.startswith("caught\nTraceback (most recent call last):\n")
    assert message.endswith("ValueError: inner")


async def test_other_handlers_get_records_as_they_were(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    class Shouting(logging.Formatter):
        def formatException(self, ei: object) -> str:  # noqa: N802 - its name in `logging`
            return "AN EXCEPTION"

    @stage.app.flow()
    async def work() -> None:
        # After the worker's handler.
        handler = logging.StreamHandler(configured)
        handler.setFormatter(Shouting())
        logging.getLogger().handlers = [*reversed(logging.getLogger().handlers), handler]
        try:
            raise ValueError("inner")  # noqa: TRY301
        except ValueError:
            logger.exception("caught")

    run = stage.schedule()
    await stage.finish(run)
    assert "Traceback" in messages(stage, run)[0]
    shown = configured.getvalue()
    assert shown.count("caught") == 2


async def test_logger_that_keeps_to_itself_is_not_heard(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    own = logging.getLogger("of_a_program.private")

    @stage.app.flow()
    async def work() -> None:
        own.propagate = False
        own.info("private")
        own.propagate = True
        own.info("public")

    run = stage.schedule()
    await stage.finish(run)
    assert messages(stage, run) == ["public"]


async def test_line_that_is_to_stay_here_stays(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    @stage.app.flow()
    async def work() -> None:
        logger.info("secret", extra={"send_to_api": False})
        logging.getLogger("trioworker.outbox").warning("our own")

    run = stage.schedule()
    await stage.finish(run)
    assert messages(stage, run) == []
    assert "secret" in configured.getvalue()


async def test_what_a_function_logs_of_its_own_requests_is_its_own(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    @stage.app.flow()
    async def work() -> None:
        logging.getLogger("httpx").info("HTTP Request: GET http://example.org")

    run = stage.schedule()
    await stage.finish(run)
    assert messages(stage, run) == ["HTTP Request: GET http://example.org"]


@unconfigured
async def test_line_that_cannot_be_formatted_is_reported_as_by_other_handlers(
    autojump_clock: Clock, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    @stage.app.flow()
    async def work() -> None:
        logger.info("%d apples", "many")
        logger.info("next")

    run = stage.schedule()
    await stage.finish(run)
    assert messages(stage, run) == ["next"]
    assert stage.states(run)[-1] == "Completed"
    assert "--- Logging error ---" in capsys.readouterr().err


async def test_huge_line_is_cut(autojump_clock: Clock, stage: Stage, configured: io.StringIO) -> None:
    @stage.app.flow()
    async def work() -> None:
        logger.info("x" * 2_000_000)

    run = stage.schedule()
    await stage.finish(run)
    [message] = messages(stage, run)
    assert len(message) == 990_000
    assert message.endswith("x... [truncated]")


def test_text_is_cut_between_characters() -> None:
    cut = sendable("€" * 400_000)
    assert cut.startswith("€€€")
    assert cut.endswith("€... [truncated]")
    assert len(cut.encode()) <= 990_000


@pytest.mark.parametrize(("text", "sent"), [("\ud800", "\\ud800"), ("\0", "\\x00"), ("ä€😀", "ä€😀")])
def test_text_that_cannot_be_stored_is_written_out(text: str, sent: str) -> None:
    assert sendable(text) == sent


async def test_nothing_is_sent_if_logs_are_not_wanted(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    @stage.app.flow()
    async def work() -> None:
        logger.info("hello")

    run = stage.schedule()
    async with stage.world.working(
        {"PREFECT_LOGGING_TO_API_ENABLED": "false"}, pool="functions", flows=stage.app
    ):
        await stage.ended(run)
    assert stage.world.api.logs == []
    assert "hello" in configured.getvalue()


async def test_lines_of_nobody_are_sent_nowhere(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO
) -> None:
    @stage.app.flow()
    async def work() -> None: ...

    run = stage.schedule()
    async with stage.working():
        logger.info("of the host")
        await stage.ended(run)
    assert not [line for line in stage.world.api.logs if line.message == "of the host"]


# What a program notices


@unconfigured
async def test_program_without_logging_of_its_own_has_infos_sent_and_only_warnings_shown(
    autojump_clock: Clock, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    @stage.app.flow()
    async def work() -> None:
        logger.info("info")
        logger.warning("warning")

    run = stage.schedule()
    await stage.finish(run)
    assert messages(stage, run) == ["info", "warning"]
    assert capsys.readouterr().err == "warning\n"
    assert logging.getLogger().level == logging.WARNING


@unconfigured
async def test_warning_is_shown_once_though_there_are_two_workers(
    autojump_clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with sending_run_logs(_noon), sending_run_logs(_noon):
        logger.warning("warning")
    assert capsys.readouterr().err == "warning\n"


@unconfigured
async def test_warning_is_not_shown_where_the_program_has_a_handler(
    autojump_clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    with sending_run_logs(_noon):
        logger.addHandler(handler)
        logger.warning("warning")
        logger.removeHandler(handler)
    assert shown.getvalue() == "warning\n"
    assert capsys.readouterr().err == ""


@unconfigured
async def test_record_of_a_logger_that_keeps_to_itself_can_be_handed_over(
    autojump_clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    own = logging.getLogger("of_a_program.alone")
    own.propagate = False
    with sending_run_logs(_noon) as handler:
        handler.handle(own.makeRecord(own.name, logging.WARNING, "", 0, "warning", (), None))
    own.propagate = True
    assert capsys.readouterr().err == ""


@unconfigured
async def test_program_that_wants_no_last_resort_gets_none(
    autojump_clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "lastResort", None)
    with sending_run_logs(_noon):
        logger.warning("warning")
    assert capsys.readouterr().err == ""


@unconfigured
async def test_level_of_a_program_that_has_handlers_anywhere_is_left_alone(autojump_clock: Clock) -> None:
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    with sending_run_logs(_noon):
        assert logging.getLogger().level == logging.WARNING
    logger.removeHandler(handler)


@unconfigured
async def test_program_that_configures_logging_while_functions_run_has_its_way(
    autojump_clock: Clock, stage: Stage
) -> None:
    shown = io.StringIO()

    @stage.app.flow()
    async def work() -> None:
        logger.info("hello")

    first = stage.schedule()
    second = stage.schedule(at=50)
    async with stage.working():
        await stage.ended(first)
        logging.basicConfig(level=logging.INFO, stream=shown, format="%(message)s", force=True)
        await stage.ended(second)
    assert messages(stage, second) == ["hello"]
    assert "hello" in shown.getvalue()
    assert logging.getLogger().level == logging.INFO


@unconfigured
async def test_level_that_a_program_has_set_meanwhile_is_not_put_back(autojump_clock: Clock) -> None:
    root = logging.getLogger()
    with sending_run_logs(_noon):
        root.addHandler(logging.NullHandler())
        root.setLevel(logging.DEBUG)
    assert root.level == logging.DEBUG


@unconfigured
async def test_level_that_a_program_has_set_is_kept_though_it_is_the_workers(autojump_clock: Clock) -> None:
    root = logging.getLogger()
    with sending_run_logs(_noon):
        root.addHandler(logging.StreamHandler(io.StringIO()))
        root.setLevel(logging.INFO)
    assert root.level == logging.INFO


@unconfigured
async def test_level_is_put_back_in_a_program_that_configures_logging_without_the_root_logger(
    autojump_clock: Clock,
) -> None:
    handler = {"class": "logging.NullHandler"}
    loggers = {logger.name: {"handlers": ["mine"]}}
    with sending_run_logs(_noon):
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"mine": handler},
                "loggers": loggers,
            }
        )
        assert logging.getLogger().level == logging.INFO
    assert logging.getLogger().level == logging.WARNING


async def test_handler_is_gone_with_the_worker(autojump_clock: Clock, stage: Stage) -> None:
    before = list(logging.getLogger().handlers)

    @stage.app.flow()
    async def work() -> None: ...

    await stage.finish(stage.schedule())
    assert logging.getLogger().handlers == before


def test_thread_that_outlives_the_program_may_go_on_logging(tmp_path: Path, configured: io.StringIO) -> None:
    handlers: list[RunLogHandler] = []
    contexts: list[contextvars.Context] = []

    async def program() -> None:
        stage = Stage(World(tmp_path))

        @stage.app.flow()
        async def work() -> None:
            contexts.append(contextvars.copy_context())
            run = run_in_context.get()
            assert run is not None
            assert isinstance(run.owner, RunLogHandler)
            handlers.append(run.owner)

        await stage.finish(stage.schedule())

    trio.run(program)
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, "late", (), None)
    thread = threading.Thread(target=contexts[0].run, args=(handlers[0].handle, record))
    thread.start()
    thread.join()
    assert "late" not in configured.getvalue()


def test_thread_that_outlives_the_worker_may_go_on_logging(tmp_path: Path, configured: io.StringIO) -> None:
    """As one does whose line was still being formatted when the worker took its handler back."""

    async def program() -> list[str]:
        stage = Stage(World(tmp_path))
        of_call: list[tuple[contextvars.Context, RunLogHandler]] = []

        @stage.app.flow()
        async def work() -> None:
            run = run_in_context.get()
            assert run is not None
            assert isinstance(run.owner, RunLogHandler)
            of_call.append((contextvars.copy_context(), run.owner))
            logger.info("in time")

        run = stage.schedule()
        await stage.finish(run)
        [(context, handler)] = of_call
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, "late", (), None)
        await trio.to_thread.run_sync(context.run, handler.handle, record)
        return messages(stage, run)

    assert trio.run(program) == ["in time"]


async def test_last_lines_arrive_though_a_clean_up_has_held_up_the_end(
    autojump_clock: Clock, stage: Stage, configured: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
            logger.info("cleaned up")

    run = stage.schedule()
    async with stage.working(kill_grace=5, flush_timeout=3) as worker:
        await stage.world.api.wait_for_state(run.id, "Running")
        worker.stop()
    assert messages(stage, run) == ["cleaned up"]
    assert stage.world.api.events[-1].event == "prefect.worker.stopped"
    assert "did not reach the API" not in caplog.text
