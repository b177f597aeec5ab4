"""Which interpreter runs flows, and what Prefect stands beside the worker."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import played_kernel
import pytest
import trio
import trio.testing
from played_kernel import PlayedKernel, PlayedProcess
from process_support import assignment, infrastructure
from trio.testing import MockClock

from trioworker.errors import ConfigurationError
from trioworker.infrastructure.interpreter import find_interpreter, installed_prefect_version
from trioworker.infrastructure.process import prefect_abilities
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.process.prefect_abilities import has_workspace_supervisor
from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError
from trioworker.process_group import ProcessGroup

kernel = played_kernel.kernel

OTHER = "/other/python"


@pytest.fixture
def no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def test_configured_interpreter_is_called_by_the_name_that_it_has(tmp_path: Path) -> None:
    """The interpreter of a virtual environment is a link, and knows by its name what it belongs to."""
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert find_interpreter(str(link)) == str(link)


def test_configured_interpreter_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="TRIOWORKER_PYTHON is '/no/such/python'"):
        find_interpreter("/no/such/python")


@pytest.mark.usefixtures("no_prefect")
def test_worker_without_prefect_beside_it_needs_an_interpreter_that_has_it() -> None:
    with pytest.raises(ConfigurationError, match="or set TRIOWORKER_PYTHON to a Python that has it"):
        find_interpreter(None)
    assert installed_prefect_version() is None


@attrs.define
class PlayedInterpreter:
    """Another interpreter, which answers as a test wants.

    Attributes:
        kernel: where it is run.
        private: where it is started.
        says: what it writes to standard output.
        complains: what it writes to standard error.
        status: how it ends.
        silent: whether it never ends by itself.
        asked: set when it is asked and does not answer.
    """

    kernel: PlayedKernel
    private: Path
    says: str = ""
    complains: str = ""
    status: int = 0
    silent: bool = False
    asked: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, process: PlayedProcess) -> int:
        process.write(self.says)
        await trio.Path(process.arguments["stderr"].name).write_text(self.complains)
        if self.silent:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.status

    async def has_supervisor(self) -> bool:
        return await has_workspace_supervisor(OTHER, {"A": "1"}, self.private, owned=terminated)


@asynccontextmanager
async def terminated(group: ProcessGroup) -> AsyncIterator[None]:
    """Ends a process with a block."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await group.terminate(0)


@pytest.fixture
def other(kernel: PlayedKernel, tmp_path: Path) -> PlayedInterpreter:
    private = tmp_path / "private"
    private.mkdir()
    played = PlayedInterpreter(kernel, private)
    kernel.program = played.run
    return played


@pytest.mark.parametrize(("answer", "has"), [("supervisor", True), ("engine", False)])
async def test_other_interpreter_is_asked_whether_its_prefect_has_a_supervisor(
    other: PlayedInterpreter, answer: str, has: bool
) -> None:
    # Something else is run at its start, and talks.
    other.says = f"a word of sitecustomize\n{answer}\n"
    assert await other.has_supervisor() is has
    (process,) = other.kernel.started
    assert process.argv[:2] == (OTHER, "-c")
    assert process.arguments["env"] == {"A": "1"}
    assert process.arguments["cwd"] == other.private
    assert not other.kernel.is_there(process)


@pytest.mark.parametrize(
    ("package", "answer"), [(None, "none"), ("bare", "engine"), ("supervised", "supervisor")]
)
def test_question_is_answered_by_what_is_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str | None,
    answer: str,
) -> None:
    program = compile(prefect_abilities._LOOK, "question", "exec")
    found = None
    if package is not None:
        (tmp_path / "runner").mkdir()
        found = importlib.machinery.ModuleSpec("prefect", None, is_package=True)
        found.submodule_search_locations = [str(tmp_path)]
    if package == "supervised":
        (tmp_path / "runner" / "_workspace_supervisor.py").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    exec(program, {})  # noqa: S102  (the interpreter would do nothing else)
    assert capsys.readouterr().out == f"{answer}\n"


async def test_other_interpreter_without_prefect_is_named(other: PlayedInterpreter) -> None:
    other.says = "none"
    with pytest.raises(InfrastructureError, match=f"the interpreter '{OTHER}' has no Prefect: install it"):
        await other.has_supervisor()


@pytest.mark.parametrize(
    ("says", "complains", "status", "trouble"),
    [
        ("", "much\nout of order\n", 3, r"\(exit status 3\): much\nout of order$"),
        ("supervisor", "too late", 1, r"\(exit status 1\): too late$"),
        ("Python 2.7", "", 0, r"\(exit status 0\): it said 'Python 2.7'$"),
        ("", "", 0, r"\(exit status 0\): it said ''$"),
        ("x" * 2000, "", 0, r"\(exit status 0\): it said 'x{500}'$"),
        ("", "x" * 2000, 3, r"\(exit status 3\): x{500}$"),
    ],
)
async def test_other_interpreter_that_does_not_work_is_named_with_what_it_says(
    other: PlayedInterpreter, says: str, complains: str, status: int, trouble: str
) -> None:
    other.says, other.complains, other.status = says, complains, status
    with pytest.raises(InfrastructureError, match=f"the interpreter '{OTHER}' does not work {trouble}"):
        await other.has_supervisor()


async def test_other_interpreter_that_cannot_be_started_is_named(other: PlayedInterpreter) -> None:
    other.kernel.refusal = OSError(errno.ENOEXEC, "Exec format error")
    with pytest.raises(InfrastructureError, match=f"'{OTHER}' cannot be used: .*Exec format error"):
        await other.has_supervisor()


async def test_want_of_room_to_ask_is_no_fault_of_the_interpreter(other: PlayedInterpreter) -> None:
    other.kernel.refusal = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    with pytest.raises(InfrastructureFullError, match="no process can be started just now"):
        await other.has_supervisor()


async def test_other_interpreter_that_does_not_answer_is_given_up(
    autojump_clock: MockClock, other: PlayedInterpreter
) -> None:
    other.silent = True
    with pytest.raises(InfrastructureError, match=f"'{OTHER}' did not answer within 60 s"):
        await other.has_supervisor()
    assert other.kernel.now == 60
    assert other.kernel.signals == [(60, "SIGKILL")]


KILL_GRACE: Final = 1.0


@pytest.fixture
def asking(other: PlayedInterpreter, tmp_path: Path) -> ProcessInfrastructure:
    """The infrastructure, with an interpreter that says nothing and ends for nothing but SIGKILL."""

    async def stubborn(process: PlayedProcess) -> int:
        process.tidies_up = math.inf
        other.asked.set()
        await trio.sleep_forever()

    other.kernel.program = stubborn
    program = tmp_path / "python"
    program.touch()
    program.chmod(0o700)
    return infrastructure(tmp_path, {"TRIOWORKER_PYTHON": str(program)}, kill_grace=KILL_GRACE)


async def ask(where: ProcessInfrastructure) -> None:
    async with where.open_workspace(where.prepare(assignment({}))):
        pytest.fail("opened")


async def test_question_that_is_cut_off_ends_with_its_whole_group_in_the_grace_of_the_worker(
    autojump_clock: MockClock, kernel: PlayedKernel, asking: ProcessInfrastructure
) -> None:
    """The worker has announced when it will be gone."""
    with trio.move_on_after(2) as scope:
        await ask(asking)
    assert scope.cancelled_caught
    assert kernel.signals == [(2, "SIGTERM"), (2 + KILL_GRACE, "SIGKILL")]
    assert kernel.now == 2 + KILL_GRACE
    assert not kernel.is_there(kernel.started[0])
    assert asking._groups == set()


async def test_question_is_killed_with_all_runs(
    autojump_clock: MockClock, kernel: PlayedKernel, other: PlayedInterpreter, asking: ProcessInfrastructure
) -> None:
    async def ask_in_vain() -> None:
        with pytest.raises(InfrastructureError, match=r"does not work \(exit status -9\)"):
            await ask(asking)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_in_vain)
        await other.asked.wait()
        asking.kill_now()
    assert kernel.signals[:1] == [(0, "SIGKILL")]
    assert not kernel.is_there(kernel.started[0])


async def test_interpreter_that_hangs_in_the_kernel_is_the_runs_own_trouble(
    autojump_clock: MockClock, kernel: PlayedKernel, asking: ProcessInfrastructure
) -> None:
    async def hanging(process: PlayedProcess) -> int:
        process.tidies_up, process.hangs = math.inf, True
        await trio.sleep_forever()

    kernel.program = hanging
    with pytest.raises(InfrastructureError, match="has not ended"):
        await ask(asking)


@pytest.mark.parametrize("supervised", [True, False])
async def test_own_interpreter_is_looked_at_without_being_started(
    other: PlayedInterpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervised: bool
) -> None:
    found = importlib.machinery.ModuleSpec("prefect", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path)]
    (tmp_path / "runner").mkdir()
    if supervised:
        (tmp_path / "runner" / "_workspace_supervisor.py").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    assert await has_workspace_supervisor(sys.executable, {}, tmp_path, owned=terminated) is supervised
    assert other.kernel.started == []


@pytest.mark.usefixtures("no_prefect")
async def test_own_interpreter_that_has_lost_its_prefect_has_no_supervisor(tmp_path: Path) -> None:
    assert not await has_workspace_supervisor(sys.executable, {}, tmp_path, owned=terminated)


def test_own_interpreter_is_taken_where_prefect_stands_beside_the_worker() -> None:
    assert find_interpreter(None) == find_interpreter("") == sys.executable
    assert installed_prefect_version() == importlib.metadata.version("prefect")


def test_version_of_prefect_that_is_installed_elsewhere_is_found_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when it is installed from a working copy."""
    copy = importlib.machinery.ModuleSpec("prefect", None, origin=str(tmp_path / "src/prefect/__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: copy)
    assert installed_prefect_version() == importlib.metadata.version("prefect")
