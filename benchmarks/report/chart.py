"""Draws how many times better each figure is, as an SVG that is legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import attrs

from benchmarks.apparatus.sides import SIDES
from benchmarks.report.figures import FIGURES, AtMost, Figure, Fraction, Times, ratio
from benchmarks.report.samples import Samples
from benchmarks.report.summary import summarize
from benchmarks.report.table import TIMES, number

_WIDTH: Final = 820
_LABELS: Final = 270
_VALUES: Final = 190
_TOP: Final = 62
_ROW: Final = 26
_BAR: Final = 14
_BOTTOM: Final = 40
_TICKS: Final = (1, 2, 5)

# The card has a ground of its own, since nobody knows what it is put upon.
STYLE: Final = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.quiet { font-size: 12px; fill: #59636e }
.card { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #d1d9e0 }
.even { stroke: #59636e }
.better { fill: #2f81f7 }
.worse { fill: #d4760a }
.goal { stroke: #1f2328; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .card { fill: #0d1117; stroke: #3d444d }
  .grid { stroke: #262c36 }
  .even { stroke: #9198a1 }
  .goal { stroke: #e6edf3 }
}"""
"""What everything in a chart looks like, on light and dark pages."""


@attrs.frozen
class Bar:
    """A figure in the chart.

    Attributes:
        label: what it is.
        times: how many times better ours is than that of Prefect's worker.
        values: both medians, in words.
        goal: how many times better it is to be; None if nothing is required.
    """

    label: str
    times: float
    values: str
    goal: float | None = None


def bars(samples: Samples, figures: Sequence[Figure] = FIGURES) -> list[Bar]:
    """The bars for all figures that are charted and were measured on both sides."""
    found: list[Bar] = []
    for figure in figures:
        times = ratio(figure, samples)
        theirs, ours = (summarize(samples.of(figure.key, side)) for side in SIDES)
        if figure.charted and times is not None and theirs is not None and ours is not None:
            values = f"{number(theirs.median)} → {number(ours.median)} {figure.unit}".rstrip()
            found.append(Bar(figure.charted, times, values, _goal(figure, theirs.median)))
    return found


def _goal(figure: Figure, theirs: float) -> float | None:
    match figure.required:
        case Times(factor):
            return factor
        case Fraction(part):
            return 1 / part
        case AtMost(limit):
            return theirs / limit
        case _:
            return None


def ticks(least: float, most: float) -> list[float]:
    """Round numbers (1, 2, 5, 10 ...) from the last one that is at most `least` to the first of at least `most`."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    numbers = [digit * 10.0**power for power in range(first, last + 1) for digit in _TICKS]
    begin = max((each for each in numbers if each <= least), default=numbers[0])
    end = min((each for each in numbers if each >= most), default=numbers[-1])
    return [each for each in numbers if begin <= each <= end]


def draw(shown: Sequence[Bar], title: str, note: str) -> str:
    """The chart.

    Args:
        shown: at least one bar.
        title: what stands above them.
        note: what stands below that, smaller.
    """
    reach = [bar.times for bar in shown] + [bar.goal for bar in shown if bar.goal is not None]
    scale = ticks(min(1.0, *reach), max(2.0, *reach))
    height = _TOP + _ROW * len(shown) + _BOTTOM
    place = _Place(math.log(scale[0]), math.log(scale[-1]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {size(_WIDTH, height)}>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="card" x="0.5" y="0.5" {size(_WIDTH - 1, height - 1)} rx="8"/>',
        f'<text id="title" class="title" x="20" y="28">{escape(title)}</text>',
        f'<text id="note" class="quiet" x="20" y="47">{escape(note)}</text>',
        *_grid(scale, place, height - _BOTTOM),
    ]
    for number_of_row, bar in enumerate(shown):
        parts += _row(bar, place, _TOP + _ROW * number_of_row)
    return "\n".join([*parts, "</svg>", ""])


@attrs.frozen
class _Place:
    """Where a ratio is on the horizontal, logarithmic axis."""

    least: float
    most: float

    def of(self, times: float) -> float:
        width = _WIDTH - _LABELS - _VALUES
        return _LABELS + width * (math.log(times) - self.least) / (self.most - self.least)


def _grid(scale: Sequence[float], place: _Place, bottom: float) -> list[str]:
    parts: list[str] = []
    for each in scale:
        x = f"{place.of(each):.1f}"
        kind = "even" if each == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" y1="{_TOP - 4}" x2="{x}" y2="{bottom + 2}"/>')
        parts.append(
            f'<text class="quiet" x="{x}" y="{bottom + 18}" text-anchor="middle">{each:g}{TIMES}</text>'
        )
    return parts


def _row(bar: Bar, place: _Place, top: float) -> list[str]:
    middle = top + _ROW / 2
    text = middle + 4.5
    even, end = place.of(1), place.of(bar.times)
    kind = "better" if bar.times >= 1 else "worse"
    upper = middle - _BAR / 2
    left, width = min(even, end), abs(end - even)
    parts = [
        f'<text x="20" y="{text:.1f}">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{left:.1f}" y="{upper:.1f}" {size(width, _BAR)} rx="2"/>',
        f'<text x="{_WIDTH - _VALUES + 14}" y="{text:.1f}">{number(bar.times)}{TIMES}</text>',
        f'<text class="quiet" x="{_WIDTH - _VALUES + 68}" y="{text:.1f}">{escape(bar.values)}</text>',
    ]
    if bar.goal is not None:
        x = f"{place.of(bar.goal):.1f}"
        parts.append(
            f'<line class="goal" x1="{x}" y1="{upper - 3:.1f}" x2="{x}" y2="{upper + _BAR + 3:.1f}"/>'
        )
    return parts


def size(width: float, height: float) -> str:
    """Width and height as attributes of an element."""
    return f'width="{width:g}" height="{height:g}"'
