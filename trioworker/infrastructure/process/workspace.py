"""The directories of a run: where it works, and where the worker keeps what concerns the run alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs
import trio

from trioworker.infrastructure.process.start import machine_errors_explained

__all__ = ["Workspace", "open_directories", "write_private"]

# How many seconds the removal of temporary directories is waited for.
_CLEAR_UP: Final = 0.5


@attrs.frozen(kw_only=True)
class Workspace:
    """The directories of a run.

    Attributes:
        root: where its process starts.
        private: for files of the worker about this run; nobody else may read it.
        manifest: where Prefect's workspace supervisor says what it has prepared; None if it has no part in the run.
    """

    root: Path
    private: Path
    manifest: Path | None = None


@asynccontextmanager
async def open_directories(working_directory: Path | None) -> AsyncIterator[Workspace]:
    """Make the directories of a run, and remove what was made.

    Args:
        working_directory: what was asked for, which is neither made nor removed; None for a temporary one.

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
        # Mostly a matter of milliseconds. A large one goes on being removed when nobody waits any more: there is
        # something to be said about the run first. Without a thread it is removed by the garbage collector.
        with trio.move_on_after(_CLEAR_UP, shield=cut_off), suppress(RuntimeError):
            await trio.to_thread.run_sync(  # noqa: ASYNC102 - shielded where it matters
                _remove, temporary, abandon_on_cancel=True
            )


def write_private(path: Path, text: str) -> None:
    """Write a new file that only this user may read.

    Raises:
        OSError: it cannot be written, or is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _make(working_directory: Path | None) -> tuple[Workspace, list[TemporaryDirectory[str]]]:
    # Named as by Prefect, so that people and their cleaners know them.
    private = TemporaryDirectory(prefix="prefect-workspace-attempt-", ignore_cleanup_errors=True)
    made = [private]
    if working_directory is None:
        try:
            made.append(TemporaryDirectory(suffix="prefect", ignore_cleanup_errors=True))
        except BaseException:
            private.cleanup()
            raise
        working_directory = Path(made[1].name)
    # Prefect's child and its worker compare paths: both go by the real one.
    return Workspace(root=working_directory.resolve(), private=Path(private.name).resolve()), made


def _remove(directories: list[TemporaryDirectory[str]]) -> None:
    for directory in directories:
        directory.cleanup()
