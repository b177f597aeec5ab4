"""On what, with what and when was measured."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import attrs

_ROOT = Path(__file__).resolve().parents[2]


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
        load: how busy the machine was with other things as it began: the load average of a minute.
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
    load: float

    @property
    def was_busy(self) -> bool:
        """Whether the machine had so much else to do that times say little."""
        return self.load > self.cores / 2


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
        load=os.getloadavg()[0],
    )


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
        # What a benchmark writes is no change to what it measures.
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/RESULTS.md", ":!benchmarks/results.*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+" if changed else commit
