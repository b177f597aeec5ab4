"""What one signal, two and three do to a worker on the command line, and what is said about it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from support import FOREVER, World, settle

from trioworker import Worker
from trioworker.command.signals import SignalListener, signals_to_stop
from trioworker.notices import Notice
from trioworker.testing import Script

Clock = trio.testing.MockClock

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@pytest.fixture(autouse=True)
def signals_as_in_a_shell() -> Iterator[None]:
    """Nothing is ignored, whatever the tests were started by."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number in _NUMBERS:
        if before[number] is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def send(number: signal.Signals) -> None:
    """Send a signal to this process, and let everybody react to it."""
    # Else it would be the end of the tests.
    assert signal.getsignal(number) is not signal.SIG_DFL
    signal.raise_signal(number)
    await settle()


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[SignalListener]:
    async with trio.open_nursery() as nursery:
        signals = SignalListener(world.notify)
        await nursery.start(signals.listen)
        yield signals
        nursery.cancel_scope.cancel()


@attrs.define
class Watched:
    """A worker that gets signals. `ended_at` is None as long as it works."""

    worker: Worker
    ended_at: float | None = None


@asynccontextmanager
async def working(world: World) -> AsyncIterator[Watched]:
    """A worker with a drain of 20 s and a grace of 5 s, that has taken what runs there are."""
    async with listening(world) as signals:
        watched = Watched(world.worker(drain_timeout=20, kill_grace=5))
        signals.worker = watched.worker

        async def work(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - passed on
            await watched.worker.run(task_status=task_status)
            watched.ended_at = world.now

        # Virtual hours, so that a worker that does not end fails the test.
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                await nursery.start(work)
                await trio.sleep(1)
                yield watched


def said(world: World) -> list[str]:
    return [message for message in world.messages if message.startswith("Received")]


class TestWhichSignals:
    def test_terminate_interrupt_and_hangup_stop_a_worker(self) -> None:
        assert set(signals_to_stop()) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

    def test_hangup_that_was_inherited_as_ignored_does_not(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert set(signals_to_stop()) == {signal.SIGTERM, signal.SIGINT}

    def test_interrupt_that_was_inherited_as_ignored_does(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert set(signals_to_stop()) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

    def test_system_without_hangup_has_the_other_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(signal, "SIGHUP")
        assert set(signals_to_stop()) == {signal.SIGTERM, signal.SIGINT}

    async def test_ignored_hangup_stays_ignored_while_listening(
        self, autojump_clock: Clock, world: World
    ) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        async with listening(world) as signals:
            await send(signal.SIGHUP)
            assert not signals.starting.cancel_called
        assert world.messages == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    async def test_exit_of_children_can_be_learnt_even_if_that_was_ignored(
        self, autojump_clock: Clock, world: World
    ) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        async with listening(world):
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


class TestBeforeThereIsAWorker:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    async def test_any_signal_ends_the_start(
        self, autojump_clock: Clock, world: World, number: signal.Signals
    ) -> None:
        async with listening(world) as signals:
            with signals.starting:
                await send(number)
                await trio.sleep(1)
                pytest.fail("the start goes on")
        assert world.messages == [f"Received {number.name}: stopping."]

    async def test_start_that_takes_its_time_to_end_hears_of_each_signal(
        self, autojump_clock: Clock, world: World
    ) -> None:
        async with listening(world):
            await send(signal.SIGTERM)
            await send(signal.SIGINT)
        assert world.messages == ["Received SIGTERM: stopping.", "Received SIGINT: stopping."]


class TestFirstSignal:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    async def test_runs_come_to_their_end_and_no_new_ones_are_taken(
        self, autojump_clock: Clock, world: World, number: signal.Signals
    ) -> None:
        run = world.schedule(Script(seconds=10))
        async with working(world) as watched:
            await send(number)
            late = world.schedule()
        (line,) = said(world)
        assert line == (
            f"Received {number.name}: taking no more flow runs, and waiting up to 20 s for 1 flow run to end."
            " Send it again to stop them now."
        )
        assert watched.ended_at == 10
        assert not watched.worker.cut_off
        assert world.states(run)[-1] == "Completed"
        assert world.states(late) == ["Scheduled"]

    async def test_idle_worker_is_gone_at_once(self, autojump_clock: Clock, world: World) -> None:
        async with working(world) as watched:
            await send(signal.SIGTERM)
        assert said(world) == ["Received SIGTERM: stopping; no flow run is going on."]
        assert watched.ended_at == 1

    async def test_run_that_does_not_end_in_time_is_cut_off(
        self, autojump_clock: Clock, world: World
    ) -> None:
        run = world.schedule(Script(seconds=FOREVER))
        async with working(world) as watched:
            await send(signal.SIGTERM)
        assert len(said(world)) == 1
        assert watched.ended_at == 21
        assert watched.worker.cut_off
        assert world.infrastructure.execution(run.id).status == -signal.SIGTERM


class TestSecondSignal:
    async def test_runs_are_terminated_without_waiting(self, autojump_clock: Clock, world: World) -> None:
        run = world.schedule(Script(seconds=FOREVER))
        async with working(world) as watched:
            await send(signal.SIGTERM)
            await trio.sleep(2)
            await send(signal.SIGINT)
        assert said(world)[1:] == ["Received SIGINT again: not waiting any longer."]
        assert watched.ended_at == 3
        assert watched.worker.cut_off
        assert world.infrastructure.execution(run.id).status == -signal.SIGTERM

    async def test_run_that_ignores_it_has_the_grace(self, autojump_clock: Clock, world: World) -> None:
        run = world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
        async with working(world) as watched:
            await send(signal.SIGTERM)
            await send(signal.SIGTERM)
        assert watched.ended_at == 6
        assert world.infrastructure.execution(run.id).status == -signal.SIGKILL


class TestThirdSignal:
    async def test_runs_are_killed_at_once(self, autojump_clock: Clock, world: World) -> None:
        runs = [world.schedule(Script(seconds=FOREVER, ignores_terminate=True)) for _ in range(2)]
        async with working(world) as watched:
            for _ in range(2):
                await send(signal.SIGTERM)
            await trio.sleep(1)
            await send(signal.SIGTERM)
        assert said(world)[2:] == ["Received SIGTERM once more: killing 2 flow runs and leaving."]
        assert watched.ended_at == 2
        assert [world.infrastructure.execution(run.id).killed_now_at for run in runs] == [2, 2]

    async def test_nobody_waits_longer_than_a_second_for_the_api(
        self, autojump_clock: Clock, world: World
    ) -> None:
        world.schedule(Script(seconds=FOREVER, ignores_terminate=True))
        async with working(world) as watched:
            world.api.start_outage()
            for _ in range(3):
                await send(signal.SIGTERM)
            # There may be any number of them.
            await send(signal.SIGTERM)
        assert watched.ended_at == 2
        assert said(world)[3].startswith("Received SIGTERM once more")


async def test_line_goes_to_whoever_was_named(autojump_clock: Clock) -> None:
    notices: list[Notice] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(SignalListener(notices.append).listen)
        await send(signal.SIGTERM)
        nursery.cancel_scope.cancel()
    assert notices == [Notice("Received SIGTERM: stopping.", warning=False)]
