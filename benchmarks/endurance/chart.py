"""Draws what the steady worker took over time, as an SVG that is legible on light and dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

import attrs

from benchmarks.endurance.sampling import Sample
from benchmarks.report.chart import STYLE, size

_WIDTH: Final = 820
_LEFT, _RIGHT = 90, 30
_TOP, _PANEL, _GAP, _BOTTOM = 66, 110, 34, 40
_LINES: Final = 2
_HOUR: Final = 3600.0


@attrs.frozen
class _Panel:
    """One of the curves.

    Attributes:
        label: what it is, with its unit.
        value: of a sample.
    """

    label: str
    value: Callable[[Sample], float]


_PANELS: Final = (
    _Panel("memory (RSS), MB", lambda sample: sample.resident / 1e6),
    _Panel("descriptors", lambda sample: sample.descriptors),
    _Panel("ledger files, kB", lambda sample: sample.ledgers / 1e3),
    _Panel("runs not at their end", lambda sample: sample.waiting),
)

_OWN_STYLE: Final = """\
.curve { fill: none; stroke: #2f81f7; stroke-width: 1.5 }
.harm { stroke: #d4760a; stroke-opacity: 0.35 }"""


def draw(samples: Sequence[Sample], harms: Sequence[tuple[float, str]], title: str, note: str) -> str:
    """The chart.

    Args:
        samples: what was seen, at least one.
        harms: when something was broken, in seconds.
        title: what stands above it.
        note: what stands below that, smaller.
    """
    height = _TOP + len(_PANELS) * (_PANEL + _GAP) + _BOTTOM
    longest = max(sample.at for sample in samples) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {size(_WIDTH, height)}>',
        f"<style>\n{STYLE}\n{_OWN_STYLE}\n</style>",
        f'<rect class="card" x="0.5" y="0.5" {size(_WIDTH - 1, height - 1)} rx="8"/>',
        f'<text class="title" x="20" y="28">{escape(title)}</text>',
        f'<text class="quiet" x="20" y="47">{escape(note)}</text>',
    ]
    for place, panel in enumerate(_PANELS):
        parts += _draw_panel(panel, samples, harms, longest, _TOP + place * (_PANEL + _GAP) + _GAP)
    minutes = longest / 60
    for number in range(7):
        x = _x(longest * number / 6, longest)
        label = f"{minutes * number / 6:.0f} min"
        parts.append(f'<text class="quiet" x="{x:.1f}" y="{height - 16}" text-anchor="middle">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(at: float, longest: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / longest


def _draw_panel(
    panel: _Panel, samples: Sequence[Sample], harms: Sequence[tuple[float, str]], longest: float, top: int
) -> list[str]:
    values = [panel.value(sample) for sample in samples]
    highest = max(values) * 1.1 or 1.0
    bottom = top + _PANEL
    parts = [f'<text class="quiet" x="20" y="{top - 8}">{escape(panel.label)}</text>']
    for at, _ in harms:
        x = _x(at, longest)
        parts.append(f'<line class="harm" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
    for number in range(_LINES + 1):
        value = highest * number / _LINES
        y = bottom - _PANEL * number / _LINES
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="quiet" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    points = " ".join(
        f"{_x(sample.at, longest):.1f},{bottom - _PANEL * value / highest:.1f}"
        for sample, value in zip(samples, values, strict=True)
    )
    parts.append(f'<polyline class="curve" points="{points}"/>')
    return parts
