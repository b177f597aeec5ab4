from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import (
    Any,
)

import attrs
import pytest
from parameter_classes import (
    Crop,
    Node,
    read,
)

from trioworker.errors import ConfigurationError
from trioworker.flows.parameters import ParameterError, Parameters, ParameterTypesError


def test_parameters_of_a_run_become_keyword_arguments_and_defaults_stay_with_the_function() -> None:
    async def resize(path: Path, *, width: int = 640, quality=None, **labels: int) -> None:  # type: ignore[no-untyped-def]
        ...

    parameters = Parameters.of(resize)

    assert parameters.structure({"path": "a"}) == {"path": Path("a")}
    given = {"path": "a", "width": "3", "quality": {"any": "thing"}, "red": "4"}
    assert parameters.structure(given) == {
        "path": Path("a"),
        "width": 3,
        "quality": {"any": "thing"},
        "red": 4,
    }
    assert parameters.schema["additionalProperties"] == {"type": "integer"}
    with pytest.raises(ParameterError, match="red: expected an integer, got 'x'"):
        parameters.structure({"path": "a", "red": "x"})


def test_other_names_are_anything_without_an_annotation_of_theirs() -> None:
    def function(**others): ...  # type: ignore[no-untyped-def]

    parameters = Parameters.of(function)

    assert parameters.structure({"a": [1]}) == {"a": [1]}
    assert "additionalProperties" not in parameters.schema


def test_all_problems_of_a_run_are_reported_at_once_in_one_readable_line() -> None:
    def resize(path: str, width: int, height: int) -> None: ...

    with pytest.raises(ParameterError) as caught:
        Parameters.of(resize).structure({"path": "a", "width": "abc", "colour": "red"})

    assert str(caught.value) == (
        "the parameters do not fit the flow: width: expected an integer, got 'abc'; height: missing; "
        "colour: there is no such parameter"
    )


def test_a_line_of_very_many_problems_is_short_but_the_list_is_whole() -> None:
    with pytest.raises(ParameterError) as caught:
        read(list[int], ["x"] * 1000)

    assert len(caught.value.problems) == 1000
    assert str(caught.value).endswith("it[9]: expected an integer, got 'x'; and 990 more")


def test_null_is_taken_where_the_default_is_none() -> None:
    def function(width: int = None, height: int = 3) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    parameters = Parameters.of(function)

    assert parameters.structure({"width": None}) == {"width": None}
    with pytest.raises(ParameterError, match="height: expected an integer, got null"):
        parameters.structure({"height": None})


def test_values_nested_without_end_are_refused() -> None:
    value: dict[str, Any] = {"name": "a"}
    for _ in range(5000):
        value = {"name": "a", "next": value}

    def function(it: Node) -> None: ...

    with pytest.raises(ParameterError, match="nested too deeply"):
        Parameters.of(function).structure({"it": value})


def test_a_docstring_describes_the_parameters_that_there_are() -> None:
    def function(a: int, b: int) -> None:
        """Nothing.

        Args:
            a without a colon
            what: is no parameter
            a: one
            b: another
        """

    properties = Parameters.of(function).schema["properties"]

    assert [part.get("description") for part in properties.values()] == ["one", "another"]
    assert list(properties) == ["a", "b"]


def test_importing_is_free_of_prefect_and_event_loops() -> None:
    program = (
        "import sys, trioworker.flows.parameters; "
        "print([name for name in ('asyncio', 'pydantic', 'prefect', 'rich', 'ssl') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"


# Where annotations are resolved.


def test_annotations_may_name_what_is_local_to_the_function_around() -> None:
    @attrs.define
    class Local:
        other: Other
        again: Local | None = None

    @attrs.define
    class Other:
        a: int

    def function(it: Local) -> None: ...

    assert Parameters.of(function).structure({"it": {"other": {"a": "1"}}}) == {"it": Local(Other(1))}


def test_annotations_may_name_what_a_closure_holds() -> None:
    function, other = _with_closures()

    assert Parameters.of(function).structure({"it": {"left": 1}}) == {"it": Crop(1)}
    assert Parameters.of(other).structure({"it": {"left": 1}}) == {"it": Crop(1)}


def _with_closures() -> tuple[Callable[..., Any], Callable[..., Any]]:
    held = unassigned = Crop

    def function(it: held) -> Any:  # type: ignore[valid-type]
        return held

    def other(it: held) -> Any:  # type: ignore[valid-type]
        return held, unassigned  # noqa: F821

    del unassigned
    return function, other


def test_a_name_nearer_to_the_function_hides_one_farther_off() -> None:
    Thing = int  # noqa: N806

    def around() -> Parameters:
        Thing = Crop  # noqa: N806

        def function(it: Thing) -> Any: ...  # type: ignore[valid-type]

        return Parameters.of(function)

    assert Thing is int
    assert around().structure({"it": {"left": 1}}) == {"it": Crop(1)}


def test_wrapped_partial_and_bound_functions_are_read_as_they_are_called() -> None:
    def plain(a: int, b: int = 2, c: int = 3) -> None: ...

    @functools.wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    class Worker:
        def method(self, a: Crop) -> None: ...

        def __call__(self, a: Crop) -> None: ...

    assert Parameters.of(wrapper).structure({"a": "1"}) == {"a": 1}
    partial = Parameters.of(functools.partial(wrapper, b=5))
    assert partial.structure({"a": "1", "b": "2", "c": "3"}) == {"a": 1, "b": 2, "c": 3}
    assert partial.schema["properties"]["b"]["default"] == 5
    assert Parameters.of(Worker().method).structure({"a": {"left": 1}}) == {"a": Crop(1)}
    assert Parameters.of(Worker()).structure({"a": {"left": 1}}) == {"a": Crop(1)}


def _positional(a: int, /) -> None: ...
def _variadic(*names: str) -> None: ...
def _unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _complex(a: complex) -> None: ...
def _nested_complex(crops: list[dict[str, complex]]) -> None: ...
def _names(a: collections.abc.Iterator[int]) -> None: ...
def _list(a: [int]) -> None: ...  # type: ignore[valid-type, misc]
def _half(a: dict[str]) -> None: ...  # type: ignore[type-arg]
def _late(a: list[Nowhere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class _Weird(enum.Enum):
    A = object()


def _enum(a: _Weird) -> None: ...


@attrs.define
class _Holder:
    inner: complex


def _holder(a: _Holder) -> None: ...


@dataclasses.dataclass
class _WithInitVar:
    inner: dataclasses.InitVar[int]


def _init_var(a: _WithInitVar) -> None: ...


class TypeAliasType:
    """Stands for an alias of Python 3.12, `type Nested = list[Nested]`."""

    __value__: Any


def _alias(a: Any) -> None: ...


class _Uncallable:
    __annotations__ = {"a": "Nowhere"}
    __signature__ = inspect.Signature(
        [inspect.Parameter("a", inspect.Parameter.KEYWORD_ONLY, annotation="Nowhere")]
    )


_nested = TypeAliasType()
_nested.__value__ = list[_nested]  # type: ignore[valid-type]
_alias.__annotations__ = {"a": _nested}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_positional, ["`_positional`", "parameter `a`", "positional-only", "remove the `/`"]),
        (_variadic, ["`_variadic`", "parameter `names`", "take a list"]),
        (_unknown, ["`_unknown`", "parameter `a`", "Nowhere", "define or import"]),
        (_late, ["`_late`", "parameter `a`", "Nowhere"]),
        (_complex, ["parameter `a`", "complex cannot be read from JSON"]),
        (_nested_complex, ["parameter `crops`", "complex cannot be read from JSON"]),
        (_names, ["Iterator[int] cannot be read from JSON"]),
        (_list, ["[<class 'int'>] is not a type"]),
        (_half, ["parameter `a`", "dict[str] needs two types"]),
        (_enum, ["object cannot be written in JSON"]),
        (_holder, ["parameter `a`: field `inner` of _Holder: complex cannot"]),
        (_init_var, ["`inner`", "InitVar", "make it a field"]),
        (_Uncallable, ["`_Uncallable`, parameter `a`", "Nowhere"]),
        (_alias, ["parameter `a`", "contains itself"]),
        (print, ["`print`, parameter `args`", "take a list"]),
        (type, ["`type`, signature", "plain function"]),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_before_any_run(
    function: Callable[..., Any], words: list[str]
) -> None:
    with pytest.raises(ParameterTypesError) as caught:
        Parameters.of(function)

    assert isinstance(caught.value, ConfigurationError)
    for word in words:
        assert word in str(caught.value)
