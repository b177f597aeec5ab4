"""A made-up application, as a user of trioworker would write it: the night and day of a small web shop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import attrs
import trio

import trioworker
from trioworker import Cron, Interval, RRule

POOL = "shop"
ZONE = "Europe/Berlin"

_logger = logging.getLogger("shop")


class SupplierDownError(Exception):
    """The supplier does not answer."""


@attrs.define(eq=False)
class Shop:
    """What the shop's flows work on.

    Attributes:
        supplier_fails: how many of the next requests to the supplier go wrong.
        work_done: the names of flows whose work was done, each with the id of the run.
        archive_is_open: whether the yearly archive is being written at the moment.
        archives_discarded: how often a half-written archive had to be removed.
    """

    supplier_fails: int = 0
    work_done: list[tuple[str, UUID]] = attrs.field(factory=list)
    archive_is_open: bool = False
    archives_discarded: int = 0

    async def ask_supplier(self, article: str) -> int:
        """How many pieces of an article there are."""
        await trio.sleep(5)
        if self.supplier_fails > 0:
            self.supplier_fails -= 1
            raise SupplierDownError("503 from the supplier")
        return len(article)

    def did(self) -> None:
        """Note that the current run has done its work."""
        run = trioworker.current_flow_run()
        self.work_done.append((run.flow_name, run.id))


def make_flows(shop: Shop) -> trioworker.TrioFlows:
    """The flows of a shop."""
    app = trioworker.TrioFlows()

    @app.flow(retries=2, retry_delay=30, schedules=[Cron("*/10 * * * *", timezone=ZONE)])
    async def sync_stock(articles: list[str] | None = None) -> None:
        async with trio.open_nursery() as nursery:
            for article in articles or ["cup", "plate"]:
                nursery.start_soon(shop.ask_supplier, article)
        _logger.info("Stock is as the supplier says")
        shop.did()

    @app.flow(schedules=[Interval(3600)])
    async def send_invoices() -> None:
        await trio.sleep(120)
        shop.did()

    @app.flow(schedules=[RRule("FREQ=DAILY;BYHOUR=3;BYMINUTE=0;BYSECOND=0", timezone=ZONE)])
    async def write_archive() -> None:
        shop.archive_is_open = True
        try:
            await trio.sleep(4 * 3600)
            shop.did()
        except trio.Cancelled:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(1)
                shop.archives_discarded += 1
            raise
        finally:
            shop.archive_is_open = False

    return app


async def main(
    shop: Shop,
    *,
    worker_options: Mapping[str, Any] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the shop's flows until cancelled; `worker_options` are for tests."""
    app = make_flows(shop)
    options = dict(worker_options or {})
    await app.deploy(pool=POOL, **options)
    async with trioworker.open_worker(pool=POOL, flows=app, limit=20, **options):
        task_status.started()
        await trio.sleep_forever()
