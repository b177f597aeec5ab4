"""Descriptions: what docstrings and annotations say, for people, of parameters, fields and classes."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

__all__ = ["annotated_description", "class_description", "documented_parameters"]

_SECTION: Final = re.compile(r"(args|arguments|params|parameters):\s*$", re.IGNORECASE)
_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")


def documented_parameters(docstring: str | None) -> dict[str, str]:
    """What a docstring in Google's style says of each parameter."""
    lines = iter((docstring or "").splitlines())
    if not any(_SECTION.match(line) for line in lines):
        return {}
    described: dict[str, list[str]] = {}
    margin: int | None = None
    entry: list[str] = []
    # What follows the section's head, up to the next line that is not indented.
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and indent == 0:
            break
        if text and margin is None:
            margin = indent
        found = _ENTRY.match(text) if text and indent == margin else None
        if found:
            entry = described.setdefault(found[1], [found[2]])
        else:
            entry.append(text)
    return {name: "\n".join(entry).strip() for name, entry in described.items()}


def annotated_description(hint: Any) -> str | None:
    """The text in `Annotated[int, "text"]` or `Annotated[int, Doc("text")]`."""
    for extra in getattr(hint, "__metadata__", ()):
        text = getattr(extra, "documentation", extra)
        if isinstance(text, str):
            return text
    return None


def class_description(cls: type[Any]) -> str | None:
    """A class's docstring, unless it was inherited or made by `dataclass`."""
    text = cls.__dict__.get("__doc__")
    if not text or text.startswith(f"{cls.__name__}("):
        return None
    return inspect.cleandoc(text)
