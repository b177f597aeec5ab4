"""From the API's JSON to our attrs classes and back."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import attrs
from cattrs import BaseValidationError, Converter, transform_error

from trioworker.api.errors import MalformedAnswerError

T = TypeVar("T")


def _flag(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {type(value).__name__}")
    return value


def _datetime(value: Any, _: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a time without time zone")
    return moment


def _text(value: Any, _: Any) -> str:
    # cattrs would turn any object into a string; here a list in place of a name is a mistake to report.
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _seconds(value: Any, _: Any) -> int | list[int] | None:
    is_list = isinstance(value, list)
    for number in value if is_list else [value]:
        if type(number) is not int and (is_list or number is not None):
            raise TypeError(f"expected a number of seconds, got {type(number).__name__}")
    seconds: int | list[int] | None = value
    return seconds


def _make_converter() -> Converter:
    converter = Converter()
    converter.register_structure_hook(int | list[int] | None, _seconds)
    converter.register_structure_hook(UUID, lambda value, _: UUID(value))
    converter.register_structure_hook(datetime, _datetime)
    converter.register_structure_hook(bool, _flag)
    converter.register_structure_hook(str, _text)
    # Without this the hook for str would be taken, since these enumerations are a kind of str.
    converter.register_structure_hook(enum.StrEnum, lambda value, cls: cls(value))
    converter.register_unstructure_hook(UUID, str)
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    return converter


_CONVERTER = _make_converter()


def structure(answer: Any, cls: type[T], *, request: str) -> T:
    """Turn decoded JSON into `cls`.

    Args:
        answer: what the API sent, decoded.
        cls: an attrs class, or a list of one.
        request: method and path, for the error.

    Raises:
        MalformedAnswerError: a field is missing or of the wrong type; each is named by its path.
    """
    try:
        return _CONVERTER.structure(answer, cls)
    except (BaseValidationError, TypeError, ValueError, KeyError, AttributeError) as error:
        # Whatever JSON may hold in place of an object must not surface as an error of ours.
        raise MalformedAnswerError(request, transform_error(error, path="answer")) from error


def unstructure(value: attrs.AttrsInstance) -> dict[str, Any]:
    """Turn an attrs object into what JSON can hold."""
    result: dict[str, Any] = _CONVERTER.unstructure(value)
    return result
