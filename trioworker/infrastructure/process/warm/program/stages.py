"""The two stages of a flow run: Prefect's workspace supervisor prepares it, and then becomes the engine.

The supervisor becomes the engine by `exec`: nothing that was imported or changed by the steps of the first stage
reaches the second one. So here a helper is forked for the first stage, and the process of the run itself, in which
nothing has happened yet, goes on to the second one with what the helper was about to `exec`.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .dependence import difference, require_no_settings_in, require_nothing_shadowed
from .newborn import note_surroundings, path_in, run_as_main, set_arguments, set_directory, set_environment
from .preloading import ENGINE, Preloaded
from .unfit import UnfitError

_PR_SET_PDEATHSIG = 1


class Prepared(NamedTuple):
    """What the first stage would have gone on to.

    Attributes:
        command: the program and its arguments.
        directory: where.
        environment: with what environment.
    """

    command: list[str]
    directory: str
    environment: dict[str, str]


def run_module(preloaded: Preloaded, module: str, arguments: Sequence[str]) -> None:
    """Execute a module in this process, whose environment and directory are set; what it raises leaves."""
    program = preloaded.programs[module]
    note_surroundings()
    set_arguments(module, program, arguments)
    run_as_main(program)


def prepare(run_supervisor: Callable[[], None]) -> Prepared | None:
    """Have a helper execute the first stage, up to the `exec` of the second one.

    A helper that ends otherwise has this process end likewise.

    Args:
        run_supervisor: executes the first stage.

    Returns:
        What comes next; None in a helper that has come to its end without it.

    Raises:
        UnfitError: no helper can be forked.
    """
    parent = os.getpid()
    try:
        reading, writing = os.pipe()
        helper = os.fork()
    except OSError as error:
        raise UnfitError(f"no helper can be forked: {error.strerror}") from error
    if helper == 0:
        os.close(reading)
        _end_with(parent)
        os.execvpe = _reporting_to(writing)  # type: ignore[assignment]
        run_supervisor()
        return None
    os.close(writing)
    said = _read_all(reading, helper)
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if not said.endswith(b"\n"):
        _end_like(status)
    return Prepared(*json.loads(said))


def become_engine(
    preloaded: Preloaded, prepared: Prepared, tell: Callable[[UnfitError | None], None]
) -> None:
    """Go on to the second stage, in this process if that is the same as a fresh one; what it raises leaves.

    Args:
        preloaded: what this process has imported.
        prepared: what comes next.
        tell: told of the reason for a fresh process; None if there is none.
    """
    try:
        _require_fit(preloaded, prepared)
    except UnfitError as reason:
        tell(reason)
        os.chdir(prepared.directory)
        os.execvpe(prepared.command[0], prepared.command, prepared.environment)  # noqa: S606
    tell(None)
    set_environment(prepared.environment)
    set_directory(prepared.directory, preloaded.base_path)
    run_module(preloaded, ENGINE, ())


def _require_fit(preloaded: Preloaded, prepared: Prepared) -> None:
    if prepared.command != [sys.executable, "-m", ENGINE]:
        raise UnfitError("the flow is run by another program than this interpreter with Prefect's engine")
    # The supervisor sets PYTHONPATH, which is met below.
    changed = difference(preloaded.environment, prepared.environment, but=["PYTHONPATH"])
    if changed:
        raise UnfitError(f"the preparation of its workspace has changed {', '.join(changed)}")
    require_fit_directory(preloaded, prepared.directory, prepared.environment)


def require_fit_directory(preloaded: Preloaded, directory: str, environment: Mapping[str, str]) -> None:
    """See to it that what was imported is what a process started in a directory would import.

    Raises:
        UnfitError: it is not.
    """
    if not os.path.isdir(directory):  # noqa: PTH112 - that of `Path` raises if it may not look
        raise UnfitError("there is no such working directory")
    require_no_settings_in(directory)
    path = path_in(directory, environment, preloaded.base_path)
    require_nothing_shadowed((entry for entry in path if entry not in preloaded.base_path), preloaded.names)


def _reporting_to(writing: int) -> Callable[[str, Sequence[str], Mapping[str, str]], NoReturn]:
    """What stands in for `os.execvpe`: as that it takes the place of the process, without any of its clean-up."""
    helper, execute = os.getpid(), os.execvpe

    def report(file: str, args: Sequence[str], env: Mapping[str, str]) -> NoReturn:
        if os.getpid() != helper:
            # A step of the preparation has forked, such as by `os.spawnvpe`, and means what it says.
            execute(file, [*args], env)
        command = [file, *args[1:]]
        document = json.dumps([command, str(Path.cwd()), dict(env)])
        data = memoryview(document.encode() + b"\n")
        while data:
            data = data[os.write(writing, data) :]
        os._exit(0)

    return report


def _read_all(reading: int, helper: int) -> bytes:
    """What a helper reports before it ends, whoever else has inherited its descriptor."""
    ended = os.pidfd_open(helper)
    said = b""
    try:
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([reading, ended], [], [])
            if reading not in readable:
                break
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            said += chunk
    finally:
        os.close(ended)
    return said


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent."""
    library: Any = ctypes.CDLL(None)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _end_like(status: int) -> NoReturn:
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status not in {signal.SIGKILL, signal.SIGSTOP} else None
        os.kill(os.getpid(), -status)
    # The helper has done what is to be done at the end of a process.
    os._exit(status)
