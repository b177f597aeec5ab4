"""What is different in every run of the same, made equal: ids, names, paths, times, numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_RANDOM = [
    # A temporary directory, whatever its name; what is below it counts.
    (re.compile(r"TMP/[^/'\"\s:)]+"), "TMP/*"),
    (re.compile(_UUID), "UUID"),
]
_PASSING = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?([+-]\d\d:\d\d|Z)?"), "TIME"),
    (re.compile(r"0x[0-9a-f]+"), "ADDRESS"),
    (re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])"), "NUMBER"),
    (re.compile(r"(?<!\w)\d{4,}(?!\w)"), "NUMBER"),
    (re.compile(r"subflow run '[^']+'"), "subflow run '*'"),
    (re.compile(r"Task run '(\w+)-[0-9a-f]{3}'"), r"Task run '\1-*'"),
]
_TRACEBACK = "Traceback (most recent call last):"


@attrs.frozen
class Mask:
    """Makes texts comparable.

    Attributes:
        names: what stands for what is known to be different.
    """

    names: Mapping[str, str]

    def __call__(self, value: Any) -> Any:
        """A value without random names in any text of it, keys included."""
        match value:
            case str():
                # A longer one may contain a shorter one.
                for name in sorted(self.names, key=len, reverse=True):
                    value = value.replace(name, self.names[name])
                return _replaced(value, _RANDOM)
            case dict():
                return {self(str(key)): self(item) for key, item in value.items()}
            case list() | tuple():
                return [self(item) for item in value]
            case _:
                return value

    def text(self, text: str) -> str:
        """A text for people to read, without random names, times, larger numbers and frames of tracebacks."""
        masked: str = self(_without_frames(text))
        return _replaced(masked, _PASSING)


def _replaced(text: str, patterns: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        text = pattern.sub(replacement, text)
    return text


def _without_frames(text: str) -> str:
    """A text of whose tracebacks only the last line is left."""
    before, traceback, after = text.partition(_TRACEBACK)
    if not traceback:
        return text
    last = after.strip().splitlines()[-1:]
    return f"{before.rstrip()} [traceback: {' '.join(last)}]"
