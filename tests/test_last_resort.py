"""When the command leaves though functions go on, and when it does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from flow_support import Stage
from support import World, settle

from trioworker.command.last_resort import LastResort
from trioworker.command.signals import SignalListener
from trioworker.notices import Notice
from trioworker.testing import FakePrefectAPI

Clock = trio.testing.MockClock

LEAVING = "Leaving with functions still going on, which only the end of the process ends."


@attrs.define
class Exit:
    """Notes when the process would have ended."""

    api: FakePrefectAPI
    at: list[float] = attrs.field(factory=list)

    def __call__(self) -> None:
        self.at.append(self.api.seconds())


class TestPatience:
    async def test_it_ends_half_a_second_after_the_worker_ought_to_be_gone(
        self, autojump_clock: Clock
    ) -> None:
        notices: list[Notice] = []
        leaving = Exit(FakePrefectAPI())
        resort = LastResort(notices.append, leaving)
        async with resort.ready():
            await trio.sleep(1)
            resort.expect_end(10)
            await trio.sleep(100)
        assert leaving.at == [11.5]
        assert notices == [Notice(LEAVING, warning=True)]

    async def test_earliest_moment_counts(self, autojump_clock: Clock) -> None:
        leaving = Exit(FakePrefectAPI())
        resort = LastResort(lambda _: None, leaving)
        async with resort.ready():
            for seconds in (10, 3, 20):
                resort.expect_end(seconds)
            await trio.sleep(100)
        assert leaving.at == [3.5]

    async def test_worker_that_nobody_has_told_to_stop_has_any_time(self, autojump_clock: Clock) -> None:
        leaving = Exit(FakePrefectAPI())
        async with LastResort(lambda _: None, leaving).ready():
            await trio.sleep(80_000)
        assert leaving.at == []

    async def test_worker_that_is_gone_in_time_is_not_followed(self, autojump_clock: Clock) -> None:
        leaving = Exit(FakePrefectAPI())
        resort = LastResort(lambda _: None, leaving)
        async with resort.ready():
            resort.expect_end(10)
            await trio.sleep(10)
        await trio.sleep(100)
        assert leaving.at == []

    async def test_who_held_up_the_event_loop_gets_his_time_once_more(self, mock_clock: Clock) -> None:
        mock_clock.autojump_threshold = 0
        leaving = Exit(FakePrefectAPI())
        resort = LastResort(lambda _: None, leaving)
        async with resort.ready():
            resort.expect_end(10)
            await trio.sleep(1)
            mock_clock.jump(20)
            await trio.sleep(100)
        assert leaving.at == [21 + 10.5]

    async def test_what_is_asked_for_after_a_block_counts(self, mock_clock: Clock) -> None:
        mock_clock.autojump_threshold = 0
        leaving = Exit(FakePrefectAPI())
        resort = LastResort(lambda _: None, leaving)
        async with resort.ready():
            resort.expect_end(10)
            await trio.sleep(1)
            mock_clock.jump(20)
            await settle()
            resort.expect_end(2)
            await trio.sleep(100)
        assert leaving.at == [21 + 2.5]

    async def test_event_loop_that_is_held_up_again_and_again_is_left(self, mock_clock: Clock) -> None:
        mock_clock.autojump_threshold = 0
        leaving = Exit(FakePrefectAPI())
        resort = LastResort(lambda _: None, leaving)
        async with resort.ready():
            resort.expect_end(10)
            for _ in range(10):
                await trio.sleep(1)
                mock_clock.jump(20)
        assert leaving.at == [42]


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    stage = Stage(World(tmp_path))

    @stage.app.flow()
    async def work() -> None:
        """Ignore its cancellation for a minute."""
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    return stage


async def left_at(stage: Stage, *signals: float) -> list[float]:
    """When a worker with a run would have left, that gets signals at these times."""
    world, leaving = stage.world, Exit(stage.world.api)
    listener = SignalListener(world.notify)
    listener.worker = worker = stage.worker()
    listener.last_resort = LastResort(world.notify, leaving)
    with trio.fail_after(1000):
        async with trio.open_nursery() as listening:
            await listening.start(listener.listen)
            async with listener.last_resort.ready(), trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                for at in signals:
                    await trio.sleep(at - world.now)
                    signal.raise_signal(signal.SIGTERM)
                    await settle()
            listening.cancel_scope.cancel()
    return leaving.at


class TestSignals:
    async def test_drain_has_the_bound_that_was_announced(self, autojump_clock: Clock, stage: Stage) -> None:
        run = stage.schedule()
        assert await left_at(stage, 1) == [1 + 20 + 5 + 3 + 0.5]
        assert stage.states(run)[-1] == "Crashed"

    async def test_run_that_held_up_the_event_loop_is_reported(
        self, mock_clock: Clock, tmp_path: Path
    ) -> None:
        mock_clock.autojump_threshold = 0
        stage = Stage(World(tmp_path))

        @stage.app.flow()
        async def work() -> None:
            await trio.sleep(4)
            mock_clock.jump(100)
            await trio.sleep(100)

        run = stage.schedule()
        assert await left_at(stage, 1) == []
        assert stage.history(run)[-1] == ("Crashed", 104)

    async def test_second_signal_leaves_grace_and_flush(self, autojump_clock: Clock, stage: Stage) -> None:
        stage.schedule()
        assert await left_at(stage, 1, 2) == [2 + 5 + 3 + 0.5]

    async def test_third_signal_leaves_a_second(self, autojump_clock: Clock, stage: Stage) -> None:
        stage.schedule()
        assert await left_at(stage, 1, 2, 3) == [3 + 1 + 0.5]
        said = [
            message for message in stage.world.messages if message.startswith("Received SIGTERM once more")
        ]
        assert said == ["Received SIGTERM once more: leaving, whether or not 1 flow run can end."]

    async def test_worker_whose_functions_end_is_not_left(self, autojump_clock: Clock, stage: Stage) -> None:
        run = stage.schedule()
        assert await left_at(stage, 50) == []
        assert stage.states(run)[-1] == "Completed"


# Standard output is a pipe that nobody reads: a thread is stuck in writing to it.
_STUCK = """
import sys, threading, time
from trioworker.command.last_resort import leave

threading.Thread(target=sys.stdout.write, args=("x" * 10_000_000,), daemon=True).start()
time.sleep(0.5)
leave()
"""

_BUFFERED = """
import logging, sys
from trioworker.command.last_resort import leave

sys.stdout.write("said")
logging.basicConfig()
leave()
"""


@pytest.mark.process
class TestLeaving:
    def test_exit_code_is_that_of_runs_that_were_cut_off_and_everything_was_written(self) -> None:
        ended = subprocess.run([sys.executable, "-c", _BUFFERED], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "said", "")

    def test_output_that_cannot_be_written_holds_nobody_up(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", _STUCK], stdout=subprocess.PIPE)
        try:
            assert process.wait(timeout=30) == 1
        finally:
            process.kill()
            process.communicate()
