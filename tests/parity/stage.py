"""The stage of the matrix: a real Prefect server, and two sides that each have work pools and workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import httpx
import processes
import trio
from gate import Gate, open_gate
from pools import POOLS
from rest import MissingError, Rest

from trioworker.testing.server import server_command

FLOWS = Path(__file__).with_name("flows")
_SERVER_START_SECONDS = 120
_WORKER_START_SECONDS = 60
_EVENT_SECONDS = 60
_BIN = Path(sys.executable).parent

_OURS = [sys.executable, "-m", "trioworker", "start"]
_COMMANDS = {
    "stock": [sys.executable, "-m", "prefect", "worker", "start"],
    "ours": _OURS,
    "fresh": [*_OURS, "--no-warm-start"],
    "warm": [*_OURS, "--warm-start"],
}
KINDS = tuple(_COMMANDS)

# So that they say how they start each run.
_TALKATIVE = {"PREFECT_WORKER_DEBUG_MODE": "true"}

_WORKER_SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
    "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "2",
    "PREFECT_LOGGING_LEVEL": "INFO",
    # So that it is seen what becomes of settings that are not texts.
    "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Parity": "1"}',
    "PARITY_FROM_WORKER": "from the worker",
    "PARITY_UNWANTED": "from the worker",
}

_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # On a busy machine SQLite keeps a writer waiting for long.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",
}


@attrs.frozen(eq=False)
class Side:
    """One of the two that are compared.

    Attributes:
        kind: one of `KINDS`.
        name: what its workers are called.
        directory: where all of its files are.
        mark: what its processes are found by.
    """

    kind: str
    name: str
    directory: Path
    mark: str = attrs.field(factory=lambda: str(uuid4()))

    def __attrs_post_init__(self) -> None:
        for directory in (self.output, self.temporary, self.home, self.files):
            directory.mkdir(parents=True)

    @property
    def output(self) -> Path:
        """Where the flows leave their files."""
        return self.directory / "output"

    @property
    def temporary(self) -> Path:
        """The TMPDIR of its workers."""
        return self.directory / "temporary"

    @property
    def home(self) -> Path:
        """The home directory of its workers, in which they are started."""
        return self.directory / "home"

    @property
    def files(self) -> Path:
        """For what the cases need."""
        return self.directory / "files"

    def pool(self, kind: str) -> str:
        """The name of one of its work pools."""
        return f"{self.name}-pool-{kind}"


@attrs.define(eq=False)
class Stage:
    """What all cases play on.

    Attributes:
        rest: the server.
        gate: what stands between it and the workers.
        directory: where all files are.
        sides: the two that are compared.
        workers: the processes of the workers, by the names of their pools.
        up: set when there are workers.
    """

    rest: Rest
    gate: Gate
    directory: Path
    sides: tuple[Side, Side]
    workers: dict[str, trio.Process] = attrs.field(factory=dict)
    up: trio.Event = attrs.field(factory=trio.Event)

    @property
    def flows(self) -> Path:
        """The flows of the matrix."""
        return FLOWS

    async def make_pools(self, kinds: set[str]) -> None:
        """Make the work pools of both sides."""
        for side in self.sides:
            for kind in sorted(kinds):
                body: dict[str, Any] = {"name": side.pool(kind), "type": "process"}
                if (template := POOLS[kind].template) is not None:
                    body["base_job_template"] = template
                await self.rest.call("POST", "work_pools/", body)

    async def furnish(self) -> None:
        """Make what job variables refer to, on a server that is ours alone."""
        await self.rest.call("POST", "variables/", {"name": "parity_text", "value": "from a variable"})
        await self.rest.call("POST", "variables/", {"name": "parity_tree", "value": {"leaf": ["a", "b"]}})
        await self._make_block("secret", "parity-secret", {"value": "from a secret"})
        await self._make_block("secret", "parity-tree", {"value": {"leaf": "from deep down"}})

    async def _make_block(self, kind: str, name: str, data: dict[str, Any]) -> None:
        block_type = await self.rest.call("GET", f"block_types/slug/{kind}")
        wanted = {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}}
        (schema, *_) = await self.rest.call("POST", "block_schemas/filter", wanted)
        body = {
            "name": name,
            "data": data,
            "block_type_id": block_type["id"],
            "block_schema_id": schema["id"],
        }
        await self.rest.call("POST", "block_documents/", body)

    @asynccontextmanager
    async def working(self, kinds: set[str]) -> AsyncIterator[None]:
        """The workers of both sides, for the length of a block; at its end they have sent all they know."""
        async with AsyncExitStack() as stack:
            for side in self.sides:
                for kind in sorted(kinds):
                    pool = side.pool(kind)
                    self.workers[pool] = await stack.enter_async_context(
                        processes.running(
                            [
                                *_COMMANDS[side.kind],
                                "--pool",
                                pool,
                                "--name",
                                side.name,
                                *POOLS[kind].options,
                            ],
                            environment={**self.environment(side), **POOLS[kind].environment},
                            directory=side.home,
                            output=side.directory / f"worker-{kind}.log",
                        )
                    )
            for side in self.sides:
                for kind in kinds:
                    await self._until_online(side, kind)
            self.up.set()
            yield

    async def _until_online(self, side: Side, kind: str) -> None:
        pool = side.pool(kind)
        with trio.move_on_after(_WORKER_START_SECONDS):
            while self.workers[pool].poll() is None:
                # The first heartbeat may be the one that makes the pool.
                with suppress(MissingError):
                    if await self.rest.call("POST", f"work_pools/{pool}/workers/filter", {}):
                        return
                await trio.sleep(0.1)
        log = (side.directory / f"worker-{kind}.log").read_text(errors="replace")
        raise RuntimeError(f"the worker of {pool} did not start; it wrote:\n{log[-3000:]}")

    def environment(self, side: Side) -> dict[str, str]:
        """The environment of the workers of a side."""
        return {
            **_clean_environment(),
            **_WORKER_SETTINGS,
            "HOME": str(side.home),
            "PREFECT_HOME": str(side.home / ".prefect"),
            "PREFECT_API_URL": self.gate.url,
            "TMPDIR": str(side.temporary),
            "PATH": os.pathsep.join([str(self.directory / "bin"), str(_BIN), os.environ["PATH"]]),
            "PARITY_OUTPUT": str(side.output),
            processes.MARK: side.mark,
            **(_TALKATIVE if side.kind in {"fresh", "warm"} else {}),
        }

    async def all_events_are_stored(self) -> None:
        """Wait until the server has stored whatever event it has received so far."""
        sentinel = f"parity.sentinel.{uuid4()}"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        resource = {"prefect.resource.id": sentinel}
        event = {"occurred": now, "event": sentinel, "resource": resource, "id": str(uuid4())}
        await self.rest.call("POST", "events", [event])
        with trio.fail_after(_EVENT_SECONDS):
            while not await self.rest.events(names=[sentinel]):  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.2)


@asynccontextmanager
async def open_stage(
    directory: Path, kinds: tuple[str, str], server: str | None = None
) -> AsyncIterator[Stage]:
    """A server, and two sides without workers yet; at its end no process of theirs is left.

    Args:
        directory: an empty one, for all files.
        kinds: which worker each side has, of `KINDS`.
        server: the API of a server that is there already, and others' too; None to start one.
    """
    names = kinds if kinds[0] != kinds[1] else (f"{kinds[0]}-one", f"{kinds[1]}-two")
    mark = f"-{uuid4()}" if server else ""
    sides = tuple(
        Side(kind, f"parity-{name}{mark}", directory / name) for kind, name in zip(kinds, names, strict=True)
    )
    _write_uv(directory / "bin")
    try:
        async with AsyncExitStack() as stack:
            rest = Rest(server) if server else await stack.enter_async_context(_open_server(directory))
            gate = await stack.enter_async_context(open_gate(rest.url))
            stage = Stage(rest, gate, directory, (sides[0], sides[1]))
            if server is None:
                await stage.furnish()
            yield stage
    finally:
        for side in sides:
            processes.kill(side.mark)


@asynccontextmanager
async def _open_server(directory: Path) -> AsyncIterator[Rest]:
    port = _free_port()
    home = directory / "server"
    home.mkdir()
    environment = {
        **_clean_environment(),
        **_SERVER_SETTINGS,
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    async with processes.running(
        server_command(port),
        environment=environment,
        directory=home,
        output=home / "server.log",
    ) as server:
        rest = Rest(environment["PREFECT_API_URL"])
        await _until_healthy(rest, server, home / "server.log")
        yield rest


async def _until_healthy(rest: Rest, server: trio.Process, log: Path) -> None:
    with trio.move_on_after(_SERVER_START_SECONDS):
        while server.poll() is None:
            with suppress(httpx.TransportError, httpx.HTTPStatusError):
                if await rest.call("GET", "health"):
                    return
            await trio.sleep(0.2)
    written = await trio.Path(log).read_text(errors="replace")
    raise RuntimeError(f"the Prefect server did not start; it wrote:\n{written[-3000:]}")


# Stands in for uv: notes how it was called, and runs the script in our own environment.
_UV = """#!{python}
import json, os, pathlib, sys
run = os.environ["PREFECT__FLOW_RUN_ID"]
script = sys.argv.index("--project") + 2
with (pathlib.Path(os.environ["PARITY_OUTPUT"]) / f"{{run}}.notes").open("a") as notes:
    notes.write("uv " + json.dumps(sys.argv[1:]) + "\\n")
os.execv(sys.executable, [sys.executable, *sys.argv[script:]])
"""


def _write_uv(directory: Path) -> None:
    directory.mkdir()
    script = directory / "uv"
    script.write_text(_UV.format(python=sys.executable))
    script.chmod(0o755)


def _clean_environment() -> dict[str, str]:
    """Our environment without any setting of Prefect's, our own or Python's."""
    ours = ("PREFECT_", "TRIOWORKER_", "PYTEST_", "COV_", "PYTHON", "VIRTUAL_ENV", "PARITY_", "GIT_")
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}
    # A proxy of this machine has no part in this.
    return clean | {"NO_PROXY": "127.0.0.1,localhost"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_repository(directory: Path, source: Path) -> None:
    """Make a git repository with the files of a directory in it."""
    directory.mkdir(parents=True)
    for path in sorted(source.glob("*.py")):
        (directory / path.name).write_bytes(path.read_bytes())
    git = ["git", "-c", "user.name=parity", "-c", "user.email=parity@localhost", "-c", "commit.gpgsign=false"]
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["commit", "--quiet", "-m", "flows"],
    ):
        subprocess.run([*git, *command], cwd=directory, check=True, stdin=subprocess.DEVNULL)


def load(path: Path) -> Any:
    """What a JSON file says; None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None
