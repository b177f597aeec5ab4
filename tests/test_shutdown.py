"""The order in which a worker's parts end, with exact times."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from trioworker.shutdown import Shutdown

Clock = trio.testing.MockClock


class Said:
    """Takes note of when runs begin to be cut off."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(trio.current_time())


def make(said: Said | None = None) -> Shutdown:
    return Shutdown(drain_timeout=20, kill_grace=5, flush_timeout=3, on_cut_off=said or Said())


async def test_nothing_ends_by_itself(autojump_clock: Clock) -> None:
    shutdown = make()
    assert not shutdown.requested
    assert not shutdown.cut_off
    with trio.move_on_after(1000) as scope, shutdown.starting, shutdown.intake, shutdown.runs:
        await trio.sleep(10_000)
    assert scope.cancelled_caught


async def test_request_ends_start_and_intake_at_once_and_runs_after_the_drain(autojump_clock: Clock) -> None:
    shutdown = make()
    start = trio.current_time()
    shutdown.request()
    assert shutdown.requested
    assert shutdown.starting.cancel_called
    assert shutdown.intake.cancel_called
    with shutdown.runs:
        await trio.sleep(10_000)
    assert trio.current_time() - start == 20


async def test_second_request_does_not_prolong_the_drain(autojump_clock: Clock) -> None:
    shutdown = make()
    shutdown.request()
    deadline = shutdown.runs.deadline
    await trio.sleep(5)
    shutdown.request()
    assert shutdown.runs.deadline == deadline


async def test_stop_ends_runs_at_once(autojump_clock: Clock) -> None:
    shutdown = make()
    shutdown.stop()
    assert shutdown.requested
    assert shutdown.runs.cancel_called


async def test_last_words_share_one_deadline(autojump_clock: Clock) -> None:
    said = Said()
    shutdown = make(said)
    start = trio.current_time()
    with shutdown.last_words():
        assert shutdown.cut_off
        await trio.sleep(4)
    with shutdown.last_words() as scope:
        await trio.sleep(10_000)
    assert scope.cancelled_caught
    assert trio.current_time() - start == 8
    assert said.times == [start]


async def test_last_words_are_heard_though_everything_around_is_cancelled(autojump_clock: Clock) -> None:
    shutdown = make()
    spoken = False
    with trio.CancelScope() as outer:
        outer.cancel()
        with shutdown.last_words():
            await trio.sleep(1)
            spoken = True
    assert spoken


async def test_abandon_ends_last_words_that_are_being_spoken(autojump_clock: Clock) -> None:
    shutdown = make()
    start = trio.current_time()

    async def abandon_soon() -> None:
        await trio.sleep(2)
        shutdown.abandon()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(abandon_soon)
        with shutdown.last_words():
            await trio.sleep(10_000)
    assert trio.current_time() - start == 3


async def test_last_words_after_abandon_are_short(autojump_clock: Clock) -> None:
    shutdown = make()
    start = trio.current_time()
    shutdown.abandon()
    with shutdown.last_words() as scope:
        await trio.sleep(10_000)
    assert scope.cancelled_caught
    assert trio.current_time() == start + 1
    assert shutdown.flush_deadline() == start + 1


async def test_only_abandon_ends_the_flush_early(autojump_clock: Clock) -> None:
    shutdown = make()
    shutdown.stop()
    assert shutdown.flush.deadline == math.inf
    shutdown.abandon()
    assert shutdown.flush.deadline == trio.current_time() + 1


async def test_flush_has_its_time_after_a_drain(autojump_clock: Clock) -> None:
    shutdown = make()
    shutdown.request()
    await trio.sleep(10)
    assert shutdown.flush_deadline() == trio.current_time() + 3


async def test_flush_shares_the_last_deadline_once_runs_were_cut_off(autojump_clock: Clock) -> None:
    shutdown = make()
    start = trio.current_time()
    with shutdown.last_words():
        await trio.sleep(7)
    assert shutdown.flush_deadline() == start + 8


async def test_all_of_it_may_be_repeated(autojump_clock: Clock) -> None:
    shutdown = make()
    for _ in range(2):
        shutdown.request()
        shutdown.stop()
        shutdown.abandon()
    assert shutdown.requested


async def test_leaving_in_a_hurry_cuts_nothing_off_where_nothing_runs(autojump_clock: Clock) -> None:
    shutdown = make()
    shutdown.abandon()
    assert not shutdown.cut_off


async def test_flush_of_a_worker_that_was_held_up_has_a_second(autojump_clock: Clock) -> None:
    """A thread goes on for as long as it likes, and what it says at its end is to be heard."""
    shutdown = make()
    with shutdown.last_words():
        await trio.sleep(7)
    await trio.sleep(100)
    assert shutdown.flush_deadline() == trio.current_time() + 1


async def test_flush_after_a_late_end_takes_no_longer_than_it_is_to_take_at_the_most(
    autojump_clock: Clock,
) -> None:
    shutdown = Shutdown(drain_timeout=20, kill_grace=5, flush_timeout=0.5)
    shutdown.begin_cut_off()
    await trio.sleep(100)
    assert shutdown.flush_deadline() == trio.current_time() + 0.5


@pytest.mark.parametrize("late", [0, 0.125])
async def test_last_words_that_took_all_their_time_leave_the_flush_none(
    autojump_clock: Clock, late: float
) -> None:
    """A clock rings a little late, which must not prolong what was promised by more than that."""
    shutdown = make()
    start = trio.current_time()
    with shutdown.last_words():
        await trio.sleep(10_000)
    await trio.sleep(late)
    assert shutdown.flush_deadline() == start + 8 + 2 * late


async def test_abandon_leaves_a_second_though_the_last_deadline_is_over(autojump_clock: Clock) -> None:
    shutdown = make()
    shutdown.begin_cut_off()
    await trio.sleep(100)
    shutdown.abandon()
    assert shutdown.flush.deadline == trio.current_time() + 1
