"""Runs the greenhouse on a Prefect server of its own: waters, reports, waits for measurements, and shows it all."""

import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import greenhouse
import httpx
import trio
from run_table import watch_runs

import trioworker
from trioworker.command.local_server import open_local_server

WISHES = [
    ("water", {"bed": "tomatoes", "litres": 2}),
    ("water", {"bed": "basil"}),
    ("report", {"recipient": "Ada"}),
]
MEASUREMENTS = 2


async def main(home: Path) -> bool:
    """Run the demonstration in an empty directory; returns whether all runs were completed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**clean, "PREFECT_HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    async with open_local_server(
        python=sys.executable, home=home, environment=environment, on_notice=print
    ) as server:
        settings = trioworker.Settings.load({**environment, "PREFECT_API_URL": server.url}, home)
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(greenhouse.run, settings))
            print(f"The greenhouse is at {url}; dashboard, as long as this runs: {server.dashboard_url}/runs")
            async with httpx.AsyncClient(base_url=url) as visitor:
                for flow, parameters in WISHES:
                    response = await visitor.post(flow, json=parameters)
                    print(f"POST /{flow} {parameters}: flow run {response.json()['flow_run']}")
                completed = await watch_runs(
                    server.url, pool=greenhouse.POOL, runs=len(WISHES) + MEASUREMENTS
                )
                print(f"GET /: {(await visitor.get('/')).text}")
            signal.raise_signal(signal.SIGTERM)
    return completed


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory(prefix="trioworker-greenhouse-") as directory:
            sys.exit(0 if trio.run(partial(main, Path(directory))) else 1)
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left behind.")
