"""How quickly functions are run as flow runs when many are due, on a Prefect server of their own.

200 runs are scheduled at once on a worker with a limit of 50; a fifth of them fail at first and are tried again.
Times are those of the states on the server: from Pending, which is the claim, to the first Running. Before anything
is printed, every run's end is checked, and how often its function was called. (How soon a single one runs on an
idle worker, `make bench` says.)

    python -m benchmarks.trio_flows [RUNS [LIMIT]]
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import trio

import trioworker
from trioworker.api.client import PrefectAPI, open_client
from trioworker.api.condition import Condition
from trioworker.api.models import State
from trioworker.command.local_server import open_local_server

POOL = "benchmark"
app = trioworker.TrioFlows()
calls: Counter[int] = Counter()

# Of these numbers, runs fail at the first attempt, in all attempts, and not at all.
FAILS_ONCE, FAILS = 5, 50


@app.flow(retries=1)
async def work(number: int) -> None:
    """Take a hundredth of a second, and fail as the number says."""
    calls[number] += 1
    await trio.sleep(0.01)
    if number % FAILS == 0 or (number % FAILS_ONCE == 0 and calls[number] == 1):
        raise ValueError(number)


def expected_calls(number: int) -> int:
    """How often the function is to be called for a run."""
    return 1 if number % FAILS_ONCE else 2


def expected_state(number: int) -> str:
    """In which state the run is to end."""
    return "Completed" if number % FAILS else "Failed"


async def main(home: Path, runs: int, limit: int) -> None:
    """Measure, in an empty directory."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**clean, "PREFECT_HOME": str(home)}
    async with open_local_server(python=sys.executable, home=home, environment=environment) as server:
        settings = trioworker.Settings.load({**environment, "PREFECT_API_URL": server.url}, home)
        (deployment,) = await app.deploy(pool=POOL, settings=settings)
        config = trioworker.WorkerConfig(pool=POOL, settings=settings)
        async with open_client(config.transport_config(), Condition()) as api:
            await measure_crowd(api, deployment.id, settings, runs, limit)


async def measure_crowd(
    api: PrefectAPI, deployment: UUID, settings: trioworker.Settings, runs: int, limit: int
) -> None:
    """Run many at once."""
    due = datetime.now(UTC) + timedelta(seconds=1)
    ids = [
        (await api.create_flow_run(deployment, parameters={"number": number}, scheduled_time=due)).id
        for number in range(1, runs + 1)
    ]
    await trio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
    async with trioworker.open_worker(pool=POOL, flows=app, settings=settings, limit=limit) as worker:
        await see_finished(worker, runs)
    histories = [await api.read_flow_run_states(flow_run_id) for flow_run_id in ids]
    for number, history in enumerate(histories, start=1):
        if history[-1].label != expected_state(number) or calls[number] != expected_calls(number):
            states = ", ".join(state.label for state in history)
            sys.exit(f"Run {number} went wrong: called {calls[number]} times; {states}")
    begun = min(moment(history, "Pending") for history in histories)
    ended = max(at(history[-1]) for history in histories)
    seconds = (ended - begun).total_seconds()
    print(
        f"{runs} runs at once, limit {limit}, {sum(calls.values())} calls: every end and count as it is to be"
    )
    print(f"  first claim to last end {seconds:.1f} s, {runs / seconds:.1f} runs a second")
    show("  claim to Running", [claim_to_running(history) for history in histories])


async def see_finished(worker: trioworker.Worker, runs: int) -> None:
    """Wait until so many runs have ended."""
    left = runs
    with worker.watch() as found:
        async for happening in found:
            left -= isinstance(happening, trioworker.RunFinished)
            if not left:
                return


def at(state: State) -> datetime:
    """When a run came to be in a state."""
    if state.timestamp is None:
        raise ValueError("the server gives every state a time")
    return state.timestamp


def moment(history: Sequence[State], name: str) -> datetime:
    """When a run first came to be in a state of this name."""
    return next(at(state) for state in history if state.label == name)


def claim_to_running(history: Sequence[State]) -> float:
    """Milliseconds from a run's claim to its being Running."""
    return (moment(history, "Running") - moment(history, "Pending")) / timedelta(milliseconds=1)


def show(what: str, milliseconds: Sequence[float]) -> None:
    """Print how a series of times is distributed."""
    ordered = sorted(milliseconds)
    print(
        f"{what}: median {statistics.median(ordered):.0f} ms,"
        f" 90 % within {ordered[int(0.9 * len(ordered))]:.0f} ms, longest {ordered[-1]:.0f} ms"
    )


def read_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure how quickly functions are run as flow runs.")
    parser.add_argument("runs", nargs="?", type=int, default=200, help="scheduled at once, 200 by default")
    parser.add_argument(
        "limit", nargs="?", type=int, default=50, help="of the worker for these, 50 by default"
    )
    return parser.parse_args()


if __name__ == "__main__":
    asked = read_arguments()
    # The failures that are asked for are no news.
    logging.getLogger("trioworker.flow_runs").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="trioworker-benchmark-") as directory:
        trio.run(main, Path(directory), asked.runs, asked.limit)
