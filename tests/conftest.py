"""Fixtures for the whole suite: a real Prefect server, started once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

# With a new database the server takes some 15 s on an idle machine.
_START_SECONDS = 120
_STOP_SECONDS = 10
_REQUEST_ATTEMPTS = 30


@attrs.frozen
class PrefectServer:
    """A real Prefect server on loopback.

    Attributes:
        url: its API, without trailing slash.
        environment: what a process needs to reach it, and none of our own Prefect settings.
        log: the server's output.
    """

    url: str
    environment: dict[str, str]
    log: Path

    def call(self, method: str, path: str, json: Any = None) -> Any:
        """Make a request and return the decoded answer; an error status raises `httpx.HTTPStatusError`.

        SQLite answers 503 to whoever comes while somebody else writes, so such a request is repeated.
        """
        for _ in range(_REQUEST_ATTEMPTS):
            response = httpx.request(method, f"{self.url}/{path}", json=json, headers=_HEADERS, timeout=30)
            if response.status_code != 503:
                break
            time.sleep(0.2)
        return _decoded(response)

    async def acall(self, method: str, path: str, json: Any = None) -> Any:
        """`call` for async tests."""
        async with httpx.AsyncClient(timeout=30, headers=_HEADERS) as client:
            for _ in range(_REQUEST_ATTEMPTS):
                response = await client.request(method, f"{self.url}/{path}", json=json)
                if response.status_code != 503:
                    break
                await trio.sleep(0.2)
        return _decoded(response)


# What the server thinks of a client's abilities goes by this.
_HEADERS = {"User-Agent": "prefect/3.8.8 (API 0.8.4)"}


def _decoded(response: httpx.Response) -> Any:
    if response.is_error:
        # The status alone would not say what is wrong with the request.
        request = response.request
        message = f"{request.method} {request.url}: {response.status_code} {response.text[:1000]}"
        raise httpx.HTTPStatusError(message, request=request, response=response)
    return response.json() if response.content else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment without any setting of Prefect's or our own, for the processes that tests start."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(("PREFECT_", "TRIOWORKER_", "PYTEST_", "COV_"))
    }


@pytest.fixture
def process_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that shall find no Prefect settings but those a test gives it."""
    return clean_environment() | {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real Prefect server, shared by all tests that ask for it: use names of your own in it."""
    if importlib.util.find_spec("prefect") is None:
        pytest.skip("Prefect is not installed: pip install 'trioworker[local]'")
    home = tmp_path_factory.mktemp("prefect_server")
    port = _free_port()
    environment = clean_environment() | {
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # A name server or a proxy of this machine has no part in the tests.
        "NO_PROXY": "127.0.0.1,localhost",
    }
    server = PrefectServer(
        url=environment["PREFECT_API_URL"], environment=environment, log=home / "server.log"
    )
    with _server_process(server, home, port) as process:
        _wait_until_healthy(server, process)
        yield server


@contextlib.contextmanager
def _server_process(server: PrefectServer, home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=server.environment | settings,
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
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    output = server.log.read_text(errors="replace")[-3000:]
    pytest.fail(f"the Prefect server did not start within {_START_SECONDS} s; it said:\n{output}")


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
