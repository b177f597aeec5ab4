from __future__ import annotations

import collections.abc
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import (
    Annotated,
    Any,
    Literal,
    Optional,
)
from uuid import UUID

import pytest
from parameter_classes import (
    Account,
    Box,
    Cat,
    Colour,
    Crop,
    Dog,
    Level,
    Limited,
    Mood,
    Node,
    Number,
    Options,
    Sizes,
    Spelling,
    T,
    UserId,
    problems,
    read,
)


def exactly(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 5, 5),
        (int, "5", 5),
        (int, " -5.0 ", -5),
        (int, 3.0, 3),
        (float, 5, 5.0),
        (float, 2.5, 2.5),
        (float, "1e3", 1000.0),
        (bool, True, True),
        (str, "5", "5"),
        (None, None, None),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, [1], [1]),
        (datetime, "2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        (datetime, "2030-01-31T12:00:00", datetime(2030, 1, 31, 12)),  # noqa: DTZ001
        (datetime, "2030-01-31 12:00+02:00", datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
        (date, "2030-01-31", date(2030, 1, 31)),
        (date, "2030-01-31T00:00:00.000Z", date(2030, 1, 31)),
        (time, "12:30", time(12, 30)),
        (time, "12:30:00Z", time(12, 30, tzinfo=UTC)),
        (timedelta, "PT1H30M", timedelta(hours=1, minutes=30)),
        (timedelta, "P1W", timedelta(weeks=1)),
        (timedelta, "-P1DT0.5S", -timedelta(days=1, seconds=0.5)),
        (timedelta, 90, timedelta(seconds=90)),
        (timedelta, 1.5, timedelta(seconds=1.5)),
        (UUID, "00000000-0000-0000-0000-000000000003", UUID(int=3)),
        (Path, "a/b", Path("a/b")),
        (PurePosixPath, "a/b", PurePosixPath("a/b")),
        (Decimal, "1.10", Decimal("1.10")),
        (Decimal, 1.1, Decimal("1.1")),
        (bytes, "é", b"\xc3\xa9"),
        (Colour, "red", Colour.RED),
        (Level, 1, Level.LOW),
        (Level, 1.0, Level.LOW),
        (Level, "2", Level.HIGH),
        (Mood, "good", Mood.GOOD),
        (Spelling, "y", Spelling.YES),
        (Literal["a", 1, None], "a", "a"),  # noqa: PYI061
        (Literal["a", 1, None], None, None),  # noqa: PYI061
        (Literal[1], 1.0, 1),
        (Literal[Colour.RED], "red", Colour.RED),
        (list, ["a", 1], ["a", 1]),
        (list[int], ["1", 2.0], [1, 2]),
        (Sequence[int], [1], [1]),
        (Iterable[int], [1], [1]),
        (typing.List[int], [1], [1]),  # noqa: UP006
        (set[int], [1, "1"], {1}),
        (frozenset[str], ["a"], frozenset("a")),
        (collections.abc.Set[str], ["a"], frozenset("a")),
        (tuple, [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, "3"], (1, 2, 3)),
        (tuple[int, str], ["1", "1"], (1, "1")),
        (tuple[()], [], ()),
        (dict, {"a": 1}, {"a": 1}),
        (dict[int, list[str]], {"1": ["a"]}, {1: ["a"]}),
        (Mapping[str, date], {"a": "2030-01-31"}, {"a": date(2030, 1, 31)}),
        (UserId, "3", 3),
        (Annotated[int, "a number"], "3", 3),
        (Number, 2.5, 2.5),
        (Limited, "3", 3),
        (T, "3", "3"),
        (Crop, {"left": "3"}, Crop(3)),
        (Crop, {"left": 3, "tags": ["a"]}, Crop(3, tags=["a"])),
        (Node, {"name": "a", "next": {"name": "b"}}, Node("a", Node("b"))),
        (Node, {"name": "a", "children": [{"name": "b"}]}, Node("a", children=[Node("b")])),
        (Box[int], {"content": "3", "spares": ["4"]}, Box(3, [4])),
        (Box, {"content": "3"}, Box("3")),
        (Account, {"user": "a", "password": "b"}, Account("a", "b")),
        (Options, {"width": "3"}, {"width": 3}),
        (Sizes, {"small": "3", "large": 4}, {"small": 3, "large": 4}),
    ],
)
def test_json_becomes_what_the_annotation_says(hint: Any, value: Any, expected: Any) -> None:
    assert exactly(read(hint, value), expected)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int | str, "5", "5"),
        (int | str, 5, 5),
        (int | str, 5.0, 5),
        (int | float, 5.0, 5.0),
        (float | int, 5, 5),
        (int | bool, True, True),
        (int | None, "5", 5),
        (Optional[int], None, None),  # noqa: UP045
        (datetime | str, "2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z"),
        (date | datetime, "2030-01-31T12:00:00", datetime(2030, 1, 31, 12)),  # noqa: DTZ001
        (UUID | int, "7", 7),
        (Decimal | str, "1.5", "1.5"),
        (timedelta | float, 1.5, 1.5),
        (Colour | str, "red", Colour.RED),
        (Colour | str, "green", "green"),
        (list[int] | list[str], ["5"], ["5"]),
        (tuple[int, int] | tuple[str, str], ["5", "6"], ("5", "6")),
        (dict[str, int] | dict[str, str], {"a": "5"}, {"a": "5"}),
        (Cat | Dog, {"bark": "wuff"}, Dog("wuff")),
        (Path | None, "a", Path("a")),
        (list[int | str] | None, [1, "2"], [1, "2"]),
    ],
)
def test_a_union_takes_the_member_that_fits_best(hint: Any, value: Any, expected: Any) -> None:
    assert exactly(read(hint, value), expected)


@pytest.mark.parametrize(
    ("hint", "value", "problem"),
    [
        (int, "abc", "expected an integer, got 'abc'"),
        (int, "9" * 5000, f"expected an integer, got '{'9' * 27}...{'9' * 28}'"),
        (int, 3.5, "expected an integer, got 3.5"),
        (int, float("inf"), "expected an integer, got inf"),
        (int, True, "expected an integer, got true"),
        (int, None, "expected an integer, got null"),
        (int, {"secret": 1}, "expected an integer, got a mapping"),
        (float, True, "expected a number, got true"),
        (float, "x", "expected a number, got 'x'"),
        (float, 10**400, None),
        (bool, 1, "expected true or false, got 1"),
        (bool, "true", "expected true or false, got 'true'"),
        (str, 5, "expected a string, got 5"),
        (None, 0, "expected null, got 0"),
        (datetime, "soon", "expected a date and time such as 2030-01-31T12:00:00Z, got 'soon'"),
        (datetime, 1600000000, "expected a date and time such as 2030-01-31T12:00:00Z, got 1600000000"),
        (date, "2030-01-31T12:00:00Z", "expected a date such as 2030-01-31, got '2030-01-31T12:00:00Z'"),
        (time, "noon", "expected a time of day such as 12:00:00, got 'noon'"),
        (timedelta, "P1M", "expected a duration such as PT1H30M, or a number of seconds, got 'P1M'"),
        (timedelta, "P", "expected a duration such as PT1H30M, or a number of seconds, got 'P'"),
        (timedelta, True, "expected a duration such as PT1H30M, or a number of seconds, got true"),
        (timedelta, 1e300, "expected a duration such as PT1H30M, or a number of seconds, got 1e+300"),
        (timedelta, [], "expected a duration such as PT1H30M, or a number of seconds, got a list"),
        (UUID, "x", "expected a UUID, got 'x'"),
        (Decimal, "x", "expected a decimal number, got 'x'"),
        (Decimal, "nan", "expected a decimal number, got 'nan'"),
        (Decimal, True, "expected a decimal number, got true"),
        (bytes, 5, "expected text, got 5"),
        (Path, 5, "expected a path, got 5"),
        (Colour, "RED", "expected one of 'red', 'blue', got 'RED'"),
        (Colour, [], "expected one of 'red', 'blue', got a list"),
        (Level, True, "expected one of 1, 2, got true"),
        (Level, "x", "expected one of 1, 2, got 'x'"),
        (Literal[1], True, "expected 1, got true"),
        (Literal["a", "b"], "c", "expected one of 'a', 'b', got 'c'"),
        (list[int], "12", "expected a list, got '12'"),
        (tuple[int, int], {}, "expected a list of 2, got a mapping"),
        (tuple[int, int], [1], "expected a list of 2, got one of 1"),
        (dict[str, int], [], "expected a mapping, got a list"),
        (Crop, [], "expected a mapping, got a list"),
        (set[Any], [[]], "unhashable type: 'list'"),
        (int | None, "x", "expected an integer or null, got 'x'"),
        (int | bool | None, "x", "expected an integer, true or false or null, got 'x'"),
        (Cat | Dog, 1, "expected a mapping, got 1"),
    ],
)
def test_what_does_not_fit_is_said(hint: Any, value: Any, problem: str | None) -> None:
    (said,) = problems(hint, value)

    if problem is None:
        assert said.startswith("it: expected")
        assert len(said) < 120
    else:
        assert said == f"it: {problem}"


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (
            list[int],
            [1, "x", None],
            ["it[1]: expected an integer, got 'x'", "it[2]: expected an integer, got null"],
        ),
        (tuple[int, str], [1, 2], ["it[1]: expected a string, got 2"]),
        (
            dict[str, int],
            {"a": "x", "b c": "y"},
            ["it.a: expected an integer, got 'x'", "it['b c']: expected an integer, got 'y'"],
        ),
        (dict[int, int], {"a": 1}, ["it.a: expected an integer, got 'a'"]),
        (dict[frozenset[int], int], {"a": 1}, ["it.a: expected a list, got 'a'"]),
        (Crop, {}, ["it.left: missing"]),
        (
            Crop,
            {"left": "x", "lfet": 1},
            ["it.left: expected an integer, got 'x'", "it.lfet: there is no such field"],
        ),
        (Crop, {"left": 1, "tags": ["a", 2]}, ["it.tags[1]: expected a string, got 2"]),
        (Sizes, {"big": 1}, ["it.small: missing", "it.big: there is no such field"]),
        (Options, {}, ["it.width: missing"]),
        (Node, {"name": "a", "next": {"name": 1}}, ["it.next.name: expected a string, got 1"]),
        (Box[int], {"content": "x"}, ["it.content: expected an integer, got 'x'"]),
        (list[int] | None, ["x"], ["it[0]: expected an integer, got 'x'"]),
        (Cat | Dog, {"bark": 1}, ["it.bark: expected a string, got 1"]),
        (list[list[int]], [[1], ["x"]], ["it[1][0]: expected an integer, got 'x'"]),
    ],
)
def test_every_problem_names_its_field_by_path(hint: Any, value: Any, said: list[str]) -> None:
    assert problems(hint, value) == said


def test_a_deep_path_is_shortened() -> None:
    value: dict[str, Any] = {"name": 1}
    for _ in range(60):
        value = {"name": "a", "next": value}

    (said,) = problems(Node, value)

    assert said.startswith("it.next.next")
    assert said.endswith("…: expected a string, got 1")
    assert len(said) < 200
