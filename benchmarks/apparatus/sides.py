"""The two workers that are compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import attrs

from trioworker.testing.server import without_settings

SideName = Literal["prefect", "trioworker"]

PREFECT: Final = "prefect"
TRIOWORKER: Final = "trioworker"
SIDES: Final[tuple[SideName, SideName]] = (PREFECT, TRIOWORKER)

_COMMANDS: Final = {PREFECT: ("prefect", "worker", "start"), TRIOWORKER: ("trioworker", "start")}


@attrs.frozen
class Side:
    """A worker, as its users have it.

    Attributes:
        name: whose it is.
        python: the interpreter of its environment, in which the flows run too.
        directory: where its files are; its home directory, and the one it is started in.
        pool: the work pool that it serves.
    """

    name: SideName
    python: Path
    directory: Path
    pool: str

    def command(self, *options: str) -> list[str]:
        """The command line of the worker: the one that its installation has put beside the interpreter."""
        program, *words = _COMMANDS[self.name]
        return [str(self.python.with_name(program)), *words, "--pool", self.pool, *options]

    def environment(self, api: str, **settings: str) -> dict[str, str]:
        """The environment of the worker: all settings are defaults, but where the API is, and what is asked for."""
        return own_environment(self.directory) | {"PREFECT_API_URL": api} | settings


def own_environment(directory: Path) -> dict[str, str]:
    """An environment without anybody's settings, at home in a directory of ours.

    Python's own are left out, too: one that writes no bytecode compiles everything anew at each start.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return without_settings(kept) | {
        "HOME": str(directory),
        "PREFECT_HOME": str(directory / "prefect"),
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
