"""What is made of the runs that a poll has listed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import attrs
import pytest

from trioworker.api.client import LARGEST_PAGE
from trioworker.api.models import FlowRun
from trioworker.listing import Listing, choose, page_size

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def flow_run(seconds: float = 0) -> FlowRun:
    """A run that is due so many seconds from now."""
    due = NOW + timedelta(seconds=seconds)
    return FlowRun(id=uuid4(), name="run", flow_id=uuid4(), next_scheduled_start_time=due)


@pytest.mark.parametrize(
    ("free", "still_listed", "size"),
    [
        (None, 0, LARGEST_PAGE),
        (None, 1000, LARGEST_PAGE),
        (3, 0, 3),
        (3, 2, 5),
        (0, 5, 5),
        (0, 0, 1),
        (500, 0, LARGEST_PAGE),
        (1, 500, LARGEST_PAGE),
    ],
)
def test_page_has_room_for_what_is_free_and_for_what_is_not_to_be_taken(
    free: int | None, still_listed: int, size: int
) -> None:
    assert page_size(free, still_listed, looks_ahead=False) == size


@pytest.mark.parametrize("free", [None, 0, 3, LARGEST_PAGE])
def test_page_has_more_room_when_runs_of_the_future_are_in_it(free: int | None) -> None:
    size = page_size(free, 2, looks_ahead=True)
    assert size == LARGEST_PAGE or size > page_size(free, 2, looks_ahead=False)


def test_all_are_chosen_when_there_is_no_limit() -> None:
    due = [flow_run() for _ in range(5)]
    assert choose(due, set(), None) == due


def test_most_urgent_are_chosen_when_slots_are_few() -> None:
    due = [flow_run() for _ in range(5)]
    assert choose(due, set(), 2) == due[:2]


def test_run_that_is_not_wanted_is_not_chosen_and_takes_no_place() -> None:
    due = [flow_run() for _ in range(5)]
    assert choose(due, {due[0].id, due[2].id}, 2) == [due[1], due[3]]


def test_nothing_is_chosen_without_a_free_slot() -> None:
    assert choose([flow_run()], set(), 0) == []


def test_run_that_is_listed_twice_is_chosen_once() -> None:
    run = flow_run()
    assert choose([run, run], set(), 2) == [run]


def test_runs_are_told_apart_by_whether_their_time_has_come() -> None:
    late, now, almost, soon = (flow_run(seconds) for seconds in (-3600, 0, 0.005, 1))
    listing = Listing.at(NOW, [soon, late, now, almost], asked_for=10)
    assert (listing.due, listing.later) == ([late, now, almost], [soon])


def test_run_without_a_time_is_due() -> None:
    run = attrs.evolve(flow_run(), next_scheduled_start_time=None)
    assert Listing.at(NOW, [run], asked_for=10).due == [run]


@pytest.mark.parametrize(("asked_for", "full"), [(1, True), (2, True), (3, False)])
def test_page_is_full_if_there_may_be_more(asked_for: int, full: bool) -> None:
    assert Listing.at(NOW, [flow_run(), flow_run(9)], asked_for=asked_for).full is full


def test_next_time_is_that_of_the_first_run_of_the_future() -> None:
    listing = Listing.at(NOW, [flow_run(9), flow_run(4), flow_run()], asked_for=10)
    assert listing.seconds_to_next(NOW + timedelta(seconds=1)) == 3
    assert Listing.at(NOW, [flow_run()], asked_for=10).seconds_to_next(NOW) is None


@pytest.mark.parametrize(
    ("later", "asked_for", "pool_is_limited", "hides"),
    [
        (1, 2, False, True),
        (1, 3, False, False),
        (0, 1, False, False),
        (1, 3, True, True),
        (0, 1, True, False),
    ],
)
def test_run_that_is_due_may_be_hidden_by_one_of_the_future_if_not_all_are_listed(
    later: int, asked_for: int, pool_is_limited: bool, hides: bool
) -> None:
    listed = [flow_run(), *(flow_run(9) for _ in range(later))]
    assert Listing.at(NOW, listed, asked_for=asked_for).may_hide(pool_is_limited=pool_is_limited) is hides
