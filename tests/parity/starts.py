"""How the processes of runs were started, as the workers of trioworker say it when they tell everything."""

from __future__ import annotations

import re
from pathlib import Path

from play import Play

_FORKED = re.compile(r"Process \d+ for flow run '(?P<run>[^']+)' was forked from template")
_REFUSED = re.compile(
    r"(?:A fresh process is started for|The engine of) flow run '(?P<run>[^']+)'.*?, because (?P<reason>.*)"
)


def problem_of_start(play: Play) -> str | None:
    """Why a case does not tell what it is meant to tell of fresh and warm starts; None if it does.

    To compare two fresh starts would prove nothing.
    """
    if play.side.kind not in {"fresh", "warm"}:
        return None
    log = play.side.directory / f"worker-{play.case.pool}.log"
    warm, reasons = _starts(log)
    wanted = play.side.kind == "warm" and not play.case.cold
    for number, run in enumerate(play.runs, start=1):
        found = run in warm and run not in reasons
        # Of some runs it is the point that they never have a process.
        if found != wanted and (found or play.file(run, "probe").exists()):
            why = f" (because {reasons[run]})" if run in reasons else ""
            return f"run {number} was started {'warm' if found else 'fresh'}{why}"
    return None


def _starts(log: Path) -> tuple[set[str], dict[str, str]]:
    """The runs that were forked from a template, and why others were started fresh, or went on so."""
    text = log.read_text(errors="replace")
    warm = {found["run"] for found in _FORKED.finditer(text)}
    return warm, {found["run"]: found["reason"] for found in _REFUSED.finditer(text)}
