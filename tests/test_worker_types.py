from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import attrs
import pytest
import trio
from support import NO_JITTER, settings
from wheels import KIND, make_wheel, metadata_files, only_from

from trioworker.api.errors import APIUnavailableError
from trioworker.command import package_installation
from trioworker.command.package_installation import EnvironmentInstaller, InstallationError, Release, Say
from trioworker.command.terminal import confirm
from trioworker.command.type_provision import InstallPolicy, TypeProvision
from trioworker.config import WorkerConfig
from trioworker.errors import WorkerRefusedError
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.registry import (
    BrokenKindError,
    Provider,
    available_types,
    find_provider,
    make_infrastructure,
)
from trioworker.notices import Notice
from trioworker.service import Rhythm
from trioworker.start_up import discover_patiently
from trioworker.surroundings import Surroundings
from trioworker.testing import FakePrefectAPI
from trioworker.unavailable_type import UnavailableTypeError, prefect_command
from trioworker.work_pool import Discovery

MODULE = "worker_types_under_test"


class Site:
    """A directory where packages are found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(
        self, package: str, version: str = "1.0", *, source: str = KIND, value: str = f"{MODULE}:Moonbase"
    ) -> None:
        for old in self.directory.glob(f"{package}-*"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        info = self.directory / f"{package}-{version}.dist-info"
        info.mkdir()
        for name, text in metadata_files(package, version, {"moonbase": value}).items():
            (info / name).write_text(text)
        (self.directory / f"{MODULE}.py").write_text(source)
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    yield Site(directory)
    sys.modules.pop(MODULE, None)


# The registry of kinds


def test_process_is_built_in(tmp_path: Path) -> None:
    assert "process" in available_types()
    assert find_provider("process") is None
    assert isinstance(make_infrastructure("process", settings({}, tmp_path), 5), ProcessInfrastructure)


def test_kind_of_a_package_is_found_by_its_entry_point(site: Site, tmp_path: Path) -> None:
    assert make_infrastructure("moonbase", settings({}, tmp_path), 5) is None
    site.add("moon")
    assert available_types() == ["moonbase", "process"]
    assert find_provider("moonbase") == Provider("moon", "1.0")
    infrastructure = make_infrastructure("moonbase", settings({}, tmp_path), 5)
    assert infrastructure is not None
    assert infrastructure.type == "moonbase"


def test_package_cannot_replace_a_kind_that_is_built_in(site: Site, tmp_path: Path) -> None:
    site.add("moon")
    points = site.directory / "moon-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("moonbase =", "process ="))
    assert find_provider("process") is None
    assert type(make_infrastructure("process", settings({}, tmp_path), 5)) is ProcessInfrastructure


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("", "no_such_module:Moonbase", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("", f"{MODULE}:Moonbase", "has no attribute 'Moonbase'"),
        ("import (", f"{MODULE}:Moonbase", "SyntaxError"),
        ("1 / 0", f"{MODULE}:Moonbase", "ZeroDivisionError: division by zero"),
        ("def Moonbase(settings): pass", f"{MODULE}:Moonbase", "TypeError: Moonbase() takes 1 positional"),
        ("Moonbase = 5", f"{MODULE}:Moonbase", "'int' object is not callable"),
        (
            "class Moonbase:\n type = 'moonbase'\n def __init__(*_): pass",
            f"{MODULE}:Moonbase",
            "it makes a Moonbase, which has no adopt, clear, configured_by_deployment, default_base_job_template",
        ),
        (KIND.replace('"moonbase"', '"mars"'), f"{MODULE}:Moonbase", "what it makes is of type 'mars'"),
    ],
)
def test_kind_that_cannot_be_used_is_blamed_on_its_package(
    site: Site, tmp_path: Path, source: str, value: str, reason: str
) -> None:
    site.add("moon", source=source, value=value)
    with pytest.raises(BrokenKindError) as raised:
        make_infrastructure("moonbase", settings({}, tmp_path), 5)
    message = str(raised.value)
    assert "Package moon 1.0" in message
    assert repr(value) in message
    assert reason in message
    assert "\n" not in message


# What is said of a type that is not there


def refusal(tmp_path: Path) -> UnavailableTypeError:
    config = WorkerConfig(pool="Big Pool", settings=settings({}, tmp_path))
    with pytest.raises(UnavailableTypeError) as raised:
        Surroundings().infrastructure("docker", config)
    return raised.value


def test_refusal_says_what_there_is_and_what_serves_the_pool(tmp_path: Path) -> None:
    assert str(refusal(tmp_path)).splitlines() == [
        (
            "Unable to start worker. Please ensure you have the necessary dependencies installed to run your"
            " desired worker type."
        ),
        "Worker types available here: process.",
        "Prefect's own worker may serve the pool meanwhile:",
        "  prefect worker start --pool 'Big Pool' --type docker",
    ]


def test_command_for_prefect_can_be_given_more_options(tmp_path: Path) -> None:
    message = str(refusal(tmp_path).with_options(["--name", "my worker", "--run-once"]))
    assert message.endswith("start --pool 'Big Pool' --type docker --name 'my worker' --run-once")


@pytest.mark.parametrize("pool", ["pool", "it's", '$HOME `date` "x"', "Größe #1", "a\\b"])
def test_command_for_prefect_survives_a_shell(pool: str) -> None:
    words = shlex.split(prefect_command(pool, "docker", ["--work-queue", pool]))
    assert words == [
        *("prefect", "worker", "start", "--pool", pool, "--type", "docker", "--work-queue", pool)
    ]


# When something is installed


@attrs.define
class FakeInstaller:
    """An index with one release of a package, and an installer that puts it into a site."""

    site: Site
    version: str = "2.0"
    kinds: frozenset[str] = frozenset({"moonbase"})
    failing_look: str | None = None
    failing_installation: str | None = None
    finds_nothing_afterwards: bool = False
    done: list[str] = attrs.field(factory=list)

    async def look(self, package: str) -> Release:
        self.done.append(f"look {package}")
        if self.failing_look is not None:
            raise InstallationError(self.failing_look)
        return Release(package=package, version=self.version, kinds=self.kinds)

    async def install(self, release: Release, *, upgrade: bool, say: Say) -> None:
        self.done.append(f"{'upgrade' if upgrade else 'install'} {release.package} {release.version}")
        say("Collecting")
        if self.failing_installation is not None:
            raise InstallationError(self.failing_installation)
        if not self.finds_nothing_afterwards:
            self.site.add(release.package, release.version)


@attrs.define
class Scene:
    """All that bears on whether a package is installed."""

    installer: FakeInstaller
    packages: Mapping[str, str] = attrs.field(factory=lambda: {"moonbase": "moon", "process": "prefect"})
    answer: bool | None = None
    registry_error: APIUnavailableError | None = None
    asked: list[str] = attrs.field(factory=list)
    told: list[Notice] = attrs.field(factory=list)
    reads: int = 0

    async def confirm(self, question: str) -> bool:
        assert self.answer is not None
        self.asked.append(question)
        return self.answer

    async def read_packages(self) -> Mapping[str, str]:
        self.reads += 1
        if self.registry_error is not None:
            raise self.registry_error
        return self.packages

    async def provide(self, policy: InstallPolicy, worker_type: str = "moonbase") -> list[str]:
        """Returns what was done by the installer."""
        provision = TypeProvision(
            policy=policy,
            installer=self.installer,
            notify=self.told.append,
            confirm=None if self.answer is None else self.confirm,
        )
        await provision(Discovery(worker_type=worker_type), self.read_packages)
        return self.installer.done

    @property
    def messages(self) -> list[str]:
        return [notice.message for notice in self.told]


@pytest.fixture
def scene(site: Site) -> Scene:
    return Scene(FakeInstaller(site))


LOOK, INSTALL, UPGRADE = "look moon", "install moon 2.0", "upgrade moon 2.0"


@pytest.mark.parametrize(
    ("policy", "answer", "done"),
    [
        ("always", None, [LOOK, INSTALL]),
        ("if-not-present", None, [LOOK, INSTALL]),
        ("never", None, []),
        ("never", True, []),
        ("prompt", None, []),
        ("prompt", True, [LOOK, INSTALL]),
        ("prompt", False, [LOOK]),
    ],
)
async def test_type_that_is_not_there_is_installed_as_the_policy_says(
    scene: Scene, policy: InstallPolicy, answer: bool | None, done: list[str]
) -> None:
    scene.answer = answer
    assert await scene.provide(policy) == done
    assert (find_provider("moonbase") == Provider("moon", "2.0")) is (INSTALL in done)
    assert len(scene.asked) == (policy == "prompt" and answer is not None)
    # Nobody is asked for what would not be used.
    assert scene.reads == bool(done)


@pytest.mark.parametrize(
    ("policy", "done"),
    [("always", [LOOK, UPGRADE]), ("if-not-present", []), ("never", []), ("prompt", [])],
)
async def test_type_that_is_there_is_upgraded_by_always_alone(
    scene: Scene, site: Site, policy: InstallPolicy, done: list[str]
) -> None:
    site.add("moon")
    scene.answer = True
    assert await scene.provide(policy) == done
    assert scene.asked == []
    # The package is the one that brings the type, whatever a registry says.
    assert scene.reads == 0


@pytest.mark.parametrize("policy", ["always", "if-not-present", "never", "prompt"])
async def test_built_in_type_needs_nothing(scene: Scene, policy: InstallPolicy) -> None:
    assert await scene.provide(policy, "process") == []
    assert (scene.reads, scene.told) == (0, [])


@pytest.mark.parametrize("policy", ["always", "if-not-present", "prompt"])
async def test_package_that_would_not_help_is_not_installed(scene: Scene, policy: InstallPolicy) -> None:
    scene.installer.kinds = frozenset({"mars"})
    scene.answer = True
    assert await scene.provide(policy) == [LOOK]
    assert scene.asked == []
    assert scene.messages[-1] == (
        "Not installed: moon 2.0 serves Prefect's own worker; it brings no 'moonbase' kind for trioworker."
    )


async def test_upgrade_that_would_lose_the_type_is_not_made(scene: Scene, site: Site) -> None:
    site.add("moon")
    scene.installer.kinds = frozenset()
    assert await scene.provide("always") == [LOOK]
    assert scene.messages[-1] == "Not installed: moon 2.0 no longer brings the 'moonbase' kind; 1.0 stays."


@pytest.mark.parametrize("policy", ["always", "if-not-present", "prompt"])
async def test_type_that_no_package_is_known_for(scene: Scene, policy: InstallPolicy) -> None:
    scene.packages = {}
    scene.answer = True
    assert await scene.provide(policy) == []
    assert scene.messages == ["Could not find a package for worker type 'moonbase'."]


async def test_registry_that_cannot_be_read_is_said(scene: Scene) -> None:
    scene.registry_error = APIUnavailableError("out for lunch")
    assert await scene.provide("always") == []
    assert scene.messages == [
        "The API did not say which package brings worker type 'moonbase': out for lunch"
    ]


async def test_prompt_without_a_terminal_says_why_nothing_is_installed(scene: Scene) -> None:
    await scene.provide("prompt")
    assert scene.messages == ["Nothing is installed without asking, and there is no terminal to ask on."]


async def test_question_names_what_would_be_installed(scene: Scene) -> None:
    scene.answer = False
    await scene.provide("prompt")
    assert scene.asked == [
        "The moonbase worker is not in the current environment. Install moon 2.0, which brings it, now?"
    ]


@pytest.mark.parametrize("where", ["failing_look", "failing_installation"])
async def test_failure_is_said_and_no_error(scene: Scene, where: str) -> None:
    setattr(scene.installer, where, "the disk is full")
    await scene.provide("if-not-present")
    assert scene.told[-1] == Notice("moon was not installed: the disk is full.", warning=True)


async def test_package_that_went_elsewhere_is_said(scene: Scene) -> None:
    scene.installer.finds_nothing_afterwards = True
    await scene.provide("if-not-present")
    assert "not where this process looks" in scene.messages[-1]


async def test_progress_is_told_in_order(scene: Scene) -> None:
    await scene.provide("if-not-present")
    assert scene.messages == [
        "Looking whether moon brings worker type 'moonbase' to trioworker...",
        "Installing moon...",
        "Collecting",
    ]


# The start of a worker


async def test_type_is_provided_for_once_the_pool_is_known(scene: Scene, tmp_path: Path) -> None:
    """What is said of the pool comes before what is said of the installation, and once."""
    api = FakePrefectAPI()
    api.add_work_pool("pool", pool_type="moonbase")
    api.worker_packages["moonbase"] = "moon"
    provision = TypeProvision(
        policy="if-not-present", installer=scene.installer, notify=scene.told.append, confirm=None
    )
    config = WorkerConfig(pool="pool", settings=settings({}, tmp_path))
    found_out = await discover_patiently(
        api, config, Rhythm(interval=1, chance=lambda: NO_JITTER), lambda: None
    )
    discovery = await Surroundings(provide_type=provision).provide_type(found_out, api.read_worker_packages)
    assert discovery == Discovery(worker_type="moonbase", pool=await api.read_work_pool("pool"))
    assert scene.messages[0] == "Discovered type 'moonbase' for work pool 'pool'."
    assert scene.installer.done == [LOOK, INSTALL]
    found = Surroundings().infrastructure(discovery.worker_type, config)
    assert found.type == "moonbase"


async def test_broken_package_refuses_the_start(site: Site, tmp_path: Path) -> None:
    site.add("moon", source="1 / 0")
    config = WorkerConfig(pool="pool", settings=settings({}, tmp_path))
    with pytest.raises(WorkerRefusedError, match=r"Package moon 1\.0 brings the worker type 'moonbase'"):
        Surroundings().infrastructure("moonbase", config)


# The installer


class TestChoiceOfProgram:
    """uv if it is in the environment, else pip, else the uv of the PATH: what Prefect takes, as far as it goes."""

    @pytest.fixture
    def bin_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        directory = tmp_path / "bin"
        directory.mkdir()
        monkeypatch.setattr(sys, "executable", str(directory / "python"))
        return directory

    def add_uv(self, directory: Path) -> str:
        directory.mkdir(exist_ok=True)
        uv = directory / "uv"
        uv.touch(mode=0o755)
        return str(uv)

    def program(self, path: Path) -> list[str]:
        return list(EnvironmentInstaller({"PATH": str(path)})._program().argv)

    def test_uv_of_the_environment_comes_first(self, bin_directory: Path, tmp_path: Path) -> None:
        self.add_uv(tmp_path / "elsewhere")
        uv = self.add_uv(bin_directory)
        assert self.program(tmp_path / "elsewhere")[:5] == [uv, "pip", "install", "--python", sys.executable]

    def test_pip_comes_before_the_uv_of_the_path(self, bin_directory: Path, tmp_path: Path) -> None:
        self.add_uv(tmp_path / "elsewhere")
        assert self.program(tmp_path / "elsewhere")[:4] == [sys.executable, "-m", "pip", "install"]

    def test_uv_of_the_path_does_where_there_is_no_pip(
        self, bin_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        uv = self.add_uv(tmp_path / "elsewhere")
        assert self.program(tmp_path / "elsewhere")[:5] == [uv, "pip", "install", "--python", sys.executable]

    def test_neither_is_said(
        self, bin_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(InstallationError, match="neither pip nor uv"):
            self.program(tmp_path)


@pytest.mark.parametrize(
    "package", ["--index-url=http://evil", "a b", "a/../b", "git+file:///x", "a[extra]", ""]
)
async def test_name_that_no_package_can_have_is_not_given_to_the_installer(package: str) -> None:
    with pytest.raises(InstallationError, match="cannot be the name of a package"):
        await EnvironmentInstaller({}).look(package)


def test_what_the_worker_stands_on_keeps_its_version() -> None:
    held = package_installation._versions_in_use()
    for package in ("trioworker", "trio", "httpx", "attrs"):
        assert f"{package}=={importlib.metadata.version(package)}" in held
    assert not any(line.startswith("pytest") for line in held)


@pytest.mark.process
class TestLook:
    async def test_newest_wheel_is_read_and_nothing_of_it_is_run(
        self, tmp_path: Path, process_environment: dict[str, str]
    ) -> None:
        trace = tmp_path / "run"
        source = f"open({str(trace)!r}, 'w')"
        make_wheel(tmp_path / "wheels", "some-moon", "1.0")
        make_wheel(tmp_path / "wheels", "some-moon", "1.1", kinds={"moonbase": "some_moon:X"}, source=source)
        installer = EnvironmentInstaller(process_environment | only_from(tmp_path / "wheels"))
        release = await installer.look("some-moon")
        assert release == Release(package="some-moon", version="1.1", kinds=frozenset({"moonbase"}))
        assert not trace.exists()
        assert "some-moon" not in {found.name for found in importlib.metadata.distributions()}

    async def test_package_that_is_nowhere_is_said_in_the_words_of_the_installer(
        self, tmp_path: Path, process_environment: dict[str, str]
    ) -> None:
        installer = EnvironmentInstaller(process_environment | only_from(tmp_path))
        with pytest.raises(InstallationError, match="No matching distribution found for some-moon"):
            await installer.look("some-moon")


@pytest.mark.process
class TestRun:
    """A program that is run with its output passed on."""

    async def test_lines_arrive_as_they_come(self, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        script = (
            "import pathlib, sys, time\n"
            "print('first', end='\\r\\n')\n"
            f"while not pathlib.Path({str(seen)!r}).exists(): time.sleep(0.01)\n"
            "sys.stderr.write('last')\n"
            "sys.exit(3)"
        )
        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            seen.touch()

        with trio.fail_after(30):
            status = await package_installation._run_streaming(
                [sys.executable, "-c", script], dict(os.environ), say
            )
        assert (status, lines) == (3, ["first", "last"])

    async def test_what_it_leaves_running_is_not_waited_for(self) -> None:
        script = (
            "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
        )
        with trio.fail_after(30):
            status = await package_installation._run_streaming(
                [sys.executable, "-c", script], dict(os.environ), lambda _: None
            )
        assert status == 0

    @pytest.mark.parametrize("stubborn", [False, True])
    async def test_cancelled_it_is_interrupted_and_then_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
    ) -> None:
        monkeypatch.setattr(package_installation, "_INTERRUPT_GRACE", 0.2 if stubborn else 20)
        monkeypatch.setattr(package_installation, "_KILL_GRACE", 0.2)
        script = (
            "import os, signal, sys, time\n"
            f"signal.signal(signal.SIGTERM, signal.{'SIG_IGN' if stubborn else 'SIG_DFL'})\n"
            f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if stubborn else 'default_int_handler'})\n"
            "try: print(os.getpid()); time.sleep(99)\n"
            "except KeyboardInterrupt: open(sys.argv[1], 'w').close()\n"
        )
        trace = tmp_path / "interrupted"
        pids: list[int] = []
        with trio.fail_after(30), trio.CancelScope() as scope:

            def say(line: str) -> None:
                pids.append(int(line))
                scope.cancel()

            await package_installation._run_streaming(
                [sys.executable, "-c", script, str(trace)], dict(os.environ), say
            )
        assert scope.cancelled_caught
        assert trace.exists() is not stubborn
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    async def test_program_that_is_not_there_is_an_error_of_the_installation(self) -> None:
        with pytest.raises(InstallationError, match="'/nowhere/uv' cannot be started: No such file"):
            await package_installation._run_streaming(["/nowhere/uv"], {}, lambda _: None)

    async def test_time_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slow = tmp_path / "uv"
        slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(99)")
        slow.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with trio.fail_after(30), pytest.raises(InstallationError, match=r"it took longer than 0\.1 s"):
            await EnvironmentInstaller({}, look_seconds=0.1).look("moon")


# The question


class Terminal:
    """A terminal that the program's standard input is connected to."""

    def __init__(self, ours: int, stdout: TextIO) -> None:
        self.ours = ours
        self.stdout = stdout

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r", closefd=False) as stdin, os.fdopen(theirs, "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield Terminal(ours, stdout)
    with suppress(OSError):
        os.close(ours)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [("y\n", True), ("YES\n", True), ("\n", True), ("n\n", False), ("No\n", False), ("\x04", False)],
)
async def test_question_is_answered(terminal: Terminal, typed: str, answer: bool) -> None:
    terminal.type(typed)
    with trio.fail_after(30):
        assert await confirm("Well?") is answer


async def test_question_is_repeated_until_there_is_an_answer(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not in the fixture, because pytest takes standard output for itself between that and the test.
    monkeypatch.setattr(sys, "stdout", terminal.stdout)
    terminal.type("what\n")
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await confirm("Well?"))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            shown = b""
            while shown.count(b"Well? [Y/n]: ") < 2:
                await trio.lowlevel.wait_readable(terminal.ours)
                shown += os.read(terminal.ours, 1000)
            terminal.type("n\n")
    assert answers == [False]


async def test_question_can_be_cancelled(terminal: Terminal) -> None:
    with trio.move_on_after(0) as scope:
        await confirm("Well?")
    assert scope.cancelled_caught


async def test_terminal_that_hangs_up_means_no(terminal: Terminal) -> None:
    os.close(terminal.ours)
    with trio.fail_after(30):
        assert await confirm("Well?") is False
