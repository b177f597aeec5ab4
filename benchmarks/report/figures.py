"""What is measured, how, and what is to be reached."""

from __future__ import annotations

from typing import Final, Literal

import attrs

from benchmarks.apparatus.sides import SIDES, TRIOWORKER
from benchmarks.report.samples import Samples
from benchmarks.report.summary import summarize

SIZES: Final = (100, 500, 2000)
_SMALLEST, _LARGEST = SIZES[0], SIZES[-1]


@attrs.frozen
class Times:
    """The figure is to be so many times better than that of Prefect's worker."""

    factor: float

    def __str__(self) -> str:
        return f"at least {self.factor:g} times better"


@attrs.frozen
class Fraction:
    """The figure is to be at most this part of that of Prefect's worker."""

    part: float

    def __str__(self) -> str:
        return f"at most {self.part:g} of it"


@attrs.frozen
class AtMost:
    """The figure is to be at most this much, whatever that of Prefect's worker is."""

    limit: float
    unit: str

    def __str__(self) -> str:
        return f"at most {self.limit:g} {self.unit}".rstrip()


Requirement = Times | Fraction | AtMost


@attrs.frozen(kw_only=True)
class Figure:
    """Something that is measured.

    Attributes:
        key: what its samples are found by.
        title: what it is.
        unit: that of its values; empty for a mere number.
        how: how it is measured.
        required: what is to be reached, if anything.
        beside: whether it is to be seen beside those of which something is required.
        better: whether a good value is a small or a great one.
        compared: whether a ratio of both sides means anything.
        charted: what a bar of the chart says it is; empty if there is none.
    """

    key: str
    title: str
    unit: str
    how: str
    required: Requirement | None = None
    beside: bool = False
    better: Literal["less", "more"] = "less"
    compared: bool = True
    charted: str = ""


def ratio(figure: Figure, samples: Samples) -> float | None:
    """How many times better than Prefect's worker this one is, by the medians; None if that cannot be said."""
    theirs, ours = (summarize(samples.of(figure.key, side)) for side in SIDES)
    if not figure.compared or theirs is None or ours is None or not theirs.median or not ours.median:
        return None
    times = theirs.median / ours.median
    return times if figure.better == "less" else 1 / times


def is_reached(figure: Figure, samples: Samples) -> bool | None:
    """Whether what is required is reached, by the medians; None if nothing is, or it was not measured."""
    times, ours = ratio(figure, samples), summarize(samples.of(figure.key, TRIOWORKER))
    match figure.required:
        case Times(factor) if times is not None:
            return times >= factor
        case Fraction(part) if times is not None:
            return 1 / times <= part
        case AtMost(limit) if ours is not None:
            return ours.median <= limit
        case _:
            return None


def add_growth(samples: Samples) -> None:
    """Derive how the cost of a run grows with their number, from what was measured of the fewest and the most."""
    for what in ("cpu", "memory"):
        for side in SIDES:
            few = summarize(samples.of(f"dispatch_{what}_{_SMALLEST}", side))
            many = summarize(samples.of(f"dispatch_{what}_{_LARGEST}", side))
            if few is not None and many is not None and few.median > 0:
                samples.add(f"growth_{what}", side, many.median / few.median)


def _dispatch(runs: int) -> list[Figure]:
    of = f"dispatch of {runs:,} commands: "
    in_chart = f"{runs:,} commands: " if runs == 500 else ""
    return [
        Figure(
            key=f"dispatch_rate_{runs}",
            title=f"{of}runs a second",
            unit="runs/s",
            better="more",
            how="From the first poll that is answered with runs to the last event that one was executed.",
            charted=in_chart and f"{in_chart}runs a second",
        ),
        Figure(
            key=f"dispatch_cpu_{runs}",
            title=f"{of}CPU of the worker a run",
            unit="ms",
            how="The clock of the worker's own process, from before the runs are due until nothing has been done for"
            " 6 s after the last one.",
            required=Times(4) if runs == 500 else None,
            charted=in_chart and f"{in_chart}CPU of the worker",
        ),
        Figure(
            key=f"dispatch_peak_{runs}",
            title=f"{of}peak RSS of the worker",
            unit="MB",
            how="`VmHWM` of the worker's process, from just before the runs are due to the end.",
            charted=in_chart and f"{in_chart}peak memory",
        ),
        Figure(
            key=f"dispatch_memory_{runs}",
            title=f"{of}peak memory a run",
            unit="kB",
            how="The peak less the RSS just before, by the number of runs.",
        ),
    ]


FIGURES: Final[tuple[Figure, ...]] = (
    Figure(
        key="first_poll",
        title="exec to first poll",
        unit="s",
        how="From just before the worker's program is executed to the first request for scheduled runs, as seen by"
        " the gate.",
        required=Times(6),
        charted="Start: exec to first poll",
    ),
    Figure(
        key="idle_rss",
        title="idle: RSS of the worker",
        unit="MB",
        how="`VmRSS` of the worker's process, before its first run.",
        required=Fraction(0.4),
        charted="Idle: memory (RSS)",
    ),
    Figure(
        key="pss",
        title="between runs: PSS of the worker and all it keeps running (warm templates)",
        unit="MB",
        how="`Pss` of the worker and all its descendants, with no run under way, after the single runs and the"
        " cancellations. (The server runs in the environment of Prefect's worker, so that libraries which both have"
        " loaded count for less there.)",
        required=Fraction(1.3),
        charted="Between runs: memory of all (PSS)",
    ),
    Figure(
        key="processes",
        compared=False,
        title="between runs: processes",
        unit="",
        how="How many those were.",
    ),
    Figure(
        key="idle_cpu",
        title="idle: CPU a minute",
        unit="s",
        how="Of the worker and all its descendants, before its first run.",
        charted="Idle: CPU",
    ),
    Figure(
        key="single_run",
        title="a single run on an idle worker: scheduled to Running",
        unit="s",
        how="Between the times of these two states on the server. A stock hello flow; the time between two runs is"
        " drawn from a poll interval, the same for both.",
        required=Times(15),
        charted="Single run: scheduled to Running",
    ),
    Figure(
        key="first_run",
        title="the very first run after the start: scheduled to Running",
        unit="s",
        how="The same, of a worker that has not had a run.",
        beside=True,
        charted="Very first run: scheduled to Running",
    ),
    Figure(
        key="burst",
        title="a burst of hello flows: first Pending to last Completed",
        unit="s",
        how="By the states' times on the server. All runs are there when the worker comes to know of them: they are"
        " created while the work pool is paused.",
        required=Times(8),
        charted="Burst: first claim to last end",
    ),
    Figure(
        key="burst_cpu",
        title="that burst: CPU of the worker and all its descendants",
        unit="s",
        how="The clocks of all processes below a subreaper, plus what was reaped; from before the pool is opened to"
        " when no process of a run is left.",
        required=Times(5),
        charted="Burst: CPU, flow processes included",
    ),
    Figure(
        key="requests",
        title="that burst: REST requests of the worker a run",
        unit="",
        how="All that its own process has sent through the gate from opening the pool until no process of a run has"
        " been left for 6 s, polls and heartbeats included; without logs, events and websockets.",
        required=AtMost(4, ""),
        charted="Burst: requests of the worker",
    ),
    Figure(
        key="requests_of_runs",
        compared=False,
        title="that burst: REST requests of the flow processes a run",
        unit="",
        how="The same, of all others that came through the gate.",
    ),
    Figure(
        key="cancel",
        title="cancellation: Cancelling to Cancelled",
        unit="s",
        how="Between the times of these two states, of a flow that sleeps.",
        charted="Cancellation",
    ),
    *(figure for runs in SIZES for figure in _dispatch(runs)),
    Figure(
        key="growth_cpu",
        compared=False,
        title=f"growth from {_SMALLEST:,} to {_LARGEST:,} commands: CPU a run",
        unit="",
        how="The median of the one by that of the other.",
        required=AtMost(1.15, ""),
    ),
    Figure(
        key="growth_memory",
        compared=False,
        title=f"growth from {_SMALLEST:,} to {_LARGEST:,} commands: peak memory a run",
        unit="",
        how="The same.",
        required=AtMost(1.15, ""),
    ),
    Figure(
        key="stop",
        title="SIGTERM to exit, idle",
        unit="s",
        how="From sending the signal to when the worker can be reaped, 2 s after it has said that it started.",
        required=AtMost(0.15, "s"),
        charted="Stop: SIGTERM to exit",
    ),
    Figure(
        key="call",
        title="a plain function served by trioworker: scheduled to Running",
        unit="ms",
        how="As of the single run, but it is a function in the worker's own process, and no gate adds to a time as"
        " short as this. Prefect's worker has no such thing.",
        required=AtMost(50, "ms"),
    ),
)
