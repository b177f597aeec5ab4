"""A greenhouse: a Trio program with an HTTP endpoint of its own, whose work is done by Prefect flow runs.

The flows are plain functions of this program. `measure` runs by itself, every five seconds; `water` runs when
somebody asks for it over HTTP; `report` fails at first, and is tried again. All of them share the state of the
program, which is what makes them different from flows that run in processes of their own.

Start it with a Prefect API in PREFECT_API_URL: python examples/greenhouse.py
"""

import json
import logging
import random
import signal
from collections import Counter
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

import trioworker

POOL = "greenhouse"
logger = logging.getLogger("greenhouse")
app = trioworker.TrioFlows()


class Bed(StrEnum):
    """What grows here."""

    TOMATOES = "tomatoes"
    BASIL = "basil"


@attrs.define
class Greenhouse:
    """What the program knows; `moisture` is in litres."""

    moisture: dict[Bed, float] = attrs.field(factory=lambda: dict.fromkeys(Bed, 5.0))
    calls: Counter[str] = attrs.field(factory=Counter)


greenhouse = Greenhouse()


@app.flow(schedules=[trioworker.Cron("* * * * * */5")])
async def measure() -> None:
    """Let the sun shine, and look at the beds."""
    greenhouse.calls["measure"] += 1
    for bed in Bed:
        greenhouse.moisture[bed] -= random.uniform(0, 0.5)  # noqa: S311 - weather
        logger.info("%s: %.1f l", bed, greenhouse.moisture[bed])


@app.flow(timeout=10)
async def water(bed: Bed, litres: float = 1.0) -> None:
    """Water a bed, a litre in half a second."""
    greenhouse.calls["water"] += 1
    await trio.sleep(litres / 2)
    greenhouse.moisture[bed] += litres


@app.flow(retries=2, retry_delay=1)
async def report(recipient: str) -> None:
    """Send a report over a line that works at the second attempt."""
    greenhouse.calls["report"] += 1
    if trioworker.current_flow_run().attempt == 1:
        raise ConnectionError("the line is dead")
    logger.info("Dear %s, all is well.", recipient)


async def serve_http(  # noqa: ASYNC128 - passed on
    worker: trioworker.Worker, deployments: dict[str, UUID], *, task_status: Any
) -> None:
    """Serve GET / (what the greenhouse knows) and POST /FLOW (have a flow run); started with the endpoint's URL."""

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "lifespan":
            await send({"type": f"{(await receive())['type']}.complete"})
        status, answer = 200, {"moisture": greenhouse.moisture, "calls": greenhouse.calls}
        if scope["method"] == "POST":
            deployment = deployments[scope["path"].strip("/")]
            parameters = json.loads((await receive())["body"] or "{}")
            try:
                flow_run = await worker.create_flow_run(deployment, parameters=parameters)
                status, answer = 201, {"flow_run": str(flow_run)}
            except trioworker.APIError as error:
                status, answer = 422, {"error": str(error)}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "WARNING"
    await serve(endpoint, config, shutdown_trigger=trio.sleep_forever, task_status=task_status)


async def run(
    settings: trioworker.Settings | None = None, *, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """Deploy the flows, serve them and the endpoint until SIGINT or SIGTERM; started with the endpoint's URL."""
    settings = settings or trioworker.Settings.load()
    deployed = await app.deploy(pool=POOL, settings=settings)
    async with (
        trioworker.open_worker(pool=POOL, flows=app, settings=settings, limit=10) as worker,
        trio.open_nursery() as nursery,
    ):
        deployments = {deployment.flow_name: deployment.id for deployment in deployed}
        urls = await nursery.start(partial(serve_http, worker, deployments))
        logger.info("%s serves %s", worker.name, urls[0])
        task_status.started(urls[0])
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    trio.run(run)
