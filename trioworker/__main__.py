"""The command line: `trioworker`, and `python -m trioworker`."""

from __future__ import annotations

import errno
import os
import sys

# What writing to a pipe, or to a terminal, ends in when the other end is gone.
_NOBODY_READS = frozenset({errno.EPIPE, errno.EIO})


def main() -> None:
    """Run the command line and exit."""
    # Imported here so that a Ctrl-C during the imports is answered as calmly as a later one.
    try:
        from trioworker.command.lean_imports import import_httpx, without_collecting  # noqa: PLC0415

        with without_collecting():
            import_httpx()
            import trio  # noqa: PLC0415

            from trioworker.command.cli import trioworker  # noqa: PLC0415
        # Called by itself, it would run by way of anyio, which takes 1 MB and 20 ms to import.
        trio.run(trioworker.main)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _let_go_of_unread_output()


def _let_go_of_unread_output() -> None:
    """Keep the exit code, though there are last words that nobody reads, as behind `| head`.

    Python would try once more to write them, and end with an exit code of its own for that.
    """
    for stream in (sys.stdout, sys.stderr):
        # Of a stream that was closed before the start there is nothing.
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError as error:
            # Of a full disk Python shall tell.
            if error.errno in _NOBODY_READS:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


if __name__ == "__main__":
    main()
