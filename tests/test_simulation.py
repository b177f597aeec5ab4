"""The promise, in a minute of simulation; see `tests/simulation`."""

from __future__ import annotations

import itertools
import sys

import pytest
from simulation.campaign import describe_failure, run_campaign
from simulation.episode import play
from simulation.faults import Fault, Kind
from simulation.kept import KEPT
from simulation.planted import PLANTED

# Real seconds of simulation.
_SECONDS = 60.0

# Episodes within which every planted bug is found; most are within some dozens.
_EPISODES = 600


def test_promise_holds_for_a_minute_of_simulation(capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "what", ["write claim", "claim", "submit", "write launching", "start", "write launched"]
)
@pytest.mark.parametrize("kind", [Kind.CRASH, Kind.REBOOT, Kind.STOP_TWICE, Kind.CANCEL, Kind.USER_CANCELS])
def test_fault_at_each_step_up_to_the_start(kind: Kind, what: str, moment: str) -> None:
    step = f"{moment} {what}"
    result = play(1, [Fault(kind, step)])
    assert result.met[kind, step] == 1
    assert result.violations == [], "\n".join(describe_failure(result))


def test_crashed_worker_does_nothing_any_more() -> None:
    """What a dead worker would do shows in what is told: nothing is, from its end on."""
    result = play(1, [Fault(Kind.CRASH, "after claim")])
    [end] = [number for number, line in enumerate(result.trace) if line.endswith("worker 1 is gone")]
    [successor] = [number for number, line in enumerate(result.trace) if "worker 2 is started" in line]
    assert not any("by a worker" in line for line in result.trace[end:successor])
    assert result.workers == 2
