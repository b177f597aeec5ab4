"""The figures as a table, for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from benchmarks.apparatus.sides import PREFECT, TRIOWORKER
from benchmarks.report.figures import FIGURES, Figure, is_reached, ratio
from benchmarks.report.samples import Samples
from benchmarks.report.summary import Summary, summarize

# Written by their names, since they look like others.
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"

_RULE = ("---", "--:", "--:", "--:", "---", "---")


@attrs.frozen
class Row:
    """A figure, ready to be shown.

    Attributes:
        title: what it is, with its unit.
        theirs: of Prefect's worker: median, least and most.
        ours: of this one.
        ratio: how many times better ours is.
        required: what is to be reached; empty if nothing is.
        reached: whether it is.
        leads: whether it belongs to what is required, or beside it.
    """

    title: str
    theirs: str
    ours: str
    ratio: str
    required: str
    reached: str
    leads: bool

    def cells(self) -> tuple[str, ...]:
        """All of it, in order."""
        return (self.title, self.theirs, self.ours, self.ratio, self.required, self.reached)


def rows(samples: Samples, figures: Sequence[Figure] = FIGURES) -> list[Row]:
    """The rows of the table: a figure that nobody measured has none, unless something is required of it."""
    return [_row(figure, samples) for figure in figures if figure.required or samples.values.get(figure.key)]


def _row(figure: Figure, samples: Samples) -> Row:
    times, reached = ratio(figure, samples), is_reached(figure, samples)
    verdict = {True: "yes", False: "**not reached**", None: "not measured" if figure.required else ""}
    return Row(
        title=f"{figure.title} ({figure.unit})" if figure.unit else figure.title,
        theirs=_cell(summarize(samples.of(figure.key, PREFECT))),
        ours=_cell(summarize(samples.of(figure.key, TRIOWORKER))),
        ratio=NOTHING if times is None else f"{number(times)} {TIMES}",
        required=str(figure.required) if figure.required else "",
        reached=verdict[reached],
        leads=figure.required is not None or figure.beside,
    )


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return NOTHING
    if summary.count == 1:
        return f"{number(summary.median)} (n 1)"
    spread = f"{number(summary.least)} to {number(summary.most)}"
    return f"{number(summary.median)} ({spread}, n {summary.count})"


def number(value: float) -> str:
    """A number with as many digits as anybody wants to read."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def as_markdown(shown: Sequence[Row], prefect: str) -> str:
    """A table in Markdown.

    Args:
        shown: its rows; the last two columns are left out if nothing is required in any.
        prefect: Prefect's version.
    """
    columns = 6 if any(row.required for row in shown) else 4
    lines = [_head(prefect), _RULE, *(row.cells() for row in shown)]
    return "".join(f"| {' | '.join(cells[:columns])} |\n" for cells in lines)


def as_text(shown: Sequence[Row], prefect: str) -> str:
    """A table for a terminal."""
    lines = [_head(prefect), *(row.cells() for row in shown)]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(_RULE))]
    return "".join(_line(cells, widths) for cells in lines)


def _head(prefect: str) -> tuple[str, ...]:
    return ("figure", f"Prefect {prefect}", "trioworker", "better by", "required", "reached")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.replace("**", "").ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip() + "\n"
