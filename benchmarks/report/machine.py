"""On what, with what and when was measured."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import attrs

_ROOT = Path(__file__).resolve().parents[2]
_LOOK_SECONDS = 3.0

# What benchmarks write, which is no change to what they measure.
_WRITTEN = (
    ":!benchmarks/RESULTS.md",
    ":!benchmarks/results.*",
    ":!benchmarks/faults/results.json",
    ":!docs/reliability.*",
)


@attrs.frozen
class Setting:
    """The circumstances of a benchmark.

    Attributes:
        date: when it began.
        commit: the commit of this project; with a `+` if files were changed since.
        command: the command line.
        processor: the model of the processor.
        cores: how many of them there are for us.
        memory: bytes of memory.
        system: the operating system and its version.
        python: Python's version.
        prefect: Prefect's version.
        packages: the versions of other packages that matter.
        busy: how many cores were busy with other things in the seconds before it began. Not the load average, which
            still tells of what has made ready for it.
    """

    date: str
    commit: str
    command: str
    processor: str
    cores: int
    memory: int
    system: str
    python: str
    prefect: str
    packages: dict[str, str]
    busy: float

    @property
    def was_busy(self) -> bool:
        """Whether the machine had so much else to do that times say little."""
        return self.busy > self.cores / 8


def observe(plan: str) -> Setting:
    """Look around."""
    options = [] if plan == "full" else [f"--{plan}"]
    return Setting(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        command=shlex.join(["python", "-m", "benchmarks", *options]),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        prefect=version("prefect"),
        packages={
            name: version(name) for name in ("trio", "httpx", "wsproto", "anyio", "pydantic", "SQLAlchemy")
        },
        busy=_busy_cores(_LOOK_SECONDS),
    )


def _busy_cores(seconds: float) -> float:
    """How many of the machine's cores are at work on the average of some seconds."""
    busy, whole = _time_of_cores()
    time.sleep(seconds)
    busy_then, whole_then = _time_of_cores()
    return (os.cpu_count() or 1) * (busy_then - busy) / max(whole_then - whole, 1)


def _time_of_cores() -> tuple[int, int]:
    """What all cores have spent at work, and all in all, since the machine was started."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, idle, waiting, *others = map(int, first.split()[1:9])
    at_work = user + nice + system + sum(others)
    return at_work, at_work + idle + waiting


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words],  # noqa: S607
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--", ".", *_WRITTEN)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+" if changed else commit
