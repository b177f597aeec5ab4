"""The rhythm of the worker's loops, with exact times."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from trioworker.api.condition import Condition
from trioworker.api.errors import (
    APIError,
    APIUnavailableError,
    MalformedAnswerError,
    NotAuthenticatedError,
    RequestRefusedError,
)
from trioworker.service import Rhythm, Spacing, WakeUp, patiently, repeat

Clock = trio.testing.MockClock

REFUSED = RequestRefusedError("POST /thing", 422, "not like this")


def steady(interval: float) -> Rhythm:
    """A rhythm without jitter."""
    return Rhythm(interval=interval, chance=lambda: 0.5)


class Workload:
    """Takes note of when it is called, takes its time, and fails where it is told to.

    Args:
        seconds: how long a round takes.
        errors: raised by the first rounds, in order; None for a good one.
    """

    def __init__(self, *errors: APIError | None, seconds: float = 0) -> None:
        self.times: list[float] = []
        self.seconds = seconds
        self._errors = itertools.chain(errors, itertools.repeat(None))
        self._start = trio.current_time()

    async def __call__(self) -> None:
        self.times.append(trio.current_time() - self._start)
        await trio.sleep(self.seconds)
        error = next(self._errors)
        if error is not None:
            raise error


async def during(seconds: float, loop: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(seconds):
        await loop()


# The delays


def test_delay_is_the_interval_when_all_is_well() -> None:
    assert steady(10).delay(0) == 10


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 7.0), (0.5, 10.0), (1.0, 13.0)])
def test_jitter_takes_away_or_adds_its_part(chance: float, delay: float) -> None:
    assert Rhythm(interval=10, chance=lambda: chance).delay(0) == pytest.approx(delay)


@pytest.mark.parametrize(("failures", "delay"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60)])
def test_delay_doubles_with_each_failure_up_to_a_minute(failures: int, delay: float) -> None:
    assert steady(1).delay(failures) == delay


def test_interval_longer_than_a_minute_is_its_own_cap() -> None:
    assert steady(90).delay(3) == 90


def test_outage_of_weeks_overflows_nothing() -> None:
    assert steady(10).delay(100_000) == 60


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("asked", [0.5, 30.0, 600.0])
def test_delay_never_undercuts_what_the_api_asked_for(chance: float, asked: float) -> None:
    assert Rhythm(interval=10, chance=lambda: chance).delay(1, asked) >= asked


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_interval_is_never_shorter_nor_longer_than_chance_has_it(chance: float) -> None:
    rhythm = Rhythm(interval=10, chance=lambda: chance)
    assert rhythm.shortest_interval <= rhythm.delay(0) <= rhythm.longest_interval


@pytest.mark.parametrize(("called", "pause"), [(False, 0.05), (True, 2.1), (True, 3600)])
def test_rounds_that_are_not_called_for_one_right_after_the_other_are_kept_apart_by_little(
    called: bool, pause: float
) -> None:
    spacing = Spacing()
    spaces = [
        spacing.after_round(called=called, pause=pause, fruitful=fruitful) for fruitful in (True, False)
    ]
    assert spaces == [0.05, 0.05]


def test_space_grows_in_a_row_of_rounds_that_are_called_for() -> None:
    spacing = Spacing()
    spaces = [spacing.after_round(called=True, pause=0.3, fruitful=False) for _ in range(2000)]
    assert spaces[:5] == [0.1, 0.2, 0.4, 0.8, 1]
    assert set(spaces[5:]) == {1}
    assert spacing.after_round(called=True, pause=3, fruitful=False) == 0.05


def test_space_stays_small_when_rounds_bring_something() -> None:
    spacing = Spacing()
    spaces = [spacing.after_round(called=True, pause=0.3, fruitful=True) for _ in range(10)]
    assert spaces[:2] == [0.1, 0.2]
    assert set(spaces[2:]) == {0.2}


# repeat


async def test_rounds_come_in_the_rhythm(autojump_clock: Clock) -> None:
    workload = Workload()
    await during(35, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 10, 20, 30]


async def test_first_round_may_be_put_off(autojump_clock: Clock) -> None:
    workload = Workload()
    await during(35, lambda: repeat("work", workload, steady(10), run_first=False))
    assert workload.times == [10, 20, 30]


async def test_round_that_is_called_for_comes_at_once_and_the_next_after_a_space(
    autojump_clock: Clock,
) -> None:
    workload, wake_up = Workload(), WakeUp()

    async def call() -> None:
        for seconds in (3, 0.01, 0.01, 2):
            await trio.sleep(seconds)
            wake_up()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await during(6, lambda: repeat("work", workload, steady(10), wake_up=wake_up, spacing=Spacing()))
    assert workload.times == pytest.approx([0, 3, 3.05, 5.02])


async def test_round_is_called_for_at_a_moment(autojump_clock: Clock) -> None:
    wake_up = WakeUp()
    workload = Workload()

    async def work() -> None:
        await workload()
        if len(workload.times) == 1:
            wake_up.by(trio.current_time() + 4)

    await during(25, lambda: repeat("work", work, steady(10), wake_up=wake_up, spacing=Spacing()))
    assert workload.times == [0, 4, 14, 24]


async def test_moment_is_forgotten_when_a_round_begins_before(autojump_clock: Clock) -> None:
    workload, wake_up = Workload(), WakeUp()
    wake_up.by(trio.current_time() + 4)
    await during(25, lambda: repeat("work", workload, steady(10), wake_up=wake_up))
    assert workload.times == [0, 10, 20]


async def test_time_that_a_round_takes_is_part_of_the_interval(autojump_clock: Clock) -> None:
    workload = Workload(seconds=4)
    await during(35, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 10, 20, 30]


async def test_round_longer_than_the_interval_is_followed_at_once_by_the_next(autojump_clock: Clock) -> None:
    workload = Workload(seconds=12)
    await during(35, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 12, 24]


async def test_failures_slow_the_loop_down_and_one_success_restores_it(autojump_clock: Clock) -> None:
    gone = APIUnavailableError("gone")
    workload = Workload(gone, gone, None)
    await during(85, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 20, 60, 70, 80]


async def test_back_off_is_capped_at_a_minute(autojump_clock: Clock) -> None:
    gone = APIUnavailableError("gone")
    workload = Workload(*[gone] * 6)
    await during(340, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 20, 60, 120, 180, 240, 300, 310, 320, 330]


async def test_retry_after_is_kept_to(autojump_clock: Clock) -> None:
    workload = Workload(APIUnavailableError("busy", retry_after=45))
    await during(70, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 45, 55, 65]


async def test_retry_after_counts_from_the_answer(autojump_clock: Clock) -> None:
    """Not from the request: the time that the answer took is no part of what was asked for."""
    workload = Workload(APIUnavailableError("busy", retry_after=45), seconds=30)
    await during(80, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 75]


async def test_retry_after_shorter_than_the_back_off_does_not_shorten_it(autojump_clock: Clock) -> None:
    workload = Workload(APIUnavailableError("busy", retry_after=1))
    await during(25, lambda: repeat("work", workload, steady(10)))
    assert workload.times == [0, 20]


async def test_refusals_do_not_end_the_loop_and_are_said_once(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    workload = Workload(REFUSED, REFUSED, None)
    await during(75, lambda: repeat("do the thing", workload, steady(10)))
    assert workload.times == [0, 20, 60, 70]
    assert caplog.messages == [
        "Could not do the thing, trying again: POST /thing was refused with 422: not like this",
        "Could do the thing again",
    ]


@pytest.mark.parametrize(
    "error",
    [
        APIUnavailableError("gone"),
        MalformedAnswerError("GET /thing", ["html"]),
        NotAuthenticatedError("GET /thing", 401, "who?"),
    ],
)
async def test_outages_are_not_said_here(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture, error: APIError
) -> None:
    """They are said once for the whole worker, by its condition."""
    caplog.set_level("INFO")
    await during(75, lambda: repeat("work", Workload(error, error), steady(10)))
    assert caplog.messages == []


async def test_bug_ends_the_loop(autojump_clock: Clock) -> None:
    async def bug() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await repeat("work", bug, steady(10))


async def test_loop_without_any_delay_can_be_cancelled(autojump_clock: Clock) -> None:
    """A workload that never waits must not keep the event loop for itself."""

    async def nothing() -> None:
        pass

    with trio.move_on_after(0) as scope:
        await repeat("work", nothing, steady(0))
    assert scope.cancelled_caught


# Wake-ups


async def test_wake_up_brings_the_next_round_forward(autojump_clock: Clock) -> None:
    workload, wake = Workload(), WakeUp()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(during, 18, lambda: repeat("work", workload, steady(10), wake_up=wake))
        await trio.sleep(3)
        wake()
    assert workload.times == [0, 3, 13]


async def test_wake_ups_at_one_time_make_one_round(autojump_clock: Clock) -> None:
    workload, wake = Workload(), WakeUp()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(during, 9, lambda: repeat("work", workload, steady(10), wake_up=wake))
        await trio.sleep(3)
        for _ in range(5):
            wake()
    assert workload.times == [0, 3]


async def test_wake_ups_during_a_round_make_one_more(autojump_clock: Clock) -> None:
    """What they tell of may have come too late for the round under way."""
    workload, wake = Workload(seconds=4), WakeUp()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(during, 13, lambda: repeat("work", workload, steady(10), wake_up=wake))
        await trio.sleep(1)
        wake()
        await trio.sleep(1)
        wake()
    assert workload.times == [0, 4]


async def test_wake_up_before_the_first_round_makes_no_second(autojump_clock: Clock) -> None:
    workload, wake = Workload(), WakeUp()
    wake()
    await during(15, lambda: repeat("work", workload, steady(10), wake_up=wake))
    assert workload.times == [0, 10]


@pytest.mark.parametrize("moments", [(7,), (7, 9), (9, 7)])
async def test_wake_up_by_a_moment_counts_also_when_the_loop_is_asleep(
    autojump_clock: Clock, moments: Sequence[float]
) -> None:
    workload, wake = Workload(), WakeUp()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(during, 16, lambda: repeat("work", workload, steady(10), wake_up=wake))
        await trio.sleep(3)
        for moment in moments:
            wake.by(begin + moment)
    assert workload.times == [0, 7]


async def test_wake_up_ends_a_back_off(autojump_clock: Clock) -> None:
    workload, wake = Workload(APIUnavailableError("gone")), WakeUp()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(during, 14, lambda: repeat("work", workload, steady(10), wake_up=wake))
        await trio.sleep(3)
        wake()
    assert workload.times == [0, 3, 13]


async def test_sleep_lasts_its_time_when_nobody_calls(autojump_clock: Clock) -> None:
    start = trio.current_time()
    await WakeUp().sleep(5)
    assert trio.current_time() - start == 5


# patiently


async def test_patience_outlasts_an_outage(autojump_clock: Clock) -> None:
    gone = APIUnavailableError("gone")
    workload = Workload(*[gone] * 8)
    await patiently(workload, steady(1), Condition())
    assert workload.times == [0, 2, 6, 14, 30, 62, 122, 182, 242]


async def test_patience_ends_its_sleep_when_the_api_is_back(autojump_clock: Clock) -> None:
    condition = Condition()
    condition.failed("gone")
    workload = Workload(*[APIUnavailableError("gone")] * 6)

    async def come_back() -> None:
        await trio.sleep(100)
        condition.answered()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back)
        await patiently(workload, steady(1), condition)
    assert workload.times == [0, 2, 6, 14, 30, 62, 100]


async def test_patience_has_an_end_where_the_api_answers_others(autojump_clock: Clock) -> None:
    workload = Workload(*[APIUnavailableError("broken")] * 8)
    with pytest.raises(APIUnavailableError):
        await patiently(workload, steady(1), Condition(), strikes=3)
    assert workload.times == [0, 2, 6]


async def test_strikes_are_not_counted_during_an_outage(autojump_clock: Clock) -> None:
    condition = Condition()
    condition.failed("gone")
    workload = Workload(*[APIUnavailableError("gone")] * 8)
    await patiently(workload, steady(1), condition, strikes=3)
    assert len(workload.times) == 9


async def test_patience_hands_on_the_answer(autojump_clock: Clock) -> None:
    async def answer() -> int:
        await trio.lowlevel.checkpoint()
        return 42

    assert await patiently(answer, steady(1), Condition()) == 42


async def test_patience_is_not_for_refusals(autojump_clock: Clock) -> None:
    workload = Workload(APIUnavailableError("gone"), REFUSED)
    with pytest.raises(RequestRefusedError):
        await patiently(workload, steady(1), Condition())
    assert workload.times == [0, 2]


async def test_patience_keeps_to_retry_after(autojump_clock: Clock) -> None:
    workload = Workload(APIUnavailableError("busy", retry_after=45), seconds=3)
    await patiently(workload, steady(1), Condition())
    assert workload.times == [0, 48]
