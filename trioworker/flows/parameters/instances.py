"""Instances of the user's classes: made from their fields, or the problems that the classes' own checks find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from trioworker.flows.parameters.members import Member, given_name
from trioworker.flows.parameters.misfits import MisfitError, Problem
from trioworker.flows.parameters.objects import member_problems

__all__ = ["made"]


def made(cls: Any, members: Sequence[Member], found: Mapping[str, Any]) -> Any:
    """An instance of a class, of fields that were read.

    Raises:
        MisfitError: the class refuses them; of attrs classes, each field that is refused is named.
    """
    try:
        return cls(**found)
    except RecursionError:
        raise
    # Validators, converters and `__post_init__` are the user's, and may raise whatever they like.
    except Exception as error:
        problems = _refused_fields(cls, members, found) if attrs.has(cls) else []
        if problems:
            raise MisfitError(*problems) from error
        misfit = MisfitError.foreign(error)
        if any(member.is_hidden for member in members):
            misfit = MisfitError(*(problem.without_value() for problem in misfit.problems))
        raise misfit from error


def _refused_fields(
    cls: type[attrs.AttrsInstance], members: Sequence[Member], found: Mapping[str, Any]
) -> list[Problem]:
    """The fields whose converters or validators object: attrs itself stops at the first and does not name it."""
    instance = cls.__new__(cls)
    by_key = {member.key: member for member in members}
    problems: list[Problem] = []
    checks: list[tuple[Member, Any, Any]] = []
    for attribute in attrs.fields(cls):
        value = found.get(given_name(attribute), attribute.default)
        if not attribute.init or isinstance(value, attrs.Factory):  # type: ignore[arg-type]
            continue
        member = by_key[given_name(attribute)]
        try:
            value = _converted(attribute, value, instance)
        except Exception as error:  # noqa: BLE001
            problems += member_problems(member, error)
            continue
        object.__setattr__(instance, attribute.name, value)
        checks.append((member, attribute, value))
    # A validator may look at other fields, so it comes after all of them.
    for member, attribute, value in checks:
        try:
            if attribute.validator is not None:
                attribute.validator(instance, attribute, value)
        except AttributeError:
            # It looked at a field that could not be made, or was not given: no fault of this one.
            continue
        except Exception as error:  # noqa: BLE001
            problems += member_problems(member, error)
    return problems


def _converted(attribute: Any, value: Any, instance: Any) -> Any:
    converter = attribute.converter
    if converter is None:
        return value
    if isinstance(converter, attrs.Converter):
        # attrs sets `__call__` on the instance, where a plain call does not look.
        takes_all: Any = converter
        return takes_all.__call__(value, instance, attribute)
    return converter(value)
