"""The first lesson in embedding: a Trio program with a Prefect worker inside.

It starts a Prefect server on this machine, has three flow runs scheduled, and runs them.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio
from run_table import watch_runs

import trioworker
from trioworker.command.local_server import open_local_server

FLOWS = Path(__file__).with_name("flows.py")


async def main(home: Path) -> bool:
    """Run the example in an empty directory; returns whether all runs were completed."""
    # Nothing of what is set up on this machine for another Prefect shall get in here.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**clean, "PREFECT_HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "1"}

    async with open_local_server(
        python=sys.executable, home=home, environment=environment, on_notice=print
    ) as server:
        environment["PREFECT_API_URL"] = server.url
        settings = trioworker.Settings.load(environment, home)

        async with trioworker.open_worker(
            pool="meadow", worker_type="process", settings=settings, notify=print_notice
        ):
            print(f"Dashboard, as long as this runs: {server.dashboard_url}/runs")
            print("The worker is polling. Deploying a flow, and scheduling three runs of it ...")
            await trio.run_process(
                [sys.executable, FLOWS, "meadow"], env=environment, stdout=subprocess.DEVNULL
            )
            completed = await watch_runs(server.url, pool="meadow", runs=3)

        print(f"The dashboard was at {server.dashboard_url}/runs. For a server and a worker that stay:")
        print("  .venv/bin/trioworker start --pool meadow --local-server")
    return completed


def print_notice(notice: trioworker.Notice) -> None:
    """Show what the worker has to say."""
    print(notice.message)


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory(prefix="trioworker-quickstart-") as directory:
            sys.exit(0 if trio.run(partial(main, Path(directory))) else 1)
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left behind.")
