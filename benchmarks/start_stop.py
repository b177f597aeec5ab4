"""What is left behind when workers come and go: tasks, file descriptors, threads, memory, objects.

    python -m benchmarks.start_stop [CYCLES [API_URL]]

Without a URL, starts a Prefect server on this machine. A cycle opens a worker with everything that it may have
(health server, websocket, heartbeats) and shuts it down; every other one is left as soon as it polls, and every
tenth executes a flow run. Needs Linux, for the figures.
"""

import argparse
import asyncio
import gc
import logging
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import attrs
import httpx
import outcome
import trio

from trioworker import FlowDeployment, RunEnd, RunFinished, Settings, TrioFlows, Worker, open_worker
from trioworker.command.local_server import open_local_server

CYCLES = 200
WARM_UP = 10
EVERY_TENTH = 10

# Seconds: a worker that has connected its websocket, and Trio's idle threads, which it keeps for ten.
CONNECTED = 0.3
IDLE_THREADS = 11

COLUMNS = ("way", "a cycle", "runs", "tasks left", "descriptors", "threads", "resident MB", "objects")
WIDTHS = (12, 9, 6, 12, 13, 17, 17, 19)

PAGE = os.sysconf("SC_PAGE_SIZE")

# What a flow run executes: it says that it runs, and that it is through.
FLOW = """
import json, os, urllib.request
for state in ("RUNNING", "COMPLETED"):
    url = os.environ["PREFECT_API_URL"] + "/flow_runs/" + os.environ["PREFECT__FLOW_RUN_ID"] + "/set_state"
    body = json.dumps({"state": {"type": state}}).encode()
    urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).close()
"""


@attrs.frozen
class Figures:
    """What there is in this process at one moment."""

    descriptors: int
    threads: int
    megabytes: float
    objects: int

    @classmethod
    def now(cls) -> "Figures":
        """Count."""
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            descriptors=entries("/proc/self/fd") - 1,
            threads=entries("/proc/self/task"),
            megabytes=resident * PAGE / 1e6,
            objects=len(gc.get_objects()),
        )


def entries(directory: str) -> int:
    """How many entries a directory has; of /proc/self/fd, one is there for the look."""
    return sum(1 for _ in Path(directory).iterdir())


@attrs.define
class Pool:
    """A work pool on the server, and a worker for it again and again.

    Attributes:
        name: the pool.
        deployment: whose runs are executed.
        settings: of the workers.
        server: takes the runs.
        runs: how many were executed.
    """

    name: str
    deployment: str
    settings: Settings
    server: httpx.Client
    runs: int = 0

    async def cycle(self, number: int) -> None:
        """Open a worker, and shut it down."""
        with trio.fail_after(60):
            async with open_worker(pool=self.name, settings=self.settings, with_healthcheck=True) as worker:
                if number % EVERY_TENTH == 0:
                    with worker.watch() as watch:
                        self.schedule()
                        async for happening in watch:
                            if isinstance(happening, RunFinished):
                                assert happening.end is RunEnd.EXECUTED  # noqa: S101
                                assert happening.status_code == 0, happening  # noqa: S101
                                self.runs += 1
                                break
                elif number % 2:
                    await trio.sleep(CONNECTED)

    def schedule(self) -> None:
        """Have a flow run now."""
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": datetime.now(UTC).isoformat()}}
        post(self.server, f"deployments/{self.deployment}/create_flow_run", {"state": state})


@attrs.define
class Functions:
    """A worker that serves functions, again and again; every tenth calls one as a task, and one in a thread.

    Attributes:
        pool: a pool beside whose name another one is made, and whose count of runs is kept.
        app: the functions.
        deployments: of them.
    """

    pool: Pool
    app: TrioFlows = attrs.field(factory=TrioFlows)
    deployments: list[FlowDeployment] = attrs.field(factory=list)

    @property
    def name(self) -> str:
        """The work pool of the functions."""
        return f"{self.pool.name}-functions"

    async def deploy(self) -> None:
        """Declare the functions, and bring them to the server."""

        @self.app.flow(name=f"task-{self.name}")
        async def task() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0.01)
                nursery.start_soon(trio.sleep, 0.02)

        @self.app.flow(name=f"thread-{self.name}")
        def thread() -> None:
            logging.getLogger("start_stop").info("in a thread")

        self.deployments = await self.app.deploy(pool=self.name, settings=self.pool.settings)

    async def cycle(self, number: int) -> None:
        """Open a worker, and shut it down."""
        with trio.fail_after(60):
            async with open_worker(
                pool=self.name, flows=self.app, settings=self.pool.settings, with_healthcheck=True
            ) as worker:
                if number % EVERY_TENTH == 0:
                    await self.run_all(worker)
                elif number % 2:
                    await trio.sleep(CONNECTED)

    async def run_all(self, worker: Worker) -> None:
        """Have each function called once."""
        left = len(self.deployments)
        with worker.watch() as watch:
            for deployment in self.deployments:
                await worker.create_flow_run(deployment.id)
            async for happening in watch:
                if isinstance(happening, RunFinished):
                    assert happening.state_name == "Completed", happening  # noqa: S101
                    self.pool.runs += 1
                    left -= 1
                    if not left:
                        return


class Cycled(Protocol):
    """Something with workers that come and go."""

    async def cycle(self, number: int) -> None:
        """Open a worker, and shut it down."""
        ...


def post(server: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """Make a request; SQLite has one writer at a time."""
    while (response := server.post(path, json=body)).status_code == 503:
        time.sleep(0.1)
    response.raise_for_status()
    return response.json()


def make_pool(server: httpx.Client, url: str, directory: Path) -> Pool:
    """Make a work pool with a deployment."""
    name = f"start-stop-{uuid4()}"
    post(server, "work_pools/", {"name": name, "type": "process"})
    flow = post(server, "flows/", {"name": name})["id"]
    command = shlex.join([sys.executable, "-c", FLOW])
    deployment = post(
        server,
        "deployments/",
        {"name": name, "flow_id": flow, "work_pool_name": name, "job_variables": {"command": command}},
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {
        "HOME": str(directory),
        "PATH": os.environ["PATH"],
        "PREFECT_API_URL": url,
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        "NO_PROXY": "127.0.0.1",
    }
    return Pool(name, deployment["id"], Settings.load(values, directory), server)


@attrs.define
class Course:
    """What is found on the way.

    Attributes:
        before: the figures once everything is warm.
        after: at the end.
        tasks: how many tasks were left over after a cycle, at the most.
        seconds: from `before` to `after`.
    """

    before: Figures | None = None
    after: Figures | None = None
    tasks: int = 0
    seconds: float = 0

    def begin(self) -> None:
        """Everything is warm."""
        self.before = Figures.now()
        self.seconds = -time.perf_counter()

    def end(self) -> None:
        """All is done."""
        self.seconds += time.perf_counter()
        self.after = Figures.now()

    async def cycle(self, number: int, *pools: Cycled) -> None:
        """Let a worker of each pool come and go, at the same time."""
        before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            for pool in pools:
                nursery.start_soon(pool.cycle, number)
        self.tasks = max(self.tasks, trio.lowlevel.current_statistics().tasks_living - before)


def alone(cycles: int, pools: Sequence[Pool], course: Course) -> None:
    """One worker at a time, all in one Trio program."""

    async def main() -> None:
        for number in range(-WARM_UP, cycles):
            if number == 0:
                course.begin()
            await course.cycle(number, pools[0])
        course.end()

    trio.run(main)


def two_at_once(cycles: int, pools: Sequence[Pool], course: Course) -> None:
    """Two workers of two pools side by side, again and again in one Trio program."""

    async def main() -> None:
        for number in range(-WARM_UP, cycles):
            if number == 0:
                course.begin()
            await course.cycle(number, *pools)
        course.end()

    trio.run(main)


def functions(cycles: int, pools: Sequence[Pool], course: Course) -> None:
    """One worker that serves functions at a time, all in one Trio program."""

    async def main() -> None:
        served = Functions(pools[0])
        await served.deploy()
        for number in range(-WARM_UP, cycles):
            if number == 0:
                course.begin()
            await course.cycle(number, served)
        course.end()

    trio.run(main)


def guests(cycles: int, pools: Sequence[Pool], course: Course) -> None:
    """One worker at a time, each in a guest run of its own, all in one asyncio program."""

    async def main() -> None:
        for number in range(-WARM_UP, cycles):
            if number == 0:
                course.begin()
            await as_guest(partial(course.cycle, number, pools[0]))
        course.end()

    asyncio.run(main())


async def as_guest(function: Callable[[], Awaitable[None]]) -> None:
    """Run a Trio program from asyncio."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
    trio.lowlevel.start_guest_run(
        function,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    (await ended).unwrap()


def report(way: Callable[[int, Sequence[Pool], Course], None], cycles: int, pools: Sequence[Pool]) -> None:
    """Run the cycles, and print a row of the table."""
    for pool in pools:
        pool.runs = 0
    course = Course()
    way(cycles, pools, course)
    time.sleep(IDLE_THREADS)
    before, after, later = course.before, course.after, Figures.now()
    assert before is not None  # noqa: S101
    assert after is not None  # noqa: S101
    cells = [
        f"{way.__name__.replace('_', ' '):<12}",
        f"{course.seconds / cycles:.2f} s",
        f"{sum(pool.runs for pool in pools)}",
        f"{course.tasks}",
        f"{before.descriptors} -> {after.descriptors}",
        f"{before.threads} -> {after.threads} -> {later.threads}",
        f"{before.megabytes:.1f} -> {after.megabytes:.1f}",
        f"{before.objects} -> {after.objects}",
    ]
    print("".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True)), flush=True)


@asynccontextmanager
async def some_server(home: Path) -> AsyncIterator[str]:
    """A Prefect server on this machine."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    async with open_local_server(
        python=sys.executable, home=home, environment=clean, on_notice=print
    ) as server:
        yield server.url


def main(cycles: int, url: str, directory: Path) -> None:
    """Measure every way and print."""
    print(
        f"{cycles} cycles each, after {WARM_UP} to warm up; before -> after, threads -> {IDLE_THREADS} s later"
    )
    print("".join(name.rjust(width) for name, width in zip(COLUMNS, WIDTHS, strict=True)))
    with httpx.Client(base_url=url, verify=False, trust_env=False, timeout=30) as server:  # noqa: S501 - loopback
        pools = [make_pool(server, url, directory) for _ in range(2)]
        for way in (alone, two_at_once, functions, guests):
            report(way, cycles, pools)


async def main_on_own_server(cycles: int, directory: Path) -> None:
    """The same on a server of our own, in a process that has no other business."""
    async with some_server(directory) as url:
        await trio.run_process([sys.executable, __file__, str(cycles), url])


def read_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure what workers leave behind that come and go.")
    parser.add_argument(
        "cycles", nargs="?", type=int, default=CYCLES, help=f"of each way, {CYCLES} by default"
    )
    parser.add_argument("url", nargs="?", help="of a Prefect API; a server is started by default")
    return parser.parse_args()


if __name__ == "__main__":
    asked = read_arguments()
    with tempfile.TemporaryDirectory(prefix="trioworker-start-stop-") as temporary:
        if asked.url is not None:
            main(asked.cycles, asked.url, Path(temporary))
        else:
            trio.run(main_on_own_server, asked.cycles, Path(temporary))
