"""Each option of `trioworker start` does, in a process of its own, what it says."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import command
import httpx
import pytest
from command import COMPLETES, MODULE, SCRIPT, Launcher, Prefect, free_port, open_http

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

OPTIONS = (
    ("-n", "--name"),
    ("-p", "--pool"),
    ("-q", "--work-queue"),
    ("-t", "--type"),
    ("--prefetch-seconds",),
    ("--websocket", "--no-websocket"),
    ("--run-once",),
    ("-l", "--limit"),
    ("--launch-rate",),
    ("--with-healthcheck",),
    ("--install-policy",),
    ("--base-job-template",),
    ("--create-pool-if-not-found", "--no-create-pool-if-not-found"),
    ("--flows",),
    ("--local-server",),
    ("--drain-timeout",),
    ("--kill-grace",),
    ("--warm-start", "--no-warm-start"),
    ("--preload",),
    ("-h", "--help"),
)

TEMPLATE = {
    "job_configuration": {"command": "{{ command }}", "env": {"ORIGIN": "a file"}},
    "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
}


class TestHelpAndVersion:
    async def test_help_of_start_names_every_option_within_80_columns(self, launch: Launcher) -> None:
        shown = await launch("start", "--help", COLUMNS="200")
        assert await shown.exit_code() == 0
        assert max(map(len, shown.output.splitlines())) <= 80
        words = set(re.split(r"[\s,]+", shown.output))
        assert {name for names in OPTIONS for name in names} <= words

    async def test_help_of_deploy_fits_into_80_columns_too(self, launch: Launcher) -> None:
        shown = await launch("deploy", "--help", COLUMNS="200")
        assert await shown.exit_code() == 0
        assert max(map(len, shown.output.splitlines())) <= 80
        assert shown.output.startswith("Usage: python -m trioworker deploy [OPTIONS] MODULE:ATTR\n")

    async def test_module_and_script_are_the_same_command(self, launch: Launcher) -> None:
        module, script = await launch("--help", program=MODULE), await launch("--help", program=SCRIPT)
        assert await module.exit_code() == await script.exit_code() == 0
        assert module.output.replace("python -m trioworker", "trioworker") == script.output
        assert max(map(len, script.output.splitlines())) <= 80
        assert {"deploy", "start"} <= set(script.output.split())

    async def test_version_is_that_of_the_package(self, launch: Launcher) -> None:
        from trioworker import __version__

        shown = await launch("--version")
        assert await shown.exit_code() == 0
        assert shown.output == f"trioworker {__version__}\n"


class TestName:
    async def test_named_worker_is_online_and_its_events_are_linked(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        name = f"Worker {pool}"
        worker = await launch.worker("-n", name, "-p", pool, api=prefect.url)
        assert await prefect.online(pool) == [name]

        assert await worker.stop() == 0
        assert worker.lines_with("started!") == [f"Worker {name!r} started!"]
        assert worker.output.splitlines()[-1] == f"Worker {name!r} stopped!"
        started, stopped = await prefect.events(f"prefect.worker.process.worker-{pool}", 2)
        assert (started["event"], stopped["event"]) == ("prefect.worker.started", "prefect.worker.stopped")
        assert stopped["follows"] == started["id"]
        assert started["resource"]["prefect.resource.name"] == name

    async def test_names_are_unique_unless_given(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        workers = [
            await launch("start", "--pool", pool, "--run-once", api=prefect.url, program=program)
            for program in (MODULE, SCRIPT)
        ]
        lines = set()
        for worker in workers:
            assert await worker.exit_code() == 0
            lines.update(worker.lines_with("started!"))
        assert len(lines) == 2
        assert all(re.fullmatch(r"Worker 'ProcessWorker [0-9a-f-]{36}' started!", line) for line in lines)

    @pytest.mark.parametrize("name", ["a/b", "50%"])
    async def test_name_with_slash_or_percent_is_refused(self, launch: Launcher, name: str) -> None:
        refused = await launch("start", "--name", name, "-p", "pool", api="http://127.0.0.1:9/api")
        assert await refused.exit_code() != 0
        assert "Worker name cannot contain '/' or '%'" in refused.output
        assert "started!" not in refused.output


class TestPool:
    async def test_pool_is_asked_for_on_a_terminal(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        worker = await launch("start", api=prefect.url, terminal=True)
        await worker.line_with("Work pool name")
        await worker.type(f"{pool}\n")
        await worker.line_with(f"Discovered type 'process' for work pool '{pool}'.")
        await worker.line_with("started!")
        await worker.type("\x03")
        assert await worker.exit_code() == 0
        await worker.line_with("Received SIGINT")

    async def test_question_for_the_pool_can_be_left_with_ctrl_c(self, launch: Launcher) -> None:
        asking = await launch("start", api="http://127.0.0.1:9/api", terminal=True)
        await asking.line_with("Work pool name")
        # Python's input() misses a signal that comes just before it begins to read.
        await asking.is_reading()
        await asking.type("\x03")
        assert await asking.exit_code() == 1
        assert asking.lines_with("Aborted!")
        assert "started!" not in asking.output

    async def test_missing_pool_is_wrong_usage_without_a_terminal(self, launch: Launcher) -> None:
        refused = await launch("start", api="http://127.0.0.1:9/api")
        assert await refused.exit_code() == 2
        assert "Usage:" in refused.output
        assert "--pool" in refused.output


class TestWorkQueue:
    async def test_only_runs_of_the_named_queues_are_executed(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        runs = {}
        for queue in ("first", "second", "third"):
            await prefect.call("POST", f"work_pools/{pool}/queues", {"name": queue})
            deployment = await prefect.deployment(pool, COMPLETES, work_queue_name=queue)
            runs[queue] = await prefect.run(deployment)
        worker = await launch(
            "start", "-p", pool, "-q", "first", "--work-queue", "third", "--run-once", api=prefect.url
        )
        assert await worker.exit_code() == 0
        assert {queue: await prefect.state_name(run) for queue, run in runs.items()} == {
            "first": "Completed",
            "second": "Scheduled",
            "third": "Completed",
        }

    async def test_paused_queues_are_noticed(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        await prefect.call("POST", f"work_pools/{pool}/queues", {"name": "resting", "is_paused": True})
        some = await launch("start", "-p", pool, "-q", "resting", "--run-once", api=prefect.url)
        await prefect.call("PATCH", f"work_pools/{pool}/queues/default", {"is_paused": True})
        assert await some.exit_code() == 0
        assert some.lines_with(f"Specified work queue(s) in the work pool '{pool}' are currently paused.")

        every = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await every.exit_code() == 0
        assert every.lines_with(f"All work queues in the work pool '{pool}' are currently paused.")

    async def test_paused_pool_is_noticed_and_its_runs_wait(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool(is_paused=True)
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))
        worker = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert worker.lines_with(
            f"The work pool '{pool}' is currently paused. This worker will not execute any flow runs"
            " until the work pool is unpaused."
        )
        assert await prefect.state_name(run) == "Scheduled"


class TestType:
    async def test_unknown_pool_gets_a_process_worker_and_is_created(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = f"new-{free_port()}"
        worker = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert worker.lines_with(
            f"Work pool '{pool}' does not exist and no worker type was provided. Starting a process worker..."
        )
        assert worker.lines_with(f"Work pool '{pool}' created.")
        created = await prefect.call("GET", f"work_pools/{pool}")
        assert created["type"] == "process"
        assert "command" in created["base_job_template"]["job_configuration"]

    async def test_given_type_needs_no_discovery(self, launch: Launcher, prefect: Prefect) -> None:
        pool = f"typed-{free_port()}"
        worker = await launch("start", "-p", pool, "--type", "process", "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert not worker.lines_with("Discovered type")
        assert not worker.lines_with("does not exist")
        assert (await prefect.call("GET", f"work_pools/{pool}"))["type"] == "process"

    async def test_unavailable_type_is_refused(self, launch: Launcher, prefect: Prefect) -> None:
        pool = f"odd-{free_port()}"
        refused = await launch("start", "-p", pool, "-t", "moonbase", api=prefect.url)
        assert await refused.exit_code() == 1
        assert refused.lines_with("Unable to start worker. Please ensure you have the necessary dependencies")
        assert not await prefect.exists(f"work_pools/{pool}")

    @pytest.mark.parametrize(
        ("pool_type", "reason"),
        [
            ("cloud-run:push", "Workers are not required for push and managed work pools."),
            ("prefect:managed", "Workers are not required for push and managed work pools."),
            ("prefect-agent", "'prefect-agent' typed work pools work with Prefect Agents instead of Workers"),
        ],
    )
    async def test_pools_that_are_not_for_workers_are_refused(
        self, launch: Launcher, prefect: Prefect, pool_type: str, reason: str
    ) -> None:
        pool = await prefect.pool(type=pool_type)
        refused = await launch("start", "-p", pool, api=prefect.url)
        assert await refused.exit_code() == 1
        assert refused.lines_with(reason)
        assert await prefect.workers(pool) == []


class TestPrefetch:
    @pytest.mark.parametrize(
        ("options", "setting", "taken"),
        [
            (("--prefetch-seconds", "0"), "3600", False),
            (("--prefetch-seconds", "3600"), "0", True),
            ((), "3600", True),
            ((), "0", False),
        ],
    )
    async def test_runs_are_taken_as_far_ahead_as_told(
        self, launch: Launcher, prefect: Prefect, options: tuple[str, ...], setting: str, *, taken: bool
    ) -> None:
        pool = await prefect.pool()
        run = await prefect.run(await prefect.deployment(pool, "note('taken')"), ahead=600)
        worker = await launch(
            *("start", "-p", pool, "--run-once", *options),
            api=prefect.url,
            PREFECT_WORKER_PREFETCH_SECONDS=setting,
        )
        assert await worker.exit_code() == 0
        assert (prefect.directory / "taken").exists() is taken
        assert (await prefect.state_name(run) == "Scheduled") is not taken

    async def test_run_is_taken_within_the_default_time(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        await prefect.run(await prefect.deployment(pool, "note('far')"), ahead=600)
        await prefect.run(await prefect.deployment(pool, "note('near')"), ahead=8)
        worker = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert (prefect.directory / "near").exists()
        assert not (prefect.directory / "far").exists()


class TestRunOnce:
    async def test_claimed_runs_are_seen_to_their_end_and_logged(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        deployment = await prefect.deployment(pool, "become('RUNNING')\nwait_for('go')\nbecome('COMPLETED')")
        runs = [await prefect.run(deployment) for _ in range(2)]
        worker = await launch("start", "-p", pool, "--run-once", "-n", "Solo", api=prefect.url)
        for run in runs:
            await prefect.reached(run, "Running", worker)
        late = await prefect.run(deployment)
        prefect.go()
        assert await worker.exit_code() == 0
        assert [await prefect.state_name(run) for run in runs] == ["Completed", "Completed"]
        assert await prefect.state_name(late) == "Scheduled"
        lines = await prefect.logged(
            runs[0], "Worker 'Solo' submitting flow run", "submitted to infrastructure"
        )
        assert {line["flow_run_id"] for line in lines} == {runs[0]}

    async def test_process_that_ends_without_a_final_state_makes_its_run_crashed(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        runs = {
            code: await prefect.run(await prefect.deployment(pool, f"become('RUNNING')\nos._exit({code})"))
            for code in (0, 7)
        }
        worker = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        for code, run in runs.items():
            assert f"status code: {code}" in await prefect.reached(run, "Crashed")


class TestLimit:
    async def test_never_more_runs_at_once_than_allowed(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        # The clock is the machine's, the same in all processes.
        script = (
            "begin = time.monotonic()\nbecome('RUNNING')\nbecome('COMPLETED')\n"
            "note('times', begin, time.monotonic())"
        )
        deployment = await prefect.deployment(pool, script)
        runs = [await prefect.run(deployment) for _ in range(3)]
        worker = await launch.worker("-p", pool, "--limit", "1", api=prefect.url)
        for run in runs:
            await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        times = sorted((float(begin), float(end)) for begin, end in prefect.noted("times"))
        assert len(times) == 3
        assert times[0][1] < times[1][0]
        assert times[1][1] < times[2][0]

    async def test_all_at_once_without_a_limit(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        # Each goes on when it has seen the other.
        script = (
            "note(run)\nbecome('RUNNING')\n"
            "while len([f for f in here.iterdir() if not f.suffix]) < 2: time.sleep(0.02)\n"
            "become('COMPLETED')"
        )
        deployment = await prefect.deployment(pool, script)
        runs = [await prefect.run(deployment) for _ in range(2)]
        worker = await launch("start", "-p", pool, "-l", "2", "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert [await prefect.state_name(run) for run in runs] == ["Completed", "Completed"]


class TestHealthcheck:
    async def test_health_is_served_where_the_settings_say(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        port = free_port()
        address = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
        plain = await launch.worker("-p", pool, api=prefect.url, **address)
        async with open_http() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/health")
            assert await plain.stop() == 0

            worker = await launch.worker("-p", pool, "--with-healthcheck", api=prefect.url, **address)
            answer = await client.get(f"http://127.0.0.1:{port}/health")
            assert (answer.status_code, answer.json()) == (200, {"message": "OK"})
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.2:{port}/health")
        assert await worker.stop() == 0

    async def test_health_stays_green_while_runs_drain(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        port = free_port()
        run = await prefect.run(await prefect.deployment(pool, command.WAITS))
        worker = await launch.worker(
            *("-p", pool, "--with-healthcheck"),
            api=prefect.url,
            PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
            PREFECT_WORKER_WEBSERVER_PORT=str(port),
            PREFECT_WORKER_QUERY_SECONDS="0.04",
            PREFECT_WORKER_HEARTBEAT_SECONDS="1",
        )
        await prefect.reached(run, "Running", worker)
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM")
        # Without a poll, health turns red after 30 poll intervals, which these heartbeats outlast.
        for _ in range(3):
            await prefect.next_heartbeat(pool)
        async with open_http() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200
        prefect.go()
        assert await worker.exit_code() == 0


class TestInstallPolicy:
    @pytest.mark.parametrize("policy", ["always", "If-Not-Present", "NEVER", "prompt"])
    async def test_every_policy_starts_a_worker(
        self, launch: Launcher, prefect: Prefect, policy: str
    ) -> None:
        pool = await prefect.pool()
        worker = await launch("start", "-p", pool, "--install-policy", policy, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert worker.lines_with("stopped!")


class TestBaseJobTemplate:
    async def test_new_pool_gets_it_and_an_existing_one_keeps_its_own(
        self, launch: Launcher, prefect: Prefect, tmp_path: Path
    ) -> None:
        file = tmp_path / "template.json"
        file.write_text(json.dumps(TEMPLATE))
        new, old = f"templated-{free_port()}", await prefect.pool()
        for pool in (new, old):
            worker = await launch(
                "start", "-p", pool, "--base-job-template", file, "--run-once", api=prefect.url
            )
            assert await worker.exit_code() == 0
        templates = {pool: await _template(prefect, pool) for pool in (new, old)}
        assert templates[new] == TEMPLATE
        assert "working_dir" in templates[old]["job_configuration"]

        run = await prefect.run(await prefect.deployment(new, "note('origin', os.environ['ORIGIN'])"))
        worker = await launch("start", "-p", new, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert prefect.noted("origin") == [["a", "file"]]
        await prefect.reached(run, "Crashed")


async def _template(prefect: Prefect, pool: str) -> dict[str, Any]:
    template: dict[str, Any] = (await prefect.call("GET", f"work_pools/{pool}"))["base_job_template"]
    return template


class TestCreatePool:
    async def test_pool_is_created_when_that_is_asked_for(self, launch: Launcher, prefect: Prefect) -> None:
        pool = f"asked-{free_port()}"
        worker = await launch(
            "start", "-p", pool, "--create-pool-if-not-found", "--run-once", api=prefect.url
        )
        assert await worker.exit_code() == 0
        assert await prefect.exists(f"work_pools/{pool}")

    async def test_pool_that_may_not_be_created_is_waited_for(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = f"awaited-{free_port()}"
        worker = await launch(
            *("start", "-p", pool, "--no-create-pool-if-not-found"),
            api=prefect.url,
            PREFECT_WORKER_HEARTBEAT_SECONDS="0.5",
        )
        await worker.line_with(f"Work pool '{pool}' not found!")
        assert not await prefect.exists(f"work_pools/{pool}")
        await prefect.call("POST", "work_pools/", {"name": pool, "type": "process"})
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        assert len(worker.lines_with("not found!")) == 1

    async def test_worker_that_waits_for_its_pool_can_be_stopped(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = f"never-{free_port()}"
        worker = await launch("start", "-p", pool, "--no-create-pool-if-not-found", api=prefect.url)
        await worker.line_with(f"Work pool '{pool}' not found!")
        assert await worker.stop() == 0
        assert "started!" not in worker.output
        assert not await prefect.exists(f"work_pools/{pool}")


class TestTimeToStop:
    async def test_bound_is_said_at_the_start(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        worker = await launch.worker(
            "-p", pool, "--drain-timeout", "1.5", "--kill-grace", "2", api=prefect.url
        )
        await worker.line_with("gone within 6.5 s (drain 1.5 s, kill grace 2 s, flush 3 s)")
        assert await worker.stop() == 0


FLOW = """
from prefect import flow

@flow(log_prints=True)
def greet(name: str = "nobody", times: int = 1):
    for number in range(times):
        print(f"hello {name}, number {number + 1}")
"""


class TestStockFlow:
    async def test_prefect_flow_is_completed_with_its_parameters(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        (prefect.directory / "greetings.py").write_text(FLOW)
        pool = await prefect.pool()
        deployment = await prefect.deployment(
            pool,
            path=str(prefect.directory),
            entrypoint="greetings.py:greet",
            parameters={"name": "Anna", "times": 1},
        )
        run = await prefect.run(deployment, parameters={"times": 2})
        worker = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Completed"
        await prefect.logged(run, "hello Anna, number 1", "hello Anna, number 2")
        # What a run writes is seen where the worker was started.
        assert worker.lines_with("hello Anna, number 2")


class TestLocalServer:
    async def test_worker_brings_its_own_server_and_runs_what_is_deployed_there(
        self, launch: Launcher, process_environment: dict[str, str], tmp_path: Path
    ) -> None:
        port = free_port()
        home = tmp_path / "home of the server"
        worker = await launch.worker(
            *("-p", "local", "--local-server"),
            # An address that was set for other uses must not be used.
            api="http://127.0.0.1:9/api",
            PREFECT_HOME=str(home),
            PREFECT_SERVER_API_PORT=str(port),
        )
        await worker.line_with(f"Local Prefect server is ready at http://127.0.0.1:{port}")
        url = f"http://127.0.0.1:{port}/api"
        async with open_http() as client:
            local = Prefect(client, url, tmp_path)
            run = await local.run(await local.deployment("local", COMPLETES))
            await local.reached(run, "Completed", worker)
        assert (home / "prefect.db").exists()
        assert await worker.stop() == 0
        assert launch.processes() == []
