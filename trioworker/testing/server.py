"""A real Prefect server on this machine, for the length of a test session.

Unlike the one of `trioworker start --local-server` it outlives the Trio runs of single tests.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from trioworker.errors import WorkerError
from trioworker.lean_attrs import frozen
from trioworker.settings import Settings
from trioworker.sqlite_in_server import RELEASE_FAILED_STATEMENTS

# With a new database the server takes some 15 s on an idle machine.
_START_SECONDS = 120
_STOP_SECONDS = 10
_REQUEST_SECONDS = 30
_REQUEST_ATTEMPTS = 30
_ATTEMPTS_EVERY = 0.2
_LOOKS_EVERY = 0.1
_SHOWN_CHARACTERS = 3000

# What the server thinks of a client's abilities goes by this.
_HEADERS = {"User-Agent": "prefect/3.8.8 (API 0.8.4)"}

# What `python -m prefect` does.
_PREFECT = f"""{RELEASE_FAILED_STATEMENTS}
import runpy

runpy.run_module("prefect", run_name="__main__", alter_sys=True)
"""

MISSING = "Prefect is not installed: pip install 'trioworker[local]'"


class ServerStartError(WorkerError):
    """The Prefect server for the tests did not come up; the message has the end of its output."""


@frozen
class PrefectServer:
    """A real Prefect server on loopback; what the fixture `prefect_server` gives.

    Attributes:
        url: its API, without trailing slash; Prefect's `PREFECT_API_URL`.
        environment: what a process needs to reach it, and no other setting of Prefect's.
        log: the server's output.
    """

    url: str
    # That of the test session is in there too, and pytest shows what stands in a failed assertion.
    environment: dict[str, str] = attrs.field(repr=False)
    log: Path

    @property
    def settings(self) -> Settings:
        """Prefect's settings for a worker of this server; those of the environment have no part."""
        return Settings.load(self.environment, self.log.parent)

    def call(self, method: str, path: str, json: Any = None) -> Any:
        """Make a request of its REST API and return the decoded answer; None if there is none.

        SQLite answers 503 to whoever comes while somebody else writes, so such a request is repeated.

        Args:
            method: such as `POST`.
            path: below the API's URL, such as `work_pools/filter`.
            json: what is sent.

        Raises:
            httpx.HTTPStatusError: the answer is an error; the message has it.
        """
        for _ in range(_REQUEST_ATTEMPTS):
            response = httpx.request(
                method, f"{self.url}/{path}", json=json, headers=_HEADERS, timeout=_REQUEST_SECONDS
            )
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(_ATTEMPTS_EVERY)
        return _decoded(response)

    async def acall(self, method: str, path: str, json: Any = None) -> Any:
        """`call` for async tests.

        Args:
            method: such as `POST`.
            path: below the API's URL, such as `work_pools/filter`.
            json: what is sent.

        Raises:
            httpx.HTTPStatusError: the answer is an error; the message has it.
        """
        async with httpx.AsyncClient(timeout=_REQUEST_SECONDS, headers=_HEADERS) as client:
            for _ in range(_REQUEST_ATTEMPTS):
                response = await client.request(method, f"{self.url}/{path}", json=json)
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
                await trio.sleep(_ATTEMPTS_EVERY)
        return _decoded(response)


def _decoded(response: httpx.Response) -> Any:
    if response.is_error:
        # The status alone would not say what is wrong with the request.
        request = response.request
        message = f"{request.method} {request.url}: {response.status_code} {response.text[:1000]}"
        raise httpx.HTTPStatusError(message, request=request, response=response)
    return response.json() if response.content else None


def is_installed() -> bool:
    """Whether this interpreter has a Prefect to start a server of."""
    return importlib.util.find_spec("prefect") is not None


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without Prefect's settings and ours, and without what test runners leave there."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(("PREFECT_", "TRIOWORKER_", "PYTEST_", "COV_"))
    }


def server_command(port: int) -> list[str]:
    """The command that starts a Prefect server on this port of loopback, in the interpreter that asks for it."""
    return [
        sys.executable,
        "-c",
        _PREFECT,
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]


@contextmanager
def open_server(
    home: Path,
    environment: Mapping[str, str] | None = None,
    *,
    settings: Mapping[str, str] | None = None,
) -> Iterator[PrefectServer]:
    """Start a Prefect server on a free port of this machine, and end it after the block.

    Args:
        home: an empty directory for its database and its log.
        environment: of the server's process, whose Prefect settings do not count; by default that of this process.
        settings: Prefect settings for the server alone, such as `PREFECT_SERVER_API_AUTH_STRING`.

    Raises:
        ServerStartError: it did not come up within two minutes.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    own = {
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        # A name server or a proxy of this machine has no part in the tests.
        "NO_PROXY": "127.0.0.1,localhost",
    }
    server = PrefectServer(
        url, without_settings(os.environ if environment is None else environment) | own, home / "server.log"
    )
    with _process(server, home, port, settings or {}) as process:
        _wait_until_healthy(server, process)
        yield server


@contextmanager
def _process(
    server: PrefectServer, home: Path, port: int, settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            server_command(port),
            env={**server.environment, **quiet, **settings},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end_process_group(process)


def _wait_until_healthy(server: PrefectServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and not _has_ended(process):
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health", timeout=5).status_code == httpx.codes.OK:
                return
        time.sleep(_LOOKS_EVERY)
    output = server.log.read_text(errors="replace")[-_SHOWN_CHARACTERS:]
    raise ServerStartError(f"The Prefect server did not start within {_START_SECONDS} s; it said:\n{output}")


def _end_process_group(process: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it started; its group keeps its number until the leader is reaped."""
    os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline and not _has_ended(process):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
