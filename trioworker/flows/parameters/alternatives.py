"""One of several: the values of a `Literal` or an enumeration, and the types of a union."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, Final

from trioworker.flows.parameters.descriptions import class_description
from trioworker.flows.parameters.known_types import KnownTypes, Schema
from trioworker.flows.parameters.misfits import MisfitError, shown
from trioworker.flows.parameters.scalars import read_integer

__all__ = ["learn_enum", "learn_literal", "learn_union"]

_VALUES_SHOWN: Final = 10
_VALUE_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}


def learn_literal(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn a `Literal`."""
    options = [(learnt.as_json(option), option) for option in typing.get_args(hint)]
    values = [value for value, _ in options]

    def read(value: Any, _: bool) -> Any:
        for known, option in options:
            if _is_same(value, known):
                return option
        raise MisfitError.expected(_one_of(values), value)

    schema = _values_schema(values)
    if len(values) == 1:
        schema["const"] = schema.pop("enum")[0]
    return learnt.know(hint, read, schema)


def learn_enum(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn an enumeration, which is read by value."""
    members = [(learnt.as_json(member.value), member) for member in hint]
    values = [value for value, _ in members]

    def read(value: Any, exact: bool) -> Any:
        for known, member in members:
            if _is_same(value, known):
                return member
        if not exact and not isinstance(value, bool):
            # The class may know further spellings.
            is_numeric = issubclass(hint, int) and isinstance(value, str)
            try:
                return hint(read_integer(value, exact=False) if is_numeric else value)
            except Exception as error:
                raise MisfitError.expected(_one_of(values), value) from error
        raise MisfitError.expected(_one_of(values), value)

    definition = {"title": hint.__name__, **_values_schema(values)}
    description = class_description(hint)
    if description:
        definition["description"] = description
    return learnt.define(hint, read, definition)


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where `true` is not 1."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _one_of(values: Sequence[Any]) -> str:
    texts = [shown(value) for value in values[:_VALUES_SHOWN]]
    if len(values) == 1:
        return texts[0]
    return "one of " + ", ".join(texts) + (", …" if len(values) > len(texts) else "")


def _values_schema(values: Sequence[Any]) -> Schema:
    names = {_VALUE_TYPES.get(type(value)) for value in values}
    name = names.pop() if len(names) == 1 else None
    return {"enum": list(values)} | ({"type": name} if name else {})


def learn_union(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn a union: the first member that fits as it stands is taken, then the first that can be made to."""
    options = typing.get_args(hint)

    def read(value: Any, exact: bool) -> Any:
        misfits: list[MisfitError] = []
        for is_exact in (True,) if exact else (True, False):
            misfits.clear()
            for option in options:
                try:
                    return learnt.structure(value, option, exact=is_exact)
                except MisfitError as misfit:
                    misfits.append(misfit)
        raise _closest(misfits, value)

    return learnt.know(hint, read, {"anyOf": [learnt.learn(option) for option in options]})


def _closest(misfits: Sequence[MisfitError], value: Any) -> MisfitError:
    """What to say of a value that fits no member of a union."""
    nearly = [misfit for misfit in misfits if not misfit.is_of_another_kind()]
    if nearly:
        return min(nearly, key=lambda misfit: len(misfit.problems))
    expected = dict.fromkeys(problem.expected for misfit in misfits for problem in misfit.problems)
    *most, last = expected
    return MisfitError.expected(f"{', '.join(most)} or {last}" if most else last, value)
