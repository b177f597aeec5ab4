"""The words for a request that does not fit the server's schema."""

from __future__ import annotations

from typing import Any

import pytest

from trioworker.api.validation import describe_validation_errors

SCHEDULE = ["body", "schedules", 0, "schedule"]
OF_CRON = [*SCHEDULE, "function-after[validate_timezone(), CronSchedule]"]
OF_RRULE = [*SCHEDULE, "RRuleSchedule"]


def error(kind: str, loc: list[Any], msg: str) -> dict[str, Any]:
    return {"type": kind, "loc": loc, "msg": msg, "input": "secret"}


def test_mistake_in_a_value_is_told_alone() -> None:
    errors = [
        error("missing", [*OF_RRULE, "rrule"], "Field required"),
        error("value_error", [*OF_CRON, "cron"], 'Value error, Invalid cron string: "61 * * * *"'),
        error("string_type", [*OF_RRULE, "timezone"], "Input should be a valid string"),
    ]
    expected = 'schedules.0.schedule.cron: Invalid cron string: "61 * * * *"'
    assert describe_validation_errors(errors) == expected


def test_mistake_in_no_single_field_is_told_with_what_it_is_in() -> None:
    errors = [error("value_error", OF_CRON, "Value error, Invalid timezone")]
    assert describe_validation_errors(errors) == "schedules.0.schedule: Invalid timezone"


def test_form_counts_only_where_there_is_nothing_else() -> None:
    missing = error("missing", ["body", "name"], "Field required")
    extra = error("extra_forbidden", ["body", "nmae"], "Extra inputs are not permitted")
    wrong = error("int_parsing", ["body", "limit"], "Input should be a valid integer")
    assert describe_validation_errors([missing, wrong]) == "limit: Input should be a valid integer"
    expected = "name: Field required; nmae: Extra inputs are not permitted"
    assert describe_validation_errors([missing, extra]) == expected


def test_the_same_words_are_said_once() -> None:
    assert describe_validation_errors([error("x", ["body", "a"], "no")] * 2) == "a: no"


def test_long_words_are_cut() -> None:
    assert describe_validation_errors([error("x", ["body", "a"], "b" * 1000)]) == f"a: {'b' * 200}..."


def test_names_of_fields_are_kept_whatever_they_look_like() -> None:
    loc = ["query", "job_variables", "LIMIT", 3, "my-key"]
    assert describe_validation_errors([error("x", loc, "no")]) == "query.job_variables.LIMIT.3.my-key: no"


def test_error_about_the_whole_is_told_without_a_field() -> None:
    assert describe_validation_errors([error("x", ["Thing"], "no")]) == "no"


def test_values_are_not_told() -> None:
    described = describe_validation_errors([error("x", ["body", "a"], "no")])
    assert described is not None
    assert "secret" not in described


@pytest.mark.parametrize(
    "other", [None, "text", 5, {}, [], [1], [{"msg": "x"}], [{"loc": "a", "msg": "x"}], [{"loc": []}]]
)
def test_what_has_another_shape_is_left_to_others(other: Any) -> None:
    assert describe_validation_errors(other) is None
