"""The REST API of the server, as the matrix speaks to it."""

from __future__ import annotations

import random
from typing import Any

import attrs
import httpx
import trio

# Of a request that does not get through: with so many plays at once, SQLite has no turn for it for a while.
_ATTEMPTS = 150
_HEADERS = {"User-Agent": "prefect/3.8.8 (API 0.8.4)"}
_PAGE = 200

# The server closes connections that were idle for five seconds, perhaps while a request is on its way.
_LIMITS = httpx.Limits(max_connections=40, keepalive_expiry=1)


class MissingError(Exception):
    """The server knows nothing of what was asked for."""


@attrs.frozen
class Rest:
    """Makes requests of a Prefect server.

    Attributes:
        url: its API, without trailing slash.
        client: what makes the requests.
    """

    url: str
    client: httpx.AsyncClient = attrs.field(
        factory=lambda: httpx.AsyncClient(timeout=60, headers=_HEADERS, limits=_LIMITS, trust_env=False)
    )

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        """Make a request and return the decoded answer.

        SQLite has one writer at a time, so a request answered with 503 is repeated; and so is one whose
        connection broke, which happens when the server is very busy.

        Raises:
            MissingError: The answer was 404.
            httpx.HTTPStatusError: The answer was another error.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self.client.request(method, f"{self.url}/{path}", json=json)
            except httpx.TransportError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                if response.status_code != 503:
                    break
            await trio.sleep(random.uniform(0.2, 1))  # noqa: S311
        if response.status_code == 404:
            raise MissingError(f"{method} {path}")
        if response.is_error:
            request = response.request
            message = f"{method} {request.url}: {response.status_code} {response.text[:1000]}"
            raise httpx.HTTPStatusError(message, request=request, response=response)
        return response.json() if response.content else None

    async def run(self, run: str) -> dict[str, Any] | None:
        """A flow run as it is now; None if it was deleted."""
        try:
            found: dict[str, Any] = await self.call("GET", f"flow_runs/{run}")
        except MissingError:
            return None
        return found

    async def history(self, run: str) -> list[dict[str, Any]]:
        """The states that a run has had, in order."""
        states: list[dict[str, Any]] = await self.call("GET", f"flow_run_states/?flow_run_id={run}")
        return sorted(states, key=lambda state: str(state["timestamp"]))

    async def log(self, run: str) -> list[dict[str, Any]]:
        """The lines of a run's log, in order."""
        lines: list[dict[str, Any]] = []
        while True:
            body = {
                "logs": {"flow_run_id": {"any_": [run]}},
                "sort": "TIMESTAMP_ASC",
                "limit": _PAGE,
                "offset": len(lines),
            }
            page = await self.call("POST", "logs/filter", body)
            lines += page
            if len(page) < _PAGE:
                return lines

    async def events(self, *, about: str | None = None, names: list[str]) -> list[dict[str, Any]]:
        """Events, in order.

        Args:
            about: the id of a resource that they are about or that is related to them.
            names: what the names of the events begin with.
        """
        wanted: dict[str, Any] = {"event": {"prefix": names}, "order": "ASC"}
        if about is not None:
            wanted["any_resource"] = {"id": [about]}
        page = await self.call("POST", "events/filter", {"filter": wanted, "limit": 50})
        events: list[dict[str, Any]] = page["events"]
        while page["next_page"]:
            page = await self.call("GET", str(page["next_page"]).partition("/api/")[2])
            events += page["events"]
        return events
