"""Which aspects of a case differ between two sides, and which of those differences are accepted."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

import attrs
from accepted import Accepted
from observe import Observation
from wording import meaning

_ABSENT = "(nothing)"

# Hooks note the message of the state that they were called for.
_STATE_MESSAGE = re.compile(r"\(.+\)")


@attrs.frozen
class Difference:
    """An aspect in which the sides differ.

    Attributes:
        aspect: which.
        lines: what is on the first side only (-) and on the second side only (+).
        wording: whether the same is said in other words.
        reason: why it is accepted; None if it is not.
    """

    aspect: str
    lines: list[str]
    wording: bool = False
    reason: str | None = None


@attrs.frozen
class Comparison:
    """A case on both sides.

    Attributes:
        case: its name.
        description: what it is about.
        sides: what was seen on each.
        differences: what is not the same.
    """

    case: str
    description: str
    sides: tuple[Observation, Observation]
    differences: list[Difference]

    @property
    def verdict(self) -> str:
        """In a word or two."""
        real = [difference for difference in self.differences if not difference.wording]
        if not real:
            return "same"
        return "differs" if any(difference.reason is None for difference in real) else "accepted"


def compare(
    case: str, description: str, sides: tuple[Observation, Observation], accepted: Sequence[Accepted]
) -> Comparison:
    """Compare what was seen of a case on two sides."""
    one, two = sides
    differences = []
    for aspect in sorted(one.keys() | two.keys()):
        left, right = one.get(aspect, _ABSENT), two.get(aspect, _ABSENT)
        if left == right:
            continue
        base = aspect.rpartition(": ")[2]
        lines = _lines(left, right)
        same_meaning = _meaning(base, left) == _meaning(base, right)
        reason = None if same_meaning else _reason(case, base, lines, accepted)
        differences.append(Difference(aspect, lines, same_meaning, reason))
    return Comparison(case, description, sides, differences)


def unused(accepted: Sequence[Accepted], comparisons: Sequence[Comparison]) -> list[Accepted]:
    """Accepted differences of which there are none."""
    occurring = [
        (comparison.case, difference.aspect.rpartition(": ")[2], line)
        for comparison in comparisons
        for difference in comparison.differences
        if not difference.wording
        for line in difference.lines
    ]
    return [entry for entry in accepted if not any(entry.covers(*where) for where in occurring)]


def _reason(case: str, aspect: str, lines: list[str], accepted: Sequence[Accepted]) -> str | None:
    """Why a difference is accepted; None if any of its lines is not."""
    covering = [[entry for entry in accepted if entry.covers(case, aspect, line)] for line in lines]
    if not all(covering):
        return None
    return "; ".join(dict.fromkeys(entries[0].reason for entries in covering))


def _meaning(aspect: str, value: Any) -> Any:
    if aspect == "message" and (value is None or isinstance(value, str)):
        return meaning(value)
    if aspect == "worker log" and isinstance(value, list):
        return [[level, meaning(message)] for _, level, message in value]
    if aspect == "notes" and isinstance(value, list):
        return [_STATE_MESSAGE.sub(lambda found: meaning(found[0].strip("()")), note) for note in value]
    return value


def _lines(left: Any, right: Any) -> list[str]:
    diff = difflib.ndiff(_shown(left), _shown(right))
    return [line for line in diff if line.startswith(("- ", "+ "))]


def _shown(value: Any) -> list[str]:
    """A value as lines, each of which says by itself what it is about."""
    match value:
        case str():
            return value.splitlines()
        case {"event": name, "related": [*related], **rest}:
            own = [f"{name}: {key}: {_flat(item)}" for key, item in rest.items()]
            return own + [f"{name}: related: {_flat(resource)}" for resource in related]
        case dict():
            return [f"{key}: {_flat(item)}" for key, item in sorted(value.items())]
        case list() if all(isinstance(item, dict) for item in value):
            return [line for item in value for line in _shown(item)]
        case list():
            return [" | ".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
        case _:
            return [str(value)]


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
