"""Where it takes place: a server, two workers that share a work pool, and the valve between them and the server."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from benchmarks.apparatus.rest import Rest, open_rest
from benchmarks.apparatus.sides import TRIOWORKER, Side, own_environment
from benchmarks.apparatus.stage import deploy_flow, make_pool
from benchmarks.faults.supervisor import Supervisor, open_supervisor
from benchmarks.faults.valve import Valve, open_valve
from trioworker.command.local_server import LocalServer, RestartPolicy, open_local_server

POOL: Final = "endurance"

STEADY: Final = "steady"
"""The worker that is never killed, so that what it takes of memory and descriptors can be followed."""

MORTAL: Final = "mortal"
"""The worker that is killed and stopped in every way."""

# Runs of each at a time: more would only wait for the processors.
_LIMIT: Final = 4

# However often it is killed, that is on purpose.
_TIRELESS: Final = RestartPolicy(give_up_after=1_000_000, longest_delay=1.0)


@attrs.frozen(kw_only=True)
class Site:
    """All there is.

    Attributes:
        server: the server, which is started again whenever it dies.
        rest: its API, past the valve.
        valve: between it and the workers with their runs.
        workers: the supervised workers, by name.
        deployment: what is run.
        journals: a directory, in which each run keeps a journal.
        temporary: the directory for temporary files of the workers and their runs.
        home: the `PREFECT_HOME` of the workers.
    """

    server: LocalServer
    rest: Rest
    valve: Valve
    workers: dict[str, Supervisor]
    deployment: str
    journals: Path
    temporary: Path
    home: Path

    def wake_all(self) -> None:
        """Have everything go on that was made to stand still."""
        for supervisor in self.workers.values():
            if supervisor.living is not None:
                with suppress(ProcessLookupError):
                    os.kill(supervisor.living.pid, signal.SIGCONT)
        if self.server.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGCONT)


@asynccontextmanager
async def open_site(directory: Path, python: Path, database: str | None) -> AsyncIterator[Site]:
    """A site for the length of a block.

    Args:
        directory: an empty one.
        python: the interpreter of the environment that has Prefect and trioworker.
        database: the URL of the server's database; None for a fresh SQLite file.
    """
    server_home, home, journals, temporary = (
        directory / name for name in ("server", "workers", "journals", "temporary")
    )
    for made in (server_home, home, journals, temporary):
        made.mkdir()
    environment = own_environment(server_home)
    if database is not None:
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    side = Side(TRIOWORKER, python, home, POOL)
    async with (
        open_local_server(
            python=str(python), home=server_home, environment=environment, restarts=_TIRELESS
        ) as server,
        open_rest(server.url) as rest,
        open_valve(server.url) as valve,
    ):
        await make_pool(rest, side)
        deployment = await deploy_flow(rest, side, "work.py:work")
        settings = side.environment(valve.url, TMPDIR=str(temporary))
        async with (
            open_supervisor(side, _options(STEADY), environment=settings) as steady,
            open_supervisor(
                side, [*_options(MORTAL), "--on-shutdown", "reschedule"], environment=settings
            ) as mortal,
        ):
            yield Site(
                server=server,
                rest=rest,
                valve=valve,
                workers={STEADY: steady, MORTAL: mortal},
                deployment=deployment,
                journals=journals,
                temporary=temporary,
                home=home,
            )


def _options(name: str) -> list[str]:
    return ["--name", name, "--limit", str(_LIMIT), "--drain-timeout", "5"]
