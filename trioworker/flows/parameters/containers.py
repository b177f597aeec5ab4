"""Containers: lists, sets, tuples and mappings, whose misfits are all reported at once."""

from __future__ import annotations

import collections.abc
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final

from trioworker.flows.parameters.errors import UnservableError
from trioworker.flows.parameters.hints import type_text
from trioworker.flows.parameters.known_types import KnownTypes, Schema
from trioworker.flows.parameters.misfits import MisfitError, Problem, problems_at

__all__ = ["COLLECTIONS", "MAPPINGS", "learn_collection", "learn_mapping", "learn_tuple"]

# Of each type of many items, what it is made as.
COLLECTIONS: Final[Mapping[Any, type[Any]]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    set: set,
    collections.abc.MutableSet: set,
    collections.abc.Set: frozenset,
    frozenset: frozenset,
}

# All are made as a dict.
MAPPINGS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def learn_collection(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn one of `COLLECTIONS`."""
    made = COLLECTIONS[typing.get_origin(hint) or hint]
    item_hint = (typing.get_args(hint) or (Any,))[0]
    return _learn_items(learnt, hint, item_hint, made)


def learn_tuple(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn a tuple, of as many items as it has types or of any number."""
    hints = typing.get_args(hint)
    if hint is tuple or hint is typing.Tuple:  # noqa: UP006
        return _learn_items(learnt, hint, Any, tuple)
    if len(hints) == 2 and hints[1] is ...:
        return _learn_items(learnt, hint, hints[0], tuple)

    def read(value: Any, exact: bool) -> Any:
        if not isinstance(value, list | tuple):
            raise MisfitError.expected(f"a list of {len(hints)}", value)
        if len(value) != len(hints):
            raise MisfitError(Problem(expected=f"a list of {len(hints)}", got=f"one of {len(value)}"))
        return tuple(_read_items(learnt, zip(value, hints, strict=True), exact=exact))

    schema: Schema = {"type": "array", "minItems": len(hints), "maxItems": len(hints)}
    items = [learnt.learn(item_hint) for item_hint in hints]
    return learnt.know(hint, read, schema | ({"prefixItems": items} if items else {}))


def _learn_items(learnt: KnownTypes, hint: Any, item_hint: Any, made: type[Any]) -> Schema:
    def read(value: Any, exact: bool) -> Any:
        if not isinstance(value, list | tuple):
            raise MisfitError.expected("a list", value)
        return made(_read_items(learnt, ((item, item_hint) for item in value), exact=exact))

    schema: Schema = {"type": "array", "items": learnt.learn(item_hint)}
    return learnt.know(hint, read, schema | ({"uniqueItems": True} if made in (set, frozenset) else {}))


def _read_items(learnt: KnownTypes, values: Iterable[tuple[Any, Any]], *, exact: bool) -> list[Any]:
    """Read pairs of a value and its type."""
    found: list[Any] = []
    problems: list[Problem] = []
    for index, (value, hint) in enumerate(values):
        try:
            found.append(learnt.structure(value, hint, exact=exact))
        except MisfitError as misfit:
            problems += problems_at(index, misfit)
    if problems:
        raise MisfitError(*problems)
    return found


def learn_mapping(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn one of `MAPPINGS`."""
    arguments = typing.get_args(hint) or (Any, Any)
    if len(arguments) != 2:
        raise UnservableError(f"{type_text(hint)} needs two types, of its keys and of its values")
    key_hint, value_hint = arguments

    def read(value: Any, exact: bool) -> Any:
        if not isinstance(value, Mapping):
            raise MisfitError.expected("a mapping", value)
        found: dict[Any, Any] = {}
        problems: list[Problem] = []
        for key, item in value.items():
            try:
                # Keys are always text in JSON: there is no exact number among them.
                made_key = learnt.structure(key, key_hint, exact=False)
                found[made_key] = learnt.structure(item, value_hint, exact=exact)
            except MisfitError as misfit:
                problems += problems_at(key, misfit)
        if problems:
            raise MisfitError(*problems)
        return found

    learnt.learn(key_hint)
    return learnt.know(
        hint, read, {"type": "object", "additionalProperties": learnt.learn(value_hint) or True}
    )
