"""Why there is nothing to report."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Something went wrong, so that no figure of this benchmark is worth a look; the message says what and where."""


class FailedRunError(BenchmarkError):
    """A worker has failed a run. A worker that fails may well be quick."""
