"""Classes made with `trioworker.lean_attrs` behave as those that attrs makes by itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioworker.lean_attrs import frozen


@frozen
class Lean:
    shown: object
    secret: object = attrs.field(repr=False)
    uncounted: object = attrs.field(eq=False)
    masked: object = attrs.field(repr=lambda _: "***")
    _private: object = None


# The same fields in a class that attrs has made by itself.
Own: Any = attrs.make_class(
    "Lean",
    {
        field.name: attrs.field(default=field.default, repr=field.repr, eq=field.eq)
        for field in attrs.fields(Lean)
    },
    frozen=True,
)

FIELDS = st.tuples(*[st.integers(0, 1)] * 5)


@given(one=FIELDS, other=FIELDS)
def test_equality_and_hash_go_by_the_same_fields(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert (Lean(*one) == Lean(*other)) == (Own(*one) == Own(*other))
    assert (Lean(*one) != Lean(*other)) == (Own(*one) != Own(*other))
    if Lean(*one) == Lean(*other):
        assert hash(Lean(*one)) == hash(Lean(*other))


@given(fields=FIELDS)
def test_text_is_the_same(fields: tuple[int, ...]) -> None:
    assert repr(Lean(*fields)) == repr(Own(*fields))


def test_secret_is_not_in_the_text() -> None:
    assert "s3cret" not in repr(Lean("open", "s3cret", "open", "s3cret"))


def test_text_names_the_class_that_a_function_has_made() -> None:
    @frozen
    class Local:
        a: int

    assert repr(Local(1)) == "Local(a=1)"


@pytest.mark.parametrize("stranger", [1, None, (1, 2, 3, 4, None), Own(1, 2, 3, 4)])
def test_nothing_else_is_equal(stranger: object) -> None:
    assert Lean(1, 2, 3, 4) != stranger
    assert stranger != Lean(1, 2, 3, 4)


def test_subclass_is_not_equal_and_shows_all_its_fields() -> None:
    @frozen
    class Base:
        a: int

    @frozen
    class Derived(Base):
        b: int = 2

    derived: Any = Derived(1)
    assert derived != Base(1)
    assert derived == Derived(1, 2)
    assert repr(derived) == "Derived(a=1, b=2)"


def test_hash_of_what_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Lean([], 2, 3, 4))


def test_what_a_class_has_of_its_own_is_kept() -> None:
    @frozen
    class Mine:
        a: int

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    assert repr(Mine(1)) == "mine"
    assert Mine(1) == Mine(2)
    assert hash(Mine(1)) == 7


def test_subclass_without_its_own_has_those_of_its_base() -> None:
    """As with attrs: what it adds does not count, and is not shown."""

    @frozen
    class Base:
        a: int

    @attrs.frozen(eq=False, repr=False)
    class WithSecret(Base):
        secret: str

    assert repr(WithSecret(1, "s3cret")).endswith("WithSecret(a=1)")
    assert WithSecret(1, "s3cret") == WithSecret(1, "another")
    assert hash(WithSecret(1, "s3cret")) == hash(WithSecret(1, "another"))


def test_different_objects_have_different_hashes() -> None:
    assert len({hash(Lean(number, 2, 3, 4)) for number in range(10)}) == 10
    assert hash(Lean(1, 2, 3, 4)) != hash(Own(1, 2, 3, 4))


def test_what_is_not_equal_to_itself_counts() -> None:
    nan = float("nan")
    assert (Lean(nan, 2, 3, 4) == Lean(nan, 2, 3, 4)) is (Own(nan, 2, 3, 4) == Own(nan, 2, 3, 4)) is False


def test_text_of_what_contains_itself_has_an_end() -> None:
    inside: list[object] = []
    lean = Lean(inside, 2, 3, 4)
    inside.append(lean)
    assert repr(lean) == "Lean(shown=[...], uncounted=3, masked=***, _private=None)"


def test_equality_of_a_special_kind_is_refused() -> None:
    class WithKey:
        a: str = attrs.field(eq=str.lower)

    class WithoutHash:
        a: str = attrs.field(hash=False)

    class OwnHash:
        a: str

        def __hash__(self) -> int:
            return 7

    class Failure(Exception):  # noqa: N818 - is none
        a: str

    for special in (WithKey, WithoutHash, OwnHash, Failure):
        with pytest.raises(TypeError, match="equality of its own kind"):
            frozen(special)


def test_option_that_is_not_here_is_refused() -> None:
    with pytest.raises(TypeError, match="order"):
        frozen(order=True)


def test_pytest_tells_in_which_fields_two_differ() -> None:
    """It knows by where the equality comes from that it may compare them one by one."""
    with pytest.raises(AssertionError, match="Differing attributes"):
        assert Lean(1, 2, 3, 4) == Lean(2, 2, 3, 4)


def test_fields_cannot_be_set_and_there_are_no_others() -> None:
    lean: Any = Lean(1, 2, 3, 4)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        lean.shown = 2
    assert not hasattr(lean, "__dict__")


def test_copies_are_equal() -> None:
    lean = Lean(1, 2, 3, 4)
    pickled = pickle.loads(pickle.dumps(lean))  # noqa: S301 - our own
    assert copy.copy(lean) == attrs.evolve(lean) == pickled == lean
