from __future__ import annotations

import dataclasses
import enum
import typing
from pathlib import PurePosixPath
from typing import (
    Any,
)

import attrs
from parameter_classes import (
    Account,
    problems,
    read,
)

from trioworker.flows.parameters import Parameters


def test_the_validators_of_every_field_are_heard() -> None:
    @attrs.frozen
    class Area:
        left: int = attrs.field(validator=attrs.validators.ge(0))
        right: int = attrs.field()
        mode: str = attrs.field(default="a", validator=attrs.validators.in_(["a", "b"]))
        free: str = ""
        kinds: list[str] = attrs.field(factory=list, validator=attrs.validators.max_len(1))

        @right.validator
        def _is_beyond_left(self, _: Any, value: int) -> None:
            if value <= self.left:
                raise ValueError("must lie\nright of left")

    assert problems(Area, {"left": -1, "right": -2, "kinds": ["a"]}) == [
        "it.left: 'left' must be >= 0: -1",
        "it.right: must lie right of left",
    ]
    assert problems(Area, {"left": 1, "right": 2, "mode": "c"})[0].startswith("it.mode: 'mode' must be in")


def test_a_validator_that_looks_at_a_field_that_was_not_made_blames_no_other() -> None:
    @attrs.frozen
    class Area:
        left: Any = attrs.field(converter=int)
        right: int = attrs.field()

        @right.validator
        def _is_beyond_left(self, _: Any, value: int) -> None:
            if value <= self.left:
                raise ValueError("must lie right of left")

    (said,) = problems(Area, {"left": "", "right": 1})

    assert said.startswith("it.left: ")


def test_whatever_a_class_raises_becomes_a_problem_of_the_field() -> None:
    class OddError(Exception):
        pass

    def refuse(_: Any) -> Any:
        raise OddError

    def keep(value: Any, _: Any) -> Any:
        return value

    def refuse_long(*_: Any) -> Any:
        raise KeyError("x" * 1000)

    @attrs.define
    class Converted:
        refused: Any = attrs.field(default=1, converter=refuse)
        plain: Any = attrs.field(default=1, converter=str)
        with_self: Any = attrs.field(default=1, converter=attrs.Converter(keep, takes_self=True))  # type: ignore[misc]
        known: Any = attrs.field(default=1, init=False)
        long: Any = attrs.field(default=1, validator=refuse_long)

    refused, long = problems(Converted, {})

    assert refused == "it.refused: OddError"
    assert long.startswith("it.long: KeyError: xxx")
    assert len(long) < 200


def test_a_check_of_the_whole_object_is_a_problem_of_the_object() -> None:
    @attrs.define
    class Span:
        start: int
        end: int

        def __attrs_post_init__(self) -> None:
            if self.end < self.start:
                raise ValueError("ends before it starts")

    @dataclasses.dataclass
    class Odd:
        a: int

        def __post_init__(self) -> None:
            raise LookupError

    assert problems(list[Span], [{"start": 2, "end": 1}]) == ["it[0]: ends before it starts"]
    assert problems(Odd, {"a": 1}) == ["it: LookupError"]
    assert problems(Odd | int, {"a": 1}) == ["it: LookupError"]


def test_keys_and_paths_that_misbehave_are_problems_too() -> None:
    class Unhashable(enum.Enum):
        A = "a"
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return self is other

    class Picky(PurePosixPath):
        def __new__(cls, *_: Any) -> typing.Self:
            raise LookupError("no such place")

    assert problems(Picky, "a") == ["it: LookupError: no such place"]
    assert problems(dict[str, Picky], {"a": "b"}) == ["it.a: LookupError: no such place"]
    (said,) = problems(dict[Unhashable, int], {"a": 1})
    assert said.startswith("it: unhashable type")


def test_a_class_that_recurses_without_end_is_a_problem_too() -> None:
    @attrs.define
    class Loop:
        a: int

        def __attrs_post_init__(self) -> None:
            self.__attrs_post_init__()

    assert len(problems(Loop, {"a": 1})) == 1


def test_values_of_fields_that_are_not_shown_do_not_reach_a_message() -> None:
    @attrs.define
    class Login:
        token: int = attrs.field(repr=False)
        pin: str = attrs.field(default="", repr=False)

        @pin.validator
        def _is_short(self, _: Any, value: str) -> None:
            if len(value) > 4:
                raise ValueError(f"too long: {value}")

    @attrs.define
    class Pair:
        secret: str = attrs.field(repr=False)

        def __attrs_post_init__(self) -> None:
            raise ValueError(f"bad {self.secret}")

    assert problems(Login, {"token": "hunter2"}) == ["it.token: expected an integer"]
    assert problems(Login, {"token": 1, "pin": "hunter2"}) == ["it.pin: the value is not accepted"]
    assert problems(Pair, {"secret": "hunter2"}) == ["it: the value is not accepted"]
    assert problems(Account, {"user": 1, "password": 2}) == [
        "it.user: expected a string, got 1",
        "it.password: expected a string",
    ]


def test_fields_are_given_by_their_alias() -> None:
    @attrs.define
    class Aliased:
        _private: int
        long_name: int = attrs.field(default=1, alias="short")

    def function(it: Aliased = Aliased(2, short=3)) -> None: ...  # noqa: B008

    parameters = Parameters.of(function)

    assert parameters.structure({"it": {"private": 1, "short": 2}}) == {"it": Aliased(1, short=2)}
    assert parameters.schema["properties"]["it"]["default"] == {"private": 2, "short": 3}
    assert set(parameters.schema["definitions"]["Aliased"]["properties"]) == {"private", "short"}


def test_fields_without_annotation_take_what_their_declaration_says() -> None:
    made = attrs.make_class("Made", {"typed": attrs.field(type=int), "untyped": attrs.field()})

    assert read(made, {"typed": "1", "untyped": "2"}) == made(1, "2")
