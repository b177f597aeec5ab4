"""Scalars: numbers, text, truth, null, and what comes as text for want of a form of its own in JSON."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from trioworker.flows.parameters.durations import parsed_duration
from trioworker.flows.parameters.known_types import KnownTypes, Reader, Schema
from trioworker.flows.parameters.misfits import MisfitError

__all__ = ["SCALARS", "learn_path", "learn_scalar", "read_integer"]


def read_integer(value: Any, exact: bool) -> int:
    """An integer, also one written as text or with a fraction of 0.

    Raises:
        MisfitError: it is none, or too long to be meant.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not exact:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,4000}(\.0*)?\s*", value):
            return int(value.strip().partition(".")[0])
    raise MisfitError.expected("an integer", value)


def _number(value: Any, exact: bool) -> float:
    is_fit = isinstance(value, float) or (not exact and isinstance(value, int | str))
    if is_fit and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    raise MisfitError.expected("a number", value)


def _boolean(value: Any, _: bool) -> bool:
    if isinstance(value, bool):
        return value
    raise MisfitError.expected("true or false", value)


def _string(value: Any, _: bool) -> str:
    if isinstance(value, str):
        return value
    raise MisfitError.expected("a string", value)


def _null(value: Any, _: bool) -> None:
    if value is not None:
        raise MisfitError.expected("null", value)


def _anything(value: Any, _: bool) -> Any:
    return value


def _decimal(value: Any, exact: bool) -> Decimal:
    if not exact and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ArithmeticError):
            number = Decimal(str(value).strip())
            if number.is_finite():
                return number
    raise MisfitError.expected("a decimal number", value)


def _duration(value: Any, exact: bool) -> timedelta:
    if not exact and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            if isinstance(value, int | float):
                return timedelta(seconds=value)
            if isinstance(value, str):
                return parsed_duration(value)
    raise MisfitError.expected("a duration such as PT1H30M, or a number of seconds", value)


def _from_text(parse: Callable[[str], Any], expected: str) -> Reader:
    """A reader of what JSON has no form of its own for."""

    def read(value: Any, exact: bool) -> Any:
        if isinstance(value, str) and not exact:
            with contextlib.suppress(ValueError):
                return parse(value)
        raise MisfitError.expected(expected, value)

    return read


def _parsed_date(text: str) -> date:
    """A date; also a moment at midnight, since forms send such."""
    moment = datetime.fromisoformat(text)
    if moment.time() != time():
        raise ValueError(text)
    return moment.date()


def _text_schema(form: str) -> Schema:
    return {"type": "string", "format": form}


# Of each scalar type, how it is read and what is published of it.
SCALARS: Final[Mapping[Any, tuple[Reader, Schema]]] = {
    Any: (_anything, {}),
    type(None): (_null, {"type": "null"}),
    bool: (_boolean, {"type": "boolean"}),
    int: (read_integer, {"type": "integer"}),
    float: (_number, {"type": "number"}),
    str: (_string, {"type": "string"}),
    Decimal: (_decimal, {"anyOf": [{"type": "number"}, {"type": "string"}]}),
    bytes: (_from_text(str.encode, "text"), _text_schema("binary")),
    UUID: (_from_text(UUID, "a UUID"), _text_schema("uuid")),
    datetime: (
        _from_text(datetime.fromisoformat, "a date and time such as 2030-01-31T12:00:00Z"),
        _text_schema("date-time"),
    ),
    date: (_from_text(_parsed_date, "a date such as 2030-01-31"), _text_schema("date")),
    time: (_from_text(time.fromisoformat, "a time of day such as 12:00:00"), _text_schema("time")),
    timedelta: (_duration, _text_schema("duration")),
}


def learn_scalar(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn one of `SCALARS`."""
    read, schema = SCALARS[hint]
    return learnt.know(hint, read, schema)


def learn_path(learnt: KnownTypes, hint: Any) -> Schema:
    """Learn a class of `pathlib`."""
    return learnt.know(hint, _from_text(hint, "a path"), _text_schema("path"))
