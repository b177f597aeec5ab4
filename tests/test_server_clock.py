"""What time it is for the server, from what its answers show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trioworker.server_clock import ServerClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_clocks_count_as_equal_at_first() -> None:
    clock = ServerClock(lambda: NOON)
    assert (clock.now(), clock.local()) == (NOON, NOON)


@pytest.mark.parametrize("ahead", [-3600, -0.2, 0.2, 3600])
def test_difference_is_learned_from_an_answer(ahead: float) -> None:
    clock = ServerClock(lambda: after(10))
    clock.compare(after(ahead + 0.05), asked=NOON, answered=after(0.1))
    assert (clock.now(), clock.local()) == (after(10 + ahead), after(10))


@pytest.mark.parametrize("shown", [0, 0.03, 0.1])
def test_difference_that_may_be_the_time_on_the_way_is_none(shown: float) -> None:
    clock = ServerClock(lambda: NOON)
    clock.compare(after(shown), asked=NOON, answered=after(0.1))
    assert clock.now() == NOON


def test_latest_answer_counts() -> None:
    clock = ServerClock(lambda: NOON)
    clock.compare(after(100), asked=NOON, answered=NOON)
    clock.compare(after(7), asked=NOON, answered=NOON)
    assert clock.now() == after(7)
    clock.compare(NOON, asked=NOON, answered=NOON)
    assert clock.now() == NOON


@pytest.mark.parametrize("answered", [3, -3600])
def test_answer_that_took_long_or_saw_the_clock_set_back_tells_nothing(answered: float) -> None:
    clock = ServerClock(lambda: NOON)
    clock.compare(after(5000), asked=NOON, answered=after(answered))
    assert clock.now() == NOON


@pytest.mark.parametrize("ahead", [-86_400, -6, 6, 86_400])
def test_large_difference_is_learned_from_a_date(ahead: float) -> None:
    """To a second, since a date has whole ones; the clock is not fast, or runs would begin early."""
    clock = ServerClock(lambda: after(10))
    clock.compare_with_date(after(ahead), asked=NOON, answered=after(0.1))
    assert clock.now() == after(10 + ahead - 0.1)


@pytest.mark.parametrize("ahead", [-5, -1, 0, 4])
def test_small_difference_of_a_date_does_not_spoil_what_is_known_better(ahead: float) -> None:
    clock = ServerClock(lambda: after(10))
    clock.compare(after(0.3), asked=NOON, answered=NOON)
    clock.compare_with_date(after(ahead), asked=NOON, answered=after(0.1))
    assert clock.now() == after(10.3)


@pytest.mark.parametrize("answered", [3, -3600])
def test_date_of_an_answer_that_took_long_or_saw_the_clock_set_back_tells_nothing(answered: float) -> None:
    clock = ServerClock(lambda: NOON)
    clock.compare_with_date(after(5000), asked=NOON, answered=after(answered))
    assert clock.now() == NOON
