"""What is made ready for a run before its process starts: its job, its directories, and what fits them out."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import played_kernel
import pytest
import trio
import trio.testing
from played_kernel import PlayedKernel
from process_support import (
    RUN_ID,
    assignment,
    executed,
    infrastructure,
    temporary_directories,
)
from support import URL
from trio.testing import MockClock

from trioworker.errors import ConfigurationError
from trioworker.infrastructure.process import infrastructure as infrastructure_module
from trioworker.infrastructure.process import workspace
from trioworker.infrastructure.process.infrastructure import DEFAULT_BASE_JOB_TEMPLATE, ProcessJob
from trioworker.infrastructure.process.supervisor import read_manifest, supervise
from trioworker.infrastructure.process.workspace import Workspace, open_directories, write_private
from trioworker.infrastructure.protocol import (
    Infrastructure,
    InfrastructureError,
    InfrastructureFullError,
)
from trioworker.job.template import render

kernel = played_kernel.kernel

# The job


def test_it_is_an_infrastructure(tmp_path: Path) -> None:
    where: Infrastructure[ProcessJob] = infrastructure(tmp_path)
    assert where.type == "process"


def test_default_template_without_variables_leaves_the_command_to_prefect(tmp_path: Path) -> None:
    where = infrastructure(tmp_path)
    configuration = render(where.default_base_job_template, {}, environment={})
    job = where.prepare(assignment(configuration))
    assert job.command is None
    assert job.working_directory is None
    assert job.stream_output is True


def test_default_template_has_the_fields_of_prefects() -> None:
    variables = DEFAULT_BASE_JOB_TEMPLATE["variables"]["properties"]
    fields = {"command", "env", "labels", "name", "stream_output", "working_dir"}
    assert set(variables) == set(DEFAULT_BASE_JOB_TEMPLATE["job_configuration"]) == fields


def test_every_field_is_heeded(tmp_path: Path) -> None:
    job = infrastructure(tmp_path).prepare(
        assignment(
            {
                "command": "run 'this thing' --now",
                "working_dir": str(tmp_path),
                "stream_output": False,
                "env": {"A": "1"},
                "labels": {"any": "thing"},
                "name": "any name",
            }
        )
    )
    assert job.command == ("run", "this thing", "--now")
    assert job.working_directory == tmp_path
    assert job.stream_output is False
    assert job.environment["A"] == "1"


def test_interpreter_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TRIOWORKER_PYTHON is '/no/such/python'"):
        infrastructure(tmp_path, {"TRIOWORKER_PYTHON": "/no/such/python"})


@pytest.mark.parametrize(("command", "holds"), [(None, "of job"), ("anything", "of settings")])
def test_settings_of_the_worker_win_over_the_job_if_there_is_a_command_and_else_yield_to_it(
    tmp_path: Path, command: str | None, holds: str
) -> None:
    where = infrastructure(tmp_path, {"PREFECT_API_KEY": "of settings", "KEPT": "of worker"})
    job = where.prepare(
        assignment(
            {"command": command, "env": {"PREFECT_API_KEY": "of job", "OVER": "of job"}},
            OVER="of run",
            RUN="1",
        )
    )
    assert job.environment["PREFECT_API_KEY"] == holds
    assert job.environment["PREFECT_API_URL"] == URL
    assert job.environment["KEPT"] == "of worker"
    assert job.environment["OVER"] == "of job"
    assert job.environment["RUN"] == "1"


def test_environment_is_that_of_the_settings_not_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_HERE", "1")
    assert "ONLY_HERE" not in infrastructure(tmp_path).prepare(assignment({})).environment


def test_environment_does_not_show(tmp_path: Path) -> None:
    job = infrastructure(tmp_path, {"PREFECT_API_KEY": "hush"}).prepare(assignment({}))
    assert "hush" not in repr(job)


async def test_relative_working_directory_is_below_that_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    where = infrastructure(tmp_path)
    job = where.prepare(assignment({"working_dir": "below"}))
    assert job.working_directory == tmp_path / "below"


# Its directories


async def test_directories_are_the_runs_own_and_private_and_gone_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with open_directories(None) as made:
        assert made.root != made.private
        assert made.root.name.endswith("prefect")
        assert made.private.stat().st_mode & 0o777 == 0o700
        assert temporary_directories(tmp_path) == {made.root.name, made.private.name}
        (made.root / "kept" / "open").mkdir(parents=True)
    assert temporary_directories(tmp_path) == set()


async def test_directory_that_was_asked_for_is_kept_and_known_by_its_real_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which Prefect's supervisor compares."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    async with open_directories(tmp_path / "link") as made:
        assert made.root == (tmp_path / "real").resolve()
        (made.root / "made").touch()
    assert (tmp_path / "real" / "made").exists()
    assert temporary_directories(tmp_path) == set()


async def test_directories_of_a_run_that_fails_are_gone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(LookupError):
        async with open_directories(None):
            raise LookupError
    assert temporary_directories(tmp_path) == set()


async def test_directories_of_a_run_that_is_cancelled_are_gone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with trio.CancelScope() as scope:
        async with open_directories(None):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert temporary_directories(tmp_path) == set()


def removal_taking(seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[TemporaryDirectory[str]]:
    """Let the removal of directories take its time, in which nothing is removed; what was to be removed."""
    asked: list[TemporaryDirectory[str]] = []

    async def run_sync(function: Any, *arguments: Any, abandon_on_cancel: bool = False) -> Any:
        await trio.lowlevel.checkpoint()
        if function is workspace._remove:
            assert abandon_on_cancel
            asked.extend(arguments[0])
            await trio.sleep(seconds)
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return asked


async def test_large_directories_of_a_run_that_is_over_are_waited_for(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The worker may end as soon as its last run has."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    removal_taking(30, monkeypatch)
    async with open_directories(None):
        pass
    assert trio.current_time() == 30
    assert temporary_directories(tmp_path) == set()
    assert caplog.messages == []


@pytest.mark.parametrize("cut_off", ["before", "meanwhile"])
async def test_large_directories_of_a_run_that_is_cut_off_are_named_and_not_waited_for(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cut_off: str,
) -> None:
    """There is something to be said about the run first, and within the time that the worker has announced."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = removal_taking(30, monkeypatch)
    with trio.move_on_after(1) as scope:
        async with open_directories(None):
            if cut_off == "before":
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == (1.5 if cut_off == "before" else 1)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert len(asked) == 2
    for directory in asked:
        assert directory.name in record.message
        directory.cleanup()


async def test_directory_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked: list[TemporaryDirectory[str]] = []
    monkeypatch.setattr(workspace, "_remove", asked.extend)
    async with open_directories(None) as made:
        made.private.rmdir()
    (message,) = caplog.messages
    for directory in asked:
        directory.cleanup()
    assert (
        message == f"Not all of {made.root}, of a flow run that is over, could be removed; please remove it"
    )


async def test_directory_that_leads_back_to_itself_is_left_to_the_process_to_complain_of(
    tmp_path: Path,
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    async with open_directories(loop) as made:
        assert made.root == loop


async def test_want_of_a_thread_for_the_removal_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector does it then."""
    run_sync = trio.to_thread.run_sync
    left: list[TemporaryDirectory[str]] = []

    async def no_thread(function: Any, *arguments: Any, **how: Any) -> Any:
        if function is workspace._remove:
            left.extend(arguments[0])
            raise RuntimeError("can't start new thread")
        return await run_sync(function, *arguments, **how)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    async with open_directories(None):
        pass
    assert len(left) == 2
    for directory in left:
        directory.cleanup()
    assert temporary_directories(tmp_path) == set()


def test_private_file_is_for_this_user_alone_and_replaces_none(tmp_path: Path) -> None:
    write_private(tmp_path / "file", "ü")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ü"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "file", "other")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ü"


async def test_own_interpreter_is_looked_at_without_being_started(tmp_path: Path) -> None:
    """And Prefect, of which it has the current version, is not imported for that."""
    where = infrastructure(tmp_path)
    imported = set(sys.modules)
    async with where.open_workspace(where.prepare(assignment({}))) as job:
        assert job.opened_command[:3] == (sys.executable, "-m", "prefect.runner._workspace_supervisor")
    assert not any(name.startswith("prefect") for name in set(sys.modules) - imported)


async def test_directory_that_cannot_be_made_is_the_runs_own_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(InfrastructureError, match="no temporary directory can be made") as caught:
        await executed(infrastructure(tmp_path), {"command": "true"})
    assert not isinstance(caught.value, InfrastructureFullError)


async def test_nothing_is_left_of_a_workspace_for_which_there_is_no_second_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(**named: Any) -> TemporaryDirectory[str]:
        if "suffix" in named:
            raise OSError(errno.ENOSPC, "No space left on device")
        return TemporaryDirectory(**named)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(workspace, "TemporaryDirectory", make)
    with pytest.raises(InfrastructureError, match=r"no temporary directory can be made: .*No space left"):
        await executed(infrastructure(tmp_path), {"command": "true"})
    assert temporary_directories(tmp_path) == set()


# What runs the flow


def answers(monkeypatch: pytest.MonkeyPatch, given: Iterable[bool | Exception]) -> list[Path]:
    """Let the interpreter give these answers to whether it has a supervisor; where it was asked."""
    asked: list[Path] = []
    left = iter(given)

    async def answer(_: str, __: Mapping[str, str], directory: Path, *, owned: object) -> bool:
        asked.append(directory)
        await trio.testing.wait_all_tasks_blocked()
        said = next(left)
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr(infrastructure_module, "has_workspace_supervisor", answer)
    return asked


async def test_supervisor_is_given_what_to_prepare_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = infrastructure(tmp_path)
    asked = answers(monkeypatch, [True])
    async with where.open_workspace(where.prepare(assignment({}))) as job:
        made = job.opened_workspace
        assert asked == [made.private]
        assert job.opened_command == (
            sys.executable,
            "-m",
            "prefect.runner._workspace_supervisor",
            str(made.private / "supervisor.json"),
        )
        assert made.manifest == made.private / "workspace.json"
        assert json.loads((made.private / "supervisor.json").read_text()) == {
            "flow_run_id": str(RUN_ID),
            "workspace_root": str(made.root),
            "manifest_path": str(made.manifest),
            "command": None,
        }


async def test_prefect_without_a_supervisor_gets_its_engine_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = infrastructure(tmp_path)
    answers(monkeypatch, [False])
    async with where.open_workspace(where.prepare(assignment({}))) as job:
        assert job.opened_command == (sys.executable, "-m", "prefect.engine")
        assert job.opened_workspace.manifest is None


async def test_interpreter_is_not_asked_for_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = infrastructure(tmp_path)
    asked = answers(monkeypatch, [])
    async with where.open_workspace(where.prepare(assignment({"command": "run it"}))) as job:
        assert job.opened_command == ("run", "it")
    assert asked == []


async def test_interpreter_is_asked_once_for_all_runs_and_again_only_after_a_failure(
    kernel: PlayedKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel is for threads that are none, so that all runs have come as far as they can when the answer comes.
    where = infrastructure(tmp_path)
    asked = answers(monkeypatch, [InfrastructureError("out of order"), True])
    job = where.prepare(assignment({}))
    with pytest.raises(InfrastructureError, match="out of order"):
        async with where.open_workspace(job):
            pytest.fail("opened")

    async def open_one() -> None:
        async with where.open_workspace(job) as opened:
            assert "prefect.runner._workspace_supervisor" in opened.opened_command

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(open_one)
    assert len(asked) == 2


async def test_configuration_of_the_supervisor_that_cannot_be_written_is_the_runs_own_trouble(
    tmp_path: Path,
) -> None:
    missing = Workspace(root=tmp_path, private=tmp_path / "missing")
    with pytest.raises(InfrastructureError, match="configuration of its workspace cannot be written: "):
        await supervise(missing, RUN_ID)


# What the supervisor says


async def test_manifest_tells_where_the_flow_runs_and_how_its_hooks_are_called(tmp_path: Path) -> None:
    path = tmp_path / "workspace.json"
    path.write_text(
        json.dumps(
            {
                "working_directory": "/there",
                "hook_command": ["python", "-m", "caller"],
                "environment": {"KEY": "hush"},
                "of_a_later_version": 7,
            }
        )
    )
    manifest = await read_manifest(path)
    assert manifest.working_directory == Path("/there")
    assert manifest.hook_command == ("python", "-m", "caller")
    assert manifest.environment == {"KEY": "hush"}
    assert "hush" not in repr(manifest)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "\x00",
        '{"working_directory": 7}',
        '{"working_directory": "/there", "hook_command": 7, "environment": {}}',
        '{"working_directory": "/there", "hook_command": null}',
        '"hush"',
        "hush",
        b"\xffhush",
        "[" * 100_000,
        "9" * 5_000,
        '{"working_directory": ["hush"], "hook_command": null, "environment": {}}',
        '{"working_directory": "/there", "hook_command": "hush", "environment": {}}',
        '{"working_directory": "/there", "hook_command": [], "environment": {}}',
        '{"working_directory": "/there", "hook_command": ["hush", 7], "environment": {}}',
        '{"working_directory": "/there", "hook_command": null, "environment": "hush"}',
        '{"working_directory": "/there", "hook_command": null, "environment": ["hush"]}',
        '{"working_directory": "/there", "hook_command": null, "environment": {"KEY": ["hush"]}}',
        '{"working_directory": "/there", "hook_command": null, "environment": {"KEY": null}}',
    ],
)
async def test_manifest_that_is_broken_is_said_to_be_one_but_not_shown(
    tmp_path: Path, content: str | bytes
) -> None:
    """It holds the environment of the run, with all its secrets."""
    path = tmp_path / "workspace.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InfrastructureError, match=r"is not what Prefect writes: .") as caught:
        await read_manifest(path)
    assert "hush" not in str(caught.value)


async def test_field_of_a_manifest_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "workspace.json"
    path.write_text('{"working_directory": "/there", "hook_command": null, "environment": {"KEY": 7}}')
    with pytest.raises(InfrastructureError, match=r"expected str @ manifest\.environment\['KEY'\]$"):
        await read_manifest(path)


async def test_manifest_that_is_not_there_means_that_the_run_ended_before(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="ended before its workspace was ready"):
        await read_manifest(tmp_path / "workspace.json")


async def test_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=f"the manifest {tmp_path} cannot be read: "):
        await read_manifest(tmp_path)
