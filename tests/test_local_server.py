"""Most tests run the server's real start-up code against small stand-ins for Prefect and uvicorn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from trioworker.command import local_server
from trioworker.command.local_server import LocalServer, LocalServerError, RestartPolicy, open_local_server

SETTINGS = """
class settings:
    logging_level = "WARNING"
    class api:
        keepalive_timeout = 5

class get_current_settings:
    server = settings
"""

# Behaves as the variable BEHAVIOUR says; reports each start by a line in the file STARTS.
UVICORN = """
import http.server, json, os, signal, sys

class Config:
    def __init__(self, app, **options):
        assert app == "prefect.server.api.server:create_app"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path.startswith("/api/") else 404)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())

class Server:
    def __init__(self, config):
        self.behaviour = os.environ["BEHAVIOUR"]

    def run(self, sockets):
        with open(os.environ["STARTS"], "a") as starts:
            starts.write(f"{os.getpid()}\\n")
        if self.behaviour == "fails":
            print("the database is locked up")
            sys.exit(3)
        if self.behaviour == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.behaviour == "mute":
            signal.pause()
        http_server = http.server.HTTPServer(("", 0), Handler, bind_and_activate=False)
        http_server.socket.close()
        http_server.socket = sockets[0]
        if self.behaviour == "dies after one answer":
            http_server.handle_request()
            print("out of luck")
            sys.exit(5)
        http_server.serve_forever()
"""

IMPATIENT = RestartPolicy(give_up_after=3, first_delay=0.01, longest_delay=0.02)


class StandIn:
    """What `open_local_server` needs to run the stand-in, and what became of it."""

    def __init__(self, directory: Path) -> None:
        modules = directory / "modules"
        (modules / "prefect").mkdir(parents=True)
        (modules / "prefect" / "__init__.py").touch()
        (modules / "prefect" / "settings.py").write_text(SETTINGS)
        (modules / "uvicorn.py").write_text(UVICORN)
        self.home = directory / "home"
        self.notices: list[str] = []
        self.environment = {"PYTHONPATH": str(modules), "STARTS": str(directory / "starts")}
        self._starts = directory / "starts"

    def options(self, behaviour: str = "serves", **options: Any) -> dict[str, Any]:
        return {
            "python": sys.executable,
            "home": self.home,
            "environment": {**self.environment, "BEHAVIOUR": behaviour},
            "on_notice": self.notices.append,
            "restarts": IMPATIENT,
            **options,
        }

    @property
    def started(self) -> list[int]:
        return [int(line) for line in self._starts.read_text().splitlines()] if self._starts.exists() else []

    @property
    def alive(self) -> list[int]:
        return [pid for pid in self.started if in_use(pid)]


def in_use(pid: int) -> bool:
    """Whether a process of this number exists, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@contextmanager
def occupied_port() -> Iterator[int]:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        yield occupant.getsockname()[1]


async def ask(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.get(url)


async def wait_for_end(pid: int) -> None:
    """Wait until a process that need not be a child of ours is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
async def patience() -> AsyncIterator[None]:
    await trio.lowlevel.checkpoint()
    with trio.fail_after(120):
        yield


@pytest.mark.process
@pytest.mark.usefixtures("patience")
class TestWithStandIn:
    async def test_serves_during_the_block_in_a_session_of_its_own(self, stand_in: StandIn) -> None:
        async with open_local_server(**stand_in.options()) as server:
            assert (await ask(f"{server.url}/health")).status_code == 200
            assert server.url == f"{server.dashboard_url}/api"
            pid = server.pid
            assert pid is not None
            assert stand_in.started == [pid]
            assert os.getsid(pid) == pid
        assert stand_in.alive == []
        assert server.pid is None
        assert stand_in.notices == [
            "Starting a local Prefect server ...",
            f"Local Prefect server is ready at {server.dashboard_url}",
        ]

    async def test_passes_the_environment_on_but_for_the_servers_own_address(self, stand_in: StandIn) -> None:
        options = stand_in.options()
        options["environment"] |= {
            "PREFECT_API_URL": "https://elsewhere.example/api",
            "PREFECT_SERVER_API_BASE_PATH": "/v2",
            "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
            "PREFECT__FLOW_RUN_ID": "not-yours",
            "DO_NOT_TRACK": "0",
        }
        async with open_local_server(**options) as server:
            environment = (await ask(f"{server.url}/environment")).json()
        assert environment["PREFECT_API_URL"] == server.url
        assert environment["PREFECT_HOME"] == str(stand_in.home)
        assert environment["PREFECT_SERVER_API_BASE_PATH"] == "/api"
        assert environment["PREFECT_SERVER_LOGGING_LEVEL"] == "INFO"
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert environment["DO_NOT_TRACK"] == "0"
        assert "PREFECT__FLOW_RUN_ID" not in environment

    async def test_a_server_that_is_killed_comes_back_on_the_same_port(self, stand_in: StandIn) -> None:
        async with open_local_server(**stand_in.options()) as server:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            # Waits in the socket's queue until the next server takes it.
            assert (await ask(f"{server.url}/health")).status_code == 200
            assert len(stand_in.started) == 2
        assert stand_in.alive == []
        assert stand_in.notices[2:] in (
            ["The local Prefect server ended by itself (SIGKILL); starting it again ..."],
            [
                "The local Prefect server ended by itself (SIGKILL); starting it again ...",
                f"Local Prefect server is ready again at {server.dashboard_url}",
            ],
        )

    async def test_gives_up_on_a_server_that_keeps_dying(self, stand_in: StandIn) -> None:
        with pytest.raises(LocalServerError, match="failed 3 times in a row") as caught:
            async with open_local_server(**stand_in.options("dies after one answer")):
                await trio.sleep_forever()
        assert "exit status 5" in str(caught.value)
        assert "out of luck" in str(caught.value)
        assert len(stand_in.started) == 3
        assert stand_in.alive == []

    async def test_a_server_that_fails_at_once_is_reported_with_the_end_of_its_log(
        self, stand_in: StandIn
    ) -> None:
        with pytest.raises(LocalServerError, match="before it answered") as caught:
            async with open_local_server(**stand_in.options("fails")):
                pytest.fail("entered")
        message = str(caught.value)
        assert "exit status 3" in message
        assert "the database is locked up" in message
        assert str(stand_in.home / local_server.LOG_NAME) in message
        assert len(stand_in.started) == 1

    async def test_a_server_that_does_not_answer_in_time_is_reported_and_ended(
        self, stand_in: StandIn
    ) -> None:
        with pytest.raises(LocalServerError, match=r"did not answer .* within 0\.5 s"):
            async with open_local_server(**stand_in.options("mute", ready_within=0.5)):
                pytest.fail("entered")
        assert stand_in.alive == []

    async def test_cancelled_while_it_starts_it_leaves_no_process(self, stand_in: StandIn) -> None:
        with trio.CancelScope() as scope:

            async def cancel_once_started() -> None:
                while not stand_in.started:  # noqa: ASYNC110  (another process tells)
                    await trio.sleep(0.01)
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_once_started)
                async with open_local_server(**stand_in.options("mute")):
                    pytest.fail("entered")
        assert scope.cancelled_caught
        assert len(stand_in.started) == 1
        assert stand_in.alive == []

    async def test_is_kept_running_until_a_cancelled_block_has_cleaned_up(self, stand_in: StandIn) -> None:
        answers: list[int] = []
        with trio.CancelScope() as scope:
            async with open_local_server(**stand_in.options()) as server:
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    with trio.move_on_after(30, shield=True):
                        assert server.pid is not None
                        os.kill(server.pid, signal.SIGKILL)
                        answers.append((await ask(f"{server.url}/health")).status_code)
        assert scope.cancelled_caught
        assert answers == [200]
        assert stand_in.alive == []

    async def test_an_error_of_the_block_leaves_bare(self, stand_in: StandIn) -> None:
        with pytest.raises(ZeroDivisionError):
            async with open_local_server(**stand_in.options()):
                _ = 1 / 0
        assert stand_in.alive == []

    async def test_a_server_that_ignores_sigterm_is_killed(self, stand_in: StandIn) -> None:
        async with open_local_server(**stand_in.options("stubborn", grace=0.05)):
            pass
        assert stand_in.alive == []

    @pytest.mark.parametrize("behaviour", ["serves", "stubborn"])
    async def test_does_not_outlive_a_worker_that_is_killed(
        self, stand_in: StandIn, tmp_path: Path, behaviour: str
    ) -> None:
        worker = tmp_path / "worker.py"
        worker.write_text(
            "import os, sys, trio\n"
            "from pathlib import Path\n"
            "from trioworker.command.local_server import open_local_server\n"
            "async def main():\n"
            "    async with open_local_server(\n"
            "        python=sys.executable, home=Path(sys.argv[1]), environment=os.environ, grace=0.05\n"
            "    ) as server:\n"
            "        print(server.pid, flush=True)\n"
            "        await trio.sleep_forever()\n"
            "trio.run(main)\n"
        )
        process = await trio.lowlevel.open_process(
            [sys.executable, str(worker), str(stand_in.home)],
            stdout=subprocess.PIPE,
            env={
                **stand_in.options(behaviour)["environment"],
                "PYTHONPATH": os.pathsep.join(
                    [stand_in.environment["PYTHONPATH"], str(Path(local_server.__file__).parents[2])]
                ),
            },
        )
        assert process.stdout is not None
        async with process.stdout:
            server = int(await process.stdout.receive_some())
            process.kill()
            await wait_for_end(server)
        assert await process.wait() == -signal.SIGKILL

    async def test_a_taken_port_that_was_preferred_is_replaced(self, stand_in: StandIn) -> None:
        with occupied_port() as port:
            async with open_local_server(**stand_in.options(preferred_port=port)) as server:
                assert f":{port}/" not in server.url

    async def test_a_free_port_is_used_as_asked_and_at_once_again(self, stand_in: StandIn) -> None:
        with occupied_port() as port:
            pass
        for options in (stand_in.options(port=port), stand_in.options(preferred_port=port)):
            async with open_local_server(**options) as server:
                assert server.url == f"http://127.0.0.1:{port}/api"
                await ask(f"{server.url}/health")

    async def test_an_interpreter_without_prefect_is_told_so(self, stand_in: StandIn, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec {os.path.realpath(sys.executable)} -I -S "$@"\n')  # noqa: ASYNC240
        bare.chmod(0o755)
        with pytest.raises(LocalServerError, match=r"not installed for .*pip install 'trioworker\[local\]'"):
            async with open_local_server(**stand_in.options(python=str(bare))):
                pytest.fail("entered")

    async def test_a_missing_interpreter_is_told_so(self, stand_in: StandIn) -> None:
        with pytest.raises(LocalServerError, match="/no/such/python: No such file"):
            async with open_local_server(**stand_in.options(python="/no/such/python")):
                pytest.fail("entered")


def test_delays_between_restarts_double_up_to_the_longest() -> None:
    policy = RestartPolicy(first_delay=0.5, longest_delay=3)
    assert [policy.delay(deaths) for deaths in (1, 2, 3, 4, 5)] == [0.5, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4200"),
        ("localhost", "http://localhost:4200"),
        ("0.0.0.0", "http://127.0.0.1:4200"),
        ("::", "http://[::1]:4200"),
        ("::1", "http://[::1]:4200"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    assert local_server._url(host, 4200) == url


@pytest.mark.server
@pytest.mark.usefixtures("patience")
class TestWithPrefect:
    async def test_serves_survives_its_death_and_leaves_no_process(
        self, tmp_path: Path, process_environment: dict[str, str]
    ) -> None:
        process_environment["PREFECT_API_URL"] = "https://elsewhere.example/api"
        notices: list[str] = []
        async with open_local_server(
            python=sys.executable,
            home=tmp_path / "home",
            environment=process_environment,
            on_notice=notices.append,
        ) as server:
            assert (tmp_path / "home" / "prefect.db").exists()
            assert await _work_pools(server) == []
            settings = (await ask(f"{server.dashboard_url}/ui-settings")).json()
            assert settings["api_url"] == server.url
            first = server.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            assert await _work_pools(server) == []
            second = server.pid
            assert second is not None
            assert second != first
        assert not in_use(first)
        assert not in_use(second)
        assert "ended by itself (SIGKILL)" in notices[2]

    async def test_cancelled_while_it_starts_it_leaves_no_process(
        self, tmp_path: Path, process_environment: dict[str, str]
    ) -> None:
        home = tmp_path / "home"
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_once_migrating, home, scope)
                async with open_local_server(
                    python=sys.executable, home=home, environment=process_environment
                ):
                    pytest.fail("entered")
        assert scope.cancelled_caught
        assert _processes_with(str(home)) == []


async def _work_pools(server: LocalServer) -> object:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.post(f"{server.url}/work_pools/filter", json={})).json()


async def _cancel_once_migrating(home: Path, scope: trio.CancelScope) -> None:
    while not (home / "prefect.db").exists():  # noqa: ASYNC110  (another process makes the file)
        await trio.sleep(0.05)
    assert _processes_with(str(home)) != []
    scope.cancel()


def _processes_with(text: str) -> list[int]:
    """The processes, other than this one, with some text in their environment."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal() and int(directory.name) != os.getpid():
            try:
                environment = (directory / "environ").read_bytes()
            except OSError:
                continue
            if text.encode() in environment:
                found.append(int(directory.name))
    return found
