"""Tells how far the benchmark has come, a line for each step."""

from __future__ import annotations

import sys
import time
from typing import TextIO

import attrs


@attrs.define
class Progress:
    """Counts the steps.

    Attributes:
        steps: how many there are.
        stream: where the lines go.
        done: how many were made.
    """

    steps: int
    stream: TextIO = attrs.field(factory=lambda: sys.stderr)
    done: int = 0
    _begun: float = attrs.field(factory=time.monotonic)

    def tell(self, what: str) -> None:
        """Say something that is no step."""
        print(f"{self._clock()}          {what}", file=self.stream, flush=True)

    def step(self, what: str) -> None:
        """Say what was done, once it is."""
        self.done += 1
        print(f"{self._clock()} {self.done:>4}/{self.steps:<3} {what}", file=self.stream, flush=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        return f"{minutes:3}:{seconds:02}"
