"""Plain functions served from the command line: `trioworker deploy`, and `trioworker start --flows`."""

from __future__ import annotations

import json
import math
import re
import signal
import time
from pathlib import Path
from typing import Any

import attrs
import command
import pytest
import test_cli
import test_flow_loading
import trio
import trio.testing
from command import AT_ONCE, Command, Launcher, Prefect
from support import World
from test_cli import NOWHERE, User, terminated_after
from test_flow_loading import Project

from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import Deployment
from trioworker.command.cli import trioworker as trioworker_command

Clock = trio.testing.MockClock

launch = command.launch
prefect = command.prefect
user = test_cli.user
world = test_cli.world
logging_left_as_it_was = test_cli.logging_left_as_it_was
project = test_flow_loading.project

POOL = "functions"

SHOP = """
import logging
import time
from pathlib import Path

import trio

import trioworker

app = trioworker.TrioFlows()
logger = logging.getLogger("shop")


@app.flow(schedules=[trioworker.Interval(3600)])
async def greet(name: str = "you") -> None:
    logger.info("Hello, %s.", name)
    logger.debug("Not for everybody.")


@app.flow()
async def wait() -> None:
    logger.info("Waiting.")
    try:
        while not Path("go").exists():
            await trio.sleep(0.05)
    finally:
        logger.info("Waiting no longer.")


@app.flow()
def sleep() -> None:
    logger.info("Good night.")
    time.sleep(3600)


@app.flow()
async def insist() -> None:
    logger.info("Nobody ends me.")
    with trio.CancelScope(shield=True):
        await trio.sleep(3600)
"""


# One holds up the event loop beyond the bound of a worker that was told to drain for two seconds.
BLOCKING = SHOP.replace(
    """    with trio.CancelScope(shield=True):
        await trio.sleep(3600)
""",
    """    while not Path("go").exists():
        await trio.sleep(0.05)
    time.sleep(7)
    await trio.sleep(3600)
""",
)

# Notes what comes to its handler, as programs do that write a log of their own.
NOTING = """
class Note(logging.Handler):
    def emit(self, record):
        with open("shop.log", "a") as file:
            print(record.getMessage(), file=file)


logging.getLogger().addHandler(Note())
"""

# Silences, by default, all loggers that are there; and the root logger has no other handler.
CONFIGURING = """
import logging.config

logging.config.dictConfig(
    {
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": "shop.log"}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
)
"""


class TestDeploy:
    async def test_it_says_what_was_deployed_and_how_it_is_served(
        self, user: User, project: Project, world: World
    ) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls("deploy", "shop:app", "--pool", "my pool", surroundings=world.surroundings)
        assert (ended.exit_code, ended.errors) == (0, [])
        assert ended.lines == [
            "Deployed 'greet/my pool' (created).",
            "Deployed 'wait/my pool' (created).",
            "Deployed 'sleep/my pool' (created).",
            "Deployed 'insist/my pool' (created).",
            "Serve them with: trioworker start --pool 'my pool' --flows shop:app",
        ]
        assert (await world.api.read_work_pool("my pool")).type == "trio"

    async def test_it_says_what_it_has_changed(self, user: User, project: Project, world: World) -> None:
        project.has("shop.py", SHOP)
        words = ("deploy", "shop:app", "-p", POOL, "-f", "wait")
        said = [
            (await user.calls(*words, *more, surroundings=world.surroundings)).lines[0]
            for more in ((), (), ("--interval", "5"), ("--interval", "5"))
        ]
        assert said == [
            f"Deployed 'wait/functions' ({change})."
            for change in ("created", "unchanged", "updated", "unchanged")
        ]

    @pytest.mark.parametrize(
        ("words", "schedule"),
        [
            ((), {"interval": 3600.0, "timezone": "UTC"}),
            (("--cron", "0 3 * * *"), {"cron": "0 3 * * *", "timezone": "UTC"}),
            (
                ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin"),
                {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
            ),
            (("--interval", "90.5"), {"interval": 90.5, "timezone": "UTC"}),
            (
                ("--interval", "60", "--timezone", "Asia/Tokyo"),
                {"interval": 60.0, "timezone": "Asia/Tokyo"},
            ),
            (("--rrule", "FREQ=DAILY"), {"timezone": "UTC"}),
        ],
    )
    async def test_schedule_is_that_of_the_options_or_else_of_the_function(
        self, user: User, project: Project, world: World, words: tuple[str, ...], schedule: dict[str, Any]
    ) -> None:
        project.has("shop.py", SHOP)
        await user.calls("deploy", "shop:app", "-p", POOL, *words, surroundings=world.surroundings)
        deployment = await world.api.read_deployment_by_name("greet", POOL)
        (found,) = deployment.schedules
        assert schedule.items() <= found.schedule.items()
        assert ("rrule" in found.schedule) == ("--rrule" in words)

    async def test_flows_name_and_queue_can_be_chosen(
        self, user: User, project: Project, world: World
    ) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls(
            *("deploy", "shop:app", "-p", POOL, "-f", "wait", "--flow", "greet", "-n", "d", "-q", "urgent"),
            surroundings=world.surroundings,
        )
        assert ended.lines[:-1] == ["Deployed 'wait/d' (created).", "Deployed 'greet/d' (created)."]
        deployment = await world.api.read_deployment_by_name("wait", "d")
        assert deployment.work_queue_name == "urgent"

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("--cron", "@daily", "--interval", "3"), "Give one of --cron and --interval, not both."),
            (
                ("--timezone", "UTC"),
                "--timezone is that of a schedule: give --cron, --interval or --rrule too.",
            ),
            (("--interval", "0"), "--interval must be some seconds, more than 0, not 0."),
            (("--interval", "-1"), "--interval must be some seconds, more than 0, not -1."),
            (("--interval", "nan"), "--interval must be some seconds, more than 0, not nan."),
            (("--interval", "inf"), "--interval must be some seconds, more than 0, not inf."),
            (("--interval", "1e300"), "--interval must be some seconds, more than 0, not 1e+300."),
            (("--cron", " "), "The cron of a schedule is empty."),
            (("--cron", "bogus"), "'bogus' is no cron expression: it has five fields"),
            (
                ("--cron", "@daily", "--timezone", "Mars/One"),
                "'Mars/One' is no time zone that this machine knows",
            ),
            (("--flow", "x"), "There is no flow 'x'; there are: greet, wait, sleep, insist."),
            (("--name", "a/b"), "'a/b' cannot be a deployment: a name has none of / % & < >."),
        ],
    )
    async def test_what_cannot_be_right_is_told_in_one_line_before_the_server_is_asked(
        self, user: User, project: Project, words: tuple[str, ...], complaint: str
    ) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls("deploy", "shop:app", "-p", POOL, *words, surroundings=NOWHERE)
        assert (ended.exit_code, ended.lines) == (1, [])
        (line,) = ended.errors
        assert line.startswith(f"Error: {complaint}")

    async def test_schedule_that_the_server_refuses_is_told_in_one_line(
        self, user: User, project: Project, world: World
    ) -> None:
        project.has("shop.py", SHOP)
        words = ("deploy", "shop:app", "-p", POOL, "--cron", "61 * * * *")
        ended = await user.calls(*words, surroundings=world.surroundings)
        assert (ended.exit_code, ended.lines) == (1, [])
        (line,) = ended.errors
        assert line.startswith("Error: The server does not accept the deployment of flow 'greet': ")

    async def test_pool_of_another_type_is_refused(self, user: User, project: Project, world: World) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls("deploy", "shop:app", "-p", "pool", surroundings=world.surroundings)
        assert ended.exit_code == 1
        (line,) = ended.errors
        assert line.startswith(
            "Error: Work pool 'pool' is of type 'process', but functions are served on pools of"
        )

    async def test_settings_that_are_missing_are_named(self, user: User, project: Project) -> None:
        project.has("shop.py", SHOP)
        user.sets(PREFECT_API_URL=None)
        ended = await user.calls("deploy", "shop:app", "-p", POOL, surroundings=NOWHERE)
        assert ended.exit_code == 1
        assert ended.errors[0].startswith("Error: PREFECT_API_URL is not set")

    @pytest.mark.parametrize("setting", ["", "7"])
    async def test_patience_is_that_of_the_setting_or_a_minute(
        self, autojump_clock: Clock, user: User, project: Project, world: World, setting: str
    ) -> None:
        project.has("shop.py", SHOP)
        user.sets(TRIOWORKER_GIVE_UP_AFTER=setting)
        world.api.latency = 100
        begin = trio.current_time()
        ended = await user.calls("deploy", "shop:app", "-p", POOL, surroundings=world.surroundings)
        seconds = setting or "60"
        assert trio.current_time() - begin == pytest.approx(float(seconds))
        assert ended.exit_code == 1
        assert ended.errors[-1].startswith(f"Error: It could not be deployed within {seconds} s")
        assert "TRIOWORKER_GIVE_UP_AFTER" in ended.errors[-1]

    async def test_api_that_does_not_answer_is_told_twice_in_one_line_each(
        self, user: User, project: Project
    ) -> None:
        project.has("shop.py", SHOP)
        user.sets(PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="1")
        ended = await user.calls("deploy", "shop:app", "-p", POOL, surroundings=None)
        assert ended.exit_code == 1
        at_once, in_the_end = ended.errors
        assert " | WARNING | trioworker - The Prefect API does not answer: no connection" in at_once
        assert re.search(r"Trying again, for \d+ s at most\.$", at_once)
        assert in_the_end.startswith("Error: no connection: ")

    async def test_json_is_all_there_is_where_it_is_asked_for(
        self, user: User, project: Project, world: World
    ) -> None:
        project.has("shop.py", SHOP)
        user.sets(TRIOWORKER_LOG_FORMAT="json")
        words = ("deploy", "shop:app", "-p", POOL, "-f", "greet")
        ended = await user.calls(*words, surroundings=world.surroundings)
        assert ended.lines == []
        assert [line["message"] for line in ended.json] == [
            "Deployed 'greet/functions' (created).",
            "Serve them with: trioworker start --pool functions --flows shop:app",
        ]
        ended = await user.calls(*words[:4], "--cron", " ", surroundings=NOWHERE)
        assert [line["level"] for line in ended.json] == ["ERROR"]

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("shop:app",), "Missing option '-p' / '--pool'."),
            (("-p", POOL), "Missing argument 'MODULE:ATTR'."),
            (("shop:app", "-p", POOL, "--interval", "often"), "'--interval': 'often' is not a valid float."),
        ],
    )
    async def test_wrong_use_is_answered_with_the_usage(
        self, user: User, words: tuple[str, ...], complaint: str
    ) -> None:
        ended = await user.calls("deploy", *words, surroundings=NOWHERE)
        assert ended.exit_code == 2
        assert ended.errors[0] == "Usage: trioworker deploy [OPTIONS] MODULE:ATTR"
        assert complaint in ended.errors[-1]

    async def test_help_names_every_option(self, user: User) -> None:
        ended = await user.calls("deploy", "--help", surroundings=NOWHERE)
        assert ended.exit_code == 0
        assert max(map(len, ended.lines)) <= 80
        shown = set(" ".join(ended.lines).replace(",", " ").split())
        options = {name for option in trioworker_command.commands["deploy"].params for name in option.opts}
        assert options - {"flows"} <= shown
        assert {"MODULE:ATTR", "--pool", "--cron", "--interval", "--rrule", "--timezone"} <= shown
        assert "gives up after 60 seconds" in " ".join(ended.lines)
        assert "TRIOWORKER_GIVE_UP_AFTER" in shown


@pytest.fixture
def functions(world: World) -> Deployment:
    """The deployment of `greet` in a work pool of type `trio`."""
    world.api.add_work_pool(POOL, pool_type="trio")
    return world.api.add_deployment("greet", POOL)


SERVE = ("start", "-p", POOL, "-n", "me", "--flows", "shop:app")

SERVING = "Serving 4 flows: greet, wait, sleep, insist."

NOT_DEPLOYED = (
    "Work pool 'functions' has no deployment of any of them yet, so there will be no runs; to deploy:"
    " trioworker deploy shop:app --pool functions"
)


class TestServe:
    async def test_functions_are_called_and_what_they_log_is_shown_and_sent(
        self, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP)
        run = world.api.schedule(functions, parameters={"name": "world"})
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert ended.exit_code == 0
        assert ended.lines == ["Worker 'me' started!", SERVING, "Worker 'me' stopped!"]
        assert world.states(run)[-1] == "Completed"
        assert [line.partition(" | ")[2] for line in ended.errors if "shop" in line] == [
            "INFO    | shop - Flow run 'run-1': Hello, world."
        ]
        assert "Hello, world." in world.log(run)

    async def test_debug_lines_are_shown_where_they_are_asked_for(
        self, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP)
        user.sets(PREFECT_LOGGING_LEVEL="DEBUG")
        run = world.api.schedule(functions)
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert any(line.endswith("Not for everybody.") for line in ended.errors)
        assert "Not for everybody." in world.log(run)

    async def test_lines_in_json_name_the_run_and_the_worker(
        self, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP)
        run = world.api.schedule(functions)
        ended = await user.calls(
            *SERVE, "--run-once", "--log-format", "json", surroundings=world.surroundings
        )
        (line,) = [line for line in ended.json if line["logger"] == "shop"]
        assert (line["message"], line["level"]) == ("Hello, you.", "INFO")
        assert (line["flow_run_id"], line["flow_run_name"]) == (str(run.id), run.name)
        assert (line["worker_name"], line["work_pool_name"]) == ("me", POOL)

    async def test_module_that_adds_a_handler_gets_what_functions_log(
        self, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP + NOTING)
        world.api.schedule(functions)
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert (project.directory / "shop.log").read_text() == "Hello, you.\n"
        assert len([line for line in ended.errors if "| shop - " in line]) == 1

    async def test_pool_is_created_if_there_is_none(
        self, autojump_clock: Clock, user: User, project: Project, world: World
    ) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert (ended.exit_code, ended.lines[0]) == (0, f"Work pool '{POOL}' created.")
        assert (await world.api.read_work_pool(POOL)).type == "trio"

    async def test_worker_that_was_given_no_name_says_what_it_is(
        self, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP)
        words = ("start", "-p", POOL, "--flows", "shop:app", "--run-once")
        ended = await user.calls(*words, surroundings=world.surroundings)
        assert ended.lines[0].startswith("Worker 'TrioWorker ")

    async def test_what_is_served_is_said_and_that_none_of_it_is_deployed(
        self, *, autojump_clock: Clock, user: User, project: Project, world: World, nursery: trio.Nursery
    ) -> None:
        project.has("shop.py", SHOP)
        # Of other pools, or of other flows, are no use.
        world.api.add_work_pool(POOL, pool_type="trio")
        world.api.add_deployment("greet", "pool")
        world.api.add_deployment("report", POOL)
        nursery.start_soon(terminated_after, 10)
        ended = await user.calls(*SERVE, surroundings=world.surroundings)
        assert ended.exit_code == 0
        assert ended.lines[:2] == ["Worker 'me' started!", SERVING]
        assert ended.lines[2].startswith("Once told to stop, ")
        assert ended.lines[3:-2] == [NOT_DEPLOYED]
        assert world.api.count("count_deployments") == 1

    async def test_name_of_a_pool_and_a_single_flow_are_put_into_words(
        self, autojump_clock: Clock, user: User, project: Project, world: World
    ) -> None:
        project.has("one.py", test_flow_loading.APP)
        words = ("start", "-p", "my pool", "-n", "me", "--flows", "one:app", "--run-once")
        ended = await user.calls(*words, surroundings=world.surroundings)
        assert ended.lines[1:] == [
            "Worker 'me' started!",
            "Serving 1 flow: work.",
            (
                "Work pool 'my pool' has no deployment of it yet, so there will be no runs; to deploy:"
                " trioworker deploy one:app --pool 'my pool'"
            ),
            "Worker 'me' stopped!",
        ]

    async def test_one_deployment_is_reason_enough_to_start(
        self, *, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert ended.lines == ["Worker 'me' started!", SERVING, "Worker 'me' stopped!"]
        assert world.api.count("count_deployments") == 1

    @pytest.mark.parametrize("latency", [0, math.inf])
    async def test_what_the_server_does_not_say_of_deployments_is_not_waited_for(
        self,
        *,
        autojump_clock: Clock,
        user: User,
        project: Project,
        world: World,
        functions: Deployment,
        nursery: trio.Nursery,
        latency: float,
    ) -> None:
        project.has("shop.py", SHOP)
        world.api.fail("count_deployments", APIUnavailableError("gone"))
        world.api.latencies["count_deployments"] = latency
        run = world.api.schedule(functions)
        nursery.start_soon(terminated_after, 3)
        ended = await user.calls(*SERVE, surroundings=world.surroundings)
        assert ended.exit_code == 0
        assert not [line for line in ended.lines if "deploy" in line]
        assert dict(world.api.history(run.id))["Completed"] == 0
        assert world.now == 3

    async def test_worker_that_runs_once_waits_for_word_of_deployments_but_not_for_long(
        self, *, autojump_clock: Clock, user: User, project: Project, world: World, functions: Deployment
    ) -> None:
        project.has("shop.py", SHOP)
        world.api.latencies["count_deployments"] = math.inf
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert (ended.exit_code, world.now) == (0, 5)

    async def test_worker_that_runs_once_can_be_stopped_before_it_polls(
        self, *, autojump_clock: Clock, user: User, project: Project, world: World, nursery: trio.Nursery
    ) -> None:
        project.has("shop.py", SHOP)
        world.api.start_outage()
        nursery.start_soon(terminated_after, 3)
        ended = await user.calls(*SERVE, "--run-once", surroundings=world.surroundings)
        assert (ended.exit_code, world.now) == (0, 3)
        assert SERVING not in ended.lines

    async def test_functions_are_for_no_worker_of_another_type(self, user: User, project: Project) -> None:
        project.has("shop.py", SHOP)
        ended = await user.calls(*SERVE, "--type", "process", surroundings=NOWHERE)
        assert (ended.exit_code, ended.lines) == (1, [])
        assert ended.errors == ["Error: Functions are served by a worker of type 'trio', not 'process'."]

    async def test_functions_are_for_no_pool_of_another_type(
        self, autojump_clock: Clock, user: User, project: Project, world: World
    ) -> None:
        project.has("shop.py", SHOP)
        words = ("start", "-p", "pool", "--flows", "shop:app")
        ended = await user.calls(*words, surroundings=world.surroundings)
        assert (ended.exit_code, ended.lines) == (1, [])
        (line,) = ended.errors
        assert line.startswith(
            "Error: Work pool 'pool' is of type 'process', but functions are served on pools of"
        )

    async def test_pool_of_functions_needs_some(
        self, autojump_clock: Clock, user: User, world: World, functions: Deployment
    ) -> None:
        ended = await user.calls("start", "-p", POOL, surroundings=world.surroundings)
        assert ended.exit_code == 1
        assert f"`trioworker start --pool {POOL} --flows MODULE:ATTR`" in ended.errors[-1]

    @pytest.mark.parametrize("words", [("deploy", "-p", POOL), ("start", "-p", POOL, "--flows")])
    @pytest.mark.parametrize(
        ("reference", "complaint"),
        [
            ("shop", "'shop' does not say where the functions are: give MODULE:ATTRIBUTE"),
            ("shop.py:app", "'shop.py' is a file: give its module instead"),
            ("nowhere:app", "There is no module 'nowhere', neither in "),
            ("shop:flows", "Module 'shop' has no 'flows'; TrioFlows objects in it: app."),
            ("shop:logger", "'shop:logger' is of type Logger; it has to be a trioworker.TrioFlows."),
            ("misspelt:app", "Module 'misspelt' cannot be imported: SyntaxError: "),
            (
                "broken:app",
                "Module 'broken' cannot be imported: ZeroDivisionError: division by zero (broken.py, line 1)",
            ),
            ("empty:app", "There are no flows to serve: declare some with @app.flow()."),
            ("unfit:app", "flow function `work`, parameter `rest`: "),
        ],
    )
    async def test_module_without_functions_is_told_in_one_line(
        self,
        *,
        autojump_clock: Clock,
        user: User,
        project: Project,
        world: World,
        words: tuple[str, ...],
        reference: str,
        complaint: str,
    ) -> None:
        project.has("shop.py", SHOP)
        project.has("misspelt.py", "def f(:")
        project.has("broken.py", "1 / 0")
        project.has("empty.py", "import trioworker\napp = trioworker.TrioFlows()")
        project.has("unfit.py", f"{test_flow_loading.APP.replace('work()', 'work(*rest)')}")
        ended = await user.calls(*words, reference, surroundings=world.surroundings)
        assert (ended.exit_code, ended.lines) == (1, [])
        (line,) = ended.errors
        assert line.startswith(f"Error: {complaint}")
        assert world.api.count("create_work_pool") == 0

    async def test_function_that_was_cut_off_makes_the_command_fail(
        self,
        *,
        autojump_clock: Clock,
        user: User,
        project: Project,
        world: World,
        functions: Deployment,
        nursery: trio.Nursery,
    ) -> None:
        project.has("shop.py", SHOP)
        run = world.api.schedule(world.api.add_deployment("wait", POOL))
        nursery.start_soon(terminated_after, 10)
        ended = await user.calls(*SERVE, "--drain-timeout", 2, surroundings=world.surroundings)
        assert ended.exit_code == 1
        assert world.states(run)[-1] == "Crashed"
        assert world.now == 12
        assert "Waiting no longer." in world.log(run)


LEAVING = "Leaving with functions still going on, which only the end of the process ends."


@attrs.frozen
class Shop:
    """A module with functions in the directory of the commands, deployed to a pool of its own."""

    launch: Launcher
    prefect: Prefect
    directory: Path
    pool: str

    async def run(self, flow: str) -> str:
        """Schedule a run of a function, and return its id."""
        deployment = await self.prefect.call("GET", f"deployments/name/{flow}/{self.pool}")
        return await self.prefect.run(deployment["id"])

    async def worker(self, *options: str, **how: Any) -> Command:
        words = ("-p", self.pool, "--flows", "shop:app", *options)
        return await self.launch.worker(*words, api=self.prefect.url, **how)

    async def worker_with_run(self, flow: str, *options: str, **how: Any) -> tuple[Command, str]:
        """A worker with a run that is Running, and whose function has begun."""
        run = await self.run(flow)
        worker = await self.worker(*options, **how)
        await self.prefect.reached(run, "Running", worker)
        await worker.line_with("| shop - ")
        return worker, run

    def go(self) -> None:
        (self.directory / "go").touch()


@pytest.fixture
async def shop(launch: Launcher, prefect: Prefect, tmp_path: Path) -> Shop:
    directory = tmp_path / "work"
    (directory / "shop.py").write_text(SHOP)
    pool = await prefect.pool(type="trio")
    deployed = await launch("deploy", "shop:app", "--pool", pool, api=prefect.url)
    assert await deployed.exit_code() == 0, deployed.output
    return Shop(launch, prefect, directory, pool)


@pytest.mark.process
class TestProcess:
    async def test_scheduled_run_is_completed_and_its_log_is_everywhere(
        self, shop: Shop, prefect: Prefect
    ) -> None:
        run = await shop.run("greet")
        worker = await shop.worker()
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        (shown,) = worker.lines_with("shop")
        assert shown.partition(" | ")[2].startswith("INFO    | shop - Flow run '")
        assert shown.endswith("': Hello, you.")
        lines = await prefect.logged(run, "Hello, you.")
        (line,) = [line for line in lines if line["name"] == "shop"]
        assert (line["message"], line["level"]) == ("Hello, you.", 20)

    async def test_log_in_json_is_json_line_by_line(self, shop: Shop, prefect: Prefect) -> None:
        run = await shop.run("greet")
        worker = await shop.launch(
            *("start", "-p", shop.pool, "--flows", "shop:app", "--log-format", "json"), api=prefect.url
        )
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        lines = [json.loads(line) for line in worker.output.splitlines()]
        (line,) = [line for line in lines if line["logger"] == "shop"]
        assert (line["message"], line["flow_run_id"]) == ("Hello, you.", run)

    async def test_module_that_configures_logging_has_the_last_word_and_the_worker_is_heard(
        self, shop: Shop, prefect: Prefect
    ) -> None:
        (shop.directory / "shop.py").write_text(CONFIGURING + SHOP)
        run = await shop.run("greet")
        worker = await shop.worker()
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        assert "Hello, you." in (shop.directory / "shop.log").read_text().splitlines()
        assert not worker.lines_with("| shop - ")
        assert worker.lines_with("submitted to infrastructure")
        await prefect.logged(run, "Hello, you.")

    async def test_run_of_a_schedule_is_completed(self, shop: Shop, prefect: Prefect) -> None:
        deployed = await shop.launch(
            *("deploy", "shop:app", "--pool", shop.pool, "-f", "greet", "--interval", "2"), api=prefect.url
        )
        assert await deployed.exit_code() == 0
        worker = await shop.worker()
        await worker.line_with("Hello, you.")
        assert await worker.stop() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_signal_lets_a_function_come_to_its_end(
        self, shop: Shop, prefect: Prefect, number: signal.Signals
    ) -> None:
        worker, run = await shop.worker_with_run("wait")
        worker.send(number)
        await worker.line_with(f"Received {number.name}: taking no more flow runs, and waiting up to 20 s")
        assert await prefect.state_name(run) == "Running"
        shop.go()
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Completed"

    async def test_second_signal_cancels_it(self, shop: Shop, prefect: Prefect) -> None:
        worker, run = await shop.worker_with_run("wait", "--kill-grace", "30")
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM: taking no more flow runs")
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 1
        assert time.monotonic() - begin < AT_ONCE
        assert "was stopped before the flow run had ended" in await prefect.reached(run, "Crashed")
        await prefect.logged(run, "Waiting no longer.")
        assert LEAVING not in worker.output

    async def test_ctrl_c_drains_and_once_more_cancels(self, shop: Shop, prefect: Prefect) -> None:
        worker, run = await shop.worker_with_run("wait", terminal=True)
        await worker.type("\x03")
        await worker.line_with("Received SIGINT: taking no more flow runs")
        await worker.type("\x03")
        assert await worker.exit_code() == 1
        await prefect.reached(run, "Crashed")

    @pytest.mark.parametrize("flow", ["sleep", "insist"])
    async def test_third_signal_leaves_what_does_not_end(
        self, shop: Shop, prefect: Prefect, flow: str
    ) -> None:
        worker, run = await shop.worker_with_run(flow, "--kill-grace", "30")
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM: taking no more flow runs")
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM again")
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 1
        assert time.monotonic() - begin < AT_ONCE
        assert worker.lines_with(LEAVING)
        await prefect.reached(run, "Crashed")

    async def test_thread_does_not_hold_up_the_bound_of_the_drain(self, shop: Shop, prefect: Prefect) -> None:
        options = ("--drain-timeout", "0.5", "--kill-grace", "0.5")
        worker, run = await shop.worker_with_run("sleep", *options)
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        # With the 3 s to tell the API.
        assert await worker.exit_code() == 1
        assert 4 <= time.monotonic() - begin < 4 + AT_ONCE
        assert worker.lines_with(LEAVING)
        await prefect.reached(run, "Crashed")

    async def test_run_that_held_up_the_event_loop_is_reported(self, shop: Shop, prefect: Prefect) -> None:
        (shop.directory / "shop.py").write_text(BLOCKING)
        options = ("--drain-timeout", "2", "--kill-grace", "0.5")
        worker, run = await shop.worker_with_run("insist", *options)
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM: taking no more flow runs")
        shop.go()
        assert await worker.exit_code() == 1
        assert await prefect.state_name(run) == "Crashed"
        assert LEAVING not in worker.output

    async def test_thread_does_not_hold_up_a_worker_that_gives_up(self, shop: Shop, prefect: Prefect) -> None:
        port = command.free_port()
        async with trio.open_nursery() as connection:
            await connection.start(command.forward, port, prefect.url)
            await shop.run("sleep")
            worker = await shop.launch(
                *(
                    "start",
                    "-p",
                    shop.pool,
                    "--flows",
                    "shop:app",
                    "--drain-timeout",
                    "0",
                    "--kill-grace",
                    "0",
                ),
                api=f"http://127.0.0.1:{port}/api",
                TRIOWORKER_GIVE_UP_AFTER="0.5",
            )
            await worker.line_with("Good night.")
            connection.cancel_scope.cancel()
        assert await worker.exit_code() == 1
        assert worker.lines_with("The Prefect API does not answer")
        assert worker.lines_with(LEAVING)

    async def test_local_server_is_not_left_behind_with_what_does_not_end(
        self, launch: Launcher, tmp_path: Path
    ) -> None:
        (tmp_path / "work" / "shop.py").write_text(SHOP)
        worker = await launch.worker("-p", POOL, "--flows", "shop:app", "--local-server")
        url = (await worker.line_with("export PREFECT_API_URL=")).rpartition("=")[2]
        assert await (await launch("deploy", "shop:app", "-p", POOL, api=url)).exit_code() == 0
        async with command.open_http() as client:
            server = Prefect(client, url, tmp_path)
            deployment = await server.call("GET", f"deployments/name/sleep/{POOL}")
            await server.run(deployment["id"])
            await worker.line_with("Good night.")
        for _ in range(3):
            worker.send(signal.SIGTERM)
            # Signals that are on their way together count as one.
            await trio.sleep(0.1)
        assert await worker.exit_code() == 1
        await launch.all_gone()

    async def test_import_that_fails_is_a_line_and_an_exit_code(
        self, launch: Launcher, tmp_path: Path
    ) -> None:
        (tmp_path / "work" / "shop.py").write_text("import nothing_of_that_name\n")
        for words in (("deploy", "shop:app", "-p", POOL), ("start", "-p", POOL, "--flows", "shop:app")):
            ended = await launch(*words, api="http://127.0.0.1:9/api")
            assert await ended.exit_code() == 1
            assert ended.output == (
                "Error: Module 'shop' cannot be imported: ModuleNotFoundError: No module named"
                " 'nothing_of_that_name' (shop.py, line 1)\n"
            )
