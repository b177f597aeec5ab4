"""How long a run is looked for that is said to be scheduled."""

from __future__ import annotations

from uuid import UUID, uuid4

from trioworker.hints import Hints


def look(hints: Hints, *found: UUID) -> bool:
    """One poll; whether there is to be another one."""
    hints.looking()
    return hints.found(set(found))


def test_nothing_is_looked_for_when_nothing_was_said() -> None:
    assert not look(Hints(), uuid4())


def test_run_that_is_found_is_not_looked_for_again() -> None:
    hints, run = Hints(), uuid4()
    hints.say(run)
    assert not look(hints, run)


def test_run_that_is_not_found_is_looked_for_once_more() -> None:
    hints = Hints()
    hints.say(uuid4())
    assert [look(hints), look(hints), look(hints)] == [True, False, False]


def test_run_that_is_said_to_be_scheduled_during_a_poll_is_looked_for_by_two_more() -> None:
    hints = Hints()
    hints.looking()
    hints.say(uuid4())
    assert [hints.found(set()), look(hints), look(hints)] == [True, True, False]


def test_run_that_is_said_to_be_scheduled_during_a_poll_may_be_found_by_it() -> None:
    hints, run = Hints(), uuid4()
    hints.looking()
    hints.say(run)
    assert not hints.found({run})


def test_what_a_poll_without_an_answer_has_looked_for_is_forgotten() -> None:
    """It is followed by others until there is an answer, which has it all."""
    hints = Hints()
    hints.say(uuid4())
    hints.looking()
    assert not look(hints)
