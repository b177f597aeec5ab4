"""Members: what is given by name, be it a parameter of a function or a field of a class."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from trioworker.flows.parameters.errors import UnservableError
from trioworker.lean_attrs import frozen

__all__ = ["MISSING", "Member", "declared_members", "given_name", "is_record", "or_missing"]

# Stands for a default or a value that there is not, since None may be one.
MISSING: Final = object()


@frozen
class Member:
    """A parameter of a function, or a field of a class.

    Attributes:
        key: the name it is given by; of a field the alias.
        hint: its type, as annotated.
        default: None is one; `MISSING` for none, or for one that is made anew each time.
        is_required: it must be given.
        is_hidden: its values are not shown, as they are not in the class's `repr`.
    """

    key: str
    hint: Any
    default: Any = MISSING
    is_required: bool = attrs.field(kw_only=True)
    is_hidden: bool = attrs.field(default=False, kw_only=True)


def or_missing(default: Any, empty: Any) -> Any:
    """A default, or `MISSING` if it is the mark of `inspect` or `dataclasses` for none."""
    return MISSING if default is empty else default


def is_record(cls: Any) -> bool:
    """Whether a type is a class that comes as an object: of attrs, a dataclass or a `TypedDict`."""
    return isinstance(cls, type) and (
        attrs.has(cls) or dataclasses.is_dataclass(cls) or hasattr(cls, "__required_keys__")
    )


def given_name(attribute: attrs.Attribute[Any]) -> str:
    """The name that the value of an attrs field is given by."""
    return attribute.alias or attribute.name


def declared_members(cls: Any, hints: Mapping[str, Any]) -> Iterator[Member]:
    """The fields of a record that may be given, with the types that were resolved.

    Raises:
        UnservableError: one of them cannot be given by name.
    """
    if attrs.has(cls):
        return _attrs_members(cls, hints)
    if dataclasses.is_dataclass(cls):
        return _dataclass_members(cls, hints)
    return _typed_dict_members(cls, hints)


def _attrs_members(cls: type[attrs.AttrsInstance], hints: Mapping[str, Any]) -> Iterator[Member]:
    for attribute in attrs.fields(cls):
        if attribute.init:
            # Fields made by `attr.ib(type=...)` have no annotation.
            hint = hints.get(attribute.name, Any if attribute.type is None else attribute.type)
            is_made_anew = isinstance(attribute.default, attrs.Factory)  # type: ignore[arg-type]
            yield Member(
                given_name(attribute),
                hint,
                MISSING if is_made_anew else or_missing(attribute.default, attrs.NOTHING),
                is_required=attribute.default is attrs.NOTHING,
                is_hidden=attribute.repr is False,
            )


def _dataclass_members(cls: Any, hints: Mapping[str, Any]) -> Iterator[Member]:
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar):
            raise UnservableError(f"{cls.__name__} takes `{name}` as an InitVar; make it a field")
    for field in dataclasses.fields(cls):
        if field.init:
            default = or_missing(field.default, dataclasses.MISSING)
            is_required = default is MISSING and field.default_factory is dataclasses.MISSING
            yield Member(
                field.name, hints[field.name], default, is_required=is_required, is_hidden=not field.repr
            )


def _typed_dict_members(cls: Any, hints: Mapping[str, Any]) -> Iterator[Member]:
    for name, hint in hints.items():
        # Where annotations are text, the class itself does not know these marks.
        marks = {typing.Required: True, typing.NotRequired: False}
        is_required = marks.get(typing.get_origin(hint), name in cls.__required_keys__)
        yield Member(name, hint, is_required=is_required)
