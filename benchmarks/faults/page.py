"""The part of a page that tells of the faults; the rest of the page is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.apparatus.sides import PREFECT, SIDES, TRIOWORKER
from benchmarks.faults.course import HELD_SECONDS, LOOK_SECONDS, WATCH_SECONDS
from benchmarks.faults.supervisor import RESTART_SECONDS
from benchmarks.faults.table import Row, as_markdown, executions, right
from benchmarks.report.machine import Setting
from benchmarks.report.page import BUSY

BEGIN: Final = "<!-- make faults: begin -->"
END: Final = "<!-- make faults: end -->"

_NAMES: Final = {PREFECT: "Prefect", TRIOWORKER: "trioworker"}

_METHOD: Final = f"""
`make faults` inflicts the same {{number}} faults upon Prefect's worker and upon this one, and writes this part of the
page. The server, the processes and the signals are real. Each worker is the command that its installation has put
there, with `--pool` and `--name` and otherwise default settings, below a supervisor such as systemd or Kubernetes:
{RESTART_SECONDS:g} s after it has ended, whatever the reason, it is started again with the same command line. What a
dead worker has left behind is left alone, as by systemd with `KillMode=process`. (Where a supervisor kills all of it,
as a container's end does, that is the fault in which the worker is killed with all that it has started.) Worker and
runs reach the server through a proxy, which can be shut, refuse requests, or lose an answer.

*Right* is a run when it is in a final state, that state is true by what the flow has noted in a file of its own, and
no process of it goes on with nobody who watches it. A process is watched that is below a living worker, or of which
one holds a pidfd. A look is taken every {LOOK_SECONDS:g} s. What is right has to stay so for {HELD_SECONDS:g} s; what
is not within {WATCH_SECONDS:g} s is called *never*. *Processes left* are those of the run that still live then;
*unwatched* is how long some went on with nobody who watched them.
"""


class PageError(Exception):
    """A page has no place for the part, or more than one; the message says what is missing."""


def replaced(page: str, part: str) -> str:
    """A page with another part between its two markers.

    Raises:
        PageError: the markers are not there, each once and in order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise PageError(f"the page needs the lines {BEGIN} and {END}, in this order and each once")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{rest.partition(END)[2]}"


def part(shown: Sequence[Row], setting: Setting, chart: str, values: str) -> str:
    """The part, in Markdown.

    Args:
        shown: the faults.
        setting: on what they were inflicted, and when.
        chart: the file with the chart, from where the page is.
        values: the file with every state, likewise.
    """
    lines = [
        "## The same faults, side by side",
        "",
        *_METHOD.format(number=len(shown)).strip().splitlines(),
        "",
        f"![Seconds until the run was right, for each fault and worker]({chart})",
        "",
        f"Right within {WATCH_SECONDS:g} s: {_counts(shown)}.",
        "",
        *([f"**{BUSY}**", ""] if setting.was_busy else []),
        as_markdown(shown, setting.prefect),
        _circumstances(setting),
        f"[All states]({values}) are kept with what was said about them.",
        "",
        "### What was done",
        "",
    ]
    for row in shown:
        fault = row.fault
        lines += [
            f"{row.number}. **{fault.title}.** {fault.done} True is {fault.truth} Counted from {fault.counted_from}",
            *(f"   - {_NAMES[side]}: {_told(row, side)}." for side in SIDES if side in row.courses),
        ]
    return "\n".join(lines)


def _circumstances(setting: Setting) -> str:
    versions = f"Python {setting.python}, Prefect {setting.prefect}"
    return (
        f"{setting.date}, commit `{setting.commit}`, {setting.processor}, {setting.cores} cores; {versions}."
    )


def _counts(shown: Sequence[Row]) -> str:
    return ", ".join(f"{right(shown, side)} of {len(shown)} with {_NAMES[side]}" for side in SIDES)


def _told(row: Row, side: str) -> str:
    course = row.courses[side]
    states = ", ".join(f"`{state['name']}`" for state in course.history)
    return f"{states}; {executions(course.verdict)}"
