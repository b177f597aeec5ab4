"""Which Python runs the flows: the one that has Prefect, which is not always the worker's own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from trioworker.errors import ConfigurationError
from trioworker.infrastructure.process.start import machine_errors_explained
from trioworker.infrastructure.protocol import InfrastructureError

__all__ = ["find_interpreter", "has_workspace_supervisor", "installed_prefect_version"]

# Run by another interpreter, to learn what Prefect it has without importing it.
_LOOK: Final = """
import importlib.util, os.path
spec = importlib.util.find_spec("prefect")
places = spec.submodule_search_locations or [] if spec else []
files = [os.path.join(place, "runner", "_workspace_supervisor.py") for place in places]
print("none" if spec is None else "supervisor" if any(map(os.path.isfile, files)) else "engine")
"""

# Seconds within which an interpreter that works at all has answered, on a machine that has much else to do.
_ANSWER_TIME: Final = 60.0


def find_interpreter(configured: str | None) -> str:
    """The interpreter that flows run in.

    Args:
        configured: `TRIOWORKER_PYTHON`: a path, or a program on the PATH.

    Raises:
        ConfigurationError: the configured one does not exist, or none is configured and this one has no Prefect.
    """
    if configured:
        found = shutil.which(configured)
        if found is None:
            raise ConfigurationError(
                f"TRIOWORKER_PYTHON is {configured!r}, which is not a program that can be executed."
            )
        # Not resolved: a virtual environment's interpreter is a link that must be called by its own name.
        return str(Path(found).absolute())
    # Found, not imported: the worker itself has no use for Prefect.
    if importlib.util.find_spec("prefect") is None:
        raise ConfigurationError(
            "No interpreter to run flows in: Prefect is not installed beside trioworker."
            " Install it here (pip install 'trioworker[local]'), or set TRIOWORKER_PYTHON to a Python that has it."
        )
    return sys.executable


def installed_prefect_version() -> str | None:
    """The version of Prefect beside the worker, read without importing it; None if there is none."""
    try:
        return importlib.metadata.version("prefect")
    except importlib.metadata.PackageNotFoundError:
        return None


async def has_workspace_supervisor(python: str, environment: Mapping[str, str], directory: Path) -> bool:
    """Whether the Prefect of an interpreter prepares workspaces itself, as current versions do.

    Args:
        python: the interpreter, as `find_interpreter` names it.
        environment: for another interpreter than this one.
        directory: where another interpreter is started.

    Raises:
        InfrastructureFullError: there is no room to find out just now.
        InfrastructureError: the interpreter does not work, or has no Prefect.
    """
    with machine_errors_explained(f"the interpreter {python!r} cannot be used"):
        if python == sys.executable:
            return await trio.to_thread.run_sync(_look_here)
        answer = await _ask(python, environment, directory)
    if answer == "none":
        raise InfrastructureError(
            f"the interpreter {python!r} has no Prefect: install it there, or set TRIOWORKER_PYTHON to another"
        )
    return answer == "supervisor"


def _look_here() -> bool:
    spec = importlib.util.find_spec("prefect")
    places = spec.submodule_search_locations or [] if spec is not None else []
    return any(Path(place, "runner", "_workspace_supervisor.py").is_file() for place in places)


async def _ask(python: str, environment: Mapping[str, str], directory: Path) -> str:
    with trio.move_on_after(_ANSWER_TIME):
        answer = await trio.run_process(
            [python, "-c", _LOOK],
            env=dict(environment),
            cwd=directory,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            # Ctrl-C is for the worker alone.
            start_new_session=True,
        )
        # Before that, there may be the words of whatever else is run at the start of this interpreter.
        _, _, said = answer.stdout.decode(errors="replace").rstrip().rpartition("\n")
        if answer.returncode == 0 and said in {"none", "engine", "supervisor"}:
            return said
        trouble = answer.stderr.decode(errors="replace").strip()[-500:] or f"it said {said!r}"
        raise InfrastructureError(
            f"the interpreter {python!r} does not work (exit status {answer.returncode}): {trouble}"
        )
    raise InfrastructureError(f"the interpreter {python!r} did not answer within {_ANSWER_TIME:g} s")
