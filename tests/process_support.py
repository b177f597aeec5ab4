"""What the tests of the process infrastructure share: jobs, and an interpreter that only plays Prefect's."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio
from support import settings

from trioworker.api.models import FlowRun
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.protocol import Assignment, Outcome

RUN_ID = uuid4()


def infrastructure(
    directory: Path, values: Mapping[str, str] | None = None, *, kill_grace: float = 0.2
) -> ProcessInfrastructure:
    # The processes are Python's, which must be found.
    path = {"PATH": os.environ["PATH"]}
    return ProcessInfrastructure(settings({**path, **(values or {})}, directory), kill_grace)


def assignment(configuration: Mapping[str, Any], **environment: str) -> Assignment:
    return Assignment(
        flow_run=FlowRun(id=RUN_ID, name="red-fox", flow_id=uuid4()),
        flow_name="hunt",
        name="red-fox",
        labels={},
        configuration=configuration,
        environment=environment,
    )


def python(program: str, *arguments: str | Path) -> str:
    """A command that runs a program in Python."""
    return shlex.join([sys.executable, "-c", program, *map(str, arguments)])


async def run_in_workspace(  # noqa: ASYNC128 - passed on
    where: ProcessInfrastructure,
    what: Assignment,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> Outcome:
    async with where.open_workspace(where.prepare(what)) as job:
        return await where.run(job, task_status=task_status)


async def executed(
    where: ProcessInfrastructure, configuration: Mapping[str, Any], **environment: str
) -> Outcome:
    with trio.fail_after(30):
        return await run_in_workspace(where, assignment(configuration, **environment))


def temporary_directories(inside: Path) -> set[str]:
    """What is left of the temporary directories of runs: one to work in, one for the worker."""
    return {path.name for path in inside.iterdir() if "prefect" in path.name}


def fake_python(directory: Path, program: str, *, prefect: str = "supervisor") -> Path:
    """An interpreter that runs this program whatever it is told to run, and has the Prefect that it is said to have.

    The program finds the arguments in `sys.argv`, and is told where to write what it has to say by `here`.
    """
    interpreter = directory / "python"
    interpreter.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib, sys, time\n"
        f"here = pathlib.Path({str(directory)!r})\n"
        'if sys.argv[1] == "-c":\n'
        '    (here / "asked").open("a").write("x")\n'
        f"    print('a word of sitecustomize')\n    print({prefect!r})\n"
        "    sys.exit()\n"
        f"{program}"
    )
    interpreter.chmod(0o700)
    return interpreter


@contextmanager
def standard_output_to(file: Path) -> Iterator[None]:
    """Send to a file what this process and its children write to standard output."""
    with file.open("wb") as opened:
        kept = os.dup(1)
        os.dup2(opened.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def resident_memory() -> int:
    """Bytes of this process that are in memory. Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> list[str]:
    """The open descriptors of a process, by what they are."""
    found = []
    for path in list(Path(f"/proc/{pid}/fd").iterdir()):
        # That of this very listing is closed by now.
        with suppress(FileNotFoundError):
            found.append(re.sub(r"\d+", "N", str(path.readlink())))
    return sorted(found)


async def no_more_descriptors(template: int, before: list[str]) -> None:
    """Wait until a template has none that it had not before: it hears no sooner than we do that a process ended."""
    with trio.fail_after(30):
        while Counter(descriptors(template)) - Counter(before):  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.01)
