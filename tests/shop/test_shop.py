"""The tests of the made-up shop, written with nothing but the public test kit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import trio
import trio.testing
from shop_app import POOL, Shop, main

from trioworker.testing import FakePrefect

HOUR = 3600.0
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def open_shop(prefect_api: FakePrefect, shop: Shop) -> AsyncIterator[None]:
    """The shop, for the length of a block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(main, shop, worker_options=prefect_api.worker_options))
        yield
        nursery.cancel_scope.cancel()


async def sleep_until(prefect_api: FakePrefect, seconds: float) -> None:
    await trio.sleep(seconds - prefect_api.seconds())


def equally_spaced(interval: timedelta, count: int) -> list[datetime]:
    return [MIDNIGHT + number * interval for number in range(count)]


async def test_a_day_with_an_outage_and_a_cancelled_run(
    prefect_api: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    shop = Shop()
    async with open_shop(prefect_api, shop):
        # The archive is begun at three o'clock in Berlin, which is two in UTC; somebody cancels it an hour later.
        await sleep_until(prefect_api, 3 * HOUR)
        [archive] = prefect_api.runs_of("write-archive")
        assert prefect_api.states(archive)[-1] == "Running"
        prefect_api.cancel(archive.id)
        await prefect_api.wait_for(archive, "Cancelled")
        cancelling_took = prefect_api.seconds() - 3 * HOUR

        await sleep_until(prefect_api, 10 * HOUR + 5 * 60)
        with prefect_api.outage():
            await sleep_until(prefect_api, 11 * HOUR + 5 * 60)
        await sleep_until(prefect_api, 24 * HOUR - 60)

    # Every time of every schedule was met exactly once, and those of the outage as soon as it was over.
    synced, invoiced = prefect_api.runs_of("sync-stock"), prefect_api.runs_of("send-invoices")
    assert [prefect_api.scheduled_time(run) for run in synced] == equally_spaced(timedelta(minutes=10), 144)
    assert [prefect_api.scheduled_time(run) for run in invoiced] == equally_spaced(timedelta(hours=1), 24)
    done = [("sync-stock", run.id) for run in synced] + [("send-invoices", run.id) for run in invoiced]
    assert sorted(shop.work_done) == sorted(done)
    for run in [*synced, *invoiced]:
        assert prefect_api.states(run) == ["Scheduled", "Pending", "Running", "Completed"]

    started_late = {
        prefect_api.scheduled_time(run): delay
        for run in [*synced, *invoiced]
        if (delay := prefect_api.delay(run)) > 0
    }
    assert set(started_late) == {
        MIDNIGHT + timedelta(hours=10, minutes=10 * number) for number in range(1, 7)
    }
    end_of_outage = MIDNIGHT + timedelta(hours=11, minutes=5)
    for scheduled, delay in started_late.items():
        assert 0 <= delay - (end_of_outage - scheduled).total_seconds() < 60

    # The cancelled run had its clean-up code run, and is the only one that did not do its work.
    assert prefect_api.states(archive) == ["Scheduled", "Pending", "Running", "Cancelling", "Cancelled"]
    assert shop.archives_discarded == 1
    assert not shop.archive_is_open
    assert cancelling_took < 5
    assert len(prefect_api.flow_runs) == 144 + 24 + 1


async def test_stock_is_synced_after_the_supplier_has_failed_twice(
    prefect_api: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    shop = Shop(supplier_fails=2)
    async with open_shop(prefect_api, shop):
        [run] = prefect_api.runs_of("sync-stock")
        await prefect_api.wait_for(run, "AwaitingRetry")
        await prefect_api.wait_for(run, "Completed", "Failed")
    assert prefect_api.flow_run(run.id).run_count == 3
    assert any("503 from the supplier" in line for line in prefect_api.logs_of(run))
    assert "Stock is as the supplier says" in prefect_api.logs_of(run)
    assert ("sync-stock", run.id) in shop.work_done


async def test_stock_of_single_articles_is_synced_when_asked_for(
    prefect_api: FakePrefect, autojump_clock: trio.testing.MockClock
) -> None:
    shop = Shop()
    async with open_shop(prefect_api, shop):
        deployment = next(each for each in prefect_api.deployments if "sync_stock" in (each.entrypoint or ""))
        run = prefect_api.schedule(deployment, parameters={"articles": ["spoon"]})
        bad = prefect_api.schedule(deployment, parameters={"articles": "spoon"})
        await prefect_api.wait_for(run, "Completed")
        await prefect_api.wait_for(bad, "Failed")
    state = prefect_api.flow_run(bad.id).state
    assert state is not None
    assert state.message is not None
    assert "articles" in state.message
    assert prefect_api.work_pool(POOL).type == "trio"
