"""The page that tells of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.plan import Plan
from benchmarks.report.figures import FIGURES
from benchmarks.report.machine import Setting
from benchmarks.report.samples import Samples
from benchmarks.report.table import Row, as_markdown, rows

BUSY = "The machine was busy with other things when this began, so that the times say little: measure again."

_METHOD = """
One Prefect server, fresh, on SQLite and loopback, in the environment of Prefect's worker. Each worker is the command
that its installation has put there, in an environment of its own: one with Prefect alone, one with Prefect and
trioworker; whatever both have, they have in the same version. They take turns, so that never two of them run. All
settings are the defaults but where it says otherwise. What is done once in a lifetime, such as compiling modules, is
done before.

Between each worker and the server there is a gate: a proxy that lets everything pass as it is, websockets included,
and notes the requests. The processes of the runs go through it as well; it tells them from the worker by which
process has the other end of the connection. (Where plain functions are called, there is none: it takes a
hundredth of a second for all the requests of a run.) The trivial commands are dispatched on a stub of the API
instead, a process of its own that answers at once, and with what the real server had answered; there, both workers
poll every second instead of every ten.

Every worker runs below a small process that adopts what the worker leaves behind, so that no time on the processor
gets lost, nor any process. Every run is looked at: had one not been claimed once, run once and brought to its proper
end, there would be nothing here.
"""


def page(samples: Samples, setting: Setting, plan: Plan, chart: str) -> str:
    """The page, in Markdown.

    Args:
        samples: what was measured.
        setting: on what.
        plan: how often.
        chart: the file with the chart, beside the page.
    """
    shown = rows(samples)
    return "\n".join(
        [
            "# Both workers, side by side",
            "",
            f"Written by `{_target(plan)}`, which measures everything anew; edit nothing here.",
            "",
            f"![How many times better each figure is]({chart})",
            "",
            f"Medians, with the least and the most of n values in brackets. {_verdict(shown)}",
            "",
            *([f"**{BUSY}**", ""] if setting.was_busy else []),
            as_markdown([row for row in shown if row.leads], setting.prefect),
            "Nothing is required of these:",
            "",
            as_markdown([row for row in shown if not row.leads], setting.prefect),
            "## What was measured, and on what",
            "",
            *(f"- {line}" for line in _circumstances(setting)),
            "",
            "## How",
            "",
            *_METHOD.strip().splitlines(),
            "",
            *(f"- {line}" for line in _amounts(plan)),
            "",
            *(f"- **{figure.title}**: {figure.how}" for figure in FIGURES if figure.how),
            "",
            "## The requests of the workers in a burst",
            "",
            *_requests(samples),
            "",
        ]
    )


def _target(plan: Plan) -> str:
    return "make bench" if plan.name == "full" else f"make bench-{plan.name}"


def _verdict(shown: Sequence[Row]) -> str:
    required = [row.reached for row in shown if row.required]
    verdict = f"Of {len(required)} requirements, {required.count('yes')} are reached"
    return (
        f"{verdict}, and {missing} were not measured."
        if (missing := required.count("not measured"))
        else f"{verdict}."
    )


def _circumstances(setting: Setting) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in setting.packages.items())
    machine = f"{setting.processor}, {setting.cores} cores, {setting.memory / 1e9:.0f} GB; {setting.system}"
    return [
        f"{setting.date}, commit `{setting.commit}`, `{setting.command}`",
        f"{machine}; {setting.busy:.2f} cores busy with other things at the beginning",
        f"Python {setting.python}, Prefect {setting.prefect}, {packages}",
    ]


def _amounts(plan: Plan) -> list[str]:
    commands = ", ".join(f"{times} of {runs:,}" for runs, times in plan.commands.items())
    of_round = f"{plan.singles} single runs, {plan.cancellations} cancellations, a burst of {plan.burst}"
    return [
        f"{plan.starts} starts and stops of each worker",
        f"{plan.rounds} rounds of service of each: {plan.idle_seconds:g} s idle, the very first run, {of_round}",
        f"dispatches of trivial commands (`true`), of each: {commands}",
        f"{plan.calls} calls of a plain function",
    ]


def _requests(samples: Samples) -> list[str]:
    """A table of the requests of each side by kind, in the burst with the median of all requests."""
    bursts: dict[str, list[Mapping[str, int]]] = {}
    for entry in samples.requests:
        bursts.setdefault(entry["side"], []).append(entry["worker"])
    median = {side: _median_burst(of_side) for side, of_side in bursts.items()}
    kinds = sorted({kind for counts in median.values() for kind in counts})
    lines = [f"| request | {' | '.join(median)} |", f"| --- |{' --: |' * len(median)}"]
    lines += [
        f"| `{kind}` | {' | '.join(str(counts.get(kind, 0)) for counts in median.values())} |"
        for kind in kinds
    ]
    return lines


def _median_burst(bursts: Sequence[Mapping[str, int]]) -> Mapping[str, int]:
    by_number = sorted(bursts, key=lambda counts: sum(counts.values()))
    return by_number[(len(by_number) - 1) // 2]
