"""What both workers play on: a fresh Prefect server, with a work pool and the same deployments for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.apparatus.rest import Rest, open_rest
from benchmarks.apparatus.sides import Side, own_environment
from trioworker.command.local_server import open_local_server

FLOWS: Final = Path(__file__).resolve().parents[1] / "flows"
"""Where the flows are."""


@attrs.frozen
class Deployments:
    """The deployments in one work pool, by their ids.

    Attributes:
        hello: says hello; as `prefect deploy` makes it.
        nap: sleeps.
        command: executes `true` instead of a flow.
    """

    hello: str
    nap: str
    command: str


@attrs.frozen
class Stage:
    """The server, and what is on it.

    Attributes:
        rest: the server's API.
        directory: for files, empty at first.
        deployments: what is deployed for each.
    """

    rest: Rest
    directory: Path
    deployments: dict[str, Deployments]

    async def pause(self, side: Side, *, paused: bool) -> None:
        """Have the work pool of a side give out no runs, or give them out again."""
        await self.rest.call("PATCH", f"work_pools/{side.pool}", {"is_paused": paused})


@asynccontextmanager
async def open_stage(directory: Path, sides: tuple[Side, Side]) -> AsyncIterator[Stage]:
    """A stage for the length of a block.

    Args:
        directory: an empty one.
        sides: the two workers; the server runs in the environment of the first.
    """
    async with open_server(directory, sides[0].python) as rest:
        yield Stage(rest, directory, {side.name: await deploy(rest, side) for side in sides})


@asynccontextmanager
async def open_server(directory: Path, python: Path) -> AsyncIterator[Rest]:
    """A fresh server for the length of a block.

    Args:
        directory: an empty one.
        python: the interpreter of the environment in which it runs.
    """
    home = directory / "server"
    home.mkdir()
    async with (
        open_local_server(python=str(python), home=home, environment=own_environment(home)) as server,
        open_rest(server.url) as rest,
    ):
        yield rest


async def deploy(rest: Rest, side: Side) -> Deployments:
    """Make the work pool of a side, and its deployments."""
    await make_pool(rest, side)
    return Deployments(
        hello=await deploy_flow(rest, side, "hello.py:hello"),
        nap=await deploy_flow(rest, side, "hello.py:nap"),
        command=await _deployment(rest, side, "command", job_variables={"command": "true"}),
    )


async def make_pool(rest: Rest, side: Side) -> None:
    """Make the work pool of a side."""
    await rest.call("POST", "work_pools/", {"name": side.pool, "type": "process"})


async def deploy_flow(rest: Rest, side: Side, entrypoint: str) -> str:
    """Make a deployment of one of the flows, such as "hello.py:hello", in the pool of a side; returns its id."""
    # What `prefect deploy` writes for flows that lie on this machine.
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(FLOWS)}}
    flow = entrypoint.rpartition(":")[2]
    return await _deployment(rest, side, flow, entrypoint=entrypoint, pull_steps=[step])


async def _deployment(rest: Rest, side: Side, flow: str, **fields: Any) -> str:
    flow_id = (await rest.call("POST", "flows/", {"name": flow}))["id"]
    body = {"name": side.pool, "flow_id": flow_id, "work_pool_name": side.pool, **fields}
    made: str = (await rest.call("POST", "deployments/", body))["id"]
    return made
