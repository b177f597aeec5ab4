"""What the flow itself has noted: how often it began, and whether it came to its end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import attrs


@attrs.frozen
class Journal:
    """The journal of a run, see `benchmarks/flows/work.py`.

    Attributes:
        pids: the processes in which it began.
        began: how often each attempt began, by its number.
        ended: whether any attempt came to its end.
    """

    pids: tuple[int, ...] = ()
    began: dict[int, int] = attrs.field(factory=dict)
    ended: bool = False

    @property
    def executions(self) -> int:
        """How often the flow began, all attempts together."""
        return sum(self.began.values())

    @property
    def most_of_an_attempt(self) -> int:
        """How often the same attempt began, at the most."""
        return max(self.began.values(), default=0)


def read_journal(file: Path) -> Journal:
    """Read a journal, which is not there before the flow has begun."""
    if not file.exists():
        return Journal()
    # A line that is being written has no end yet.
    text = file.read_text().rpartition("\n")[0]
    entries = [json.loads(line) for line in text.splitlines()]
    begun = [entry for entry in entries if entry["what"] == "began"]
    return Journal(
        pids=tuple(entry["pid"] for entry in begun),
        began=dict(Counter(entry["attempt"] for entry in begun)),
        ended=any(entry["what"] == "ended" for entry in entries),
    )
