"""What the tests of templates share: a Prefect that is imported in no time, and faults at chosen moments.

The package that plays Prefect has no more than the program of a template asks for. Its supervisor and its engine
write down that they were executed, and then execute what their environment has for them: SUPERVISOR and FLOW. What it
has in FAULT happens at a moment of the protocol between template and worker:

    MOMENT SIGNAL VICTIM

The victim is the template, the process itself that is at that moment, or its whole group.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from trioworker.infrastructure.process.warm.program.messages import Job
from trioworker.infrastructure.process.warm.template import Template
from trioworker.infrastructure.process.warm.templates import Templates
from trioworker.process_group import ProcessGroup

SUPERVISOR = "prefect.runner._workspace_supervisor"
ENGINE = "prefect.engine"

_FAULTS = '''
import os, signal, sys

PROGRAM = sys.modules.get("_trioworker_template.service")
TEMPLATE = os.getpid()

def reach(moment):
    """Have the fault happen, if this is its moment, and if its file is still there that lets it happen once."""
    wanted, _, rest = os.environ.get("FAULT", "").partition(" ")
    if PROGRAM is None or moment != wanted:
        return
    once = os.environ.get("FAULT_ONCE")
    try:
        if once:
            os.unlink(once)
    except FileNotFoundError:
        return
    name, victim = rest.split()
    if name == "NOFORK":
        import resource
        # The limit does not hold for root.
        if os.getuid() == 0:
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    elif name == "NOHELPER":
        def refuse():
            raise BlockingIOError(11, "there are enough")
        os.fork = refuse
    elif name == "NOISE":
        noise.append(b"\\xff noise")
    elif victim == "group":
        os.killpg(os.getpgrp(), signal.Signals[name])
    else:
        os.kill(TEMPLATE if victim == "template" else os.getpid(), signal.Signals[name])

def before(name, moment):
    function = getattr(PROGRAM, name)
    def replacement(*arguments):
        reach(moment)
        return function(*arguments)
    setattr(PROGRAM, name, replacement)

noise = []

def encode(message, encode=getattr(PROGRAM, "encode", None)):
    reach(("template" if os.getpid() == TEMPLATE else "child") + "-says-" + type(message).__name__)
    return noise.pop() if noise else encode(message)

if PROGRAM is not None:
    PROGRAM.encode = encode
    before("decode_job", "after-born")
    before("prepare", "after-go")
    before("become_engine", "prepared")
    _setsid = os.setsid
    def setsid():
        reach("before-setsid")
        _setsid()
    os.setsid = setsid
    _serve = PROGRAM._serve
    def serve(control, fork):
        def replacement():
            reach("before-fork")
            pid = fork()
            if pid:
                reach("after-fork")
            return pid
        return _serve(control, replacement)
    PROGRAM._serve = serve
    reach("importing")
'''

_PREFECT = """
import os
import _faults

__version__ = os.environ.get("FAKE_VERSION", "3.8.8")
"""

_SETTINGS = """
import os
from types import SimpleNamespace

def get_current_settings():
    return SimpleNamespace(
        plugins=SimpleNamespace(enabled="FAKE_PLUGINS" in os.environ),
        profiles_path="/nowhere/profiles.toml",
        logging=SimpleNamespace(config_path="/nowhere/logging.yml"),
    )
"""

_STAGE = """
import os, sys
import _faults

def note(stage):
    with open(os.environ["STAGES"], "a") as file:
        file.write(f"{stage} {os.getpid()}\\n")

if __name__ == "__main__":
    note(%(name)r)
    _faults.reach(%(name)r)
    exec(os.environ.get(%(variable)r, ""))
"""

_SUPERVISOR = (
    _STAGE % {"name": "supervisor", "variable": "SUPERVISOR"}
    + '    os.execvpe(sys.executable, [sys.executable, "-m", "prefect.engine"], dict(os.environ))\n'
)

_FILES = {
    "_faults.py": _FAULTS,
    "prefect/__init__.py": _PREFECT,
    "prefect/settings.py": _SETTINGS,
    "prefect/engine.py": _STAGE % {"name": "engine", "variable": "FLOW"},
    "prefect/runner/__init__.py": "",
    "prefect/runner/_workspace_hook_runner.py": "",
    "prefect/runner/_workspace_resolver.py": "",
    "prefect/runner/_workspace_runtime.py": "",
    "prefect/runner/_workspace_starter.py": "",
    "prefect/runner/_workspace_supervisor.py": _SUPERVISOR,
    "prefect/deployments/__init__.py": "",
    "prefect/deployments/steps/__init__.py": "",
    "prefect/deployments/steps/pull.py": "",
    "prefect/deployments/steps/utility.py": "",
    "prefect/flow_engine.py": "",
    "prefect/_internal/__init__.py": "",
    "prefect/_internal/metrics.py": "",
    "prefect/_internal/compatibility/__init__.py": "",
    "prefect/_internal/compatibility/backports.py": "import tomllib",
    "dotenv.py": "def dotenv_values(file): return {}",
    "anyio/__init__.py": "",
    "anyio/_backends/__init__.py": "",
    "anyio/_backends/_asyncio.py": "",
    "pydantic/__init__.py": "",
    "pydantic/v1.py": "",
    "rich/__init__.py": "",
    "rich/_emoji_codes.py": "",
}


@attrs.frozen
class Site:
    """Directories of a test, with an installation of what plays Prefect.

    Attributes:
        root: where everything of it is.
    """

    root: Path

    @property
    def packages(self) -> Path:
        """Where modules are installed."""
        return self.root / "site-packages"

    @property
    def work(self) -> Path:
        """Where flow runs are executed."""
        return self.root / "work"

    def install(self, name: str, text: str) -> Path:
        """Install a module."""
        file = self.packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def environment(self, **values: str) -> dict[str, str]:
        """An environment in which what plays Prefect is found."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "PYTHONPATH": str(self.packages),
            # Two modules written within a second may have the same size and time.
            "PYTHONDONTWRITEBYTECODE": "1",
            "STAGES": str(self.root / "stages"),
            **values,
        }

    def once(self) -> dict[str, str]:
        """What lets a fault happen once only."""
        file = self.root / "once"
        file.touch()
        return {"FAULT_ONCE": str(file)}

    def job(self, module: str = SUPERVISOR, **values: str) -> Job:
        """A job in that environment."""
        return Job(module, [], str(self.work), self.environment(**values))

    @property
    def stages(self) -> list[str]:
        """Which stages of flow runs were executed, in order."""
        return [stage for stage, _ in self._noted()]

    @property
    def engines(self) -> list[int]:
        """The processes of the engines that were executed."""
        return [pid for stage, pid in self._noted() if stage == "engine"]

    def _noted(self) -> list[tuple[str, int]]:
        try:
            lines = (self.root / "stages").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(stage, int(pid)) for stage, pid in map(str.split, lines)]

    def said(self) -> list[Any]:
        """What flows have written with `SAY`."""
        return [json.loads(line) for line in (self.root / "said").read_text().splitlines()]

    def say(self, expression: str) -> str:
        """The program of a flow that tells what an expression is there; modules have to be imported in it."""
        file = str(self.root / "said")
        return (
            f"import json\nvalue = {expression}\n"
            f"with open({file!r}, 'a') as file: file.write(json.dumps(value) + '\\n')\n"
        )


def make_site(root: Path) -> Site:
    """Install what plays Prefect."""
    site = Site(root)
    site.work.mkdir()
    for name, text in _FILES.items():
        site.install(name, text)
    return site


@asynccontextmanager
async def open_template(site: Site, *modules: str, **values: str) -> AsyncIterator[Template]:
    """A template that is ready."""
    with trio.fail_after(120):
        template = await Template.start(
            sys.executable, modules, site.environment(**values), stream_output=True
        )
        try:
            await template.wait_ready()
            yield template
        finally:
            with trio.CancelScope(shield=True):
                await template.end()


@asynccontextmanager
async def open_templates(site: Site, *modules: str, **values: str) -> AsyncIterator[Templates]:
    """Templates in the environment of a site."""
    with trio.fail_after(120):
        templates = Templates(sys.executable, modules, site.environment(**values))
        async with templates.open():
            yield templates


async def ended(group: ProcessGroup) -> int:
    """The status of a process that ends by itself."""
    with trio.fail_after(30):
        await group.wait()
        return group.release()


async def gone(pid: int) -> None:
    """Wait until somebody else's process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def children() -> set[int]:
    """The processes that this one has not reaped, zombies included."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                stat = (entry / "stat").read_bytes()
                # After the name, which may have anything in it: the state, and the parent.
                if int(stat[stat.rindex(b")") + 1 :].split()[1]) == os.getpid():
                    found.add(int(entry.name))
    return found


def lines_of(caplog: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> list[str]:
    """What templates have told the log at a level."""
    package = "trioworker.infrastructure.process.warm"
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name.startswith(package)
    ]
