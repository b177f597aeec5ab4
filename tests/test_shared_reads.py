"""What many runs need is read once for all of them, and not older than they need it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing
from flow_support import Stage
from support import World, settle

from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import Flow
from trioworker.runs.shared_reads import SharedReads

Clock = trio.testing.MockClock

ALWAYS = -math.inf


class Library:
    """Reads flows, and counts how often."""

    def __init__(self) -> None:
        self.reads: int = 0

    async def read(self) -> Flow:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return Flow(id=uuid4(), name=f"read {self.reads}")


async def test_what_was_read_since_is_not_read_again(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), Library(), uuid4()
    await trio.sleep(10)
    first = await memory.get(flow_id, library.read, since=10)
    await trio.sleep(50)
    assert await memory.get(flow_id, library.read, since=10) is first
    assert (await memory.get(flow_id, library.read, since=11)).name == "read 2"
    assert (await memory.get(flow_id, library.read, since=10)).name == "read 2"


async def test_read_in_flight_that_has_begun_too_early_is_not_waited_for(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), SlowLibrary(), uuid4()
    found: dict[float, str] = {}

    async def want(since: float) -> None:
        found[since] = (await memory.get(flow_id, library.read, since=since)).name

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want, 0)
        await trio.sleep(5)
        nursery.start_soon(want, 5)
        await trio.sleep(1)
        nursery.start_soon(want, 4)
    assert trio.current_time() == 15
    assert found == {0: "read 1", 5: "read 2", 4: "read 2"}


async def test_late_answer_takes_no_newer_ones_place(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), Library(), uuid4()

    async def slow() -> Flow:
        await trio.sleep(10)
        return Flow(id=flow_id, name="old")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(memory.get, flow_id, slow, since=ALWAYS))
        await trio.sleep(5)
        await memory.get(flow_id, library.read, since=5)
    assert (await memory.get(flow_id, library.read, since=ALWAYS)).name == "read 1"


async def test_flows_are_told_apart() -> None:
    memory, library = SharedReads[Flow](), Library()
    one, other = uuid4(), uuid4()
    await memory.get(one, library.read, since=ALWAYS)
    assert (await memory.get(other, library.read, since=ALWAYS)).name == "read 2"
    assert (await memory.get(one, library.read, since=ALWAYS)).name == "read 1"


async def test_failure_is_not_remembered() -> None:
    memory, library, flow_id = SharedReads[Flow](), Library(), uuid4()

    async def fail() -> Flow:
        await trio.lowlevel.checkpoint()
        raise APIUnavailableError("away")

    with pytest.raises(APIUnavailableError):
        await memory.get(flow_id, fail, since=ALWAYS)
    assert (await memory.get(flow_id, library.read, since=ALWAYS)).name == "read 1"


class SlowLibrary(Library):
    """Takes ten seconds for a read, and fails for as long as it is told to."""

    failures: int = 0

    async def read(self) -> Flow:
        self.reads += 1
        number = self.reads
        await trio.sleep(10)
        if self.failures:
            self.failures -= 1
            raise APIUnavailableError("away")
        return Flow(id=uuid4(), name=f"read {number}")


async def test_flow_that_many_want_at_once_is_read_once(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), SlowLibrary(), uuid4()
    found: list[Flow] = []

    async def want() -> None:
        found.append(await memory.get(flow_id, library.read, since=ALWAYS))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(want)
    assert (library.reads, trio.current_time()) == (1, 10)
    assert found == [found[0]] * 50


async def test_read_that_is_cancelled_is_begun_again_by_one_of_those_who_wait(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), SlowLibrary(), uuid4()
    want = partial(memory.get, flow_id, library.read, since=ALWAYS)
    with trio.fail_after(100):
        async with trio.open_nursery() as waiting, trio.open_nursery() as first:
            first.start_soon(want)
            await settle()
            for _ in range(49):
                waiting.start_soon(want)
            await trio.sleep(5)
            first.cancel_scope.cancel()
    assert (library.reads, trio.current_time()) == (2, 15)


async def test_who_waits_can_be_cancelled_alone(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), SlowLibrary(), uuid4()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(memory.get, flow_id, library.read, since=ALWAYS))
        await settle()
        with trio.move_on_after(5) as waiting:
            await memory.get(flow_id, library.read, since=ALWAYS)
    assert waiting.cancelled_caught
    assert (library.reads, trio.current_time()) == (1, 10)


async def test_read_that_fails_is_of_him_who_read_and_holds_up_others_once(autojump_clock: Clock) -> None:
    memory, library, flow_id = SharedReads[Flow](), SlowLibrary(), uuid4()
    library.failures = 3
    failed: list[float] = []

    async def want() -> None:
        try:
            await memory.get(flow_id, library.read, since=ALWAYS)
        except APIUnavailableError:
            failed.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(want)
    assert failed == [10, 20, 20]
    assert trio.current_time() == 20


async def test_any_number_of_flows_takes_bounded_room() -> None:
    memory, library = SharedReads[Flow](), Library()
    for _ in range(2500):
        await memory.get(uuid4(), library.read, since=ALWAYS)
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
    assert (made.count("read_flow"), made.count("read_deployment")) == (1, 1)
    assert len(made) == 2 + 10 * 5
