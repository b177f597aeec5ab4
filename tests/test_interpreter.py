"""Which interpreter runs flows, and what Prefect stands beside the worker."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trioworker.errors import ConfigurationError
from trioworker.infrastructure import interpreter
from trioworker.infrastructure.interpreter import (
    find_interpreter,
    has_workspace_supervisor,
    installed_prefect_version,
)
from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError

OTHER = "/other/python"


@pytest.fixture
def no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(importlib.metadata, "version", missing)


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
        says: what it writes to standard output.
        complains: what it writes to standard error.
        status: how it ends.
        refusal: raised in place of its start.
        silent: whether it never ends.
        asked: how it was started.
    """

    says: str = ""
    complains: str = ""
    status: int = 0
    refusal: Exception | None = None
    silent: bool = False
    asked: list[tuple[Sequence[str], Mapping[str, Any]]] = attrs.field(factory=list)

    async def run(self, command: Sequence[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        self.asked.append((command, how))
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        if self.silent:
            await trio.sleep_forever()
        return subprocess.CompletedProcess(command, self.status, self.says.encode(), self.complains.encode())

    async def has_supervisor(self) -> bool:
        return await has_workspace_supervisor(OTHER, {"A": "1"}, Path("/private"))


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> PlayedInterpreter:
    played = PlayedInterpreter()
    monkeypatch.setattr(trio, "run_process", played.run)
    return played


@pytest.mark.parametrize(("answer", "has"), [("supervisor", True), ("engine", False)])
async def test_other_interpreter_is_asked_whether_its_prefect_has_a_supervisor(
    other: PlayedInterpreter, answer: str, has: bool
) -> None:
    # Something else is run at its start, and talks.
    other.says = f"a word of sitecustomize\n{answer}\n"
    assert await other.has_supervisor() is has
    ((command, how),) = other.asked
    assert command[:2] == [OTHER, "-c"]
    assert how["env"] == {"A": "1"}
    assert how["cwd"] == Path("/private")
    assert how["start_new_session"]


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
    program = compile(interpreter._LOOK, "question", "exec")
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
    ],
)
async def test_other_interpreter_that_does_not_work_is_named_with_what_it_says(
    other: PlayedInterpreter, says: str, complains: str, status: int, trouble: str
) -> None:
    other.says, other.complains, other.status = says, complains, status
    with pytest.raises(InfrastructureError, match=f"the interpreter '{OTHER}' does not work {trouble}"):
        await other.has_supervisor()


async def test_other_interpreter_that_cannot_be_started_is_named(other: PlayedInterpreter) -> None:
    other.refusal = OSError(errno.ENOEXEC, "Exec format error")
    with pytest.raises(InfrastructureError, match=f"'{OTHER}' cannot be used: .*Exec format error"):
        await other.has_supervisor()


async def test_want_of_room_to_ask_is_no_fault_of_the_interpreter(other: PlayedInterpreter) -> None:
    other.refusal = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    with pytest.raises(InfrastructureFullError, match="no process can be started just now"):
        await other.has_supervisor()


async def test_other_interpreter_that_does_not_answer_is_given_up(
    autojump_clock: MockClock, other: PlayedInterpreter
) -> None:
    other.silent = True
    with pytest.raises(InfrastructureError, match=f"'{OTHER}' did not answer within 60 s"):
        await other.has_supervisor()
    assert trio.current_time() >= 60


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
    assert await has_workspace_supervisor(sys.executable, {}, tmp_path) is supervised
    assert other.asked == []


@pytest.mark.usefixtures("no_prefect")
async def test_own_interpreter_that_has_lost_its_prefect_has_no_supervisor(tmp_path: Path) -> None:
    assert not await has_workspace_supervisor(sys.executable, {}, tmp_path)


def test_own_interpreter_is_taken_where_prefect_stands_beside_the_worker() -> None:
    assert find_interpreter(None) == find_interpreter("") == sys.executable
    assert installed_prefect_version() == importlib.metadata.version("prefect")
