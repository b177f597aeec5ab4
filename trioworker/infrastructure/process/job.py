"""The job configuration of a process, checked as strictly as Prefect checks it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import attrs

from trioworker.infrastructure.process.start import Origin
from trioworker.infrastructure.process.workspace import Workspace
from trioworker.infrastructure.protocol import (
    InfrastructureError,
    NoteTrace,
    ShutdownPolicy,
    always_crash,
    note_nothing,
)
from trioworker.job.json_types import type_name
from trioworker.lean_attrs import frozen

__all__ = ["PrefectModule", "ProcessConfiguration", "ProcessJob", "origin_of", "read_configuration"]

_TRUE: Final = {"true", "1", "yes", "on", "t", "y"}
_FALSE: Final = {"false", "0", "no", "off", "f", "n"}

_NOT_OPENED: Final = "this job has no workspace yet: use the job that `open_workspace` yields"


@frozen(kw_only=True)
class ProcessConfiguration:
    """A job configuration in which everything is what it should be.

    Attributes:
        command: the program and its arguments; None to run the flow by Prefect's own means.
        env: what to set in the environment; a null takes away what Prefect would set.
        working_directory: absolute; None for a temporary one.
        stream_output: whether the process writes to the worker's standard output and error, or nowhere.
    """

    command: tuple[str, ...] | None = attrs.field(repr=False)
    env: Mapping[str, str | None] = attrs.field(repr=False)
    working_directory: Path | None
    stream_output: bool


@frozen
class PrefectModule:
    """A module of Prefect that executes a flow run, as `python -m` does.

    Attributes:
        name: of the module.
        arguments: of that.
    """

    name: str
    arguments: tuple[str, ...] = ()

    def command(self, python: str) -> tuple[str, ...]:
        """The command that executes it in an interpreter."""
        return (python, "-m", self.name, *self.arguments)


@frozen(kw_only=True)
class ProcessJob:
    """What is needed to start the process of a run.

    Attributes:
        flow_run_id: which run.
        command: the program and its arguments; None to run the flow by Prefect's own means.
        module: what Prefect's own means are, once that is known; None if they are not asked for.
        environment: the whole environment of the process, but for what its control channel adds.
        origin: where its program and directory come from.
        working_directory: where it starts; None for a temporary directory.
        stream_output: whether it writes to the worker's standard output and error, or nowhere.
        workspace: its directories, once they are there.
        note_trace: takes down by which the process can be found later.
        shutdown_policy: what to do about the process if the worker's end cuts it off.
    """

    flow_run_id: UUID
    command: tuple[str, ...] | None = attrs.field(repr=False)
    environment: Mapping[str, str] = attrs.field(repr=False)
    origin: Origin
    working_directory: Path | None
    stream_output: bool
    module: PrefectModule | None = None
    workspace: Workspace | None = None
    note_trace: NoteTrace = attrs.field(default=note_nothing, repr=False)
    shutdown_policy: Callable[[], ShutdownPolicy] = attrs.field(default=always_crash, repr=False)

    @property
    def opened_workspace(self) -> Workspace:
        """The directories of the run.

        Raises:
            ValueError: they have not been made yet.
        """
        if self.workspace is None:
            raise ValueError(_NOT_OPENED)
        return self.workspace

    @property
    def opened_command(self) -> tuple[str, ...]:
        """The program and its arguments, whatever was configured.

        Raises:
            ValueError: what Prefect's own means are in this workspace is not known yet.
        """
        if self.command is None:
            raise ValueError(_NOT_OPENED)
        return self.command


def read_configuration(configuration: Mapping[str, Any]) -> ProcessConfiguration:
    """Check a job configuration. Fields of other kinds of infrastructure are passed over, as Prefect does.

    Raises:
        InfrastructureError: a field is wrong; the message names it.
    """
    # Nothing here goes by these two, but whoever gets them wrong shall hear of it as from Prefect.
    _text_or_none(configuration, "name")
    _labels(configuration)
    command = _text_or_none(configuration, "command")
    directory = _text_or_none(configuration, "working_dir")
    return ProcessConfiguration(
        command=_words(command) if command else None,
        env=_env(configuration),
        working_directory=None if directory is None else _absolute(directory),
        stream_output=_flag(configuration, "stream_output", default=True),
    )


def origin_of(configuration: ProcessConfiguration, python: str) -> Origin:
    """Where the program and the directory of a run come from.

    Args:
        configuration: of the run.
        python: the interpreter, which runs a flow without a command.
    """
    return Origin(
        program=f"the interpreter {python!r}"
        if configuration.command is None
        else "job configuration: the program in command",
        directory="the temporary directory of the run"
        if configuration.working_directory is None
        else "job configuration: working_dir",
    )


def _text_or_none(configuration: Mapping[str, Any], field: str) -> str | None:
    value = configuration.get(field)
    if value is None or isinstance(value, str):
        return value
    raise _wrong(field, f"must be text, not {type_name(value)}")


def _labels(configuration: Mapping[str, Any]) -> None:
    for name, value in _mapping(configuration, "labels").items():
        if not isinstance(value, str):
            raise _wrong(f"labels.{name}", f"must be text, not {type_name(value)}")


def _env(configuration: Mapping[str, Any]) -> dict[str, str | None]:
    env = {
        name: None if value is None else str(value) for name, value in _mapping(configuration, "env").items()
    }
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            # The name is not shown: whoever writes NAME=VALUE there has the value in it.
            raise _wrong("env", "has a name that is empty, or has a = or a null character in it")
        if value is not None and "\0" in value:
            raise _wrong(f"env.{name}", "must not have a null character in it")
    return env


def _mapping(configuration: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = configuration.get(field, {})
    if not isinstance(value, Mapping):
        raise _wrong(field, f"must be a mapping, not {type_name(value)}")
    for name in value:
        if not isinstance(name, str):
            raise _wrong(field, f"must have text for names, not {type_name(name)}")
    return value


def _flag(configuration: Mapping[str, Any], field: str, *, default: bool) -> bool:
    value = configuration.get(field, default)
    # Numbers other than 0 and 1 are not taken for a truth, but 1.0 is.
    word = str(int(value) if value in (0, 1) else value).lower()
    if value is not None and word in _TRUE | _FALSE:
        return word in _TRUE
    raise _wrong(field, f"must be true or false, or a word for one of them, not {_other(value)}")


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        # Which quotation is open, shlex does not say.
        raise _wrong("command", f"cannot be split into words: {error}") from error
    if not words:
        raise _wrong("command", "is blank")
    return words


def _absolute(directory: str) -> Path:
    # Prefect expands no ~ here, and to it an empty text is the directory of the worker.
    if "\0" in directory:
        raise _wrong("working_dir", "must not have a null character in it")
    try:
        os.fsencode(directory)
    except UnicodeEncodeError as error:
        raise _wrong("working_dir", "has characters in it that no file name can have") from error
    return Path(directory).absolute()


def _other(value: Any) -> str:
    kind = type_name(value)
    return f"another {kind.removeprefix('a ')}" if isinstance(value, str | int | float) else kind


def _wrong(field: str, problem: str) -> InfrastructureError:
    # Fields are named, values are not shown: any of them may come from a secret block, and this is written into the
    # run's state and logs, where more people read than may read the block.
    return InfrastructureError(f"job configuration: {field} {problem}")
