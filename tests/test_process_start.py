"""What is said when a process cannot be started, and whose trouble that is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import played_kernel
import pytest
from played_kernel import PlayedKernel

from trioworker.infrastructure.process.start import (
    Origin,
    group_errors_explained,
    machine_errors_explained,
    start_process,
)
from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError

kernel = played_kernel.kernel


def of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


async def start(directory: Path, program: str = "program") -> None:
    await start_process(
        [program, "argument"],
        origin=Origin(program="the program in command", directory="working_dir"),
        environment={"PATH": "/hush"},
        directory=directory,
        stream_output=True,
    )


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
async def test_want_of_room_is_no_fault_of_the_run(kernel: PlayedKernel, tmp_path: Path, number: int) -> None:
    """Another worker may have some, or this one later."""
    kernel.refusal = of(number)
    with pytest.raises(InfrastructureFullError) as caught:
        await start(tmp_path)
    assert str(caught.value) == f"no process can be started just now: {os.strerror(number)}"
    assert caught.value.__cause__ is kernel.refusal


async def test_want_of_threads_is_no_fault_of_the_run(kernel: PlayedKernel, tmp_path: Path) -> None:
    kernel.refusal = RuntimeError("can't start new thread")
    with pytest.raises(InfrastructureFullError, match="no thread can be started just now: can't start new"):
        await start(tmp_path)


@pytest.mark.parametrize(
    ("program", "refusal", "message"),
    [
        (
            "hush",
            of(errno.ENOENT),
            "was not found: check its name, and the PATH of the run, which is the worker's",
        ),
        (
            "/hush",
            of(errno.ENOENT),
            "was not found: check its path, and that of the interpreter in its first line",
        ),
        ("hush", of(errno.EACCES), "may not be executed: check its permissions"),
        ("hush", of(errno.ENOEXEC), "could not be started: Exec format error"),
        ("hush", ValueError("embedded null byte"), "could not be started: embedded null byte"),
    ],
)
async def test_command_that_cannot_be_started_is_told_by_its_field_with_the_reason_but_not_its_value(
    kernel: PlayedKernel, tmp_path: Path, program: str, refusal: Exception, message: str
) -> None:
    """A secret block may have put it there, and more people read states than blocks."""
    if isinstance(refusal, OSError):
        refusal.filename = program
    kernel.refusal = refusal
    with pytest.raises(InfrastructureError) as caught:
        await start(tmp_path, program)
    assert str(caught.value).startswith(f"the program in command {message}")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is refusal
    assert not isinstance(caught.value, InfrastructureFullError)


async def test_missing_directory_is_told_from_a_missing_command(kernel: PlayedKernel, tmp_path: Path) -> None:
    """The system names both by the same error."""
    kernel.refusal = of(errno.ENOENT)
    with pytest.raises(InfrastructureError, match=r"^working_dir does not exist, or may not be entered$"):
        await start(tmp_path / "missing")


async def test_directory_that_cannot_even_be_looked_at_is_told_by_its_field(
    kernel: PlayedKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "hush")

    kernel.refusal = of(errno.EACCES)
    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(InfrastructureError, match=r"^working_dir does not exist, or may not be entered$"):
        await start(tmp_path)


def test_what_the_machine_refuses_is_explained() -> None:
    with (
        pytest.raises(InfrastructureError, match=r"^this failed: .*No space left") as caught,
        machine_errors_explained("this failed"),
    ):
        raise of(errno.ENOSPC)
    assert not isinstance(caught.value, InfrastructureFullError)


@pytest.mark.parametrize(
    "error", [ChildProcessError(errno.ECHILD, "reaped by somebody else"), TimeoutError("has not ended")]
)
def test_what_keeps_a_group_from_being_ended_is_explained(error: OSError) -> None:
    with pytest.raises(InfrastructureError) as caught, group_errors_explained():
        raise error
    assert str(caught.value) == (error.strerror or "has not ended")
    assert caught.value.__cause__ is error


def test_errors_of_another_kind_are_left_alone() -> None:
    with pytest.raises(KeyError), machine_errors_explained("this failed"):
        raise KeyError
