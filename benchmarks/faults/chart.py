"""Draws the seconds until all was right, as an SVG that is legible on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from benchmarks.apparatus.sides import PREFECT, SIDES
from benchmarks.faults.table import Row, seconds
from benchmarks.report.chart import STYLE, size

_WIDTH: Final = 900
_LABELS: Final = 390
_VALUES: Final = 150
_TOP: Final = 84
_ROW: Final = 38
_BAR: Final = 12
_BOTTOM: Final = 34
_TICKS: Final = 4

# That nothing was ever right must not look like a bar that has an end.
_NEVER: Final = ".never { opacity: 0.3 }"
_KINDS: Final = {PREFECT: "worse"}


def draw(shown: Sequence[Row], watched: float, title: str, note: str) -> str:
    """The chart: for each fault, a bar for each side.

    Args:
        shown: the faults, at least one.
        watched: how long was watched, in seconds; a bar of that length that is pale has no end.
        title: what stands above them.
        note: what stands below that, smaller.
    """
    height = _TOP + _ROW * len(shown) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {size(_WIDTH, height)}>',
        f"<style>\n{STYLE}\n{_NEVER}\n</style>",
        f'<rect class="card" x="0.5" y="0.5" {size(_WIDTH - 1, height - 1)} rx="8"/>',
        f'<text class="title" x="20" y="28">{escape(title)}</text>',
        f'<text class="quiet" x="20" y="47">{escape(note)}</text>',
        *_legend(),
        *_grid(watched, height - _BOTTOM),
    ]
    for place, row in enumerate(shown):
        parts += _row(row, watched, _TOP + _ROW * place)
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    parts: list[str] = []
    for place, side in enumerate(SIDES):
        x = _LABELS + 110 * place
        parts.append(f'<rect class="{_KINDS.get(side, "better")}" x="{x}" y="60" {size(_BAR, _BAR)} rx="2"/>')
        parts.append(f'<text class="quiet" x="{x + _BAR + 6}" y="70">{escape(side)}</text>')
    return parts


def _place(after: float, watched: float) -> float:
    return _LABELS + (_WIDTH - _LABELS - _VALUES) * min(after / watched, 1.0)


def _grid(watched: float, bottom: float) -> list[str]:
    parts: list[str] = []
    for number in range(_TICKS + 1):
        after = watched * number / _TICKS
        x = f"{_place(after, watched):.1f}"
        parts.append(f'<line class="grid" x1="{x}" y1="{_TOP - 4}" x2="{x}" y2="{bottom + 2}"/>')
        parts.append(f'<text class="quiet" x="{x}" y="{bottom + 18}" text-anchor="middle">{after:g} s</text>')
    return parts


def _row(row: Row, watched: float, top: float) -> list[str]:
    parts = [f'<text x="20" y="{top + _ROW / 2 + 4.5:.1f}">{escape(row.fault.title.replace("`", ""))}</text>']
    for place, side in enumerate(SIDES):
        verdict = row.verdict(side)
        if verdict is None:
            continue
        upper = top + _ROW / 2 + (place - 1) * (_BAR + 2)
        after = verdict.right_after
        # Even what was right at once is to be seen.
        width = max(_place(watched if after is None else after, watched) - _LABELS, 2.0)
        told = f"{seconds(verdict)}, {verdict.state}"
        kind = _KINDS.get(side, "better") + (" never" if after is None else "")
        parts.append(
            f'<rect class="{kind}" x="{_LABELS}" y="{upper:.1f}" {size(round(width, 1), _BAR)} rx="2"/>'
        )
        parts.append(
            f'<text class="quiet" x="{_LABELS + width + 6:.1f}" y="{upper + 10:.1f}">{escape(told)}</text>'
        )
    return parts
