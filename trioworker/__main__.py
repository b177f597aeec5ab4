"""The command line: `trioworker`, and `python -m trioworker`."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and exit."""
    # Imported here so that a Ctrl-C during the imports is answered as calmly as a later one.
    try:
        from trioworker.command.lean_imports import import_httpx, without_collecting  # noqa: PLC0415

        with without_collecting():
            import_httpx()
            import trio  # noqa: PLC0415

            from trioworker.command.cli import trioworker  # noqa: PLC0415
            from trioworker.command.unread_output import waiting_for_nobody  # noqa: PLC0415
        sys.stdout, sys.stderr = map(waiting_for_nobody, (sys.stdout, sys.stderr))
        # Called by itself, it would run by way of anyio, which takes 1 MB and 20 ms to import.
        trio.run(trioworker.main)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _let_go_of_unread_output()


def _let_go_of_unread_output() -> None:
    """Keep the exit code though the command has left something unwritten that nobody reads, as behind `| head`.

    Python would try once more to write it, and end with an exit code of its own for that.
    """
    for stream in (sys.stdout, sys.stderr):
        # There may be none, or something of the user's in its place that can do less.
        with suppress(Exception):
            try:
                stream.flush()
            except OSError as error:
                if _nobody_reads(stream.fileno(), error):
                    _lead_nowhere(stream.fileno())


def _nobody_reads(descriptor: int, error: OSError) -> bool:
    """Whether the other end of a pipe or of a terminal is gone. Of a disk that is full Python shall tell."""
    if error.errno == errno.EIO:
        return stat.S_ISCHR(os.fstat(descriptor).st_mode)
    return error.errno == errno.EPIPE


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    main()
