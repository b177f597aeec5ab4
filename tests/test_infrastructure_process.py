"""Flow runs as real processes. What a test waits for, the processes tell by files or by ending."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import trio
from process_support import (
    RUN_ID,
    assignment,
    executed,
    infrastructure,
    python,
    resident_memory,
    run_in_workspace,
    standard_output_to,
    temporary_directories,
)

from trioworker.infrastructure.protocol import (
    InfrastructureError,
    Outcome,
)

pytestmark = pytest.mark.process

SAY = """
import json, os, sys
with open(sys.argv[1], "w") as file:
    json.dump({"cwd": os.getcwd(), "env": dict(os.environ), "arguments": sys.argv[2:]}, file)
"""

# Starts a child that ignores SIGTERM, as it does itself if told; both hold the named pipe open for writing.
FAMILY = """
import os, signal, subprocess, sys, time
child = '''
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pipe = os.open(sys.argv[1], os.O_WRONLY)
os.write(pipe, b"r")
time.sleep(600)
'''
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", child, sys.argv[1]])
time.sleep(600)
"""


class Family:
    """A running process with a child, and the pipe that both hold open."""

    def __init__(self, directory: Path, *, parent: str = "obedient") -> None:
        self.pipe = directory / "pipe"
        os.mkfifo(self.pipe)
        self._reader = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.configuration = {"command": python(FAMILY, self.pipe, parent)}

    async def ready(self) -> None:
        """Returns when the child ignores SIGTERM."""
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(self._reader)
        assert os.read(self._reader, 1) == b"r"

    def is_gone(self) -> bool:
        """Whether nobody holds the pipe any more."""
        try:
            return os.read(self._reader, 1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._reader)


# run


async def test_process_gets_its_command_environment_and_directory(tmp_path: Path) -> None:
    said = tmp_path / "said"
    configuration = {
        "command": python(SAY, said, "an argument"),
        "working_dir": str(tmp_path),
        "env": {"A": "1"},
    }
    outcome = await executed(infrastructure(tmp_path), configuration, PREFECT__FLOW_RUN_ID=str(RUN_ID))
    assert outcome.status_code == 0
    facts = json.loads(said.read_text())
    assert facts["cwd"] == str(tmp_path)
    assert facts["arguments"] == ["an argument"]
    assert facts["env"]["A"] == "1"
    assert facts["env"]["PREFECT__FLOW_RUN_ID"] == str(RUN_ID)


async def test_directory_of_its_own_is_made_and_removed(tmp_path: Path) -> None:
    said = tmp_path / "said"
    await executed(infrastructure(tmp_path), {"command": python(SAY, said)})
    directory = trio.Path(json.loads(said.read_text())["cwd"])
    assert directory != await trio.Path.cwd()
    assert directory.name.endswith("prefect")
    assert not await directory.exists()


async def test_workspace_outlives_the_run_and_nothing_of_it_is_left_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks are called in it when the run has ended."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    where = infrastructure(tmp_path)
    with trio.fail_after(30):
        async with where.open_workspace(
            where.prepare(assignment({"command": python("open('made', 'w')")}))
        ) as job:
            await where.run(job)
            assert await trio.Path(job.opened_workspace.root, "made").exists()
            assert len(temporary_directories(tmp_path)) == 2
    assert temporary_directories(tmp_path) == set()


async def test_directory_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    configuration = {"command": python("open('made', 'w').close()"), "working_dir": str(kept)}
    await executed(infrastructure(tmp_path), configuration)
    assert (kept / "made").exists()


@pytest.mark.parametrize(("stream_output", "expected"), [(True, "out\nerr\n"), (False, "")])
async def test_output_is_the_workers_own_or_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], stream_output: bool, expected: str
) -> None:
    program = "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True)"
    configuration = {"command": python(program), "stream_output": stream_output}
    await executed(infrastructure(tmp_path), configuration)
    captured = capfd.readouterr()
    assert captured.out + captured.err == expected


async def test_large_output_costs_the_worker_no_memory(tmp_path: Path) -> None:
    program = "import os\nfor _ in range(50): os.write(1, b'x' * 2**20)"
    where, output = infrastructure(tmp_path), tmp_path / "output"
    await executed(where, {"command": python("pass")})
    before = resident_memory()
    with standard_output_to(output):
        await executed(where, {"command": python(program)})
    assert output.stat().st_size == 50 * 2**20
    assert resident_memory() - before < 10 * 2**20


@pytest.mark.parametrize(
    ("program", "status", "message"),
    [
        ("pass", 0, "status code: 0. Nothing seems to have gone wrong"),
        ("raise SystemExit(7)", 7, "Process exited with status code: 7."),
        ("import os; os.kill(os.getpid(), 9)", -9, "Process exited with status code: -9. It was killed"),
    ],
)
async def test_outcome_says_how_it_ended(tmp_path: Path, program: str, status: int, message: str) -> None:
    outcome = await executed(infrastructure(tmp_path), {"command": python(program)})
    assert outcome.status_code == status
    assert message in outcome.message
    assert outcome.hint


async def test_command_that_is_missing_is_told_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(
        InfrastructureError,
        match=r"^job configuration: the program in command was not found: check its name, and the PATH",
    ):
        await executed(infrastructure(tmp_path), {"command": "no-such-program"})


async def test_script_whose_interpreter_is_missing_is_told_by_its_field(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o700)
    with pytest.raises(
        InfrastructureError, match="was not found: check its path, and that of the interpreter"
    ):
        await executed(infrastructure(tmp_path), {"command": str(program)})


async def test_command_that_may_not_be_executed_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(InfrastructureError, match="may not be executed: check its permissions"):
        await executed(infrastructure(tmp_path), {"command": str(program)})


async def test_command_that_is_no_program_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\0\0\0\0")
    program.chmod(0o700)
    with pytest.raises(InfrastructureError, match="could not be started"):
        await executed(infrastructure(tmp_path), {"command": str(program)})


async def test_command_that_no_system_could_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InfrastructureError, match="the program in command could not be started: embedded null"
    ):
        await executed(infrastructure(tmp_path), {"command": "a\0b"})


async def test_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    configuration = {"command": python("pass"), "working_dir": str(missing)}
    with pytest.raises(InfrastructureError, match=r"^job configuration: working_dir does not exist"):
        await executed(infrastructure(tmp_path), configuration)


async def test_run_that_cannot_be_started_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InfrastructureError):
        await executed(infrastructure(tmp_path), {"command": "no-such-program"})
    assert temporary_directories(tmp_path) == set()


# Ending it early


async def test_kill_ends_a_stubborn_child_too(tmp_path: Path) -> None:
    where, family = infrastructure(tmp_path), Family(tmp_path)
    outcomes: list[Outcome] = []

    async def run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
        outcomes.append(
            await run_in_workspace(where, assignment(family.configuration), task_status=task_status)
        )

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            identifier = await nursery.start(run)
            await family.ready()
            await where.kill(identifier, 0.2)
            assert family.is_gone()
    assert outcomes[0].status_code == -15
    family.close()


@pytest.mark.parametrize("parent", ["obedient", "stubborn"])
async def test_cancelled_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    where, family = infrastructure(tmp_path), Family(tmp_path, parent=parent)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_in_workspace, where, assignment(family.configuration))
            await family.ready()
            assert len(temporary_directories(tmp_path)) == 2
            nursery.cancel_scope.cancel()
    assert family.is_gone()
    assert temporary_directories(tmp_path) == set()
    family.close()


async def test_kill_now_waits_for_nothing(tmp_path: Path) -> None:
    where, family = infrastructure(tmp_path, kill_grace=600), Family(tmp_path, parent="stubborn")
    outcomes: list[Outcome] = []

    async def run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
        outcomes.append(
            await run_in_workspace(where, assignment(family.configuration), task_status=task_status)
        )

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            await family.ready()
            where.kill_now()
    assert outcomes[0].status_code == -9
    family.close()


async def test_kill_now_cuts_the_grace_of_a_cancelled_run_short(tmp_path: Path) -> None:
    where, family = infrastructure(tmp_path, kill_grace=600), Family(tmp_path, parent="stubborn")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_in_workspace, where, assignment(family.configuration))
            await family.ready()
            nursery.cancel_scope.cancel()
            where.kill_now()
    assert family.is_gone()
    family.close()


async def test_runs_do_not_know_of_each_other(tmp_path: Path) -> None:
    where = infrastructure(tmp_path)
    said = [tmp_path / str(number) for number in range(4)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for file in said:
                nursery.start_soon(run_in_workspace, where, assignment({"command": python(SAY, file)}))
    assert len({json.loads(file.read_text())["cwd"] for file in said}) == 4


async def test_what_a_failed_run_leaves_behind_is_ended(tmp_path: Path) -> None:
    """It may be run again soon, by whomever."""
    family = Family(tmp_path)
    command = shlex.join(
        ["sh", "-c", f'{family.configuration["command"]} & read line < "$0"; exit 3', str(tmp_path / "go")]
    )
    os.mkfifo(tmp_path / "go")
    where = infrastructure(tmp_path)
    async with trio.open_nursery() as nursery:
        outcomes: list[Outcome] = []

        async def run() -> None:
            outcomes.append(await executed(where, {"command": command}))

        nursery.start_soon(run)
        await family.ready()
        await trio.to_thread.run_sync((tmp_path / "go").write_text, "go\n")
    assert outcomes[0].status_code == 3
    assert family.is_gone()
    family.close()
