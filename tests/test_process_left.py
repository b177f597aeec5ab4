"""Runs that outlive their worker: what is noted of them, and how the next worker finds, watches and ends them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import trio
import trio.testing
from conftest import clean_environment
from orphans import OBEDIENT, STUBBORN, child_with_number, is_gone, orphan, parent_of
from process_support import (
    RUN_ID,
    assignment,
    infrastructure,
    python,
    run_in_workspace,
    temporary_directories,
)
from template_support import Site, gone, lines_of, make_site

from trioworker import process_table
from trioworker.infrastructure.process.identity import Machine, ProcessDetails
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.protocol import (
    Gone,
    InfrastructureError,
    Running,
    ShutdownPolicy,
    Trace,
    Unknown,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not process_table.is_there(), reason="only Linux tells of processes that are no children"
    ),
]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the directories of runs are made."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


class Left:
    """A run that was left by its worker.

    Attributes:
        traces: what its worker has noted.
        pid: its process.
    """

    def __init__(self, reader: int) -> None:
        self.traces: list[Trace] = []
        self.pid = 0
        self._output = trio.lowlevel.FdStream(reader)

    @property
    def trace(self) -> Trace:
        return self.traces[-1]

    async def note(self, trace: Trace) -> None:
        await trio.lowlevel.checkpoint()
        self.traces.append(trace)

    async def line(self) -> str:
        """What it writes next."""
        text = b""
        while not text.endswith(b"\n"):
            chunk = await self._output.receive_some(1)
            assert chunk
            text += chunk
        return text.decode().strip()

    async def silence(self) -> None:
        """Returns when it is gone, and whatever it has started."""
        with trio.fail_after(30):
            async for _ in self._output:
                pass

    async def close(self) -> None:
        """End it; it is our child as well, since the worker was in this process."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)  # noqa: ASYNC222 - it was killed
        await self._output.aclose()


@asynccontextmanager
async def left(directory: Path, program: str, **configuration: Any) -> AsyncIterator[Left]:
    """A run of a program that its worker has left when it was ready, for the length of a block."""
    pipe = directory / f"pipe-{uuid4()}"
    os.mkfifo(pipe)
    one = Left(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    what = attrs.evolve(
        assignment(
            {"command": python(f"import os; os.dup2(os.open({str(pipe)!r}, os.O_WRONLY), 1)\n{program}")}
            | configuration
        ),
        note_trace=one.note,
        shutdown_policy=lambda: "leave",
    )
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                one.pid = int(await nursery.start(run_in_workspace, infrastructure(directory), what))
                await trio.lowlevel.wait_readable(one._output.fileno())
                nursery.cancel_scope.cancel()
            yield one
    finally:
        with trio.CancelScope(shield=True):
            await one.close()


async def found(where: ProcessInfrastructure, trace: Trace) -> Trace:
    """Where a run goes on."""
    sight = await where.find(RUN_ID, trace)
    assert isinstance(sight, Running)
    return sight.trace


@asynccontextmanager
async def adopted(
    where: ProcessInfrastructure, trace: Trace, policy: ShutdownPolicy = "crash"
) -> AsyncIterator[trio.CancelScope]:
    """A run that is watched for the length of a block, at the end of which it has ended; in its own scope."""
    async with where.open_remains(RUN_ID, trace) as job, trio.open_nursery() as nursery:

        async def watch() -> None:
            await where.adopt(job, trace, shutdown_policy=lambda: policy)

        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        yield nursery.cancel_scope


# Left, found, adopted


async def test_run_that_is_left_goes_on_and_so_do_its_directories(tmp_path: Path, scratch: Path) -> None:
    async with left(tmp_path, parent_of(OBEDIENT)) as run:
        member = int(await run.line())
        assert process_table.lives(run.pid)
        assert process_table.lives(member)
        assert len(temporary_directories(scratch)) == 2
        details = ProcessDetails.decode(run.trace.details)
        assert details is not None
        assert details.temporary is not None
        assert {Path(details.private).name, Path(details.temporary).name} == temporary_directories(scratch)


async def test_next_worker_finds_adopts_and_kills_it_and_removes_its_directories(
    tmp_path: Path, scratch: Path
) -> None:
    async with left(tmp_path, parent_of(STUBBORN)) as run:
        member = int(await run.line())
        where = infrastructure(tmp_path)
        trace = await found(where, run.trace)
        assert trace == run.trace
        async with adopted(where, trace):
            await where.kill(str(run.pid), 0.2, intent="cancel")
        assert is_gone(run.pid)
        assert is_gone(member)
        assert temporary_directories(scratch) == set()
        assert await where.find(RUN_ID, trace) == Gone()


async def test_adopting_ends_when_the_run_ends_by_itself(tmp_path: Path, scratch: Path) -> None:
    async with left(tmp_path, OBEDIENT) as run:
        where = infrastructure(tmp_path)
        async with adopted(where, run.trace):
            assert len(temporary_directories(scratch)) == 2
            os.kill(run.pid, signal.SIGTERM)
        assert temporary_directories(scratch) == set()
        # Nothing knows of it any more.
        await where.kill(str(run.pid), 600)
        where.kill_now()


async def test_run_that_was_adopted_may_be_left_again(tmp_path: Path, scratch: Path) -> None:
    async with left(tmp_path, OBEDIENT) as run:
        for _ in range(2):
            async with adopted(infrastructure(tmp_path), run.trace, "leave") as scope:
                scope.cancel()
            assert process_table.lives(run.pid)
            assert len(temporary_directories(scratch)) == 2
            assert await found(infrastructure(tmp_path), run.trace) == run.trace


@pytest.mark.parametrize("policy", ["crash", "reschedule"])
async def test_adopted_run_that_is_cut_off_is_ended(
    tmp_path: Path, scratch: Path, policy: ShutdownPolicy
) -> None:
    async with left(tmp_path, parent_of(STUBBORN)) as run:
        member = int(await run.line())
        async with adopted(infrastructure(tmp_path), run.trace, policy) as scope:
            scope.cancel()
        assert is_gone(run.pid)
        assert is_gone(member)
        assert temporary_directories(scratch) == set()


async def test_kill_now_reaches_an_adopted_run(tmp_path: Path, scratch: Path) -> None:
    async with left(tmp_path, parent_of(STUBBORN)) as run:
        where = infrastructure(tmp_path, kill_grace=600)
        async with adopted(where, run.trace):
            where.kill_now()
        await run.silence()


async def test_lasting_directory_of_a_run_is_kept(tmp_path: Path, scratch: Path) -> None:
    lasting = tmp_path / "lasting-prefect"
    lasting.mkdir()
    async with left(tmp_path, OBEDIENT, working_dir=str(lasting)) as run:
        assert len(temporary_directories(scratch)) == 1
        async with adopted(infrastructure(tmp_path), run.trace):
            os.kill(run.pid, signal.SIGTERM)
        assert temporary_directories(scratch) == set()
        assert lasting.is_dir()


async def test_run_without_a_command_is_adopted_with_what_its_supervisor_has_prepared(
    tmp_path: Path, scratch: Path
) -> None:
    """Its hooks are called by that."""
    where = infrastructure(tmp_path)
    async with left(tmp_path, OBEDIENT) as run:
        details = ProcessDetails.decode(run.trace.details)
        assert details is not None
        for expected in (None, Path(details.private, "workspace.json")):
            if expected is not None:
                expected.touch()
            async with where.open_remains(RUN_ID, run.trace) as job:
                assert job.opened_workspace.manifest == expected
                # As somebody would who leaves the run.
                where._left.add(RUN_ID)


async def test_remains_that_are_gone_are_no_obstacle(tmp_path: Path, scratch: Path) -> None:
    details = ProcessDetails(
        machine=Machine.this(),
        started=1,
        private=str(scratch / "prefect-workspace-attempt-x"),
        temporary=None,
    )
    async with infrastructure(tmp_path).open_remains(RUN_ID, Trace("1", details.encode())) as job:
        assert job.flow_run_id == RUN_ID
    async with infrastructure(tmp_path).open_remains(RUN_ID, Trace("1", "not to be understood")) as job:
        assert job.workspace is None


@pytest.mark.parametrize(
    "path", ["", ".", "/", "{tmp}", "{tmp}/precious", "{tmp}/prefect-workspace-attempt-file"]
)
async def test_only_what_is_named_like_a_runs_directory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Whatever a ledger says that somebody has meddled with."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("precious").mkdir()
    tmp_path.joinpath("prefect-workspace-attempt-file").touch()
    path = path.format(tmp=tmp_path)
    details = ProcessDetails(machine=Machine.this(), started=1, private=path, temporary=path)
    removed: list[object] = []
    monkeypatch.setattr("trioworker.infrastructure.process.workspace._remove", removed.extend)
    async with infrastructure(tmp_path).open_remains(RUN_ID, Trace("1", details.encode())):
        pass
    assert removed == []


# What is found of it


@pytest.mark.parametrize("identifier", [None, "", "x", "-1", "4711", "\N{SUPERSCRIPT TWO}", "9" * 30])
async def test_nothing_is_found_where_nothing_is(tmp_path: Path, identifier: str | None) -> None:
    details = ProcessDetails(machine=Machine.this(), started=1, private="/nowhere").encode()
    assert await infrastructure(tmp_path).find(uuid4(), Trace(identifier, details)) == Gone()


@pytest.mark.parametrize("details", ["", "{}", "[" * 100_000])
async def test_what_cannot_be_understood_is_neither_found_nor_ended(tmp_path: Path, details: str) -> None:
    where, trace = infrastructure(tmp_path), Trace(str(os.getpid()), details)
    sight = await where.find(RUN_ID, trace)
    assert isinstance(sight, Unknown)
    with pytest.raises(InfrastructureError, match="the ledger does not tell its process from others"):
        await where.clear(RUN_ID, trace)
    async with where.open_remains(RUN_ID, trace) as job:
        with pytest.raises(InfrastructureError, match="the ledger does not tell its process from others"):
            await where.adopt(job, trace, shutdown_policy=lambda: "crash")


async def test_stranger_that_has_the_number_is_neither_found_nor_ended(tmp_path: Path, scratch: Path) -> None:
    where = infrastructure(tmp_path)
    async with left(tmp_path, OBEDIENT) as run:
        await run.close()
        with child_with_number(run.pid) as stranger:
            assert await where.find(RUN_ID, run.trace) == Gone()
            await where.clear(RUN_ID, run.trace)
            async with adopted(where, run.trace):
                await where.kill(str(run.pid), 0)
            assert stranger.poll() is None


# What is cleared


def elsewhere(trace: Trace, **machine: Any) -> Trace:
    details = ProcessDetails.decode(trace.details)
    assert details is not None
    changed = attrs.evolve(details, machine=attrs.evolve(details.machine, **machine))
    return Trace(trace.identifier, changed.encode())


async def test_what_a_run_that_has_ended_has_left_is_cleared(tmp_path: Path, scratch: Path) -> None:
    async with left(tmp_path, parent_of(STUBBORN, rest="sys.exit(1)")) as run:
        member = int(await run.line())
        # It is ours here, which it would not be of the next worker.
        await gone(run.pid)
        os.waitpid(run.pid, 0)  # noqa: ASYNC222 - it has ended
        where = infrastructure(tmp_path)
        assert await where.find(RUN_ID, run.trace) == Gone()
        await where.clear(RUN_ID, run.trace)
        assert is_gone(member)


async def test_what_was_seen_of_an_adopted_run_is_cleared_though_nothing_marks_it(
    tmp_path: Path, scratch: Path
) -> None:
    """As processes that were forked, not started, from one that was forked from a template."""
    async with left(tmp_path, parent_of(STUBBORN, environment="{}")) as run:
        member = int(await run.line())
        where = infrastructure(tmp_path)
        async with where.open_remains(RUN_ID, run.trace) as job:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await where.adopt(job, run.trace, shutdown_policy=lambda: "crash")

                nursery.start_soon(watch)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(run.pid, signal.SIGKILL)
            os.waitpid(run.pid, 0)  # noqa: ASYNC222 - it was killed
            assert not is_gone(member)
            await where.clear(RUN_ID, run.trace)
            assert is_gone(member)
        assert where._adopted == {}


@pytest.mark.parametrize(
    ("machine", "is_certain"),
    [
        ({"boot": "another"}, True),
        ({"namespace": "pid:[1]"}, False),
        ({"boot": "another", "host": "elsewhere"}, False),
    ],
)
async def test_numbers_of_another_machine_are_not_looked_at(
    tmp_path: Path, scratch: Path, machine: dict[str, str], is_certain: bool
) -> None:
    async with left(tmp_path, OBEDIENT) as run:
        where, trace = infrastructure(tmp_path), elsewhere(run.trace, **machine)
        if is_certain:
            assert await where.find(RUN_ID, trace) == Gone()
            await where.clear(RUN_ID, trace)
        else:
            assert isinstance(await where.find(RUN_ID, trace), Unknown)
            with pytest.raises(InfrastructureError, match="whose processes cannot be seen from here"):
                await where.clear(RUN_ID, trace)
        assert process_table.lives(run.pid)


async def test_nothing_is_cleared_of_a_run_that_was_never_started(tmp_path: Path) -> None:
    run_id = uuid4()
    async with orphan(OBEDIENT, {"PREFECT__FLOW_RUN_ID": str(run_id)}) as one:
        await one.line()
        details = ProcessDetails(machine=Machine.this(), private="/nowhere").encode()
        await infrastructure(tmp_path).clear(run_id, Trace(None, details))
        assert process_table.lives(one.pid)


# What is noted, and when


async def test_trace_is_noted_before_the_start_and_again_before_anybody_hears_of_it(
    tmp_path: Path, scratch: Path
) -> None:
    begun, events = tmp_path / "begun", []
    identifier: list[str] = []

    async def note(trace: Trace) -> None:
        events.append((trace.identifier, begun.exists(), bool(identifier)))
        await trio.lowlevel.checkpoint()

    what = attrs.evolve(
        assignment({"command": python("open(__import__('sys').argv[1], 'w')", begun)}), note_trace=note
    )
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            identifier.append(await nursery.start(run_in_workspace, infrastructure(tmp_path), what))
    first, second = events
    assert first == (None, False, False)
    assert second[0] == identifier[0]
    assert not second[2]


async def test_run_whose_note_is_cancelled_is_not_started(tmp_path: Path, scratch: Path) -> None:
    begun = tmp_path / "begun"

    async def note(_: Trace) -> None:
        scope.cancel()
        await trio.lowlevel.checkpoint()

    what = attrs.evolve(
        assignment({"command": python("open(__import__('sys').argv[1], 'w')", begun)}), note_trace=note
    )
    with trio.CancelScope() as scope:
        await run_in_workspace(infrastructure(tmp_path), what)
    assert not begun.exists()
    assert temporary_directories(scratch) == set()


# A worker that is killed in the middle of a note; what was noted before that, it says.
WORKER = """
import os, signal, sys
from pathlib import Path
from uuid import UUID
import attrs, trio
from process_support import assignment, infrastructure, python, run_in_workspace

directory, run_id, fatal, program, warm = sys.argv[1:]

async def note(trace):
    await trio.lowlevel.checkpoint()
    print(trace.identifier, trace.details, flush=True)
    if (trace.identifier is not None) == (fatal == "with a number"):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    where = infrastructure(Path(directory), os.environ if warm else {})
    made = assignment({"working_dir": directory} if warm else {"command": python(program)})
    made = attrs.evolve(made, flow_run=attrs.evolve(made.flow_run, id=UUID(run_id)), note_trace=note)
    made = attrs.evolve(made, environment={"PREFECT__FLOW_RUN_ID": run_id})
    async with where.open():
        await run_in_workspace(where, made)

trio.run(main)
"""


async def killed_worker(
    directory: Path, run_id: UUID, fatal: str, program: str = "", **environment: str
) -> list[Trace]:
    """What a worker has noted that was killed at a note."""
    with trio.fail_after(120):
        done = await trio.run_process(
            [
                sys.executable,
                "-c",
                WORKER,
                str(directory),
                str(run_id),
                fatal,
                program,
                "warm" if environment else "",
            ],
            capture_stdout=True,
            check=False,
            cwd=Path(__file__).parent,
            env={**clean_environment(), "TMPDIR": str(directory), **environment},
        )
    assert done.returncode == -signal.SIGKILL
    noted = [
        line.split(" ", 1)
        for line in done.stdout.decode().splitlines()
        if line.partition(" ")[2].startswith("{")
    ]
    return [Trace(None if pid == "None" else pid, details) for pid, details in noted]


async def test_nothing_goes_on_of_a_worker_that_was_killed_before_the_start(tmp_path: Path) -> None:
    run_id, begun = uuid4(), tmp_path / "begun"
    (trace,) = await killed_worker(tmp_path, run_id, "without a number", f"open({str(begun)!r}, 'w')")
    assert await infrastructure(tmp_path).find(run_id, trace) == Gone()
    assert not begun.exists()


async def test_run_is_found_without_its_number_and_with_it(tmp_path: Path) -> None:
    """Its worker was killed before the number lasted, or right after that."""
    run_id = uuid4()
    program = (
        "import os, time; null = os.open(os.devnull, 1); os.dup2(null, 1); os.dup2(null, 2); time.sleep(600)"
    )
    before, after = await killed_worker(tmp_path, run_id, "with a number", program)
    where = infrastructure(tmp_path)
    pid = int(after.identifier or "")
    try:
        assert before.identifier is None
        assert await where.find(run_id, before) == Running(after)
        assert await where.find(run_id, after) == Running(after)
    finally:
        with trio.move_on_after(30, shield=True):
            await where.clear(run_id, after)
    assert is_gone(pid)
    assert await where.find(run_id, before) == await where.find(run_id, after) == Gone()


# From a template


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


async def test_process_from_a_template_is_noted_before_it_begins(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    noted: list[tuple[str | None, list[str]]] = []

    async def note(trace: Trace) -> None:
        await trio.lowlevel.checkpoint()
        noted.append((trace.identifier, site.stages))
        details = ProcessDetails.decode(trace.details)
        assert details is not None
        assert details.see(int(trace.identifier or ""), RUN_ID).pid == int(trace.identifier or "")

    where = infrastructure(site.root, site.environment())
    what = attrs.evolve(assignment({"working_dir": str(site.work)}), note_trace=note)
    with trio.fail_after(120):
        async with where.open():
            await run_in_workspace(where, what)
    assert any("was forked from template" in line for line in lines_of(caplog))
    assert site.stages == ["supervisor", "engine"]
    first, second = noted
    assert first == (str(site.engines[0]), [])
    assert second[0] == first[0]


async def test_process_from_a_template_whose_worker_is_killed_before_it_begins_never_does(site: Site) -> None:
    run_id = uuid4()
    (trace,) = await killed_worker(site.root, run_id, "with a number", **site.environment())
    await gone(int(trace.identifier or ""))
    assert site.stages == []
    assert await infrastructure(site.root).find(run_id, trace) == Gone()
    assert await infrastructure(site.root).find(run_id, Trace(None, trace.details)) == Gone()


async def test_process_from_a_template_that_is_cancelled_before_it_begins_is_ended(site: Site) -> None:
    noted: list[int] = []

    async def note(trace: Trace) -> None:
        noted.append(int(trace.identifier or ""))
        scope.cancel()
        await trio.lowlevel.checkpoint()

    where = infrastructure(site.root, site.environment())
    what = attrs.evolve(assignment({"working_dir": str(site.work)}), note_trace=note)
    with trio.fail_after(120):
        async with where.open():
            with trio.CancelScope() as scope:
                await run_in_workspace(where, what)
    assert scope.cancelled_caught
    assert noted
    assert is_gone(noted[0])
