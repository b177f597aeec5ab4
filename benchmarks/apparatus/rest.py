"""The REST API of the server, as the benchmark itself speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import attrs
import httpx
import trio

from benchmarks.failures import BenchmarkError

_ATTEMPTS = 150
_HEADERS = {"User-Agent": "prefect/3.8.8 (API 0.8.4)"}

# The server closes connections that were idle for five seconds, perhaps while a request is on its way.
_LIMITS = httpx.Limits(keepalive_expiry=1)


@attrs.frozen
class StateSeen:
    """A state that a run has been in.

    Attributes:
        name: such as "Running".
        type: such as "RUNNING".
        at: when it was entered.
        message: what was said about it.
    """

    name: str
    type: str
    at: datetime
    message: str | None = None


@attrs.frozen
class Rest:
    """Makes requests of a Prefect server, past the gate.

    Attributes:
        url: its API, without trailing slash.
        client: what makes the requests.
    """

    url: str
    client: httpx.AsyncClient

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        """Make a request and return the decoded answer.

        SQLite has one writer at a time, so a request answered with 503 is repeated.

        Raises:
            BenchmarkError: the answer was another error, or there was none.
        """
        try:
            for _ in range(_ATTEMPTS):
                response = await self.client.request(method, f"{self.url}/{path}", json=json)
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
                await trio.sleep(0.1)
        except httpx.TransportError as error:
            raise BenchmarkError(f"{method} {path}: the server does not answer: {error!r}") from error
        if response.is_error:
            raise BenchmarkError(f"{method} {path}: {response.status_code} {response.text[:1000]}")
        return response.json() if response.content else None

    async def create_run(self, deployment: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Schedule a run of a deployment for now; returns its id."""
        body = {} if parameters is None else {"parameters": dict(parameters)}
        made = await self.call("POST", f"deployments/{deployment}/create_flow_run", body)
        run: str = made["id"]
        return run

    async def count(self, runs: Sequence[str], types: Iterable[str]) -> int:
        """How many of the runs are in states of these types; asks no more of the server than that."""
        wanted = {"id": {"any_": list(runs)}, "state": {"type": {"any_": sorted(types)}}}
        count: int = await self.call("POST", "flow_runs/count", {"flow_runs": wanted})
        return count

    async def count_of(self, deployment: str, types: Iterable[str]) -> int:
        """How many runs of a deployment are in states of these types."""
        of_types = {"flow_runs": {"state": {"type": {"any_": sorted(types)}}}}
        wanted = {**of_types, "deployments": {"id": {"any_": [deployment]}}}
        count: int = await self.call("POST", "flow_runs/count", wanted)
        return count

    async def runs_of(self, deployment: str, types: Iterable[str], limit: int = 200) -> list[str]:
        """The runs of a deployment that are in states of these types, by their ids; no more than so many."""
        of_types = {"flow_runs": {"state": {"type": {"any_": sorted(types)}}}}
        wanted = {**of_types, "deployments": {"id": {"any_": [deployment]}}, "limit": limit}
        found = await self.call("POST", "flow_runs/filter", wanted)
        return [each["id"] for each in found]

    async def history(self, run: str) -> list[StateSeen]:
        """All states that a run has been in, in order."""
        states = await self.call("GET", f"flow_run_states/?flow_run_id={run}")
        seen = [
            StateSeen(
                state["name"], state["type"], datetime.fromisoformat(state["timestamp"]), state["message"]
            )
            for state in states
        ]
        return sorted(seen, key=lambda state: state.at)


@asynccontextmanager
async def open_rest(url: str) -> AsyncIterator[Rest]:
    """Speak to a server for the length of a block."""
    # To make ready for TLS, which nothing here speaks, would take a while.
    async with httpx.AsyncClient(
        verify=False,  # noqa: S501
        timeout=60,
        headers=_HEADERS,
        limits=_LIMITS,
        trust_env=False,
    ) as client:
        yield Rest(url, client)
