"""What is right after a fault, and since when."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults_support import NEVER, RIGHT, moment

from benchmarks.faults.journal import Journal, read_journal
from benchmarks.faults.judgement import is_over, is_right, judge


@pytest.mark.parametrize(
    ("state", "ended", "is_cancelled", "right"),
    [
        ("Completed", True, False, True),
        ("Completed", False, False, False),
        # It was quicker than the user.
        ("Completed", True, True, True),
        ("Crashed", False, False, True),
        ("Crashed", True, False, False),
        ("Crashed", False, True, False),
        ("Failed", False, False, True),
        ("Failed", True, False, False),
        ("Cancelled", False, True, True),
        ("Cancelled", True, True, False),
        ("Cancelled", False, False, False),
        ("Running", False, False, False),
        ("Pending", False, False, False),
        ("Scheduled", False, False, False),
        ("Cancelling", False, True, False),
    ],
)
def test_a_state_is_right_if_it_is_final_and_true(
    state: str, ended: bool, is_cancelled: bool, right: bool
) -> None:
    assert is_right(moment(1, state, ended=ended), is_cancelled=is_cancelled) is right


def test_nothing_is_right_while_a_process_goes_on_that_nobody_watches() -> None:
    assert not is_right(moment(1, "Crashed", living=2, unwatched=1), is_cancelled=False)
    assert is_right(moment(1, "Crashed", living=2), is_cancelled=False)


def test_nothing_is_right_that_has_begun_twice_unless_the_second_was_another_attempt() -> None:
    assert not is_right(moment(1, "Completed", ended=True, began=2, most_of_an_attempt=2), is_cancelled=False)
    assert is_right(moment(1, "Completed", ended=True, began=2), is_cancelled=False)


def test_time_is_counted_until_all_was_right_for_the_last_time() -> None:
    seen = [
        moment(1, "Running", living=1),
        moment(2, "Crashed"),
        moment(3, "Running", living=1),
        moment(4, "Crashed"),
        moment(5, "Crashed"),
    ]
    assert judge(seen, is_cancelled=False).right_after == 4
    assert judge(seen[:3], is_cancelled=False).right_after is None


def test_what_was_right_before_time_was_counted_took_none() -> None:
    seen = [moment(-30, "Running", living=1), moment(-2, "Crashed"), moment(20, "Crashed")]
    assert judge(seen, is_cancelled=False).right_after == 0


def test_nothing_is_right_if_a_process_is_left_even_one_that_is_watched() -> None:
    seen = [moment(1, "Crashed", living=1), moment(60, "Crashed", living=1)]
    verdict = judge(seen, is_cancelled=False)
    assert (verdict.right_after, verdict.left) == (None, 1)


def test_seconds_without_anybody_who_watches_are_added_up() -> None:
    seen = [
        moment(0, "Running", living=1),
        moment(1, "Running", living=1, unwatched=1),
        moment(3, "Running", living=1),
        moment(4, "Running", living=1, unwatched=1),
        moment(4.5, "Completed", ended=True),
    ]
    assert judge(seen, is_cancelled=False).unwatched == 2.5


def test_a_verdict_tells_how_it_was_in_the_end() -> None:
    verdict = judge(NEVER, is_cancelled=False)
    assert (verdict.state, verdict.right_after, verdict.left) == ("Running", None, 1)
    assert (verdict.began, verdict.most_of_an_attempt, verdict.ended, verdict.watched) == (1, 1, False, 60.1)


@pytest.mark.parametrize(("held", "over"), [(15, True), (16, False)])
def test_it_is_over_when_all_has_been_right_for_long_enough(held: float, over: bool) -> None:
    assert is_over(RIGHT, is_cancelled=False, held=held) is over


def test_it_is_not_over_while_it_is_wrong_or_a_process_is_there() -> None:
    assert not is_over(NEVER, is_cancelled=False, held=0)
    assert not is_over([*RIGHT, moment(18, "Crashed", living=1)], is_cancelled=False, held=1)


def test_a_journal_counts_beginnings_by_attempt(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    assert read_journal(file) == Journal()
    file.write_text(
        '{"what": "began", "pid": 5, "attempt": 1}\n'
        '{"what": "began", "pid": 6, "attempt": 2}\n'
        '{"what": "began", "pid": 7, "attempt": 2}\n'
        '{"what": "ended", "pid": 7, "att'
    )
    journal = read_journal(file)
    assert (journal.pids, journal.executions, journal.most_of_an_attempt) == ((5, 6, 7), 3, 2)
    assert not journal.ended, "the line is not whole"
    with file.open("a") as more:
        more.write('empt": 2}\n')
    assert read_journal(file).ended
