"""httpx and httpcore without what they import for want of a reason not to: 7 MB and 60 ms that no worker needs.

Both do without these parts where they are not installed, and that is what they are made to believe, in the process of
the command alone. Nothing is lost by it: who asks httpcore for HTTP/2 has it import that part anew.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "collect_at_last",
    "import_httpcore",
    "import_httpx",
    "import_process_infrastructure",
    "without_collecting",
]


def import_httpx() -> None:
    """Import httpx without its command line, and with it rich and pygments."""
    with _seeming_not_installed("httpx._main"):
        import httpx  # noqa: F401, PLC0415


def import_httpcore() -> None:
    """Import httpcore without HTTP/2, which is there wherever hypercorn is."""
    with _seeming_not_installed("h2"), without_collecting():
        import httpcore  # noqa: F401, PLC0415


def import_process_infrastructure() -> None:
    """Import what most workers need once they know their work pool: 10 ms, the time in which the API finds it."""
    with without_collecting():
        import trioworker.infrastructure.process.infrastructure  # noqa: F401, PLC0415


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import in a block without a search for garbage: then or later, since what is imported stays.

    That saves a tenth of the time that a worker takes to start, and half of what it takes to end. The garbage is left
    to `collect_at_last`.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def collect_at_last() -> None:
    """Let go of the garbage of imports, more than 1 MB, before anything else takes as much."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def _seeming_not_installed(module: str) -> Iterator[None]:
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
