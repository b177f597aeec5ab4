"""When a worker takes runs in hand, on a real server: at once by the websocket, at the next poll without it.

No test here looks at a clock. Either nothing but the websocket could tell of a run, or it is counted how often the
worker has polled before it claimed the run.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import command
import pytest
import trio
from command import Command, Launcher, Prefect
from proxy import Passage, Proxy, Websockets, serve_proxy

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

NOTES_ITS_RUN = """
note('executed', run)
become('RUNNING')
become('COMPLETED')
"""

# So that no poll comes by itself.
AN_HOUR = {"PREFECT_WORKER_QUERY_SECONDS": "3600", "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "3600"}

# One poll finds what is due. A server on SQLite may refuse it once.
POLLS_BEFORE_A_CLAIM = 2


async def see_completed(prefect: Prefect, runs: list[str], worker: Command) -> None:
    for run in runs:
        await prefect.reached(run, "Completed", worker)
    assert Counter(run for (run,) in prefect.noted("executed")) == dict.fromkeys(runs, 1)


async def test_runs_are_told_by_the_websocket(launch: Launcher, prefect: Prefect) -> None:
    """One by one, and those of the future too."""
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, NOTES_ITS_RUN)
    worker = await launch.worker("-p", pool, api=prefect.url, **AN_HOUR)
    runs = []
    for ahead in (0, 2, 0):
        runs.append(await prefect.run(deployment, ahead=ahead))
        await prefect.reached(runs[-1], "Completed", worker)
    await see_completed(prefect, runs, worker)
    assert await worker.stop() == 0


async def test_free_slot_is_filled_without_waiting_for_a_poll(launch: Launcher, prefect: Prefect) -> None:
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, NOTES_ITS_RUN)
    runs = [await prefect.run(deployment) for _ in range(4)]
    worker = await launch.worker("-p", pool, "--limit", "1", "--no-websocket", api=prefect.url, **AN_HOUR)
    await see_completed(prefect, runs, worker)
    assert await worker.stop() == 0


async def test_two_workers_that_are_told_of_the_same_runs_execute_each_once(
    launch: Launcher, prefect: Prefect
) -> None:
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, NOTES_ITS_RUN)
    workers = [
        await launch.worker("-p", pool, "-n", name, api=prefect.url, **AN_HOUR) for name in ("one", "two")
    ]
    runs = [await prefect.run(deployment) for _ in range(10)]
    await see_completed(prefect, runs, workers[0])
    for worker in workers:
        assert await worker.stop() == 0


@pytest.mark.parametrize("what", [each for each in Websockets if each is not Websockets.PASS])
async def test_no_run_waits_longer_than_for_a_poll_when_the_websocket_fails(
    launch: Launcher, prefect: Prefect, what: Websockets
) -> None:
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, NOTES_ITS_RUN)
    async with trio.open_nursery() as nursery:
        proxy: Proxy = await nursery.start(partial(serve_proxy, prefect.url, websockets=what))
        worker = await launch.worker("-p", pool, api=proxy.api_url, PREFECT_WORKER_QUERY_SECONDS="1")
        with command.patience_for("a request for a websocket", worker):
            while not proxy.websockets_asked_for():  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.02)
        runs = []
        for _ in range(4):
            run = await prefect.run(deployment)
            # Those that come while a busy server makes the run may miss it.
            known = len(proxy.passages)
            await prefect.reached(run, "Completed", worker)
            assert polls_before_claim(proxy.passages, run, since=known) <= POLLS_BEFORE_A_CLAIM
            runs.append(run)
        await see_completed(prefect, runs, worker)
        assert await worker.stop() == 0
        # That there is no websocket is no reason to trouble anybody.
        assert "websocket" not in worker.output
        nursery.cancel_scope.cancel()


def polls_before_claim(passages: list[Passage], run: str, *, since: int) -> int:
    """How often a worker has polled before it claimed a run, since there were so many passages."""
    targets = [passage.target for passage in passages]
    claim = next(place for place, target in enumerate(targets) if f"{run}/set_state" in target)
    return sum("get_scheduled_flow_runs" in target for target in targets[since:claim])
