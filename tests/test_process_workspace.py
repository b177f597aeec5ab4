"""Runs without a command: which of Prefect's programs the flow's interpreter is given, and what that finds.

The interpreter is a small program that says what it was given.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import trio
from process_support import (
    RUN_ID,
    assignment,
    executed,
    fake_python,
    infrastructure,
    run_in_workspace,
    temporary_directories,
)

from trioworker.infrastructure.process import prefect_abilities
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError

pytestmark = pytest.mark.process

SAY = """
config = pathlib.Path(sys.argv[-1])
said = {"arguments": sys.argv[1:], "cwd": os.getcwd()}
if config.is_file():
    said["config"] = json.loads(config.read_text())
    said["modes"] = [oct(path.stat().st_mode)[-3:] for path in (config, config.parent)]
(here / "said").write_text(json.dumps(said))
"""


def with_interpreter(directory: Path, program: str, *, prefect: str = "supervisor") -> ProcessInfrastructure:
    path = fake_python(directory, program, prefect=prefect)
    return infrastructure(directory, {"TRIOWORKER_PYTHON": str(path)})


def said(directory: Path) -> Any:
    return json.loads((directory / "said").read_text())


async def test_supervisor_is_told_what_to_prepare_and_where_by_a_private_file(tmp_path: Path) -> None:
    await executed(with_interpreter(tmp_path, SAY), {})
    facts = said(tmp_path)
    *module, config = facts["arguments"]
    assert module == ["-m", "prefect.runner._workspace_supervisor"]
    assert facts["config"] == {
        "flow_run_id": str(RUN_ID),
        "workspace_root": facts["cwd"],
        "manifest_path": str(Path(config).with_name("workspace.json")),
        "command": None,
    }
    assert facts["modes"] == ["600", "700"]
    assert Path(config).parent != Path(facts["cwd"])


async def test_workspace_is_the_real_path_of_the_configured_directory(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    await executed(with_interpreter(tmp_path, SAY), {"working_dir": str(tmp_path / "link")})
    assert said(tmp_path)["config"]["workspace_root"] == str(real)
    assert real.exists()


async def test_prefect_without_a_supervisor_gets_its_engine_started(tmp_path: Path) -> None:
    await executed(with_interpreter(tmp_path, SAY, prefect="engine"), {})
    assert said(tmp_path)["arguments"] == ["-m", "prefect.engine"]


async def test_interpreter_is_asked_once_for_all_runs(tmp_path: Path) -> None:
    where = with_interpreter(tmp_path, "")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(run_in_workspace, where, assignment({}))
    assert (tmp_path / "asked").read_text() == "x"


async def test_interpreter_is_not_asked_for_a_command(tmp_path: Path) -> None:
    await executed(with_interpreter(tmp_path, ""), {"command": "true"})
    assert not (tmp_path / "asked").exists()


async def test_interpreter_without_prefect_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"the interpreter '.*/python' has no Prefect: install it"):
        await executed(with_interpreter(tmp_path, "", prefect="none"), {})


async def test_interpreter_that_is_none_is_named_with_what_it_says_and_asked_again(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    program.chmod(0o700)
    where = infrastructure(tmp_path, {"TRIOWORKER_PYTHON": str(program)})
    with pytest.raises(InfrastructureError, match=r"does not work \(exit status 3\): out of order"):
        await executed(where, {})
    fake_python(tmp_path, SAY)
    await executed(where, {})
    assert said(tmp_path)["arguments"][0] == "-m"


async def test_interpreter_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_bytes(b"\0\0\0\0")
    program.chmod(0o700)
    where = infrastructure(tmp_path, {"TRIOWORKER_PYTHON": str(program)})
    with pytest.raises(InfrastructureError, match=r"the interpreter '.*/python' cannot be used: "):
        await executed(where, {})


async def test_interpreter_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_abilities, "_ANSWER_TIME", 0.1)
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o700)
    where = infrastructure(tmp_path, {"TRIOWORKER_PYTHON": str(silent)})
    with pytest.raises(InfrastructureError, match=r"did not answer within 0.1 s"):
        await executed(where, {})


async def test_nothing_is_left_of_a_workspace_that_cannot_be_fitted_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InfrastructureError):
        await executed(with_interpreter(tmp_path, "", prefect="none"), {})
    assert temporary_directories(tmp_path) == set()


async def test_want_of_descriptors_is_no_fault_of_the_run(tmp_path: Path) -> None:
    """Another worker may have some."""
    where = infrastructure(tmp_path)
    async with where.open_workspace(where.prepare(assignment({"command": "true"}))) as job:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        next_one = os.dup(0)
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            with pytest.raises(InfrastructureFullError, match="no process can be started just now"):
                await where.run(job)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_read_only_leftovers_are_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = "mkdir -p closed/inner; touch closed/inner/file; chmod -R a-w closed"
    await executed(infrastructure(tmp_path), {"command": f"sh -c '{command}'"})
    assert temporary_directories(tmp_path) == set()
