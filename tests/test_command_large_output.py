"""What a run writes does not go through the worker."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import command
import pytest
import trio
from command import AT_ONCE, COMPLETES, Launcher, Prefect, patience_for

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

MEGABYTE = 1024 * 1024

WRITES = (
    "become('RUNNING')\nwait_for('go')\n"
    "for _ in range(50 * 1024): sys.stdout.write('x' * 1023 + '\\n')\n"
    "sys.stdout.flush()\nbecome('COMPLETED')"
)

# Becomes the command, which then has both ends of the pipe that its output goes to, and reads nothing from it.
UNREAD = """
import os, sys
reader, writer = os.pipe()
os.set_inheritable(reader, True)
os.dup2(writer, 1)
os.dup2(writer, 2)
os.execvp(sys.argv[1], sys.argv[1:])
"""

FLOODS = """
become('RUNNING')
note('floods')
sys.stdout.write('x' * 1_000_000)
sys.stdout.flush()
"""


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


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_worker_goes_on_though_a_run_has_filled_its_output_and_nobody_reads_it(
    launch: Launcher, prefect: Prefect, log_format: str
) -> None:
    """The run waits. The worker, which has lines of its own to write, does not."""
    pool = await prefect.pool()
    worker = await launch(
        *("start", "-p", pool, "--log-format", log_format, "--drain-timeout", "0"),
        api=prefect.url,
        program=(sys.executable, "-c", UNREAD, *command.MODULE),
        PREFECT_WORKER_DEBUG_MODE="1",
    )
    await prefect.online(pool)
    floods = await prefect.run(await prefect.deployment(pool, FLOODS))
    await prefect.reached(floods, "Running")
    with patience_for("the flood"):
        while not (prefect.directory / "floods").exists():  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.05)
    deployment = await prefect.deployment(pool, COMPLETES)
    for _ in range(3):
        await prefect.reached(await prefect.run(deployment), "Completed")
    await prefect.next_heartbeat(pool)
    assert await prefect.state_name(floods) == "Running"
    worker.send(signal.SIGTERM)
    with trio.fail_after(AT_ONCE):
        assert await worker.exit_code() == 1
    await prefect.reached(floods, "Crashed")
