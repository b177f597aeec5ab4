"""What a Prefect server says of a request that does not fit its schema, in words for people.

Its framework, FastAPI, lists every mismatch. Where one of several forms will do, such as the kinds of schedules, that
is all that keeps the request from being each of them, and the one mistake is hidden among the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

# Those that speak of values. They come from Prefect's own checks, which are made only of what has the right form.
_OF_VALUES = "value_error"
_PREFIX = "Value error, "

# Those that speak of another form than was meant, mostly.
_OF_FORM = frozenset({"missing", "extra_forbidden"})

# Characters of one message: some list all that would be right.
_LONGEST = 200


def describe_validation_errors(errors: Any) -> str | None:
    """The errors that tell most, each with the field that it is about; None if these are no validation errors.

    Args:
        errors: what a server has sent.
    """
    if not isinstance(errors, list) or not errors or not all(map(_is_validation_error, errors)):
        return None
    of_values = [error for error in errors if error.get("type") == _OF_VALUES]
    others = [error for error in errors if error.get("type") not in _OF_FORM]
    return "; ".join(dict.fromkeys(map(_in_words, of_values or others or errors)))


def _is_validation_error(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and isinstance(value.get("loc"), list) and "msg" in value


def _in_words(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix(_PREFIX)
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}..."
    field = ".".join(str(part) for part in error["loc"] if not _is_form(part))
    return f"{field.removeprefix('body.')}: {message}" if field else message


def _is_form(part: Any) -> bool:
    """Whether a part of a path names no field, but a form that it might have: a class, or a check of one."""
    if not isinstance(part, str):
        return False
    return "[" in part or (part.isidentifier() and part[0].isupper() and not part.isupper())
