"""Installs a package into the worker's own environment, and looks beforehand at what it would bring.

The look is an installation too, of the wheel alone and into a scratch directory, where its entry points are read.
Unpacking a wheel runs nothing of it; that is why there must be a wheel. Installed is then that very version.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from trioworker.infrastructure.registry import kinds_of
from trioworker.lean_attrs import frozen
from trioworker.process_group import ProcessGroup

LOOK_SECONDS = 120.0
INSTALL_SECONDS = 900.0

# pip puts back what it had begun to replace when it is interrupted, for which it needs a moment.
_INTERRUPT_GRACE = 3.0
_KILL_GRACE = 1.0

# The last lines of a failed look say why it failed.
_REASON_LINES = 3

_NAME = re.compile(r"[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*")

Say = Callable[[str], None]


class InstallationError(Exception):
    """A package cannot be looked at or installed; the message says why."""


@frozen(kw_only=True)
class Release:
    """What a package index offers.

    Attributes:
        package: the name of the package.
        version: its newest version for this Python.
        kinds: the kinds of infrastructure that it brings.
    """

    package: str
    version: str
    kinds: frozenset[str]


@frozen
class _Program:
    """What installs: the command, and what it needs besides to be quiet and exact about a look."""

    argv: Sequence[str]
    look_options: Sequence[str] = ()


@attrs.frozen(eq=False, repr=False)
class EnvironmentInstaller:
    """Installs into the environment of this very Python, by the program that Prefect would take.

    That is uv if the environment has it, else pip; without either, the uv of the `PATH`. Both go by their own
    settings and environment variables (index, proxy, find-links).

    Attributes:
        environment: the environment variables that the installer gets.
        look_seconds: how long a look may take.
        install_seconds: how long an installation may take.
    """

    environment: Mapping[str, str] = attrs.field(repr=False)
    look_seconds: float = LOOK_SECONDS
    install_seconds: float = INSTALL_SECONDS

    async def look(self, package: str) -> Release:
        """Find out what the newest version of a package would bring, without installing it.

        Raises:
            InstallationError: there is none, it has no wheel, or the index cannot be asked.
        """
        if not _NAME.fullmatch(package):
            raise InstallationError(f"{package!r} cannot be the name of a package")
        with tempfile.TemporaryDirectory(prefix="trioworker-look-") as directory:
            last_lines: deque[str] = deque(maxlen=_REASON_LINES)
            program = self._program()
            only_wheel = ["--no-deps", "--only-binary=:all:", "--target", directory, package]
            argv = [*program.argv, *program.look_options, *only_wheel]
            status = await self._run(argv, last_lines.append, self.look_seconds)
            if status != 0:
                raise InstallationError(" ".join(line.strip() for line in last_lines) or _ended(status))
            return _release_in(directory)

    async def install(self, release: Release, *, upgrade: bool, say: Say) -> None:
        """Install a release with what it depends on; then it can be imported in this process.

        What this process itself is made of keeps its versions.

        Args:
            release: as `look` has found it.
            upgrade: whether the package is there already, so that it shall only become newer.
            say: told each line of the installer's output as it comes.

        Raises:
            InstallationError: the installer failed.
        """
        wanted = f"{release.package}{'>=' if upgrade else '=='}{release.version}"
        with tempfile.NamedTemporaryFile("w", prefix="trioworker-constraints-", suffix=".txt") as constraints:
            constraints.write("\n".join(_versions_in_use()))
            constraints.flush()
            only_wheel = f"--only-binary={release.package}"
            argv = [*self._program().argv, "--constraint", constraints.name, only_wheel, wanted]
            status = await self._run(argv, say, self.install_seconds)
        importlib.invalidate_caches()
        if status != 0:
            raise InstallationError(_ended(status))

    def _program(self) -> _Program:
        beside_python = shutil.which("uv", path=str(Path(sys.executable).parent))
        if beside_python is None and importlib.util.find_spec("pip") is not None:
            options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
            # A setting of `user` is at odds with a target.
            return _Program(
                [sys.executable, "-m", "pip", "install", *options], ["-qq", "--no-user", "--no-compile"]
            )
        uv = beside_python or shutil.which("uv", path=self.environment.get("PATH"))
        if uv is None:
            raise InstallationError("there is neither pip nor uv to install it with")
        return _Program([uv, "pip", "install", "--python", sys.executable, "--no-progress", "--color=never"])

    async def _run(self, argv: Sequence[str], say: Say, seconds: float) -> int:
        with trio.move_on_after(seconds):
            return await _run_streaming(argv, self.environment, say)
        raise InstallationError(f"it took longer than {seconds:g} s")


def _release_in(directory: str) -> Release:
    """The release that a look has left there."""
    # Imported by those who install, since most workers never do.
    from importlib.metadata import distributions  # noqa: PLC0415

    for found in distributions(path=[directory]):
        return Release(package=found.name, version=found.version, kinds=kinds_of(found.entry_points))
    raise InstallationError("what was downloaded is no package")


def _ended(status: int) -> str:
    how = f"exit code {status}" if status > 0 else signal.Signals(-status).name
    return f"the installer ended with {how}"


def _versions_in_use() -> list[str]:
    """What the running worker and its flows stand on, as constraints: it must not change under their feet."""
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415 - see above

    names = {"trioworker", "prefect"}
    try:
        requirements = requires("trioworker") or []
    except PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        name = _NAME.match(requirement)
        if name is not None and "extra ==" not in requirement:
            names.add(name.group())
    return [f"{name}=={version}" for name in sorted(names) if (version := _version(name)) is not None]


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - see above

    try:
        return version(package)
    except PackageNotFoundError:
        return None


async def _run_streaming(argv: Sequence[str], environment: Mapping[str, str], say: Say) -> int:
    """Run a program to its end, passing on each line that it writes; returns its exit status.

    Cancelled, it interrupts the program, and ends it with all that it has started.
    """
    ours, theirs = os.pipe()
    async with trio.lowlevel.FdStream(ours) as output:
        try:
            # A pipe would make Python's output wait for a block to be full.
            env = {**environment, "PYTHONUNBUFFERED": "1"}
            group = await ProcessGroup.start(argv, env=env, stdout=theirs, stderr=subprocess.STDOUT)
        except OSError as error:
            raise InstallationError(f"{argv[0]!r} cannot be started: {error.strerror}") from error
        finally:
            os.close(theirs)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pass_lines_on, output, say)
                await group.wait()
                # Whatever it has left behind would keep the output open.
                status = await group.terminate(grace=0)
        except BaseException:
            with trio.move_on_after(_INTERRUPT_GRACE + _KILL_GRACE, shield=True):
                await _interrupt(group)
            raise
    return status


async def _pass_lines_on(output: trio.abc.ReceiveStream, say: Say) -> None:
    rest = b""
    async for chunk in output:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            say(line.decode(errors="replace").rstrip())
    if rest:
        say(rest.decode(errors="replace").rstrip())


async def _interrupt(group: ProcessGroup) -> None:
    if not group.reaped:
        with suppress(ProcessLookupError, PermissionError):  # it has just ended
            os.killpg(group.pid, signal.SIGINT)
        with trio.move_on_after(_INTERRUPT_GRACE):
            await group.wait()
    await group.terminate(_KILL_GRACE)
