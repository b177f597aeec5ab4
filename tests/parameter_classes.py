"""Classes that parameters of flows are made of, and how a test reads one parameter."""

from __future__ import annotations

import dataclasses
import enum
from typing import (
    Any,
    Generic,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import attrs
import pytest

from trioworker.flows.parameters import ParameterError, Parameters

T = TypeVar("T")
Number = TypeVar("Number", int, float)
Limited = TypeVar("Limited", bound=int)
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mood(enum.StrEnum):
    GOOD = "good"


class Spelling(enum.Enum):
    YES = "yes"

    @classmethod
    def _missing_(cls, value: object) -> Spelling | None:
        return cls.YES if value == "y" else None


@attrs.frozen
class Crop:
    """A part of a picture.

    In pixels.
    """

    left: int = attrs.field(validator=attrs.validators.ge(0))
    top: int = 0
    tags: list[str] = attrs.field(factory=list)


@attrs.define
class Node:
    name: str
    next: Node | None = None
    children: list[Node] = attrs.field(factory=list)


@attrs.define
class Box(Generic[T]):
    content: T
    spares: list[T] = attrs.field(factory=list)


@attrs.define
class Cat:
    lives: int
    whiskers: int = 6


@attrs.define
class Dog:
    bark: str


@dataclasses.dataclass
class Account:
    user: str
    password: str = dataclasses.field(repr=False)
    limits: list[int] = dataclasses.field(default_factory=list)
    number: int = dataclasses.field(default=3, init=False)


class Options(TypedDict, total=False):
    width: Required[int]
    height: int


class Sizes(TypedDict):
    small: int
    large: NotRequired[int]


def read(hint: Any, value: Any) -> Any:
    """Structure one parameter of a type."""

    def function(it: Any) -> None: ...

    function.__annotations__ = {"it": hint}
    return Parameters.of(function).structure({"it": value})["it"]


def problems(hint: Any, value: Any) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        read(hint, value)
    return caught.value.problems
