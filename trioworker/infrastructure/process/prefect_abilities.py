"""What the Prefect of an interpreter can do, found out without importing it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import trio

from trioworker.infrastructure.process.start import machine_errors_explained
from trioworker.infrastructure.protocol import InfrastructureError
from trioworker.process_group import ProcessGroup

__all__ = ["has_workspace_supervisor"]

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

# Of what an interpreter writes, this much is looked at.
_LAST_BYTES: Final = 500


async def has_workspace_supervisor(
    python: str,
    environment: Mapping[str, str],
    directory: Path,
    *,
    owned: Callable[[ProcessGroup], AbstractAsyncContextManager[None]],
) -> bool:
    """Whether the Prefect of an interpreter prepares workspaces itself, as current versions do.

    Args:
        python: the interpreter, as `find_interpreter` names it.
        environment: for another interpreter than this one.
        directory: where another interpreter is started, and leaves what it says.
        owned: sees to it that the process of another interpreter ends with a block, however that ends.

    Raises:
        InfrastructureFullError: there is no room to find out just now.
        InfrastructureError: the interpreter does not work, or has no Prefect.
    """
    with machine_errors_explained(f"the interpreter {python!r} cannot be used"):
        if python == sys.executable:
            return await trio.to_thread.run_sync(_look_here)
        answer = await _ask(python, environment, directory, owned)
    if answer == "none":
        raise InfrastructureError(
            f"the interpreter {python!r} has no Prefect: install it there, or set TRIOWORKER_PYTHON to another"
        )
    return answer == "supervisor"


def _look_here() -> bool:
    spec = importlib.util.find_spec("prefect")
    places = spec.submodule_search_locations or [] if spec is not None else []
    return any(Path(place, "runner", "_workspace_supervisor.py").is_file() for place in places)


async def _ask(
    python: str,
    environment: Mapping[str, str],
    directory: Path,
    owned: Callable[[ProcessGroup], AbstractAsyncContextManager[None]],
) -> str:
    answer, complaint = directory / "interpreter-answer.txt", directory / "interpreter-complaint.txt"
    with trio.move_on_after(_ANSWER_TIME):
        group = await _start(python, environment, directory, answer, complaint)
        async with owned(group):
            status = await group.wait()
        # Before that, there may be the words of whatever else is run at the start of this interpreter.
        _, _, said = (await trio.to_thread.run_sync(_last_words, answer)).rpartition("\n")
        if status == 0 and said in {"none", "engine", "supervisor"}:
            return said
        trouble = await trio.to_thread.run_sync(_last_words, complaint) or f"it said {said!r}"
        raise InfrastructureError(
            f"the interpreter {python!r} does not work (exit status {status}): {trouble}"
        )
    raise InfrastructureError(f"the interpreter {python!r} did not answer within {_ANSWER_TIME:g} s")


async def _start(
    python: str, environment: Mapping[str, str], directory: Path, answer: Path, complaint: Path
) -> ProcessGroup:
    # Files, since nobody need read them while it goes on.
    with answer.open("xb") as stdout, complaint.open("xb") as stderr:
        return await ProcessGroup.start(
            [python, "-c", _LOOK], env=environment, cwd=directory, stdout=stdout, stderr=stderr
        )


def _last_words(file: Path) -> str:
    """The end of what was written to a file, without the white space around it."""
    with file.open("rb") as opened:
        opened.seek(-min(_LAST_BYTES, opened.seek(0, os.SEEK_END)), os.SEEK_END)
        return opened.read().decode(errors="replace").strip()
