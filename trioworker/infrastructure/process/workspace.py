"""The directories of a run: where it works, and where the worker keeps what concerns the run alone."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio

from trioworker.infrastructure.process.start import machine_errors_explained
from trioworker.lean_attrs import frozen

__all__ = ["Workspace", "open_directories", "write_private"]

_logger = logging.getLogger(__name__)

_STAY: Final = "Not all of %s, of a flow run that is over, could be removed; please remove it"

_MAY_STAY: Final = (
    "%s, of a flow run that is over, could not be removed in time. It is still being removed, but what is left when"
    " the worker ends stays; please remove it then"
)

# Named as by Prefect, so that people and their cleaners know them.
_PRIVATE: Final = "prefect-workspace-attempt-"
_TEMPORARY: Final = "prefect"

_CLEAR_UP: Final = 0.5
"""Seconds that the removal of temporary directories is waited for when a run is cut off."""


@frozen(kw_only=True)
class Workspace:
    """The directories of a run.

    Attributes:
        root: where its process starts.
        private: for files of the worker about this run; nobody else may read it.
        temporary: whether the directory where it starts was made for the run.
        manifest: where Prefect's workspace supervisor says what it has prepared; None if it has no part in the run.
    """

    root: Path
    private: Path
    temporary: bool = False
    manifest: Path | None = None


@asynccontextmanager
async def open_directories(
    working_directory: Path | None, *, left: Callable[[], bool] = lambda: False
) -> AsyncIterator[Workspace]:
    """Make the directories of a run, and remove what was made.

    The removal is waited for, since a worker may end as soon as its last run has. When a run is cut off, that is for
    half a second: there is something to be said about the run first. The removal goes on after that for as long as
    the worker lives; since it may end before, a warning then names what is not gone yet.

    Args:
        working_directory: what was asked for, which is neither made nor removed; None for a temporary one.
        left: whether the run goes on after the block, so that everything stays.

    Raises:
        InfrastructureFullError: there is no room for them just now.
        InfrastructureError: they cannot be made.
    """
    with machine_errors_explained("no temporary directory can be made"):
        workspace, temporary = await trio.to_thread.run_sync(_make, working_directory)
    cut_off = True
    try:
        yield workspace
        cut_off = False
    finally:
        if left():
            _keep(temporary)
        else:
            await _clear_up(temporary, _CLEAR_UP if cut_off else math.inf)  # noqa: ASYNC102 - shielded if cut off


@asynccontextmanager
async def open_left_directories(
    private: Path, temporary: Path | None, *, left: Callable[[], bool]
) -> AsyncIterator[Workspace]:
    """Keep what an earlier worker has left of a run's directories, and remove it with the end of the block.

    What is not named like one of them stays, whatever somebody may have written down.

    Args:
        private: the worker's own; it may be gone.
        temporary: where the run works, if that was made for it.
        left: whether the run goes on after the block, so that everything stays.
    """
    made = [_existing(path) for path in _left(private, temporary)]
    cut_off = True
    try:
        yield Workspace(root=temporary or private, private=private, temporary=temporary is not None)
        cut_off = False
    finally:
        if left():
            _keep(made)
        else:
            await _clear_up(made, _CLEAR_UP if cut_off else math.inf)  # noqa: ASYNC102 - shielded if cut off


def _left(private: Path, temporary: Path | None) -> Iterator[Path]:
    """Which directories are there, and to be removed."""
    if private.name.startswith(_PRIVATE) and private.is_dir():
        yield private
    if temporary is not None and temporary.name.endswith(_TEMPORARY) and temporary.is_dir():
        yield temporary


def _existing(path: Path) -> TemporaryDirectory[str]:
    """A directory that is there already, to be removed as a temporary one."""
    # One that is made anew, and then stands for the other.
    directory = TemporaryDirectory(ignore_cleanup_errors=True)
    directory.cleanup()
    directory.name = str(path)
    return directory


def _keep(directories: list[TemporaryDirectory[str]]) -> None:
    """See to it that directories are not removed, by the garbage collector either."""
    for directory in directories:
        directory._finalizer.detach()  # type: ignore[attr-defined]  # noqa: SLF001 - `delete=` came with Python 3.12


async def _clear_up(directories: list[TemporaryDirectory[str]], seconds: float) -> None:
    """Remove directories; a time limit makes that independent of a cancellation."""
    ended = False
    try:
        # Without a thread they are removed by the garbage collector.
        with trio.move_on_after(seconds, shield=seconds < math.inf), suppress(RuntimeError):
            await trio.to_thread.run_sync(_remove, directories, abandon_on_cancel=True)
            ended = True
    finally:
        _warn_of_rest(directories, _STAY if ended else _MAY_STAY)


def _warn_of_rest(directories: list[TemporaryDirectory[str]], warning: str) -> None:
    left = [directory.name for directory in directories if os.path.lexists(directory.name)]
    if left:
        _logger.warning(warning, " and ".join(left))


def write_private(path: Path, text: str) -> None:
    """Write a new file that only this user may read.

    Raises:
        OSError: it cannot be written, or is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _make(working_directory: Path | None) -> tuple[Workspace, list[TemporaryDirectory[str]]]:
    private = TemporaryDirectory(prefix=_PRIVATE, ignore_cleanup_errors=True)
    made = [private]
    if working_directory is None:
        try:
            made.append(TemporaryDirectory(suffix=_TEMPORARY, ignore_cleanup_errors=True))
        except BaseException:
            private.cleanup()
            raise
        working_directory = Path(made[1].name)
    # Prefect's child and its worker compare paths: both go by the real one. `Path.resolve` would raise for a link
    # that leads back to itself, of which the run's process is to hear.
    root, own = (Path(os.path.realpath(path)) for path in (working_directory, private.name))
    return Workspace(root=root, private=own, temporary=len(made) > 1), made


def _remove(directories: list[TemporaryDirectory[str]]) -> None:
    for directory in directories:
        directory.cleanup()
