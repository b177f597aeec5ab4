"""What a run writes does not go through the worker."""

from __future__ import annotations

import signal
from pathlib import Path

import command
import pytest
from command import Launcher, Prefect

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

MEGABYTE = 1024 * 1024

WRITES = (
    "become('RUNNING')\nwait_for('go')\n"
    "for _ in range(50 * 1024): sys.stdout.write('x' * 1023 + '\\n')\n"
    "sys.stdout.flush()\nbecome('COMPLETED')"
)


def memory(pid: int, kind: str) -> int:
    """Bytes that a process has of physical memory: `VmRSS` now, `VmHWM` at the most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{kind}:")]
    return int(line.split()[1]) * 1024


async def test_run_that_writes_50_megabytes_costs_the_worker_no_memory(
    launch: Launcher, prefect: Prefect
) -> None:
    pool = await prefect.pool()
    run = await prefect.run(await prefect.deployment(pool, WRITES))
    worker = await launch.worker("-p", pool, api=prefect.url)
    await prefect.reached(run, "Running", worker)
    before = memory(worker.pid, "VmRSS")
    prefect.go()
    await prefect.reached(run, "Completed", worker)
    assert memory(worker.pid, "VmHWM") - before < 10 * MEGABYTE
    worker.send(signal.SIGTERM)
    assert await worker.exit_code() == 0
    assert worker.output.count("x" * 1023) == 50 * 1024
