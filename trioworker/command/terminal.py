"""Questions to the person at the terminal, asked without keeping the rest of the program waiting."""

from __future__ import annotations

import os
import sys

import trio

_LONGEST_ANSWER = 4096


def at_terminal() -> bool:
    """Whether somebody can be asked: both standard input and standard output are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


async def confirm(question: str) -> bool:
    """Ask a question; Enter means yes, the end of the input means no.

    Can be cancelled, unlike `input()`, which does not even notice a signal that Trio receives.
    """
    descriptor = sys.stdin.fileno()
    while True:
        # A terminal is readable once a line is complete.
        try:
            sys.stdout.write(f"{question} [Y/n]: ")
            sys.stdout.flush()
            await trio.lowlevel.wait_readable(descriptor)
            typed = os.read(descriptor, _LONGEST_ANSWER)
        except OSError:  # hung up
            return False
        answer = typed.decode(errors="replace").strip().lower()
        if not typed or answer in {"n", "no"}:
            return False
        if answer in {"", "y", "yes"}:
            return True
