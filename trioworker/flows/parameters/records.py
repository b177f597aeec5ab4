"""Records: attrs classes, dataclasses and `TypedDict`s, which come as objects and are published as definitions."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import attrs

from trioworker.flows.parameters.descriptions import annotated_description, class_description
from trioworker.flows.parameters.errors import UnservableError
from trioworker.flows.parameters.hints import filled_in, type_text
from trioworker.flows.parameters.instances import made
from trioworker.flows.parameters.known_types import KnownTypes, Schema
from trioworker.flows.parameters.members import Member, declared_members
from trioworker.flows.parameters.misfits import MisfitError
from trioworker.flows.parameters.objects import member_schema, read_members

__all__ = ["learn_record"]


def learn_record(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn a class, and with it the types of its fields."""
    cls = typing.get_origin(hint) or hint
    members: list[Member] = []

    def read(value: Any, exact: bool) -> Any:
        if not isinstance(value, Mapping):
            raise MisfitError.expected("a mapping", value)
        return made(cls, members, read_members(learnt, value, members, exact=exact, kind="field"))

    definition: Schema = {"title": type_text(hint), "type": "object", "additionalProperties": False}
    # Entered before its fields are learnt: one of them may be of this very type.
    schema = learnt.define(hint, read, definition)
    members += _members(learnt, hint)
    definition["properties"] = {
        member.key: _field_schema(learnt, member, of=type_text(hint)) for member in members
    }
    description = class_description(cls)
    if description:
        definition["description"] = description
    required = [member.key for member in members if member.is_required]
    if required:
        definition["required"] = required
    return schema


def _members(learnt: KnownTypes, hint: Any) -> list[Member]:
    """The fields of a class; of a generic one, with the types that it is given."""
    cls = typing.get_origin(hint) or hint
    hints = learnt.names.resolve_class(cls)
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    return [
        attrs.evolve(member, hint=filled_in(member.hint, given)) for member in declared_members(cls, hints)
    ]


def _field_schema(learnt: KnownTypes, member: Member, *, of: str) -> Schema:
    try:
        schema = learnt.learn(member.hint)
    except UnservableError as error:
        raise UnservableError(f"field `{member.key}` of {of}: {error}") from error
    title = member.key.title().replace("_", " ").strip()
    return member_schema(learnt, member, schema, title=title, description=annotated_description(member.hint))
