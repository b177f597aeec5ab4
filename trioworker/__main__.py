"""The command line: `trioworker`, and `python -m trioworker`."""

from __future__ import annotations

import sys


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


if __name__ == "__main__":
    main()
