"""How quick and how small an idle worker is: time to "started!", time to exit, and memory.

    python benchmarks/footprint.py [IDLE_SECONDS]

Starts a Prefect server on this machine and works for that. Needs Linux, for the memory figures.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

from trioworker.command.local_server import open_local_server

STARTS = 5


async def main(home: Path, idle_seconds: float) -> None:
    """Measure and print."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    async with open_local_server(
        python=sys.executable, home=home, environment=clean, on_notice=print
    ) as server:
        environment = {**clean, "PREFECT_HOME": str(home), "PREFECT_API_URL": server.url}
        rounds = [await trio.to_thread.run_sync(partial(start_and_stop, environment)) for _ in range(STARTS)]
        report("exec to 'started!'", [started for started, _ in rounds], "s")
        report("SIGTERM to exit, idle", [stopped for _, stopped in rounds], "s")
        memory = await trio.to_thread.run_sync(partial(idle_memory, environment, idle_seconds))
        print(f"idle for {idle_seconds:g} s: RSS {memory['VmRSS']}, peak {memory['VmHWM']}")


def start_and_stop(environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that a worker needs to start, and to stop."""
    begun = time.perf_counter()
    worker = start_worker(environment)
    started = time.perf_counter()
    worker.send_signal(signal.SIGTERM)
    worker.communicate()
    return started - begun, time.perf_counter() - started


def idle_memory(environment: dict[str, str], seconds: float) -> dict[str, str]:
    """What the kernel says of a worker's memory after some idle time."""
    worker = start_worker(environment)
    time.sleep(seconds)
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    worker.send_signal(signal.SIGTERM)
    worker.communicate()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def start_worker(environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a worker and wait until it says so."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "trioworker", "start", "--pool", "footprint", "--type", "process"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None  # noqa: S101
    while "started!" not in (line := worker.stdout.readline()):
        if not line:
            raise SystemExit("the worker ended before it had started")
    return worker


def report(what: str, figures: list[float], unit: str) -> None:
    """Print a median with its range."""
    middle = statistics.median(figures)
    print(f"{what}: {middle:.2f} {unit} (min {min(figures):.2f}, max {max(figures):.2f}, n {len(figures)})")


def read_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure how quick and how small an idle worker is.")
    parser.add_argument(
        "idle_seconds", nargs="?", type=float, default=30.0, help="to sit idle, 30 by default"
    )
    return parser.parse_args()


if __name__ == "__main__":
    asked = read_arguments()
    with tempfile.TemporaryDirectory(prefix="trioworker-footprint-") as directory:
        trio.run(main, Path(directory), asked.idle_seconds)
