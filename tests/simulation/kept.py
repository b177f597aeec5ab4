"""Seeds that once have found a bug, with what it was.

What a seed leads to changes with the simulation and with the product, so these guard the surroundings of each bug;
the bug itself has a test of its own, in `test_inheritance.py`, `test_boundary.py` and `test_claim.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["KEPT"]

KEPT: Final[Mapping[int, str]] = MappingProxyType(
    {
        6: "a run was given back whose process was left running, since its number was not known yet",
        44: "a run whose place the server knew was taken for one that goes on elsewhere, and stayed Running",
        48: "what a run had started lived on, whose failure nobody had watched",
        74: "two entries of one run were taken in hand at once, and the worker broke down",
        104: "a claim that took effect late had a Completed run executed once more",
        107: "what could not be written to a full disk was not written when there was room again",
        133: "what a run had started lived on, whose process had ended with status 0 and without a word",
        202: "a claim that took effect late left a Completed run Pending",
        877: "what a run had started lived on, whose process had ended while it was cancelled",
        1230: "what a run had started lived on, since a process that was left was not written down",
        1967: "an entry was not written, since the worker was stopped while it waited for its turn",
        2544: "what a run had started lived on, since the worker was stopped while it reported the crash",
        3149: "a run that had begun before its number was known was taken for somebody else's, and stayed Running",
        5661: "two requests that took effect late made a Completed run Crashed",
        10857: "a claim that took effect late, while the process ended, made a Completed run Crashed",
        11308: "a claim that was refused while its worker was stopped brought that down",
        401371: "a claim that took effect late kept a run from its retry, and it waited for that for ever",
        503341: "a claim of one attempt that took effect late had the retry of the next one wait for ever",
    }
)
