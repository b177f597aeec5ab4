"""What many runs leave behind of descriptors, processes, threads, files and memory: nothing, however they ended."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from process_support import (
    assignment,
    descriptors,
    infrastructure,
    python,
    resident_memory,
    run_in_workspace,
    temporary_directories,
)
from template_support import children

from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.protocol import InfrastructureError

pytestmark = pytest.mark.process

RUNS: Final = 200
AT_A_TIME: Final = 10

# Of what is kept for good there is nothing, but memory comes in pages, and is not given back at once.
MEMORY: Final = 5 * 2**20

ENDS: Final[tuple[dict[str, Any], ...]] = (
    {"command": python("pass")},
    {"command": python("raise SystemExit(3)")},
    {"command": python("import os; os.kill(os.getpid(), 9)")},
    {"command": python("import subprocess, sys; subprocess.Popen(['sleep', '600']); sys.exit(1)")},
    {"command": python("import os; open('left', 'w').write('x' * 2**20); os.mkdir('behind')")},
    {"command": "no-such-program"},
    {"command": "true", "working_dir": "/nowhere"},
    # These are cancelled.
    {"command": python("import time; time.sleep(600)"), "name": "cancelled"},
)


@attrs.frozen
class Left:
    """What there is of a process that others might miss."""

    descriptors: list[str]
    children: set[int]
    temporary: set[str]

    @classmethod
    def in_(cls, directory: Path) -> Left:
        gc.collect()
        return cls(descriptors(os.getpid()), children(), temporary_directories(directory))


async def execute(where: ProcessInfrastructure, configuration: dict[str, Any]) -> None:
    # Of the one that is cancelled it need not be certain how far it has come: at any moment nothing is left.
    patience = 0.1 if configuration.get("name") == "cancelled" else 60
    with trio.move_on_after(patience):
        try:
            await run_in_workspace(where, assignment({"stream_output": False, **configuration}))
        except InfrastructureError:
            assert configuration["command"] in {"no-such-program", "true"}


async def execute_many(where: ProcessInfrastructure, configurations: Iterator[dict[str, Any]]) -> None:
    async def keep_executing() -> None:
        for configuration in configurations:
            await execute(where, configuration)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(keep_executing)


async def test_many_runs_leave_nothing_however_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    where = infrastructure(tmp_path, kill_grace=0.1)
    # For what is made on first use, and kept.
    await execute_many(where, islice(cycle(ENDS), 2 * AT_A_TIME))
    before, memory = Left.in_(tmp_path), resident_memory()
    assert before.temporary == set()
    await execute_many(where, islice(cycle(ENDS), RUNS))
    assert Left.in_(tmp_path) == before
    assert resident_memory() - memory < MEMORY
