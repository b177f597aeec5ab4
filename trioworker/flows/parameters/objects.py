"""JSON objects with named members: how they are read, and what is published of each member."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from trioworker.flows.parameters.errors import UnservableError
from trioworker.flows.parameters.known_types import KnownTypes, Schema
from trioworker.flows.parameters.members import MISSING, Member
from trioworker.flows.parameters.misfits import MisfitError, Problem, problems_at

__all__ = ["member_problems", "member_schema", "read_members"]


def read_members(
    learnt: KnownTypes,
    values: Mapping[str, Any],
    members: Iterable[Member],
    *,
    exact: bool,
    kind: str,
    extra: Any = MISSING,
) -> dict[str, Any]:
    """Read an object's members into keyword arguments.

    Args:
        learnt: knows the types of the members.
        values: the object.
        members: what it may have.
        exact: whether its values must fit as they stand.
        kind: what a member is called in a message.
        extra: the type of further members; without it there must be none.

    Raises:
        MisfitError: some do not fit, and all of these are reported.
    """
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    others = dict(values)
    for member in members:
        value = others.pop(member.key, MISSING)
        if value is MISSING:
            if member.is_required:
                problems.append(Problem((member.key,), "missing"))
        elif value is None and member.default is None:
            found[member.key] = None
        else:
            try:
                found[member.key] = learnt.structure(value, member.hint, exact=exact)
            except MisfitError as misfit:
                problems += member_problems(member, misfit)
    for key, value in others.items():
        if extra is MISSING:
            problems.append(Problem((key,), f"there is no such {kind}"))
            continue
        try:
            found[key] = learnt.structure(value, extra, exact=exact)
        except MisfitError as misfit:
            problems += problems_at(key, misfit)
    if problems:
        raise MisfitError(*problems)
    return found


def member_problems(member: Member, error: Exception) -> list[Problem]:
    """The problems of a member, seen from the object; without the value if that is hidden."""
    problems = problems_at(member.key, error)
    return [problem.without_value() for problem in problems] if member.is_hidden else problems


def member_schema(
    learnt: KnownTypes, member: Member, schema: Schema, *, title: str, description: str | None
) -> Schema:
    """What is published of a member, given what is published of its type."""
    published = {**schema, "title": title}
    if description:
        published["description"] = description
    if member.default is not MISSING:
        # A default that JSON cannot hold is not published; the member stays optional.
        with contextlib.suppress(UnservableError):
            published["default"] = learnt.as_json(member.default)
    return published
