"""Shows the flow runs of a work pool as they go: on a terminal a live table, elsewhere a line per change."""

from datetime import UTC, datetime
from typing import Any

import httpx
import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
STYLES = {"COMPLETED": "green", "RUNNING": "cyan", "FAILED": "red", "CRASHED": "red"}


async def watch_runs(api_url: str, *, pool: str, runs: int) -> bool:
    """Show the runs of a pool until so many have ended; returns whether all of them were completed."""
    console = Console()
    shown: dict[str, str] = {}
    with Live(console=console, transient=True, auto_refresh=False) as live:
        async with httpx.AsyncClient(base_url=api_url) as client:
            while True:
                found = await _read_runs(client, pool)
                live.update(_table(found), refresh=console.is_terminal)
                if not console.is_terminal:
                    _print_changes(console, found, shown)
                if sum(run["state_type"] in ENDED for run in found) >= runs:
                    break
                await trio.sleep(0.2)
    console.print(_table(found))
    return all(run["state_type"] == "COMPLETED" for run in found if run["state_type"] in ENDED)


async def _read_runs(client: httpx.AsyncClient, pool: str) -> list[dict[str, Any]]:
    # Schedules have runs created long before their time.
    due = {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    body = {"work_pools": {"name": {"any_": [pool]}}, "flow_runs": due, "sort": "EXPECTED_START_TIME_ASC"}
    response = await client.post("flow_runs/filter", json=body)
    response.raise_for_status()
    runs: list[dict[str, Any]] = response.json()
    return runs


def _print_changes(console: Console, runs: list[dict[str, Any]], shown: dict[str, str]) -> None:
    for run in runs:
        if shown.get(run["id"]) != run["state_name"]:
            shown[run["id"]] = run["state_name"]
            console.print(f"{run['name']}: {run['state_name']}")


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table("Flow run", "Parameters", "State", "Run time")
    for run in runs:
        parameters = ", ".join(f"{name}={value}" for name, value in run["parameters"].items())
        seconds = run["total_run_time"] + run["estimated_run_time"] * (run["state_type"] == "RUNNING")
        style = STYLES.get(run["state_type"], "")
        table.add_row(
            run["name"],
            parameters,
            f"[{style}]{run['state_name']}[/]" if style else run["state_name"],
            f"{seconds:.1f} s",
        )
    return table
