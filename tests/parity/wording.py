"""What a message says, whatever its words: where our wording is our own, the meaning is compared."""

from __future__ import annotations

import re

# The first that fits counts. What stands in groups belongs to the meaning.
_MEANINGS: list[tuple[str, re.Pattern[str]]] = [
    ("submitting", re.compile(r"^Worker .* submitting flow run")),
    ("running on", re.compile(r"^Running on worker id")),
    ("submitted", re.compile(r"submitted to infrastructure")),
    ("reported as crashed: exit status", re.compile(r"^Reported .* crashed: .*status(?: code)?:? (-?\d+)")),
    ("reported as crashed", re.compile(r"^Reported .* crashed")),
    ("exit status", re.compile(r"(?:exit(?:ed with)?|non-zero|with) (?:exit )?(?:status )?code:? (-?\d+)")),
    (
        "could not start",
        re.compile(r"(?i)failed to submit|could not (?:be )?start|cannot start|not be started"),
    ),
    ("hint", re.compile(r"^(?:Check|Verify|Increase|If this|If nobody|Compare|Look for|Find out|Its last)")),
    ("hint", re.compile(r"^(?:Nothing is to be done|The exception is|Suspect)")),
    ("deployment gone", re.compile(r"(?i)deployment .*(?:no longer exists|not found|deleted)")),
    ("cancelled", re.compile(r"(?i)cancell?ed (?:successfully|by worker|pending|before)|was cancelled")),
    ("aborted", re.compile(r"^Aborted submission")),
]


def meaning(message: str | None) -> str:
    """The class of a message; what is in none is its own."""
    if not message:
        return "(none)"
    for name, pattern in _MEANINGS:
        if (found := pattern.search(message)) is not None:
            return " ".join([name, *filter(None, found.groups())])
    return message
