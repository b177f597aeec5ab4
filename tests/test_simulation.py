"""The promise, in a minute of simulation; see `tests/simulation`."""

from __future__ import annotations

import itertools
import sys

import pytest
from simulation.campaign import describe_failure, run_campaign, sweep
from simulation.episode import play
from simulation.faults import Fault, Kind
from simulation.kept import KEPT
from simulation.planted import PLANTED

# Real seconds of simulation by chance; to have every kind of fault at every step takes some more.
_SECONDS = 30.0

# Seeds by which every step is reached.
_SEEDS_OF_SWEEP = 600

# A seed without faults of its own.
_QUIET = 4

# Episodes within which every planted bug is found; most are within some dozens.
_EPISODES = 600


def test_promise_holds_whatever_chance_brings(capsys: pytest.CaptureFixture[str]) -> None:
    def tell(line: str) -> None:
        with capsys.disabled():
            sys.stderr.write(f"{line}\n")

    tally = run_campaign(itertools.count(), _SECONDS, tell)
    assert tally.failed == [], "\n".join(describe_failure(tally.failed[0]))
    assert tally.claimed > 0
    assert tally.met.total() > 0


@pytest.mark.parametrize("seed", KEPT)
def test_seed_that_once_found_a_bug_finds_none(seed: int) -> None:
    result = play(seed)
    assert result.violations == [], "\n".join(describe_failure(result))


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[bug](monkeypatch)
    assert any(play(seed).violations for seed in range(_EPISODES))


def test_seed_determines_all_that_happens() -> None:
    first, second = (play(seed, talkative=True) for seed in (7, 7))
    assert first.trace == second.trace
    assert first.trace != play(8, talkative=True).trace


def test_every_kind_of_fault_at_every_step() -> None:
    told: list[str] = []
    tally = sweep(range(_SEEDS_OF_SWEEP), told.append)
    assert told == []
    assert tally.unmet == []


def test_crashed_worker_does_nothing_any_more() -> None:
    """What a dead worker would do shows in what is told: nothing is, from its end on."""
    result = play(_QUIET, Fault(Kind.CRASH, "after claim"))
    [end] = [number for number, line in enumerate(result.trace) if line.endswith("worker 1 is gone")]
    [successor] = [number for number, line in enumerate(result.trace) if "worker 2 is started" in line]
    assert not any("by a worker" in line for line in result.trace[end:successor])
    assert result.workers == 2
