"""The start of a process, and what is said when it cannot be started."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trioworker.infrastructure.protocol import InfrastructureError, InfrastructureFullError
from trioworker.process_group import ProcessGroup

__all__ = ["machine_errors_explained", "start_process"]

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


async def start_process(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, stream_output: bool
) -> ProcessGroup:
    """Start a program as the leader of a process group.

    It inherits the worker's standard output, so that what it writes does not depend on the worker's life, nor the
    worker's memory on what it writes.

    Args:
        command: the program and its arguments.
        environment: its whole environment.
        directory: where it starts.
        stream_output: whether it writes to the worker's standard output and error, or nowhere.

    Raises:
        InfrastructureFullError: there is no room for it just now.
        InfrastructureError: it cannot be started.
    """
    output = None if stream_output else subprocess.DEVNULL
    try:
        with machine_errors_explained(f"command {command[0]!r} could not be started"):
            return await ProcessGroup.start(
                command, env=environment, cwd=directory, stdout=output, stderr=output
            )
    except InfrastructureFullError:
        raise
    except InfrastructureError as error:
        plainer = _why_not_started(command[0], environment, directory, error.__cause__)
        if plainer is None:
            raise
        raise InfrastructureError(plainer) from error.__cause__
    except ValueError as error:
        raise InfrastructureError(f"command {command[0]!r} could not be started: {error}") from error


def _why_not_started(
    program: str, environment: Mapping[str, str], directory: Path, error: BaseException | None
) -> str | None:
    # The system names the directory and the program by the same error number.
    if not directory.is_dir():
        return f"working directory {str(directory)!r} does not exist"
    if isinstance(error, FileNotFoundError):
        return f"command {program!r} was not found; the run's PATH is {environment.get('PATH', '')!r}"
    if isinstance(error, PermissionError):
        return f"command {program!r} may not be executed: check its permissions"
    return None


def _full(error: OSError) -> InfrastructureFullError | None:
    """What the error means for a run, if it is a matter of room."""
    if error.errno not in _NO_ROOM:
        return None
    return InfrastructureFullError(f"no process can be started just now: {error.strerror}")
