"""Which event loop our coroutines need, said where they are called from another one."""

from __future__ import annotations

import trio

from trioworker.errors import ConfigurationError

__all__ = ["require_trio"]


def require_trio() -> None:
    """Make sure that a Trio task calls.

    Raises:
        ConfigurationError: it is called from asyncio, say.
    """
    if not trio.lowlevel.in_trio_task():
        raise ConfigurationError(
            "trioworker works in Trio's event loop, and this is called from another one: start the program with"
            " trio.run, or Trio beside the other loop with trio.lowlevel.start_guest_run."
        )
