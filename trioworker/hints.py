"""Runs that are said to be scheduled, until a poll has found them."""

from __future__ import annotations

from collections.abc import Container
from uuid import UUID

# How many polls look for such a run. The first may come before the server shows it; and after that, it is somebody
# else's, or may not be taken now.
_LOOKS = 2


class Hints:
    """What was said, and is yet to be looked for.

    A poll begins with `looking`, and ends with `found` if there was an answer. What is said between the two may have
    come too late for that answer.
    """

    def __init__(self) -> None:
        self._said: dict[UUID, int] = {}
        self._looked_for: dict[UUID, int] = {}

    def say(self, flow_run_id: UUID) -> None:
        """Take note that a run is scheduled."""
        self._said[flow_run_id] = _LOOKS

    def looking(self) -> None:
        """Take note that a poll looks for all that was said so far."""
        self._looked_for, self._said = self._said, {}

    def found(self, flow_run_ids: Container[object]) -> bool:
        """Take note of what a poll has found; whether there is something left to be looked for."""
        again = {each: looks - 1 for each, looks in self._looked_for.items() if looks > 1}
        left = again | self._said
        self._looked_for = {}
        self._said = {each: looks for each, looks in left.items() if each not in flow_run_ids}
        return bool(self._said)
