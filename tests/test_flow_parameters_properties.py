from __future__ import annotations

import enum
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from types import GenericAlias
from typing import Any, Literal
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioworker.flows.parameters import ParameterError, Parameters

# What Prefect's server checks runs with; it comes with Prefect.
jsonschema = pytest.importorskip("jsonschema")


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


@attrs.frozen
class Leaf:
    text: str = attrs.field(validator=attrs.validators.max_len(3))
    number: float = 1.5


@attrs.frozen
class Tree:
    leaf: Leaf | None = None
    branches: tuple[Tree, ...] = ()
    colours: frozenset[Colour] = frozenset()
    moment: datetime | None = None


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text(),
    type(None): st.none(),
    datetime: st.datetimes(timezones=st.just(UTC)) | st.datetimes(),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(min_value=timedelta(days=-9999), max_value=timedelta(days=9999)),
    UUID: st.uuids(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    bytes: st.text().map(str.encode),
    PurePosixPath: st.text(alphabet="ab/", min_size=1).map(PurePosixPath),
    Colour: st.sampled_from(Colour),
    Literal["a", 1]: st.sampled_from(["a", 1]),
    Leaf: st.builds(Leaf, st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False)),
    Tree: st.recursive(
        st.builds(Tree, colours=st.frozensets(st.sampled_from(Colour))),
        lambda trees: st.builds(Tree, branches=st.lists(trees, max_size=2).map(tuple)),
        max_leaves=4,
    ),
}

# Pairs of a type and a value of it.
typed_values = st.recursive(
    st.sampled_from(list(SCALARS)).flatmap(lambda hint: st.tuples(st.just(hint), SCALARS[hint])),
    lambda inner: st.one_of(
        inner.map(lambda pair: (GenericAlias(list, (pair[0],)), [pair[1]])),
        inner.map(lambda pair: (GenericAlias(tuple, (pair[0], ...)), (pair[1], pair[1]))),
        inner.map(lambda pair: (GenericAlias(dict, (str, pair[0])), {"key": pair[1]})),
        inner.map(lambda pair: (pair[0] | None, pair[1])),
        st.lists(inner, max_size=2).map(
            lambda pairs: (
                GenericAlias(tuple, tuple(hint for hint, _ in pairs)),
                tuple(value for _, value in pairs),
            )
        ),
    ),
    max_leaves=4,
)

member_names = st.sampled_from(["leaf", "branches", "colours", "text", "number", "moment"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | member_names, inner, max_size=3)
    ),
    max_leaves=8,
)


def parameters_with(hint: Any, default: Any) -> Parameters:
    def function(it: Any = default) -> None: ...

    function.__annotations__ = {"it": hint}
    return Parameters.of(function)


@given(typed_values)
def test_a_published_default_fits_what_is_published_and_is_read_as_what_it_was(pair: tuple[Any, Any]) -> None:
    hint, value = pair
    parameters = parameters_with(hint, value)
    schema = json.loads(json.dumps(parameters.schema))

    arguments = {"it": schema["properties"]["it"]["default"]}

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(arguments, schema, jsonschema.Draft202012Validator)
    assert parameters.structure(arguments) == {"it": value}


@given(typed_values, documents)
def test_no_json_makes_anything_but_a_value_or_problems_that_name_the_parameter(
    pair: tuple[Any, Any], document: Any
) -> None:
    parameters = parameters_with(pair[0], pair[1])

    problems = problems_of(parameters, {"it": document})

    for problem in problems:
        assert problem.startswith("it")
        assert len(problem) < 500
        assert "\n" not in problem


def problems_of(parameters: Parameters, values: dict[str, Any]) -> list[str]:
    try:
        assert set(parameters.structure(values)) == {"it"}
    except ParameterError as error:
        return error.problems
    return []
