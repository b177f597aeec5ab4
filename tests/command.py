"""Drives `trioworker` as a process, and speaks to the Prefect server that it works for.

A test module takes the fixtures over by name: `launch = command.launch`, `prefect = command.prefect`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import httpx
import pytest
import trio
from conftest import PrefectServer

# Seconds that anything may take that is sure to come, on a machine that is busy with other things.
PATIENCE = 30.0

# Seconds that a step takes at most that waits for nothing, the exit of a Python process included, on a machine that
# is busy with other things. What such a step must not wait for takes longer: 20 s to drain, 30 s of grace.
AT_ONCE = 15.0

MODULE = (sys.executable, "-m", "trioworker")
SCRIPT = (str(Path(sys.executable).with_name("trioworker")),)

_LOOK_AGAIN = 0.05
_REQUEST_ATTEMPTS = 50

# Every process that a test starts, and whatever that starts in turn, is found by this variable.
_MARK = "COMMAND_UNDER_TEST"

# The defaults are meant for days.
_SHORT_INTERVALS = {
    "PREFECT_WORKER_QUERY_SECONDS": "0.5",
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "0.5",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
}

# Makes standard input its controlling terminal, as a login does, and becomes the command.
# Whatever the tests were started with, at a terminal SIGINT is not ignored.
_LOG_IN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.login_tty(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Becomes the command with a signal ignored. (Not every shell passes an ignored SIGCHLD on.)
_IGNORE = """
import os, signal, sys
signal.signal(int(sys.argv[1]), signal.SIG_IGN)
os.execvp(sys.argv[2], sys.argv[2:])
"""

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def patience_for(what: str, told: Command | None = None) -> Iterator[None]:
    """Fail, with what the command has written, when the block takes too long."""
    with trio.move_on_after(PATIENCE) as scope:
        yield
    if scope.cancelled_caught:
        written = "" if told is None else f"; the command wrote:\n{told.output}"
        raise AssertionError(f"waited {PATIENCE:g} s for {what}{written}")


class Command:
    """A process of the command, and what it has written so far."""

    def __init__(self, process: trio.Process, descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self._written = bytearray()
        self._more = trio.Event()
        self._at_end = False
        os.set_blocking(descriptor, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Standard output and error, without colours."""
        return _STYLE.sub("", self.raw_output.replace("\r\n", "\n"))

    @property
    def raw_output(self) -> str:
        """Standard output and error, with all that is meant for a terminal."""
        return self._written.decode(errors="replace")

    def lines_with(self, text: str) -> list[str]:
        return [line for line in self.output.splitlines() if text in line]

    async def line_with(self, text: str) -> str:
        """The first line with this text, as soon as it is written."""
        with patience_for(f"a line with {text!r}", self):
            while not (found := self.lines_with(text)):
                assert not self._at_end, f"no line with {text!r}; the command wrote:\n{self.output}"
                await self._more.wait()
        return found[0]

    async def exit_code(self) -> int:
        """Wait for the end of the process, and take note of all that it has written."""
        with patience_for("the end of the command", self):
            code = await self._process.wait()
        # Runs that outlive it may hold the other end open, so there need not be an end of file.
        self._take()
        return code

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stop(self) -> int:
        """Ask it to end, as a service manager does, and return its exit code."""
        self.send(signal.SIGTERM)
        return await self.exit_code()

    async def is_reading(self) -> None:
        """Wait until it sleeps, which it does when it has asked a question."""
        with patience_for("the command to read", self):
            while _state_of(self.pid) != "S":  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(_LOOK_AGAIN)

    async def type(self, text: str) -> None:
        """Type something at its terminal."""
        await trio.lowlevel.wait_writable(self._descriptor)
        os.write(self._descriptor, text.encode())

    async def keep_reading(self) -> None:
        with suppress(trio.ClosedResourceError):
            while self._take():
                await trio.lowlevel.wait_readable(self._descriptor)

    async def kill_if_running(self) -> bool:
        """Make an end of it; returns whether that was necessary."""
        running = self._process.poll() is None
        if running:
            self._process.kill()
        await self._process.wait()
        return running

    def hang_up(self) -> None:
        """Read no more of what it writes; of its terminal, that is the end."""
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._at_end = True

    def _take(self) -> bool:
        """Read what is there; returns whether more may come."""
        while not self._at_end:
            try:
                chunk = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return True
            except OSError:  # how a terminal ends
                chunk = b""
            self._written += chunk
            self._at_end = not chunk
            self._more.set()
            self._more = trio.Event()
        return False


class Launcher:
    """Starts commands. At its end none may be left, nor any process or temporary file of theirs.

    Attributes:
        temporary: where they have their temporary files.
    """

    def __init__(self, nursery: trio.Nursery, environment: dict[str, str], directory: Path) -> None:
        self._nursery = nursery
        self._mark = str(uuid4())
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self._directory = directory / "work"
        self._directory.mkdir()
        self._environment = {
            **environment,
            **_SHORT_INTERVALS,
            "NO_PROXY": "127.0.0.1",
            "TMPDIR": str(self.temporary),
            _MARK: self._mark,
        }
        self._commands: list[Command] = []

    async def __call__(
        self,
        *arguments: str | Path,
        api: str | None = None,
        terminal: bool = False,
        ignored: signal.Signals | None = None,
        program: Sequence[str] = MODULE,
        **settings: str,
    ) -> Command:
        """Start the command.

        Args:
            arguments: what stands behind its name.
            api: PREFECT_API_URL.
            terminal: whether it has a terminal of its own, not pipes.
            ignored: a signal that it inherits as ignored.
            program: its name.
            settings: further environment variables.
        """
        argv = [*program, *map(str, arguments)]
        if ignored is not None:
            argv = [sys.executable, "-c", _IGNORE, str(ignored.value), *argv]
        environment = self._environment | settings
        if api is not None:
            environment["PREFECT_API_URL"] = api
        if terminal:
            argv = [sys.executable, "-c", _LOG_IN, *argv]
            ours, theirs = os.openpty()
            stdin = os.dup(theirs)
        else:
            ours, theirs = os.pipe()
            stdin = os.open(os.devnull, os.O_RDONLY)
        try:
            process = await trio.lowlevel.open_process(
                argv,
                stdin=stdin,
                stdout=theirs,
                stderr=theirs,
                cwd=self._directory,
                env=environment,
                start_new_session=not terminal,
            )
        finally:
            os.close(theirs)
            os.close(stdin)
        command = Command(process, ours)
        self._commands.append(command)
        self._nursery.start_soon(command.keep_reading)
        return command

    async def worker(self, *options: str | Path, **how: Any) -> Command:
        """Start a worker and wait until it polls."""
        command = await self("start", *options, **how)
        await command.line_with("' started!")
        return command

    def processes(self) -> list[str]:
        """Whatever lives of the commands and their runs, as `PID COMMAND LINE`."""
        return [f"{pid} {_command_line(pid)}" for pid in self._pids()]

    async def all_gone(self) -> None:
        """Wait until nothing lives of the commands and their runs."""
        with patience_for("the end of all processes"):
            while self._pids():  # noqa: ASYNC110 - nothing tells us: they are not our children
                await trio.sleep(_LOOK_AGAIN)

    def forget_temporary_files(self) -> None:
        """Do not mind what a worker that was killed could not clear away."""
        for path in self.temporary.iterdir():
            shutil.rmtree(path)

    async def close(self) -> None:
        """End whatever is left, and complain about it."""
        complaints = [f"left running: {process}" for process in self.processes()]
        for command in self._commands:
            await command.kill_if_running()
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        complaints += [f"left in TMPDIR: {path.name}" for path in self.temporary.iterdir()]
        for command in self._commands:
            if "Traceback" in command.output:
                complaints.append(f"a traceback:\n{command.output}")
            command.hang_up()
        assert not complaints, "\n".join(complaints)

    def _pids(self) -> list[int]:
        wanted = f"{_MARK}={self._mark}".encode()
        return [pid for pid in _all_pids() if wanted in _environment_of(pid)]


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _environment_of(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _state_of(pid: int) -> str:
    """What the main thread of a process does, as a letter: S is sleeping."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "(gone)"


# What a flow is made of that is not a Prefect flow: quick to start, and doing exactly what a test wants.
_SCRIPT_TOOLS = """
import base64, json, os, pathlib, signal, subprocess, sys, time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

run = os.environ["PREFECT__FLOW_RUN_ID"]
here = pathlib.Path(__file__).parent

def become(state):
    url = f"{os.environ['PREFECT_API_URL']}/flow_runs/{run}/set_state"
    body = json.dumps({"state": {"type": state}}).encode()
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    while True:
        try:
            urlopen(Request(url, body, headers), timeout=30).close()
            return
        except HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(0.1)

def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.02)

def note(name, *words):
    with (here / name).open("a") as file:
        print(*words, file=file)

"""

COMPLETES = "become('RUNNING')\nbecome('COMPLETED')"
WAITS = "become('RUNNING')\nwait_for('go')\nbecome('COMPLETED')"


class Prefect:
    """The API of the server as a test speaks to it, and the flows that it deploys there."""

    def __init__(self, client: httpx.AsyncClient, url: str, directory: Path) -> None:
        self._client = client
        self.url = url
        self.directory = directory / "flows"
        self.directory.mkdir()

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        """Make a request and return the decoded answer."""
        for _ in range(_REQUEST_ATTEMPTS):
            response = await self._client.request(method, f"{self.url}/{path}", json=json)
            # SQLite has one writer at a time.
            if response.status_code != 503:
                break
            await trio.sleep(0.1)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    async def exists(self, path: str) -> bool:
        return (await self._client.get(f"{self.url}/{path}")).status_code != 404

    async def pool(self, **fields: Any) -> str:
        """Make a work pool, of type process unless told otherwise, and return its name."""
        name = f"pool-{uuid4()}"
        await self.call("POST", "work_pools/", {"name": name, "type": "process", **fields})
        return name

    async def workers(self, pool: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.call("POST", f"work_pools/{pool}/workers/filter", {})
        return found

    async def online(self, pool: str) -> list[str]:
        """The names of the workers of a pool that are online, once there is one."""
        with patience_for(f"a worker of {pool}"):
            while True:
                names = [shown["name"] for shown in await self.workers(pool) if shown["status"] == "ONLINE"]
                if names:
                    return names
                await trio.sleep(_LOOK_AGAIN)

    async def next_heartbeat(self, pool: str) -> None:
        """Wait for the next heartbeat of a pool's only worker, whose first one may be yet to come."""
        before = await self._heartbeats(pool)
        with patience_for(f"a heartbeat of the worker of {pool}"):
            while await self._heartbeats(pool) == before:  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(_LOOK_AGAIN)

    async def _heartbeats(self, pool: str) -> list[str]:
        return [worker["last_heartbeat_time"] for worker in await self.workers(pool)]

    async def deployment(
        self, pool: str, script: str = "", *, variables: dict[str, Any] | None = None, **fields: Any
    ) -> str:
        """Deploy a script, or whatever the job variables and fields say, and return the deployment's id."""
        name = f"flow-{uuid4()}"
        variables = dict(variables or {})
        if script:
            path = self.directory / f"{name}.py"
            path.write_text(_SCRIPT_TOOLS + script)
            variables["command"] = shlex.join([sys.executable, str(path)])
        flow = await self.call("POST", "flows/", {"name": name})
        body = {
            "name": name,
            "flow_id": flow["id"],
            "work_pool_name": pool,
            "job_variables": variables,
            **fields,
        }
        made: str = (await self.call("POST", "deployments/", body))["id"]
        return made

    async def run(self, deployment: str, *, ahead: float = 0, **fields: Any) -> str:
        """Schedule a run, so many seconds ahead, and return its id."""
        when = datetime.now(UTC) + timedelta(seconds=ahead)
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": when.isoformat()}}
        body = {"state": state, **fields}
        run: str = (await self.call("POST", f"deployments/{deployment}/create_flow_run", body))["id"]
        return run

    async def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = (await self.call("GET", f"flow_runs/{run}"))["state"]
        return state

    async def state_name(self, run: str) -> str:
        name: str = (await self.state(run))["name"]
        return name

    async def reached(self, run: str, name: str, worker: Command | None = None) -> str:
        """Wait until a run is in a state, and return the state's message."""
        with patience_for(f"run {run} to be {name}", worker):
            while (state := await self.state(run))["name"] != name:
                finals = {"COMPLETED", "CRASHED", "CANCELLED", "FAILED"}
                assert state["type"] not in finals, f"{name} wanted: {state}; {worker and worker.output}"
                await trio.sleep(_LOOK_AGAIN)
        message: str = state["message"] or ""
        return message

    async def running(self, pool: str, count: int) -> None:
        """Wait until so many runs of a pool are Running."""
        body = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
        }
        with patience_for(f"{count} runs of {pool} to be Running"):
            while await self.call("POST", "flow_runs/count", body) < count:  # noqa: ASYNC110
                await trio.sleep(_LOOK_AGAIN)

    async def cancel(self, run: str) -> None:
        await self.call("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    async def logged(self, run: str, *texts: str) -> list[dict[str, Any]]:
        """The log lines of a run, once there is one with each of the texts."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        with patience_for(f"log lines with {texts}"):
            while True:
                lines: list[dict[str, Any]] = await self.call("POST", "logs/filter", body)
                if all(any(text in line["message"] for line in lines) for text in texts):
                    return lines
                await trio.sleep(_LOOK_AGAIN)

    async def events(self, resource: str, count: int) -> list[dict[str, Any]]:
        """The events about a resource, in order, once there are so many."""
        body = {"filter": {"resource": {"id": [resource]}, "order": "ASC"}}
        with patience_for(f"{count} events about {resource}"):
            while True:
                events: list[dict[str, Any]] = (await self.call("POST", "events/filter", body))["events"]
                if len(events) >= count:
                    return events
                await trio.sleep(_LOOK_AGAIN)

    def go(self) -> None:
        """Let scripts go on that wait."""
        (self.directory / "go").touch()

    def noted(self, name: str) -> list[list[str]]:
        """What scripts have noted, line by line, as words."""
        return [line.split() for line in (self.directory / name).read_text().splitlines()]


@attrs.frozen
class Stub:
    """Something on a port that is no Prefect API.

    Attributes:
        url: where it is.
        asked: receives the head of each request.
    """

    url: str
    asked: trio.MemoryReceiveChannel[str]


async def serve_stub(
    response: bytes, *, port: int = 0, task_status: trio.TaskStatus[Stub] = trio.TASK_STATUS_IGNORED
) -> None:
    """Give every request the same answer, then hang up."""
    send, receive = trio.open_memory_channel[str](1000)

    async def answer(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = await stream.receive_some()
            if not chunk:
                return
            head += chunk
        await send.send(head.decode())
        with suppress(trio.BrokenResourceError):
            await stream.send_all(response)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/api"
    task_status.started(Stub(url, receive))
    await trio.serve_listeners(answer, listeners)


async def forward(
    port: int, to: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Be at a port what is elsewhere."""
    target = httpx.URL(to)

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for chunk in source:
                await sink.send_all(chunk)
            await sink.send_eof()

    async def serve(stream: trio.SocketStream) -> None:
        beyond = await trio.open_tcp_stream(target.host, target.port or 80)
        async with stream, beyond, trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, beyond)
            nursery.start_soon(copy, beyond, stream)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    task_status.started()
    await trio.serve_listeners(serve, listeners)


def open_http() -> httpx.AsyncClient:
    """A client for plain HTTP on this machine."""
    # To make ready for TLS, which nothing here speaks, would take longer than most tests.
    return httpx.AsyncClient(verify=False, trust_env=False, timeout=30)  # noqa: S501


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def launch(process_environment: dict[str, str], tmp_path: Path) -> AsyncIterator[Launcher]:
    async with trio.open_nursery() as nursery:
        launcher = Launcher(nursery, process_environment, tmp_path)
        try:
            yield launcher
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(PATIENCE, shield=True):
                await launcher.close()


@pytest.fixture
async def prefect(prefect_server: PrefectServer, tmp_path: Path) -> AsyncIterator[Prefect]:
    async with open_http() as client:
        yield Prefect(client, prefect_server.url, tmp_path)
