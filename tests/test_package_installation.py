"""How an installer is run, heard and ended: in virtual time, with a played kernel.

Real installers are in `test_worker_types` and `test_command_install`.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import played_kernel
import pytest
import trio
from played_kernel import PlayedKernel, PlayedProcess, ending
from trio.testing import MockClock
from wheels import metadata_files

from trioworker.command import package_installation
from trioworker.command.package_installation import EnvironmentInstaller, InstallationError, Release

kernel = played_kernel.kernel

STUBBORN = math.inf

MOON = Release(package="some-moon", version="1.1", kinds=frozenset({"moonbase"}))


@attrs.define
class Pip:
    """A played installer.

    Attributes:
        brings: whether there is a package for a look to find.
        says: what it writes.
        status: how it ends.
        constraints: what it was held to.
    """

    brings: bool = True
    says: str = ""
    status: int = 0
    constraints: list[str] = attrs.field(factory=list)

    async def program(self, process: PlayedProcess) -> int:
        await trio.lowlevel.checkpoint()
        self._act(list(process.argv))
        process.write(self.says)
        return self.status

    def _act(self, argv: list[str]) -> None:
        if "--target" in argv and self.brings:
            info = Path(argv[argv.index("--target") + 1], "some_moon-1.1.dist-info")
            info.mkdir()
            for name, text in metadata_files("some-moon", "1.1", {"moonbase": "some_moon:Moonbase"}).items():
                (info / name).write_text(text)
        if "--constraint" in argv:
            self.constraints = Path(argv[argv.index("--constraint") + 1]).read_text().splitlines()


@pytest.fixture(autouse=True)
def no_uv_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))


# The look


async def test_look_reads_a_wheel_in_a_scratch_directory_and_installs_nothing(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    kernel.program = Pip().program
    assert await EnvironmentInstaller({"PIP_INDEX_URL": "of user"}).look("some-moon") == MOON
    (process,) = kernel.started
    assert process.argv[:4] == (sys.executable, "-m", "pip", "install")
    assert {"--no-deps", "--only-binary=:all:", "-qq", "--no-input"} <= set(process.argv)
    assert process.argv[-1] == "some-moon"
    # Its settings are the user's own, and its lines come as they are written.
    assert process.arguments["env"] == {"PIP_INDEX_URL": "of user", "PYTHONUNBUFFERED": "1"}
    assert process.arguments["stderr"] == subprocess.STDOUT
    assert process.arguments["stdin"] == subprocess.DEVNULL
    scratch = process.argv[process.argv.index("--target") + 1]
    assert not Path(scratch).exists()  # noqa: ASYNC240


async def test_failed_look_is_explained_by_the_last_lines_of_the_installer(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    kernel.program = Pip(brings=False, says="much\n  one \ntwo\r\nthree", status=1).program
    with pytest.raises(InstallationError, match=r"^one two three$"):
        await EnvironmentInstaller({}).look("some-moon")


@pytest.mark.parametrize(
    ("status", "message"),
    [(2, "the installer ended with exit code 2"), (-9, "the installer ended with SIGKILL")],
)
async def test_failed_look_of_a_silent_installer_is_told_by_its_end(
    autojump_clock: MockClock, kernel: PlayedKernel, status: int, message: str
) -> None:
    kernel.program = ending(status)
    with pytest.raises(InstallationError, match=f"^{message}$"):
        await EnvironmentInstaller({}).look("some-moon")


async def test_look_that_brings_no_package_is_said(autojump_clock: MockClock, kernel: PlayedKernel) -> None:
    kernel.program = Pip(brings=False).program
    with pytest.raises(InstallationError, match="what was downloaded is no package"):
        await EnvironmentInstaller({}).look("some-moon")


async def test_look_is_bounded_in_time_and_the_installer_ended(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    with pytest.raises(InstallationError, match="it took longer than 120 s"):
        await EnvironmentInstaller({}).look("some-moon")
    assert kernel.now == 120
    assert kernel.started[0].status == -signal.SIGINT
    assert not kernel.is_there(kernel.started[0])


# The installation


@pytest.mark.parametrize(("upgrade", "wanted"), [(False, "some-moon==1.1"), (True, "some-moon>=1.1")])
async def test_installed_is_the_release_that_was_seen_with_what_the_worker_stands_on_held_fast(
    autojump_clock: MockClock, kernel: PlayedKernel, upgrade: bool, wanted: str
) -> None:
    pip = Pip(says="Collecting\nInstalled\n")
    kernel.program = pip.program
    said: list[str] = []
    await EnvironmentInstaller({}).install(MOON, upgrade=upgrade, say=said.append)
    (process,) = kernel.started
    assert process.argv[-2:] == ("--only-binary=some-moon", wanted)
    assert "--target" not in process.argv
    assert said == ["Collecting", "Installed"]
    assert f"trio=={trio.__version__}" in pip.constraints
    assert f"trioworker=={importlib.metadata.version('trioworker')}" in pip.constraints


async def test_failed_installation_is_told_by_its_end_for_its_words_were_passed_on(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    kernel.program = Pip(says="No space left", status=1).program
    said: list[str] = []
    with pytest.raises(InstallationError, match=r"^the installer ended with exit code 1$"):
        await EnvironmentInstaller({}).install(MOON, upgrade=False, say=said.append)
    assert said == ["No space left"]


async def test_installation_has_more_time_than_a_look(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    with pytest.raises(InstallationError, match="it took longer than 900 s"):
        await EnvironmentInstaller({}).install(MOON, upgrade=False, say=print)
    assert kernel.now == 900


async def test_worker_that_is_not_installed_itself_still_holds_what_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one that is run from its source."""
    versions = {"prefect": "3.8.8"}

    def version(package: str) -> str:
        try:
            return versions[package]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(package) from None

    def requires(package: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert package_installation._versions_in_use() == ["prefect==3.8.8"]


async def test_installer_that_cannot_be_started_is_named(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    kernel.refusal = OSError(errno.EACCES, "Permission denied")
    with pytest.raises(InstallationError, match=f"'{sys.executable}' cannot be started: Permission denied"):
        await EnvironmentInstaller({}).look("some-moon")
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


# Hearing it, and ending it


async def test_lines_are_passed_on_as_they_come_whatever_pieces_they_come_in(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    heard: list[tuple[float, str]] = []

    async def program(process: PlayedProcess) -> int:
        for piece in ("one\ntw", "o\r\n", "", "three"):
            process.write(piece)
            await trio.sleep(1)
        return 7

    kernel.program = program
    status = await package_installation._run_streaming(
        ["pip"], {}, lambda line: heard.append((kernel.now, line))
    )
    assert status == 7
    # The last line has no end but that of the program.
    assert heard == [(0, "one"), (1, "two"), (4, "three")]


async def test_what_it_leaves_running_is_ended_with_it(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    """It would keep the output open."""
    left: list[PlayedProcess] = []

    async def program(process: PlayedProcess) -> int:
        await trio.sleep(1)
        left.append(kernel.member(process, tidies_up=STUBBORN))
        left[0].inherit(1, process.descriptor(1))
        return 0

    kernel.program = program
    assert await package_installation._run_streaming(["pip"], {}, print) == 0
    assert left[0].status == -signal.SIGKILL
    assert kernel.now == 1


@pytest.mark.parametrize(
    ("tidies_up", "signals", "over_at"),
    [
        # Left alone for as long as it puts back what it had begun to replace.
        (2, [(10, "SIGINT"), (12, "SIGTERM"), (12, "SIGKILL")], 12),
        (STUBBORN, [(10, "SIGINT"), (13, "SIGTERM"), (14, "SIGKILL")], 14),
    ],
)
async def test_cancelled_it_is_interrupted_and_ended_after_a_moment(
    autojump_clock: MockClock,
    kernel: PlayedKernel,
    tidies_up: float,
    signals: list[tuple[float, str]],
    over_at: float,
) -> None:
    async def program(process: PlayedProcess) -> int:
        process.tidies_up = tidies_up
        await trio.sleep_forever()

    kernel.program = program
    with trio.move_on_after(10) as scope:
        await EnvironmentInstaller({}).install(MOON, upgrade=False, say=print)
    assert scope.cancelled_caught
    assert kernel.signals == signals
    assert kernel.now == over_at
    assert not kernel.is_there(kernel.started[0])


async def test_number_of_an_installer_that_was_reaped_is_left_alone(
    autojump_clock: MockClock, kernel: PlayedKernel, nursery: trio.Nursery
) -> None:
    """It may be a stranger's when the rest of the output, which something holds open, cannot be passed on."""

    async def write_late(output: int) -> None:
        await trio.sleep(1)
        assert kernel.started[0].reaped_at == 0
        os.write(output, b"a line\n")
        os.close(output)

    async def program(process: PlayedProcess) -> int:
        nursery.start_soon(write_late, os.dup(process.descriptor(1)))
        await trio.lowlevel.checkpoint()
        return 0

    def say(_: str) -> None:
        raise ZeroDivisionError

    kernel.program = program
    with pytest.raises(ExceptionGroup):
        await package_installation._run_streaming(["pip"], {}, say)
    assert kernel.signals == [(0, "SIGKILL")]
    assert kernel.strays == []
