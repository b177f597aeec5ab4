"""The start of a process, and what is said when it cannot be started."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError
from trioworker.lean_attrs import frozen
from trioworker.process_group import ProcessGroup

__all__ = ["Origin", "group_errors_explained", "machine_errors_explained", "start_process"]

# What a machine says that has too many processes, open files or too little memory.
_NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}


@contextmanager
def machine_errors_explained(failure: str) -> Iterator[None]:
    """Turn what the machine refuses into an `InfrastructureError`, or an `InfrastructureFullError` for want of room.

    Args:
        failure: the beginning of the message.
    """
    try:
        yield
    except OSError as error:
        raise _full(error) or InfrastructureError(f"{failure}: {error}") from error
    except RuntimeError as error:
        # Everything of the kind is done in a thread.
        raise InfrastructureFullError(f"no thread can be started just now: {error}") from error


@contextmanager
def group_errors_explained() -> Iterator[None]:
    """Turn what keeps a process from being waited for or ended into an `InfrastructureError`."""
    try:
        yield
    except OSError as error:
        raise InfrastructureError(error.strerror or str(error)) from error


@frozen(kw_only=True)
class Origin:
    """Where the parts of a command come from, as the subjects of sentences.

    These are named when it cannot be started, in place of what they hold. A program, its path or a directory may be
    the product of a placeholder for a secret block, which nobody can tell from the text, nor which of its parts;
    the message becomes that of a state, which more people read than may read the block. Who may correct the field
    can look at it.

    Attributes:
        program: of the first word of the command.
        directory: of the directory.
    """

    program: str
    directory: str


async def start_process(
    command: Sequence[str],
    *,
    origin: Origin,
    environment: Mapping[str, str],
    directory: Path,
    stream_output: bool,
) -> ProcessGroup:
    """Start a program as the leader of a process group.

    It inherits the worker's standard output, so that what it writes does not depend on the worker's life, nor the
    worker's memory on what it writes.

    Args:
        command: the program and its arguments.
        origin: named if it cannot be started.
        environment: its whole environment.
        directory: where it starts.
        stream_output: whether it writes to the worker's standard output and error, or nowhere.

    Raises:
        InfrastructureFullError: there is no room for it just now.
        InfrastructureError: it cannot be started.
    """
    output = None if stream_output else subprocess.DEVNULL
    try:
        with machine_errors_explained(origin.program):
            return await ProcessGroup.start(
                command, env=environment, cwd=directory, stdout=output, stderr=output
            )
    except InfrastructureFullError:
        raise
    except InfrastructureError as error:
        reason = _why_not_started(command[0], origin, directory, error.__cause__)
        raise InfrastructureError(reason) from error.__cause__
    except ValueError as error:
        # A null character, or one that has no place outside of Python.
        raise InfrastructureError(f"{origin.program} could not be started: {error}") from error


def _why_not_started(program: str, origin: Origin, directory: Path, error: BaseException | None) -> str:
    # The system names the directory and the program by the same error number.
    if not os.path.isdir(directory):  # noqa: PTH112 - that of `Path` raises what it cannot find out
        return f"{origin.directory} does not exist, or may not be entered"
    if isinstance(error, FileNotFoundError):
        return f"{origin.program} was not found: {_where_to_look(program)}"
    if isinstance(error, PermissionError):
        return f"{origin.program} may not be executed: check its permissions"
    # The text of the error itself has the path in it.
    return (
        f"{origin.program} could not be started: {getattr(error, 'strerror', None) or type(error).__name__}"
    )


def _where_to_look(program: str) -> str:
    if os.sep in program:
        return "check its path, and that of the interpreter in its first line if it is a script"
    return "check its name, and the PATH of the run, which is the worker's unless the job configuration's env sets it"


def _full(error: OSError) -> InfrastructureFullError | None:
    """What the error means for a run, if it is a matter of room."""
    if error.errno not in _NO_ROOM:
        return None
    return InfrastructureFullError(f"no process can be started just now: {error.strerror}")
