"""What was measured: every single value, by figure and side."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.define
class Samples:
    """The values so far.

    Attributes:
        values: by the key of a figure and the name of a side.
        requests: the worker's requests in each burst, by kind, for whoever wants to know what they are.
    """

    values: dict[str, dict[str, list[float]]] = attrs.field(factory=dict)
    requests: list[dict[str, Any]] = attrs.field(factory=list)

    def add(self, figure: str, side: str, value: float) -> None:
        """Take note of a value."""
        self.values.setdefault(figure, {}).setdefault(side, []).append(value)

    def of(self, figure: str, side: str) -> list[float]:
        """The values of a figure; none if it was not measured."""
        return self.values.get(figure, {}).get(side, [])
