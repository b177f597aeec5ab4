"""Text from elsewhere, such as the name of a flow run, made fit for a terminal and a line of a log.

Whoever may name something on the server could otherwise write lines that look like the worker's own, or have the
terminal do what the operator does not expect.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["in_one_line", "printable"]

# ASCII's and Latin-1's control characters, what Unicode ends lines with, and what turns the direction of writing.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_LINES: Final = re.compile(f"(?![\n\t]){_CONTROL.pattern}")


def in_one_line(text: str) -> str:
    """A text in which control characters, those that end lines included, stand as in Python's source."""
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def printable(text: str) -> str:
    """A text of several lines in which all other control characters stand as in Python's source."""
    return text if text.isprintable() else _CONTROL_BUT_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
