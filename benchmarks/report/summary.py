"""A series of values in three figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs


@attrs.frozen
class Summary:
    """Where the values of a series lie.

    Attributes:
        median: the middle one.
        least: the smallest.
        most: the largest.
        count: how many there are.
    """

    median: float
    least: float
    most: float
    count: int


def summarize(values: Sequence[float]) -> Summary | None:
    """Summarize a series; None if it is empty."""
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), len(values))
