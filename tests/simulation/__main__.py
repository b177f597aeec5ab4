"""`python -m tests.simulation`: play episodes for a while, or one of them with all that happens."""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from .campaign import run_campaign
from .episode import play
from .faults import Fault, Kind
from .steps import STEPS


def main() -> int:
    """Do as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one, and tell all that happens")
    parser.add_argument(
        "--fault", action="append", default=[], help="besides those of the seed, such as 'crash before claim'"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="play for so long (60)")
    parser.add_argument("--seed-from", type=int, help="the first seed (one of its own each second)")
    options = parser.parse_args()
    if options.seed is not None:
        return _show(options.seed, [_fault(words, options.seed) for words in options.fault])
    first = int(time.time()) * 1000 if options.seed_from is None else options.seed_from
    _write(f"Seeds from {first}, for {options.seconds:.0f} s")
    tally = run_campaign(itertools.count(first), options.seconds, _write)
    for line in tally.table():
        _write(line)
    _write(tally.line)
    if tally.failed:
        _write(f"seeds that went wrong: {' '.join(str(result.seed) for result in tally.failed)}")
    return 1 if tally.failed else 0


def _fault(words: str, seed: int) -> Fault:
    for kind in Kind:
        step = words.removeprefix(f"{kind} ")
        if step in STEPS:
            return Fault.at_step(kind, step, seed)
    raise SystemExit(f"{words!r} is no kind of fault and a step: see tests/simulation/faults.py and steps.py")


def _show(seed: int, faults: list[Fault]) -> int:
    result = play(seed, *faults, talkative=True)
    for line in result.trace:
        _write(line)
    for violation in result.violations:
        _write(f"VIOLATION {violation}")
    if not result.violations:
        _write("All is well.")
    return 1 if result.violations else 0


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


sys.exit(main())
