"""The types of JSON in words, for messages that must not show a value: it may be a secret, put there by a block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["type_name"]

# In this order: a boolean is also an int.
_TYPE_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), "null"),
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    (Mapping, "a mapping"),
    ((list, tuple), "a list"),
)


def type_name(value: Any) -> str:
    """Name a value's type in JSON's words, as they stand in a sentence."""
    for types, name in _TYPE_NAMES:
        if isinstance(value, types):
            return name
    return f"a Python {type(value).__name__}"
