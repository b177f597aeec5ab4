"""What the command does not import, because that is what keeps it quick and small."""

from __future__ import annotations

import os
import subprocess
import sys

import command
import pytest
from command import Launcher, Prefect

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

# hpack comes with h2.
HEAVY = {"prefect", "pydantic", "fastapi", "hypercorn", "wsproto", "hpack", "asyncio", "rich", "pygments"}

# What an idle worker of a kind that is built in has no use for, though something that it has would bring it along.
UNUSED_WHEN_IDLE = {
    "anyio._backends._trio",
    "anyio._core._sockets",
    "concurrent.futures",
    "importlib.metadata",
    "logging.config",
    "logging.handlers",
    "sysconfig",
    "zipfile",
    "zoneinfo",
    "trioworker.command.local_server",
    "trioworker.command.served_flows",
    "trioworker.flows.declaration",
    "trioworker.infrastructure.trio_flows.infrastructure",
}


def imported_modules(importtime: str) -> set[str]:
    return {
        line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:")
    }


def imported_packages(importtime: str) -> set[str]:
    return {module.partition(".")[0] for module in imported_modules(importtime)}


def test_help_imports_nothing_heavy() -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trioworker", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = imported_packages(finished.stderr)
    assert "trio" in imported
    assert not imported & HEAVY


def test_help_imports_nothing_that_only_runs_need() -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trioworker", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = imported_modules(finished.stderr)
    assert "trioworker.command.deploy" in imported
    assert not imported & {
        "trioworker.serving",
        "trioworker.flows.deployment",
        "trioworker.command.flow_loading",
        "trioworker.logs.functions",
        "trioworker.infrastructure.process.infrastructure",
    }


def test_worker_that_looks_for_its_api_has_imported_nothing_heavy() -> None:
    environment = {
        "PATH": os.defpath,
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "TRIOWORKER_GIVE_UP_AFTER": "0.1",
    }
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trioworker", "start", "-p", "pool"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert finished.returncode == 1
    imported = imported_packages(finished.stderr)
    assert "httpcore" in imported
    assert not imported & HEAVY


async def test_idle_worker_has_imported_what_it_uses_and_no_more(launch: Launcher, prefect: Prefect) -> None:
    worker = await launch.worker(
        "-p",
        await prefect.pool(),
        api=prefect.url,
        PYTHONPROFILEIMPORTTIME="1",
        PREFECT_LOGGING_LEVEL="DEBUG",
    )
    await worker.line_with("Listening for state changes")
    assert await worker.stop() == 0
    assert imported_packages(worker.output) & HEAVY == {"wsproto"}
    assert not imported_modules(worker.output) & UNUSED_WHEN_IDLE
