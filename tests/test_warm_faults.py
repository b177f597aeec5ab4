"""What may go wrong with warm starts, and with real flows of Prefect's in the processes of real workers."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import command
import process_support
import pytest
import trio
from command import Command, Launcher, Prefect
from conftest import clean_environment
from process_support import RUN_ID, descriptors, no_more_descriptors

from trioworker.infrastructure.process import infrastructure as infrastructure_module
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux lets a template fork its worker's children"
    ),
]

launch = command.launch
prefect = command.prefect

# For what takes seconds on an idle machine.
PATIENCE = 60.0

FLOWS = """
import json
import os
import time
from pathlib import Path

from prefect import flow


@flow
def waits(directory, name):
    (Path(directory) / name).write_text(str(os.getpid()))
    while not (Path(directory) / "go").exists():
        time.sleep(0.02)
    print(f"{name} has come to its end", flush=True)
"""

# Ends its process while it is imported: to run a flow to its end would take much longer, and tell no more.
DICE = """
import json
import multiprocessing
import os
import random
import secrets
import ssl
import tempfile
import uuid

import coolname
from prefect._internal.uuid7 import uuid7

thrown = {
    "random": random.random(),
    "a generator of its own": random.Random().random(),
    "secrets": secrets.token_hex(),
    "the system": os.urandom(16).hex(),
    "OpenSSL": ssl.RAND_bytes(16).hex(),
    "uuid1": str(uuid.uuid1()),
    "uuid4": str(uuid.uuid4()),
    "uuid7": str(uuid7()),
    "temporary files": next(tempfile._get_candidate_names()),
    "multiprocessing": multiprocessing.current_process().authkey.hex(),
    "names": coolname.generate_slug(4),
    "pid": os.getpid(),
}
try:
    import numpy
except ImportError:
    pass
else:
    thrown["numpy"] = numpy.random.random()
shared = {"hash": hash("of a text")}
line = json.dumps([thrown, shared]) + "\\n"
os.write(os.open(os.environ["THROWN"], os.O_WRONLY | os.O_APPEND), line.encode())
os._exit(0)
"""


@attrs.frozen
class Scene:
    """A work pool with a deployment of a flow that waits, and what its runs and their worker say.

    Attributes:
        prefect: the server.
        pool: the work pool.
        deployment: of the flow.
        directory: where runs leave their pids, and look for the file that lets them go on.
    """

    prefect: Prefect
    pool: str
    deployment: str
    directory: Path

    async def run(self, name: str) -> str:
        """Schedule a run."""
        parameters = {"directory": str(self.directory), "name": name}
        return await self.prefect.run(self.deployment, parameters=parameters)

    async def begun(self, name: str) -> int:
        """Wait until the flow of a run has begun, and return its pid."""
        file = self.directory / name
        await until(lambda: file.exists() and bool(file.read_text()), f"{name} to begin")
        return int(file.read_text())

    def go(self) -> None:
        (self.directory / "go").touch()

    async def completed(self, run: str) -> None:
        with trio.fail_after(PATIENCE):
            while (state := await self.prefect.state(run))["name"] != "Completed":
                assert state["type"] not in {"CRASHED", "FAILED", "CANCELLED"}, state
                await trio.sleep(0.1)


async def until(condition: Callable[[], bool], what: str, told: Command | None = None) -> None:
    with trio.move_on_after(PATIENCE) as scope:
        while not condition():  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.05)
    written = "" if told is None else f"; the worker wrote:\n{told.output}"
    assert not scope.cancelled_caught, f"waited {PATIENCE:g} s for {what}{written}"


def templates(worker: Command) -> list[int]:
    """The pid of the template of each run that a worker has started so far, in order."""
    return [int(pid) for pid in re.findall(r"was forked from template (\d+)", worker.output)]


@pytest.fixture
async def scene(prefect: Prefect, tmp_path: Path) -> Scene:
    code, meeting_point = tmp_path / "code", tmp_path / "meeting point"
    code.mkdir()
    meeting_point.mkdir()
    (code / "flows.py").write_text(FLOWS)
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, entrypoint="flows.py:waits", path=str(code))
    return Scene(prefect, pool, deployment, meeting_point)


async def start(launch: Launcher, scene: Scene, **how: Any) -> Command:
    return await launch.worker(
        "--pool", scene.pool, api=scene.prefect.url, PREFECT_WORKER_DEBUG_MODE="true", **how
    )


async def test_runs_complete_whose_template_is_killed_and_the_next_ones_have_a_new_one(
    launch: Launcher, scene: Scene
) -> None:
    worker = await start(launch, scene)
    going_on = [await scene.run("first"), await scene.run("second")]
    pids = {await scene.begun("first"), await scene.begun("second")}
    (template,) = set(templates(worker))
    os.kill(template, signal.SIGKILL)
    next_one = await scene.run("third")
    pids.add(await scene.begun("third"))
    assert len(pids) == 3
    scene.go()
    for run in [*going_on, next_one]:
        await scene.completed(run)
    assert templates(worker)[2] != template
    assert await worker.stop() == 0


async def test_run_completes_whose_worker_is_killed(launch: Launcher, scene: Scene) -> None:
    worker = await start(launch, scene)
    run = await scene.run("orphan")
    pid = await scene.begun("orphan")
    (template,) = templates(worker)
    worker.send(signal.SIGKILL)
    await worker.exit_code()
    await until(lambda: not is_alive(template), "the end of the template")
    assert is_alive(pid)
    scene.go()
    await scene.completed(run)
    await launch.all_gone()
    launch.forget_temporary_files()


async def test_template_is_replaced_when_a_package_is_installed(
    launch: Launcher, scene: Scene, interpreter: Path
) -> None:
    worker = await start(launch, scene, TRIOWORKER_PYTHON=str(interpreter))
    scene.go()
    await scene.completed(await scene.run("before"))
    await scene.completed(await scene.run("before, too"))
    (packages,) = (interpreter.parent.parent / "lib").glob("python*/site-packages")
    (packages / "new_package.py").write_text("")
    await scene.completed(await scene.run("after"))
    first, second, third = templates(worker)
    assert (first == second, second == third) == (True, False)
    assert not is_alive(first)
    assert await worker.stop() == 0


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """A Python with site-packages of its own, and all that is in ours."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (ours,) = (path for path in sys.path if path.endswith("site-packages"))
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return environment / "bin" / "python"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# To set the limit for a user that has no other processes. Only what is not for root is limited.
_AS_NOBODY_ELSE = (
    "setpriv",
    "--reuid=54321",
    "--clear-groups",
    # The files are still those of root.
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can become a user who has no other processes",
)
async def test_run_for_which_there_is_no_room_among_the_processes_is_started_otherwise_or_later(
    launch: Launcher, scene: Scene
) -> None:
    worker = await start(launch, scene, program=[*_AS_NOBODY_ELSE, *command.MODULE])
    scene.go()
    await scene.completed(await scene.run("warm"))
    (template,) = templates(worker)
    limit_processes(template, number=1)
    await scene.completed(await scene.run("fresh"))
    assert len(worker.lines_with("it cannot be forked")) == 1
    limit_processes(worker.pid, template, number=1)
    refused = await scene.run("later")
    await until(lambda: bool(worker.lines_with("given back, because")), "the run to be given back", worker)
    limit_processes(worker.pid, template, number=1000)
    await scene.completed(refused)
    assert templates(worker) == [template, template]
    assert await worker.stop() == 0


_LIMIT = """
import resource, sys
number, *pids = map(int, sys.argv[1:])
for pid in pids:
    resource.prlimit(pid, resource.RLIMIT_NPROC, (number, 1000))
"""


def limit_processes(*pids: int, number: int) -> None:
    """Limit how many processes and threads the user of these processes may have when they start another."""
    # Not every root may set limits of others' processes.
    arguments = [str(number), *map(str, pids)]
    subprocess.run([*_AS_NOBODY_ELSE, sys.executable, "-c", _LIMIT, *arguments], check=True)


@attrs.frozen
class Dice:
    """A flow whose processes draw random things, without a worker.

    Attributes:
        where: executes it.
        environment: of its runs.
        file: where each process adds a line.
    """

    where: ProcessInfrastructure
    environment: dict[str, str]
    file: Path

    async def throw(self, times: int = 1) -> None:
        for _ in range(times):
            what = process_support.assignment({"env": self.environment})
            await process_support.run_in_workspace(self.where, what)

    def thrown(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [tuple(json.loads(line)) for line in self.file.read_text().splitlines()]


@pytest.fixture
async def dice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Dice:
    # The engine alone asks for nothing but the flow run, if it is told where the flow is.
    monkeypatch.setattr(infrastructure_module, "has_workspace_supervisor", no_supervisor)
    body = json.dumps({"id": str(RUN_ID), "name": "dice", "flow_id": str(uuid4())})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    stub = await nursery.start(command.serve_stub, f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
    (tmp_path / "dice.py").write_text(DICE)
    (tmp_path / "thrown").touch()
    environment = {"THROWN": str(tmp_path / "thrown"), "PREFECT__FLOW_ENTRYPOINT": f"{tmp_path}/dice.py:dice"}
    settings = {
        **clean_environment(),
        "PREFECT_API_URL": stub.url,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "NO_PROXY": "127.0.0.1",
    }
    where = process_support.infrastructure(tmp_path, settings)
    return Dice(where, environment, tmp_path / "thrown")


async def no_supervisor(*_: Any, **__: Any) -> bool:
    return False


async def test_hundred_forks_have_nothing_random_in_common_and_leave_no_descriptor(
    dice: Dice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioworker.infrastructure.process.warm")
    at_first = descriptors(os.getpid())
    with trio.fail_after(PATIENCE):
        async with dice.where.open():
            await dice.throw()
            template = int(re.findall(r"from template (\d+)", caplog.text)[0])
            ours, its = descriptors(os.getpid()), descriptors(template)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(dice.throw, 25)
            assert descriptors(os.getpid()) == ours
            await no_more_descriptors(template, its)
    assert descriptors(os.getpid()) == at_first
    assert caplog.text.count(f"was forked from template {template}") == 101
    own, shared = zip(*dice.thrown(), strict=True)
    for what in own[0]:
        assert len({throw[what] for throw in own}) == 101, what
    # As docs/warm-start.md says.
    assert len({throw["hash"] for throw in shared}) == 1
