"""The pytest plugin in projects that are not ours: what its fixtures do, and what it costs who has no use for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

# What the plugin may bring into every test run: itself and the packages that it is in.
ADDED = {"trioworker", "trioworker.testing", "trioworker.testing.plugin"}

UNRELATED = """
import pathlib, sys

def test_something():
    pathlib.Path("imported").write_text("\\n".join(sys.modules))
"""

MARKED = """
import pytest, trio

@pytest.mark.trio
async def test_run(prefect_api):
    prefect_api.add_work_pool("pool")
    run = prefect_api.schedule(prefect_api.add_deployment("flow", "pool"))
    with trio.fail_after(20):
        async with prefect_api.open_worker("pool", drain_timeout=0):
            await prefect_api.wait_for(run, "Running")
    assert prefect_api.infrastructure.execution(run.id)
"""

VIRTUAL = """
import trio

async def test_hour(prefect_api, autojump_clock):
    prefect_api.add_work_pool("pool")
    run = prefect_api.schedule(prefect_api.add_deployment("flow", "pool"), at=3600)
    async with prefect_api.open_worker("pool"):
        await prefect_api.wait_for(run, "Completed")
    assert prefect_api.delay(run) == 0
    assert prefect_api.seconds() == 3601
"""

LOGGING = """
import logging
import pytest, trioworker

app = trioworker.TrioFlows()

@app.flow()
async def greet():
    logging.getLogger("mine").info("hello")
    logging.getLogger("mine").debug("details")

async def test_log(prefect_api, autojump_clock):
    [deployed] = await app.deploy(pool="pool", **prefect_api.worker_options)
    run = prefect_api.schedule(deployed)
    async with prefect_api.open_worker("pool", flows=app):
        await prefect_api.wait_for(run, "Completed")
    assert "hello" in prefect_api.logs_of(run)
    assert "details" not in prefect_api.logs_of(run)

def test_level_is_as_it_was():
    assert logging.getLogger().level == logging.WARNING
"""


def run_pytest(
    directory: Path, text: str, *options: str, trio_mode: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a test file in a project of its own."""
    directory.joinpath("pytest.ini").write_text(
        f"[pytest]\ntrio_mode = {trio_mode}\nfilterwarnings = error\n"
    )
    directory.joinpath("test_it.py").write_text(text)
    return _python(directory, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options)


def _python(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PREFECT_"))
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_passed(finished: subprocess.CompletedProcess[str], tests: int) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{tests} passed" in finished.stdout


def options_without(*plugins: str) -> Sequence[str]:
    return [option for plugin in plugins for option in ("-p", f"no:{plugin}")]


def imported(directory: Path, *options: str) -> set[str]:
    """The modules that are there in a test run that has nothing to do with trioworker."""
    directory.joinpath("test_it.py").write_text(UNRELATED)
    assert_passed(_python(directory, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options), 1)
    return set(directory.joinpath("imported").read_text().splitlines())


@pytest.mark.parametrize("missing", [(), ("trio",)], ids=["all", "without pytest-trio"])
def test_test_run_that_does_not_use_it_imports_next_to_nothing(
    tmp_path: Path, missing: Sequence[str]
) -> None:
    with_it = imported(tmp_path, *options_without(*missing))
    without_it = imported(tmp_path, *options_without(*missing, "trioworker"))
    assert with_it - without_it == ADDED


def test_plugin_can_be_switched_off(tmp_path: Path) -> None:
    finished = run_pytest(tmp_path, "def test_it(prefect_api): ...", *options_without("trioworker"))
    assert finished.returncode == 1
    assert "fixture 'prefect_api' not found" in finished.stdout


def test_fixtures_say_what_they_are(tmp_path: Path) -> None:
    finished = run_pytest(tmp_path, "def test_it(): ...", "--fixtures")
    shown = finished.stdout.partition("fixtures defined from trioworker.testing.plugin")[2]
    assert "prefect_api" in shown
    assert "prefect_server [session scope]" in shown
    assert "A Prefect in memory" in shown


def test_fake_works_with_marked_tests_in_real_time(tmp_path: Path) -> None:
    assert_passed(run_pytest(tmp_path, MARKED, trio_mode=False), 1)


def test_fake_works_in_virtual_time(tmp_path: Path) -> None:
    assert_passed(run_pytest(tmp_path, VIRTUAL), 1)


@pytest.mark.parametrize("options", [(), ("-p", "no:logging")], ids=["caplog", "no caplog"])
def test_info_reaches_the_logs_of_runs_and_the_level_is_put_back(
    tmp_path: Path, options: Sequence[str]
) -> None:
    assert_passed(run_pytest(tmp_path, LOGGING, *options), 2)


def test_server_is_skipped_with_a_reason_where_prefect_is_missing(tmp_path: Path) -> None:
    tmp_path.joinpath("conftest.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'prefect' else find_spec(name, *rest)\n"
    )
    finished = run_pytest(tmp_path, "def test_it(prefect_server): ...", "-rs")
    assert finished.returncode == 0
    assert "Prefect is not installed: pip install 'trioworker[local]'" in finished.stdout
