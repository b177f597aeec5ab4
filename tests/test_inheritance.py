"""Runs that an earlier worker has left are brought to their end, whatever that worker had come to."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from inheritance_support import LastingWorld


Clock = trio.testing.MockClock

# Seconds after which what was seen to has been looked at once more.
LONG = 200


@pytest.fixture
async def world(tmp_path: Path) -> LastingWorld:
    return LastingWorld(tmp_path)


async def test_run_whose_place_the_server_knows_is_crashed_when_its_process_is_gone(
    autojump_clock: Clock, world: LastingWorld
) -> None:
    run = await world.left("Running", place="4711")
    async with world.working():
        await world.api.wait_for_state(run.id, "Crashed")
