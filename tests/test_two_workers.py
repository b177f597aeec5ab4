"""Two workers that poll the same work pool."""

from __future__ import annotations

from collections import Counter

import command
import pytest
from command import Launcher, Prefect

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

RUNS = 20
LIMIT = 2
NOTES_ITS_RUN = """
note('executed', run, os.environ['PREFECT__WORKER_NAME'])
become('RUNNING')
wait_for('go')
become('COMPLETED')
"""


async def test_each_run_is_executed_once(launch: Launcher, prefect: Prefect) -> None:
    """A run that both are offered goes to one of them."""
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, NOTES_ITS_RUN)
    runs = [await prefect.run(deployment) for _ in range(RUNS)]
    workers = [
        await launch("start", "-p", pool, "-n", name, "--limit", str(LIMIT), api=prefect.url)
        for name in ("one", "other")
    ]
    # Neither can have so many alone.
    await prefect.running(pool, len(workers) * LIMIT)
    prefect.go()
    for run in runs:
        await prefect.reached(run, "Completed", workers[0])
    for worker in workers:
        assert await worker.stop() == 0, worker.output
    assert {await prefect.state_name(run) for run in runs} == {"Completed"}
    executed = prefect.noted("executed")
    assert Counter(run for run, _ in executed) == dict.fromkeys(runs, 1)
    assert {worker for _, worker in executed} == {"one", "other"}
