"""What the command does not import, because that is what keeps it quick and small."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = {"prefect", "pydantic", "fastapi", "hypercorn", "httpx_ws", "h2", "asyncio", "rich", "pygments"}


def imported_packages(importtime: str) -> set[str]:
    return {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in importtime.splitlines()
        if line.startswith("import time:")
    }


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


def test_help_imports_nothing_that_only_functions_need() -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trioworker", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert "trioworker.command.deploy" in imported
    assert not imported & {
        "trioworker.serving",
        "trioworker.flows.deployment",
        "trioworker.command.flow_loading",
        "trioworker.logs.functions",
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
    # Which httpcore imports where it is installed.
    assert not imported & (HEAVY - {"h2"})
