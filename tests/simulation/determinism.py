"""Everything that chance has a part in, from one seed: also Trio's choice which task goes first, and UUIDs."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import trio


class _SeededOS:
    """Stands in for `os` in the module `uuid`, which asks it for random bytes alone."""

    def __init__(self, chance: random.Random) -> None:
        self.urandom = chance.randbytes

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


@contextmanager
def determined_by(seed: int) -> Iterator[random.Random]:
    """For the length of a block, let everything go by a seed that happens in this thread.

    Trio shuffles the tasks that can go on. It has a switch by which pytest-trio makes it deterministic for
    Hypothesis; the same one serves here. Yields the source of chance for everything else.

    Args:
        seed: any number.
    """
    order = trio._core._run._r
    before = order.getstate()
    with (
        patch.object(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        patch.object(uuid, "os", _SeededOS(random.Random(f"uuids {seed}"))),  # noqa: S311 - no secrets
    ):
        order.seed(f"order {seed}")
        try:
            yield random.Random(seed)  # noqa: S311 - no secrets
        finally:
            order.setstate(before)
