"""The error by which everything here says that a fresh process is needed instead."""

from __future__ import annotations


class UnfitError(Exception):
    """A template, or what is forked from it, would not be the same as a fresh process.

    Args:
        reason: why, as the part of a sentence after "because".
        is_stale: whether another template would do, because something has changed since this one was made.
    """

    def __init__(self, reason: str, *, is_stale: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_stale = is_stale
