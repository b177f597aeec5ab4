"""Flows that a worker has read are remembered for a minute."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing
from flow_support import Stage
from support import World

from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import Flow
from trioworker.runs.flow_memory import FlowMemory

Clock = trio.testing.MockClock


class Library:
    """Reads flows, and counts how often."""

    def __init__(self) -> None:
        self.reads = 0

    async def read(self) -> Flow:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return Flow(id=uuid4(), name=f"read {self.reads}")


async def test_flow_is_read_once_a_minute(autojump_clock: Clock) -> None:
    memory, library, flow_id = FlowMemory(), Library(), uuid4()
    first = await memory.get(flow_id, library.read)
    await trio.sleep(59)
    assert await memory.get(flow_id, library.read) is first
    await trio.sleep(1)
    assert (await memory.get(flow_id, library.read)).name == "read 2"


async def test_flows_are_told_apart() -> None:
    memory, library = FlowMemory(), Library()
    one, other = uuid4(), uuid4()
    await memory.get(one, library.read)
    assert (await memory.get(other, library.read)).name == "read 2"
    assert (await memory.get(one, library.read)).name == "read 1"


async def test_failure_is_not_remembered() -> None:
    memory, library, flow_id = FlowMemory(), Library(), uuid4()

    async def fail() -> Flow:
        await trio.lowlevel.checkpoint()
        raise APIUnavailableError("away")

    with pytest.raises(APIUnavailableError):
        await memory.get(flow_id, fail)
    assert (await memory.get(flow_id, library.read)).name == "read 1"


async def test_any_number_of_flows_takes_bounded_room() -> None:
    memory, library = FlowMemory(), Library()
    for _ in range(2500):
        await memory.get(uuid4(), library.read)
    assert len(memory) <= 1000


async def test_functions_are_run_with_few_requests(autojump_clock: Clock, tmp_path: Path) -> None:
    """What a run that is called costs the server: nothing is asked that is known already."""
    stage = Stage(World(tmp_path))

    @stage.app.flow()
    async def work() -> None: ...

    await stage.finish(stage.schedule())
    before = len(stage.world.api.calls)
    runs = [stage.schedule() for _ in range(10)]
    await stage.finish(*runs)
    about_runs = {
        "read_deployment",
        "read_flow",
        "read_flow_run",
        "read_flow_run_states",
        "set_flow_run_state",
        "set_infrastructure_pid",
        "update_flow_run_policy",
        "update_flow_run_labels",
    }
    made = [call.method for call in stage.world.api.calls[before:] if call.method in about_runs]
    # Of another worker, so the flow is read once more.
    assert made.count("read_flow") == 1
    assert len(made) == 1 + 10 * 7
