"""Hooks of flows: in which process they are called, what that is given, and how it ends.

What the hooks do and where is in `test_process_with_prefect`; here the processes only say what they were given.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from process_support import (
    assignment,
    fake_python,
    infrastructure,
    resident_memory,
    standard_output_to,
)

from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.process.job import ProcessJob
from trioworker.infrastructure.protocol import HookCall, InfrastructureError

pytestmark = pytest.mark.process

CALL = HookCall(
    kind="cancellation", flow_run={"name": "red-fox"}, state={"type": "CANCELLING", "name": "Cancelling"}
)

SAY = """
import json, os, sys
documents = [json.load(open(path)) for path in sys.argv[-2:]]
modes = [oct(os.stat(path).st_mode)[-3:] for path in sys.argv[-2:]]
facts = {"arguments": sys.argv[1:], "documents": documents, "modes": modes, "cwd": os.getcwd()}
with open(os.environ["SAID"], "w") as file:
    json.dump({**facts, "env": dict(os.environ), "group": os.getpgrp() == os.getpid()}, file)
"""


async def called(where: ProcessInfrastructure, job: ProcessJob) -> None:
    with trio.fail_after(30):
        await where.run_hooks(job, CALL)


@attrs.frozen
class Prepared:
    """A workspace in which a flow has run, and its manifest if the supervisor has written one."""

    where: ProcessInfrastructure
    job: ProcessJob

    def leave_manifest(self, **changes: Any) -> None:
        manifest = self.job.opened_workspace.manifest
        assert manifest is not None
        document = {
            "working_directory": str(self.job.opened_workspace.root),
            "project_root": None,
            "runtime_entrypoint": "flow.py:flow",
            "hook_command": [sys.executable, "-c", SAY],
            "environment": {"OF": "manifest"},
        }
        manifest.write_text(json.dumps({**document, **changes}))

    def leave_hook(self, program: str, *arguments: str | Path) -> None:
        self.leave_manifest(hook_command=[sys.executable, "-c", program, *map(str, arguments)])


@pytest.fixture
async def supervised(tmp_path: Path) -> Any:
    """Prepared by the supervisor."""
    where = infrastructure(tmp_path, {"TRIOWORKER_PYTHON": str(fake_python(tmp_path, ""))})
    async with where.open_workspace(where.prepare(assignment({}))) as job:
        yield Prepared(where, job)


async def test_hooks_of_a_prepared_flow_are_called_by_its_manifest(
    tmp_path: Path, supervised: Prepared
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    supervised.leave_manifest(
        working_directory=str(elsewhere), environment={"SAID": str(tmp_path / "said"), "OF": "manifest"}
    )
    await called(supervised.where, supervised.job)
    facts = json.loads((tmp_path / "said").read_text())
    assert facts["arguments"][:2] == ["cancellation", str(supervised.job.opened_workspace.manifest)]
    assert facts["documents"] == [dict(CALL.flow_run), dict(CALL.state)]
    assert facts["modes"] == ["600", "600"]
    assert facts["cwd"] == str(elsewhere)
    assert facts["group"]
    # Nothing but what the manifest names, and what Python adds of itself.
    assert facts["env"].keys() <= {"SAID", "OF", "LC_CTYPE"}


async def test_hooks_of_a_flow_with_a_command_are_called_by_a_script_of_ours_in_its_workspace(
    tmp_path: Path,
) -> None:
    program = f"exec({SAY!r})"
    where = infrastructure(tmp_path, {"TRIOWORKER_PYTHON": str(fake_python(tmp_path, program))})
    job = where.prepare(assignment({"command": "true", "env": {"SAID": str(tmp_path / "said")}}))
    async with where.open_workspace(job) as opened:
        await called(where, opened)
        facts = json.loads((tmp_path / "said").read_text())
        assert facts["cwd"] == str(opened.opened_workspace.root)
    script, kind, *documents = facts["arguments"]
    assert await trio.Path(script).is_file()
    assert kind == "cancellation"
    assert len(documents) == 2
    assert facts["env"]["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] == "false"


async def test_what_hooks_are_told_is_removed_afterwards(supervised: Prepared) -> None:
    supervised.leave_hook("raise SystemExit(1)")
    with pytest.raises(InfrastructureError):
        await called(supervised.where, supervised.job)
    left = {path.name for path in supervised.job.opened_workspace.private.glob("*.json")}
    assert left == {"supervisor.json", "workspace.json"}


async def test_run_that_ended_before_its_workspace_was_ready_has_no_hooks_to_call(
    supervised: Prepared,
) -> None:
    with pytest.raises(InfrastructureError, match="ended before its workspace was ready"):
        await called(supervised.where, supervised.job)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"working_directory": 7}', "\x00"])
async def test_broken_manifest_is_said_to_be_one(supervised: Prepared, content: str) -> None:
    manifest = supervised.job.opened_workspace.manifest
    assert manifest is not None
    await trio.Path(manifest).write_text(content)
    with pytest.raises(InfrastructureError, match="is not what Prefect writes"):
        await called(supervised.where, supervised.job)


async def test_manifest_that_cannot_be_read_is_named(supervised: Prepared) -> None:
    manifest = supervised.job.opened_workspace.manifest
    assert manifest is not None
    await trio.Path(manifest).mkdir()
    with pytest.raises(InfrastructureError, match=r"the manifest .*workspace\.json cannot be read: "):
        await called(supervised.where, supervised.job)


async def test_flow_that_is_not_run_by_python_has_nothing_to_call_its_hooks(supervised: Prepared) -> None:
    supervised.leave_manifest(hook_command=None)
    with pytest.raises(InfrastructureError, match="not a Python that could call its hooks"):
        await called(supervised.where, supervised.job)


async def test_hook_process_that_fails_is_told_by_its_status(supervised: Prepared) -> None:
    supervised.leave_hook("raise SystemExit(3)")
    with pytest.raises(InfrastructureError, match="ended with status 3"):
        await called(supervised.where, supervised.job)


async def test_hook_process_that_cannot_be_started_is_named(supervised: Prepared) -> None:
    supervised.leave_manifest(hook_command=["no-such-python"])
    with pytest.raises(
        InfrastructureError,
        match="the program of the hook_command in the manifest of the workspace was not found",
    ):
        await called(supervised.where, supervised.job)


# Starts a child that ignores SIGTERM and says by the pipe, which both hold open, that it is ready.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pipe = os.open(sys.argv[1], os.O_WRONLY)
subprocess.Popen([sys.executable, "-c", "import os, time; os.write(1, b'r'); time.sleep(600)"], stdout=pipe)
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["cancelled", "kill_now"])
async def test_hooks_that_are_cut_off_leave_nothing(tmp_path: Path, supervised: Prepared, way: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    supervised.leave_hook(STUBBORN, tmp_path / "pipe")
    failures = []

    async def call() -> None:
        try:
            await called(supervised.where, supervised.job)
        except InfrastructureError as error:
            failures.append(str(error))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.lowlevel.wait_readable(reader)
            assert os.read(reader, 1) == b"r"
            if way == "cancelled":
                nursery.cancel_scope.cancel()
            else:
                supervised.where.kill_now()
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert len(failures) == (way == "kill_now")


@pytest.mark.parametrize(("stream_output", "expected"), [(True, 50 * 2**20), (False, 0)])
async def test_output_of_hooks_is_the_runs_own_and_costs_the_worker_no_memory(
    tmp_path: Path, supervised: Prepared, stream_output: bool, expected: int
) -> None:
    supervised.leave_hook("import os\nfor _ in range(50): os.write(1, b'x' * 2**20)")
    before = resident_memory()
    with standard_output_to(tmp_path / "output"):
        await called(supervised.where, attrs.evolve(supervised.job, stream_output=stream_output))
    assert (tmp_path / "output").stat().st_size == expected
    assert resident_memory() - before < 10 * 2**20
