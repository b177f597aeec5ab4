"""Where the two workers are installed: `make build/bench/.ready` has put them there, unless it is said otherwise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from benchmarks.apparatus.sides import PREFECT, TRIOWORKER

BUILD: Final = Path(__file__).resolve().parents[1] / "build" / "bench"
"""The directory for all that is not kept."""


def add_environments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say otherwise."""
    parser.add_argument(
        "--prefect",
        type=Path,
        default=BUILD / "prefect" / "bin" / "python",
        help="the Python of an environment with Prefect (%(default)s)",
    )
    parser.add_argument(
        "--trioworker",
        type=Path,
        default=Path(sys.executable),
        help="the Python of an environment with Prefect and trioworker (%(default)s)",
    )


def pythons(options: argparse.Namespace) -> dict[str, Path]:
    """The interpreter of each side's environment, as the options have it."""
    return {PREFECT: options.prefect, TRIOWORKER: options.trioworker}
