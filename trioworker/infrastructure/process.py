"""Flow runs as processes on this machine."""

from __future__ import annotations

import errno
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
import trio

from trioworker.infrastructure.exit_status import exit_message
from trioworker.infrastructure.interpreter import find_interpreter
from trioworker.infrastructure.protocol import (
    Assignment,
    Gone,
    InfrastructureError,
    InfrastructureFullError,
    Outcome,
    Running,
)
from trioworker.process_group import ProcessGroup
from trioworker.settings import Settings

# What a machine says that has too many processes, open files or too little memory.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}

# On top of the grace: what the kernel may need to take down a group that was killed.
_KILL_MARGIN = 10.0

# How long the removal of a temporary directory is waited for.
_CLEAR_UP = 0.5


@attrs.frozen(kw_only=True)
class ProcessJob:
    """What is needed to start the process of a run.

    Attributes:
        command: the program and its arguments.
        environment: the whole environment of the process.
        working_directory: where it starts; None for a directory of its own, removed afterwards.
        stream_output: whether it writes to the worker's standard output and error, or nowhere.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = attrs.field(repr=False)
    working_directory: Path | None
    stream_output: bool


@attrs.define(eq=False)
class _RunningProcess:
    group: ProcessGroup
    kill_requested: bool = False
    killed: trio.Event = attrs.field(factory=trio.Event)


class ProcessInfrastructure:
    """Runs each flow run as the leader of a process group of its own.

    The process inherits the worker's standard output, so what it writes does not depend on the worker's life.

    Args:
        settings: where the interpreter and the environment come from.
        kill_grace: seconds between SIGTERM and SIGKILL for a run that is cut off.

    Raises:
        ConfigurationError: no interpreter with Prefect was found.
    """

    type: ClassVar[str] = "process"

    def __init__(self, settings: Settings, kill_grace: float) -> None:
        self._settings = settings
        self._kill_grace = kill_grace
        self._python = find_interpreter(settings.python)
        self._running: dict[str, _RunningProcess] = {}

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """The template of Prefect's own process worker."""
        return DEFAULT_BASE_JOB_TEMPLATE

    def prepare(self, assignment: Assignment) -> ProcessJob:
        """See `Infrastructure.prepare`."""
        configuration = assignment.configuration
        command = _text(configuration, "command")
        directory = _text(configuration, "working_dir")
        return ProcessJob(
            command=_split(command) if command else (self._python, "-m", "prefect.engine"),
            environment=self._environment(assignment),
            working_directory=_absolute(directory) if directory else None,
            stream_output=_flag(configuration, "stream_output", default=True),
        )

    def _environment(self, assignment: Assignment) -> dict[str, str]:
        environment = {
            **self._settings.environment,
            **self._settings.environment_for_runs(),
            **assignment.environment,
        }
        configured = assignment.configuration.get("env") or {}
        if not isinstance(configured, Mapping):
            raise InfrastructureError(f"job configuration: env must be a mapping, not {configured!r}")
        # As in Prefect, a null sets nothing and takes nothing away.
        set_values = {name: str(value) for name, value in configured.items() if value is not None}
        return {**environment, **set_values}

    async def run(
        self, job: ProcessJob, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """See `Infrastructure.run`; the identifier is the process id."""
        async with _working_directory(job.working_directory) as directory:
            running = _RunningProcess(await _start(job, directory))
            identifier = str(running.group.pid)
            self._running[identifier] = running
            try:
                task_status.started(identifier)
                status = await running.group.wait()
                if running.kill_requested:
                    # The process is gone, but what it started may have to be killed yet.
                    await running.killed.wait()
                elif status != 0:
                    # A run that failed may be run again soon; nothing of it shall be around then.
                    await running.group.terminate(self._kill_grace)
            except BaseException:
                with trio.move_on_after(self._kill_grace + _KILL_MARGIN, shield=True):
                    await running.group.terminate(self._kill_grace)
                raise
            finally:
                del self._running[identifier]
            running.group.release()
        return Outcome(status_code=status, message=exit_message(status))

    async def kill(self, identifier: str, grace: float) -> None:
        """See `Infrastructure.kill`."""
        running = self._running.get(identifier)
        if running is None:
            return
        running.kill_requested = True
        try:
            # Shielded, since a cancellation would cut the grace to nothing. When the whole worker is stopped, `run`
            # cuts it to what is right for that.
            with trio.move_on_after(grace + _KILL_MARGIN, shield=True):
                await running.group.terminate(grace)
        finally:
            running.killed.set()

    def kill_now(self) -> None:
        """See `Infrastructure.kill_now`."""
        for running in self._running.values():
            # Of one that somebody else has reaped there is nothing to kill.
            with suppress(ChildProcessError):
                running.group.kill()

    async def find(self, identifier: str) -> Running | Gone:
        """See `Infrastructure.find`."""
        await trio.lowlevel.checkpoint()
        return Running() if identifier in self._running else Gone()


async def _start(job: ProcessJob, directory: Path) -> ProcessGroup:
    output = None if job.stream_output else subprocess.DEVNULL
    try:
        return await ProcessGroup.start(
            job.command, env=job.environment, cwd=directory, stdout=output, stderr=output
        )
    except OSError as error:
        raise _full(error) or InfrastructureError(_why_not_started(job, directory, error)) from error
    except ValueError as error:
        raise InfrastructureError(f"command {job.command[0]!r} could not be started: {error}") from error
    except RuntimeError as error:
        raise InfrastructureFullError(f"no thread can be started just now: {error}") from error


def _why_not_started(job: ProcessJob, directory: Path, error: OSError) -> str:
    # The system names the directory and the program by the same error number.
    if not directory.is_dir():
        return f"working directory {str(directory)!r} does not exist"
    program = job.command[0]
    if isinstance(error, FileNotFoundError):
        return f"command {program!r} was not found; the run's PATH is {job.environment.get('PATH', '')!r}"
    if isinstance(error, PermissionError):
        return f"command {program!r} may not be executed: check its permissions"
    return f"command {program!r} could not be started: {error}"


@asynccontextmanager
async def _working_directory(configured: Path | None) -> AsyncIterator[Path]:
    """The directory that was asked for, or one that lives as long as the run."""
    if configured is not None:
        yield configured
        return
    directory = await _make_temporary_directory()
    cut_off = True
    try:
        yield directory
        cut_off = False
    finally:
        # Mostly a matter of milliseconds. A large one goes on being removed when nobody waits any more: there is
        # something to be said about the run first.
        with trio.move_on_after(_CLEAR_UP, shield=cut_off):
            await trio.to_thread.run_sync(  # noqa: ASYNC102 - shielded where it matters
                partial(shutil.rmtree, directory, ignore_errors=True), abandon_on_cancel=True
            )


async def _make_temporary_directory() -> Path:
    try:
        return Path(await trio.to_thread.run_sync(partial(tempfile.mkdtemp, suffix="prefect")))
    except OSError as error:
        raise _full(error) or InfrastructureError(f"no temporary directory: {error}") from error
    except RuntimeError as error:
        raise InfrastructureFullError(f"no thread can be started just now: {error}") from error


def _full(error: OSError) -> InfrastructureFullError | None:
    """What the error means for a run, if it is a matter of room."""
    if error.errno not in _NO_ROOM:
        return None
    return InfrastructureFullError(f"no process can be started just now: {error.strerror}")


def _text(configuration: Mapping[str, Any], field: str) -> str | None:
    value = configuration.get(field)
    if value is None or isinstance(value, str):
        return value
    raise InfrastructureError(f"job configuration: {field} must be text, not {value!r}")


def _flag(configuration: Mapping[str, Any], field: str, *, default: bool) -> bool:
    value = configuration.get(field, default)
    word = str(value).lower()
    if word in {"true", "1", "yes", "on", "t", "y"}:
        return True
    if word in {"false", "0", "no", "off", "f", "n"}:
        return False
    if value is None:
        return default
    raise InfrastructureError(f"job configuration: {field} must be true or false, not {value!r}")


def _split(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise InfrastructureError(f"job configuration: command {command!r}: {error}") from error
    if not words:
        raise InfrastructureError("job configuration: command is blank")
    return words


def _absolute(directory: str) -> Path:
    try:
        path = Path(directory).expanduser()
    except RuntimeError as error:
        raise InfrastructureError(f"job configuration: working_dir {directory!r}: {error}") from error
    return path.absolute()


def _nullable_text(title: str, description: str, **more: str) -> dict[str, Any]:
    return {
        "anyOf": [{"type": "string", **more}, {"type": "null"}],
        "default": None,
        "description": description,
        "title": title,
    }


DEFAULT_BASE_JOB_TEMPLATE: Mapping[str, Any] = {
    "job_configuration": {
        name: f"{{{{ {name} }}}}"
        for name in ("command", "env", "labels", "name", "stream_output", "working_dir")
    },
    "variables": {
        "type": "object",
        "properties": {
            "name": _nullable_text("Name", "Name of the run's infrastructure."),
            "env": {
                "type": "object",
                "title": "Environment Variables",
                "description": "Environment variables of the flow run's process.",
                "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "labels": {
                "type": "object",
                "title": "Labels",
                "description": "Labels of the run's infrastructure.",
                "additionalProperties": {"type": "string"},
            },
            "command": _nullable_text(
                "Command", "What starts the flow run. Leave it empty for Prefect's engine."
            ),
            "stream_output": {
                "type": "boolean",
                "default": True,
                "title": "Stream Output",
                "description": "Whether the flow run writes to the worker's standard output, or nowhere.",
            },
            "working_dir": _nullable_text(
                "Working Directory",
                "Where the flow run's process starts. Leave it empty for a temporary directory.",
                format="path",
            ),
        },
    },
}
