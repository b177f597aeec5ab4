"""Whatever goes wrong with a run ends at its boundary, also when it meets with a cancellation."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing
from support import World

from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import FlowRun
from trioworker.runs.active import ActiveRun, RunEnd
from trioworker.runs.boundary import NotOursError, failure_boundary
from trioworker.runs.log import RunLog


def active_run() -> ActiveRun:
    return ActiveRun(FlowRun(id=uuid.uuid4(), name="run", flow_id=uuid.uuid4()))


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (NotOursError("somebody has deleted it"), RunEnd.LOST),
        (APIUnavailableError("no connection"), RunEnd.UNSETTLED),
        (KeyError("a bug"), RunEnd.UNSETTLED),
    ],
)
async def test_error_that_meets_with_a_cancellation_ends_here_and_the_cancellation_goes_on(
    error: Exception, end: RunEnd
) -> None:
    active = active_run()
    run_log = RunLog(active.flow_run, None, lambda: datetime.now(UTC))

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    with trio.CancelScope() as scope:
        with failure_boundary(active, run_log, lost="Left"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)
                await trio.lowlevel.checkpoint()
                scope.cancel()
        pytest.fail("the cancellation ended in the boundary, too")
    assert scope.cancelled_caught
    assert active.ending is not None
    assert active.ending.how is end


async def test_claim_that_is_refused_while_the_worker_is_stopped_ends_its_run_alone(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.api.latencies = {"set_flow_run_state": 1.0, "read_flow": 5.0}
    run = world.schedule(at=5)
    async with world.working() as worker:
        await trio.sleep(5.5)
        world.api.cancel(run.id)
        worker.stop()
    assert world.states(run) == ["Scheduled", "Cancelled"]
