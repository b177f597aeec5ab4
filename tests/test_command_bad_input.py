"""What `trioworker start` says and does when something that it is given is wrong: never a traceback.

That no test of this file shows one is checked by the launcher, for each of them.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import command
import pytest
import trio
from command import (
    COMPLETES,
    Launcher,
    Prefect,
    Stub,
    forward,
    free_port,
    patience_for,
    serve_stub,
)

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

SECRET = "pnu_0123456789"


def response(status: str, body: str, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode()


UNAUTHORIZED = response("401 Unauthorized", '{"detail":"who goes there"}')
FORBIDDEN = response("403 Forbidden", '{"detail":"not for you"}')
PAGE = "<!DOCTYPE html><title>Welcome to the intranet</title>"


async def asked(stub: Stub, times: int) -> None:
    """Wait until the stub was asked so many times."""
    with patience_for(f"{times} requests"):
        for _ in range(times):
            await stub.asked.receive()


class TestUsage:
    @pytest.mark.parametrize(
        "options",
        [
            ("--no-such-option",),
            ("--limit", "many"),
            ("--limit", "0"),
            ("--prefetch-seconds", "-1"),
            ("--drain-timeout", "soon"),
            ("--kill-grace", "-0.1"),
            ("--install-policy", "sometimes"),
            ("--name",),
            ("an argument",),
        ],
    )
    async def test_wrong_option_is_answered_with_usage(
        self, launch: Launcher, options: tuple[str, ...]
    ) -> None:
        refused = await launch("start", "-p", "pool", *options, api="http://127.0.0.1:9/api")
        assert await refused.exit_code() == 2
        assert refused.output.startswith("Usage:")
        assert options[0] in refused.output

    async def test_modules_to_preload_that_cannot_be_any_are_refused(self, launch: Launcher) -> None:
        refused = await launch(
            *("start", "-p", "pool", "--preload", "pandas", "--preload", "a-package"),
            api="http://127.0.0.1:9/api",
        )
        assert await refused.exit_code() != 0
        assert refused.lines_with("preload")
        assert "a-package" in refused.output
        assert "started!" not in refused.output

    async def test_seconds_that_are_no_number_are_refused(self, launch: Launcher) -> None:
        refused = await launch("start", "-p", "pool", "--drain-timeout", "nan", api="http://127.0.0.1:9/api")
        assert await refused.exit_code() != 0
        assert "nan" in refused.output

    async def test_unknown_command_is_answered_with_usage(self, launch: Launcher) -> None:
        refused = await launch("strat")
        assert await refused.exit_code() == 2
        assert "No such command 'strat'" in refused.output


class TestSettings:
    async def test_missing_api_url_says_what_to_set(self, launch: Launcher) -> None:
        refused = await launch("start", "-p", "pool")
        assert await refused.exit_code() == 1
        assert "PREFECT_API_URL" in refused.output
        assert "--local-server" in refused.output

    async def test_wrong_setting_is_named_with_its_source(self, launch: Launcher) -> None:
        refused = await launch(
            "start", "-p", "pool", api="http://127.0.0.1:9/api", PREFECT_WORKER_QUERY_SECONDS="often"
        )
        assert await refused.exit_code() == 1
        assert refused.lines_with("PREFECT_WORKER_QUERY_SECONDS='often' (environment variable)")

    async def test_url_without_scheme_is_named(self, launch: Launcher) -> None:
        refused = await launch("start", "-p", "pool", api="127.0.0.1:4200/api")
        assert await refused.exit_code() == 1
        assert refused.lines_with("PREFECT_API_URL")

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:port/api", "http://127.0.0.1:99999/api", "http://[::1/api"]
    )
    async def test_url_that_is_none_is_named(self, launch: Launcher, url: str) -> None:
        refused = await launch("start", "-p", "pool", api=url)
        assert await refused.exit_code() == 1
        assert refused.lines_with("PREFECT_API_URL")

    @pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET}é"])
    async def test_key_that_no_header_can_hold_is_named_but_not_shown(
        self, launch: Launcher, nursery: trio.Nursery, key: str
    ) -> None:
        stub: Stub = await nursery.start(serve_stub, UNAUTHORIZED)
        refused = await launch("start", "-p", "pool", api=stub.url, PREFECT_API_KEY=key)
        await refused.line_with("PREFECT_API_KEY")
        assert await refused.exit_code() == 1
        assert SECRET not in refused.output
        nursery.cancel_scope.cancel()

    async def test_certificate_file_that_does_not_exist_is_named(self, launch: Launcher) -> None:
        refused = await launch(
            *("start", "-p", "pool"),
            api="https://127.0.0.1:9/api",
            PREFECT_API_SSL_CERT_FILE="/nowhere/authorities.pem",
        )
        assert await refused.exit_code() == 1
        assert refused.lines_with("/nowhere/authorities.pem (PREFECT_API_SSL_CERT_FILE)")

    async def test_interpreter_that_does_not_exist_is_named(self, launch: Launcher, prefect: Prefect) -> None:
        pool = f"without-python-{free_port()}"
        refused = await launch("start", "-p", pool, api=prefect.url, TRIOWORKER_PYTHON="/nowhere/python")
        assert await refused.exit_code() == 1
        assert refused.lines_with("TRIOWORKER_PYTHON is '/nowhere/python'")
        assert "started!" not in refused.output
        assert not await prefect.exists(f"work_pools/{pool}")

    async def test_local_server_without_prefect_says_what_is_missing(
        self, launch: Launcher, tmp_path: Path
    ) -> None:
        # Without site-packages.
        python = tmp_path / "bare-python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
        python.chmod(0o755)
        refused = await launch("start", "-p", "pool", "--local-server", TRIOWORKER_PYTHON=str(python))
        assert await refused.exit_code() == 1
        assert "trioworker[local]" in refused.output
        assert launch.processes() == []


class TestUnreachableAPI:
    async def test_it_is_tried_again_in_silence_and_can_be_stopped(
        self, launch: Launcher, nursery: trio.Nursery
    ) -> None:
        port = free_port()
        worker = await launch(
            "start", "-p", "pool", api=f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_MAX_RETRIES="0"
        )
        await worker.line_with("The Prefect API does not answer")
        # Somebody picks up, and hangs up.
        stub: Stub = await nursery.start(
            lambda task_status: serve_stub(b"", port=port, task_status=task_status)
        )
        await asked(stub, 2)
        assert await worker.stop() == 0
        assert len(worker.lines_with("does not answer")) == 1
        assert "started!" not in worker.output
        nursery.cancel_scope.cancel()

    async def test_worker_starts_when_it_comes_up(
        self, launch: Launcher, prefect: Prefect, nursery: trio.Nursery
    ) -> None:
        pool = await prefect.pool()
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        worker = await launch("start", "-p", pool, api=url, PREFECT_CLIENT_MAX_RETRIES="0")
        await worker.line_with("The Prefect API does not answer")
        await nursery.start(forward, port, prefect.url)
        await worker.line_with("started!")
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        assert len(worker.lines_with("The Prefect API does not answer")) == 1
        assert len(worker.lines_with(f"The Prefect API at {url} is back after")) == 1
        nursery.cancel_scope.cancel()

    async def test_worker_gives_up_after_the_time_that_was_set(self, launch: Launcher) -> None:
        begin = time.monotonic()
        worker = await launch(
            "start", "-p", "pool", api=f"http://127.0.0.1:{free_port()}/api", TRIOWORKER_GIVE_UP_AFTER="1"
        )
        assert await worker.exit_code() == 1
        assert time.monotonic() - begin >= 1
        assert worker.lines_with("was unreachable for 1 s, which is as long as TRIOWORKER_GIVE_UP_AFTER")
        assert "stopped!" not in worker.output

    async def test_run_once_keeps_trying_too(self, launch: Launcher) -> None:
        worker = await launch("start", "-p", "pool", "--run-once", api=f"http://127.0.0.1:{free_port()}/api")
        await worker.line_with("The Prefect API does not answer")
        assert await worker.stop() == 0


class TestWrongAPI:
    async def test_url_without_its_path_is_not_that_of_an_api(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        url = prefect.url.removesuffix("/api")
        refused = await launch("start", "-p", "pool", api=url)
        assert await refused.exit_code() == 1
        assert refused.lines_with(f"There is no Prefect API at {url} (environment variable).")
        assert "/api" in refused.output
        assert "Trying again" not in refused.output

    @pytest.mark.parametrize(
        ("answer", "settings", "explanation"),
        [
            (UNAUTHORIZED, {}, "wants to know who you are: set PREFECT_API_KEY"),
            (UNAUTHORIZED, {"PREFECT_API_KEY": SECRET}, "does not accept PREFECT_API_KEY"),
            (
                UNAUTHORIZED,
                {"PREFECT_API_AUTH_STRING": f"me:{SECRET}"},
                "does not accept PREFECT_API_AUTH_STRING",
            ),
            (FORBIDDEN, {"PREFECT_API_KEY": SECRET}, "does not permit this worker"),
            (response("404 Not Found", PAGE, "text/html"), {}, "There is no Prefect API at"),
        ],
    )
    async def test_refusal_before_the_start_says_what_to_mend(
        self,
        launch: Launcher,
        nursery: trio.Nursery,
        answer: bytes,
        settings: dict[str, Any],
        explanation: str,
    ) -> None:
        stub: Stub = await nursery.start(serve_stub, answer)
        refused = await launch("start", "-p", "pool", api=stub.url, **settings)
        assert await refused.exit_code() == 1
        assert refused.lines_with(explanation)
        assert stub.url in refused.output
        assert "Trying again" not in refused.output
        assert SECRET not in refused.output
        nursery.cancel_scope.cancel()

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (response("200 OK", PAGE, "text/html"), "not JSON but text/html"),
            (response("200 OK", '{"id": "00000000-0000-4000-8000'), "not JSON"),
            (response("200 OK", json.dumps({"id": "no id", "name": "pool", "type": "process"})), "answer.id"),
            (response("200 OK", "[]"), "work_pools/pool"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "The Prefect API does not answer"),
        ],
    )
    async def test_answer_that_makes_no_sense_is_an_outage(
        self, launch: Launcher, nursery: trio.Nursery, answer: bytes, problem: str
    ) -> None:
        stub: Stub = await nursery.start(serve_stub, answer)
        worker = await launch("start", "-p", "pool", api=stub.url, PREFECT_CLIENT_MAX_RETRIES="0")
        line = await worker.line_with("The Prefect API does not answer")
        assert problem in line
        await asked(stub, 2)
        assert await worker.stop() == 0
        assert len(worker.lines_with("does not answer")) == 1
        nursery.cancel_scope.cancel()


class TestBaseJobTemplate:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "No such file"),
            (b"{'single': 'quotes'}", "is not JSON"),
            (b"[1, 2]", "must be a JSON object, not list"),
            (b"null", "must be a JSON object"),
            (b"\xff\xfe\x00", "is not a text file"),
        ],
    )
    async def test_useless_file_is_named_before_anything_is_created(
        self, launch: Launcher, prefect: Prefect, tmp_path: Path, content: bytes | None, reason: str
    ) -> None:
        file = tmp_path / "template.json"
        if content is not None:
            file.write_bytes(content)
        pool = f"templateless-{free_port()}"
        refused = await launch("start", "-p", pool, "--base-job-template", file, api=prefect.url)
        assert await refused.exit_code() == 1
        assert str(file) in refused.output
        assert reason in refused.output
        assert not await prefect.exists(f"work_pools/{pool}")

    async def test_template_that_the_server_refuses_ends_the_start(
        self, launch: Launcher, prefect: Prefect, tmp_path: Path
    ) -> None:
        file = tmp_path / "template.json"
        file.write_text('{"job_configuration": {}}')
        pool = f"half-{free_port()}"
        refused = await launch(
            "start", "-p", pool, "--base-job-template", file, "--run-once", api=prefect.url
        )
        assert await refused.exit_code() == 1
        assert "variables" in refused.output
        assert not await prefect.exists(f"work_pools/{pool}")

    async def test_directory_is_no_template(self, launch: Launcher, tmp_path: Path) -> None:
        refused = await launch(
            "start", "-p", "pool", "--base-job-template", tmp_path, api="http://127.0.0.1:9/api"
        )
        assert await refused.exit_code() == 1
        assert refused.lines_with(f"{tmp_path} cannot be read: Is a directory")


class TestHealthServer:
    async def test_port_in_use_keeps_the_worker_from_starting(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = f"unhealthy-{free_port()}"
        with socket.create_server(("127.0.0.1", 0)) as occupant:
            port = occupant.getsockname()[1]
            refused = await launch(
                *("start", "-p", pool, "--with-healthcheck"),
                api=prefect.url,
                PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
                PREFECT_WORKER_WEBSERVER_PORT=str(port),
            )
            assert await refused.exit_code() == 1
        lines = refused.output.splitlines()
        assert len(lines) == 1
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in lines[0]
        assert not await prefect.exists(f"work_pools/{pool}")


class TestWorkPool:
    @pytest.mark.parametrize("pool", ["a/b", "a & b", "100%"])
    async def test_name_that_no_pool_can_have_is_refused(
        self, launch: Launcher, prefect: Prefect, pool: str
    ) -> None:
        refused = await launch("start", "-p", pool, "--run-once", api=prefect.url)
        assert await refused.exit_code() == 1
        assert pool in refused.output
        assert "There is no Prefect API" not in refused.output

    async def test_odd_name_is_no_obstacle(self, launch: Launcher, prefect: Prefect) -> None:
        pool = f"Größe #{free_port()} 'neu'?"
        run_once = ("start", "-p", pool, "--run-once")
        worker = await launch(*run_once, api=prefect.url)
        assert await worker.exit_code() == 0
        assert worker.lines_with(f"Work pool {pool!r} created.")
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))
        worker = await launch(*run_once, api=prefect.url)
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Completed"


class TestType:
    async def test_type_of_agents_is_refused_in_prefects_words(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = f"agents-{free_port()}"
        refused = await launch("start", "-p", pool, "--type", "prefect-agent", api=prefect.url)
        assert await refused.exit_code() == 1
        (line,) = refused.lines_with("Error:")
        assert line.startswith(
            "Error: 'prefect-agent' typed work pools work with Prefect Agents instead of Workers. Please use the"
            " 'prefect agent start' to start a Prefect Agent."
        )
        assert not await prefect.exists(f"work_pools/{pool}")


class TestBadRuns:
    async def test_run_that_cannot_be_executed_crashes_alone(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        variables = {
            "the program in command was not found": {"command": "no-such-program --now"},
            "working_dir does not exist": {"command": "true", "working_dir": "/nowhere"},
            "No closing quotation": {"command": "echo 'oops"},
        }
        runs = {
            reason: await prefect.run(await prefect.deployment(pool, variables=wrong))
            for reason, wrong in variables.items()
        }
        worker = await launch.worker("-p", pool, "--limit", "1", api=prefect.url)
        for reason, run in runs.items():
            assert reason in await prefect.reached(run, "Crashed", worker)
        good = await prefect.run(await prefect.deployment(pool, COMPLETES))
        await prefect.reached(good, "Completed", worker)
        assert await worker.stop() == 0

    async def test_deleted_pool_is_made_anew(self, launch: Launcher, prefect: Prefect) -> None:
        pool = await prefect.pool()
        worker = await launch.worker("-p", pool, api=prefect.url)
        await prefect.online(pool)
        await prefect.call("DELETE", f"work_pools/{pool}")
        await worker.line_with(f"Work pool '{pool}' created.")
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
