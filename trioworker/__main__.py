"""The command line: `trioworker`, and `python -m trioworker`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    # Imported here so that a Ctrl-C during the imports is answered as calmly as a later one.
    try:
        _import_httpx_without_its_command_line()
        from trioworker.command.cli import trioworker  # noqa: PLC0415

        trioworker(_anyio_backend="trio")
    except KeyboardInterrupt:
        sys.exit(130)


def _import_httpx_without_its_command_line() -> None:
    """Save what httpx imports for a command line of its own: rich and pygments, 5 MB and 40 ms.

    It does without where these are not installed, and that is what it is made to believe. Only this process,
    which is ours alone, is treated so.
    """
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    import httpx  # noqa: F401, PLC0415

    del sys.modules["httpx._main"]


if __name__ == "__main__":
    main()
