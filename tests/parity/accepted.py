"""Differences from Prefect's worker that are meant; each stands in docs/differences.md, too."""

from __future__ import annotations

import re

import attrs

EVERY_CASE = "*"


@attrs.frozen
class Accepted:
    """A difference that is meant.

    Attributes:
        case: in which case it occurs; `EVERY_CASE` for any number of them, but one at least.
        aspect: in which aspect.
        reason: why.
        lines: a regular expression that is found in each line of that aspect that may differ.
    """

    case: str
    aspect: str
    reason: str
    lines: str = ""

    def covers(self, case: str, aspect: str, line: str) -> bool:
        """Whether a line that is on one side only is part of this difference."""
        fits = self.case in {EVERY_CASE, case} and self.aspect == aspect
        return fits and re.search(self.lines, line) is not None


_NO_FINAL_STATE = (
    "a process that ends without a final state, exit code 0 included, leaves no run without an end"
)
_GONE = "a run that was claimed while its deployment was deleted is cancelled, with the reason"
_NEVER_BEGAN = "a run in state Cancelling that never began is cancelled after two poll intervals"
_OUTPUT = "the output of a run does not depend on the worker, nor the worker on who holds that output"
_NO_INPUT = "a run has no standard input, since nobody would ever write to it"
_UNSUBMITTED = "a run that cannot be submitted says in one line why"
_HOOKS_UNREACHABLE = "hooks that cannot be called are mentioned in one line"
_HOOKS_ELSEWHERE = "hooks are called in a process of their own, where the flow ran and its code still is"
_HINTS = "what may be done about an exit status is said of runs that crashed for it, and of no others"
_DELETED = "a run that was deleted is nobody's fault: no error, no events"
_BYTES = "what a run writes is passed on as it is, be it text or not"
_CANCELLED_IN_TIME = "a run that was cancelled before it was launched is not launched"
_FACTS_KEPT = "an event has what was known when the run was submitted, though it may be deleted since"
_TIDY = "nothing is left behind"


def _all(reason: str, case: str, *aspects: str) -> list[Accepted]:
    return [Accepted(case, aspect, reason) for aspect in aspects]


_STATE = ("history", "message", "state")
_EVERYTHING = (
    *_STATE,
    "environment",
    "events",
    "infrastructure_pid",
    "labels",
    "notes",
    "other log",
    "process",
)

ACCEPTED = [
    Accepted(EVERY_CASE, "process group", "each run leads a process group of its own", "shares|leads"),
    Accepted(EVERY_CASE, "process", _NO_INPUT, "standard_input: (?:pipe|null)$"),
    Accepted(
        EVERY_CASE,
        "other log",
        _HOOKS_UNREACHABLE,
        "Runner failed to retrieve flow|hooks of the flow could not",
    ),
    Accepted(EVERY_CASE, "other log", _HOOKS_ELSEWHERE, "Downloading flow code from storage"),
    Accepted("working-dir-missing", "worker log", _UNSUBMITTED, "Failed to submit|Exception Group|Reported"),
    Accepted("command-missing", "worker log", _UNSUBMITTED, "Failed to submit|Exception Group|Reported"),
    *_all(_HINTS, "cancelled-while-ignoring-sigterm", "worker log"),
    *_all(_HINTS, "cancelled-bare-command", "worker log"),
    *_all(_HINTS, "pull-is-cancelled", "worker log"),
    *_all(_HINTS, "run-deleted-while-running", "worker log"),
    *_all(_HINTS, "run-deleted-then-crashed", "worker log"),
    *_all(_DELETED, "run-deleted-after-the-poll", "worker log"),
    *_all(_DELETED, "run-deleted-after-the-claim", "events", "worker log"),
    *_all(_CANCELLED_IN_TIME, "cancelled-after-the-claim", *_EVERYTHING, "process group", "worker log"),
    *_all(_FACTS_KEPT, "deployment-deleted-then-cancelled", "events"),
    *_all(_TIDY, "the-workers-themselves", "temporary files left", "working directory"),
    *_all(_NO_FINAL_STATE, "os-exit-0", *_STATE, "worker log"),
    # The hooks are looked for in the flow's module, which prints when it is imported.
    *_all(_NO_FINAL_STATE, "output-never-flushed", *_STATE, "worker log", "output"),
    *_all(_NO_FINAL_STATE, "command-of-another-program", *_STATE, "worker log"),
    *_all(_NEVER_BEGAN, "cancelled-in-foreign-hands", *_STATE),
    *_all(_NEVER_BEGAN, "cancelling-while-pending", "message"),
    *_all(_GONE, "deployment-deleted-after-the-claim", *_STATE, "worker log"),
    Accepted("output", "output", _BYTES, "bytes"),
    Accepted("child-holds-output", "remarks", _OUTPUT, "seen to its end"),
]
