"""Differences of a warm start from a fresh one; each stands in docs/warm-start.md, too."""

from __future__ import annotations

from accepted import EVERY_CASE, Accepted

_IMPORTED = "what runs with other flows may need is imported already, and has made its loggers"
_FROZEN = "what was imported beforehand is not collected, nor listed by `gc.get_objects()`"
_CONTEXTS = "`ssl.create_default_context` is a function that hands out contexts which were made beforehand"
_STEPS = "limits and the mask for new files that a pull step has set do not reach the flow"
_LARGE = "a variable of more than 128 KB, with which no program can be started, is no obstacle"
_WRITTEN = "what is left in a file that nobody has closed is written at the end"
_FORKED = "the process is a copy of another, whose command line it keeps"

ACCEPTED_WARM = [
    Accepted(EVERY_CASE, "snapshot of modules", _IMPORTED, r"^\+ "),
    Accepted(
        EVERY_CASE,
        "snapshot of logging tree",
        _IMPORTED,
        r"^\+ (?:packaging|prefect\.(?:bundles|deployment|runner))[\w.]*: ",
    ),
    Accepted(EVERY_CASE, "snapshot of relations", _FORKED, "command line: "),
    Accepted(EVERY_CASE, "snapshot of others", _CONTEXTS, "TLS is: "),
    Accepted(EVERY_CASE, "snapshot of machinery", _FROZEN, "kept from collection: "),
    Accepted("snapshot-after-steps-for-the-process", "snapshot of kernel", _STEPS, "Umask: "),
    Accepted("snapshot-after-steps-for-the-process", "snapshot of place and time", _STEPS, "mask: "),
    Accepted("snapshot-after-steps-for-the-process", "snapshot of limits", _STEPS, "NOFILE|OFILE"),
    Accepted("things-left-to-the-end", "remarks", _WRITTEN, "written at the end|^- $"),
    *[
        Accepted("snapshot-with-a-large-variable", aspect, _LARGE)
        for aspect in (
            "events",
            "history",
            "infrastructure_pid",
            "message",
            "other log",
            "state",
            "worker log",
        )
    ],
]
