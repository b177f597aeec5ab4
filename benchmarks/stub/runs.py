"""The flow runs of the stub API, and what a worker tells of them. Pure: no sockets, and the time is given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import attrs

_EXECUTED = "prefect.worker.executed-flow-run"

# What a flow tells the server while it runs, which a trivial command does not do.
_PLAYED = (("RUNNING", "Running"), ("COMPLETED", "Completed"))


@attrs.define
class StubRun:
    """A run of the stub.

    Attributes:
        document: the run as the API shows it.
        states: all states it has been in, oldest first.
    """

    document: dict[str, Any]
    states: list[dict[str, Any]]


@attrs.define
class StubRuns:
    """All runs of the stub.

    A run of a trivial command would never come to an end by itself. So whoever claims it and says that it is
    submitted, finds it completed afterwards, as if its flow had said so.

    Attributes:
        scheduled: how the real server mentions a run that is due in its answer to a poll.
        document: how it shows this run to whoever asks for it.
        runs: the runs that were released, by id.
        troubles: what a worker should not have done.
        handed_out_at: when runs were first given to a worker, in seconds since the epoch.
        executed_at: when the last run had been executed, by the word of the worker.
        executed: the runs of which the worker says that they were.
        requests: how many requests of each kind there were.
    """

    scheduled: dict[str, Any]
    document: dict[str, Any]
    runs: dict[str, StubRun] = attrs.field(factory=dict)
    troubles: list[str] = attrs.field(factory=list)
    handed_out_at: float = 0.0
    executed_at: float = 0.0
    executed: set[str] = attrs.field(factory=set)
    requests: Counter[str] = attrs.field(factory=Counter)
    _waiting: dict[str, dict[str, Any]] = attrs.field(factory=dict)

    def release(self, runs: int) -> None:
        """Have so many more runs be due."""
        for number in range(1, runs + 1):
            run, state = str(uuid4()), {**self.document["state"], "id": str(uuid4())}
            own = {"id": run, "name": f"run-{number}", "state_id": state["id"]}
            self.runs[run] = StubRun({**self.document, **own, "state": state}, [state])
            self._waiting[run] = {**self.scheduled, "flow_run": {**self.scheduled["flow_run"], **own}}

    def due(self, limit: int, now: float) -> list[dict[str, Any]]:
        """What a poll is answered with: runs that nobody has claimed."""
        found = [entry for entry, _ in zip(self._waiting.values(), range(limit), strict=False)]
        if found and not self.handed_out_at:
            self.handed_out_at = now
        return found

    def propose(self, run: str, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """Let a run be in a state; returns what the request is answered with."""
        kind, name = proposed["type"], proposed.get("name")
        if kind == "PENDING" and name in {None, "Pending"}:
            if self._waiting.pop(run, None) is None:
                self.troubles.append(f"run {run} was claimed twice")
        elif kind != "PENDING":
            self.troubles.append(f"run {run} was said to be {name or kind}: {proposed.get('message')}")
        state = self._enter(run, proposed)
        if name == "Submitting":
            for played, label in _PLAYED:
                self._enter(run, {"type": played, "name": label})
        return {"status": "ACCEPT", "details": {"type": "accept_details"}, "state": state}

    def _enter(self, run: str, proposed: Mapping[str, Any]) -> dict[str, Any]:
        found = self.runs[run]
        name = {"name": str(proposed["type"]).capitalize()}
        own = {"id": str(uuid4()), "timestamp": datetime.now(UTC).isoformat()}
        # The time for which a run was scheduled is among the details that each of its states takes over.
        details = found.states[0]["state_details"] | _given(proposed.get("state_details") or {})
        state = found.states[-1] | name | _given(proposed) | own | {"state_details": details}
        found.states.append(state)
        found.document |= {
            "state": state,
            "state_id": state["id"],
            "state_type": state["type"],
            "state_name": state["name"],
        }
        return state

    def note_event(self, event: Mapping[str, Any]) -> None:
        """Take note of an event, which tells that a run was executed, or nothing of interest."""
        if event.get("event") != _EXECUTED:
            return
        run = next(
            related for related in event["related"] if related.get("prefect.resource.role") == "flow-run"
        )
        identifier = str(run["prefect.resource.id"]).removeprefix("prefect.flow-run.")
        if (status := run["prefect.infrastructure.status-code"]) != "0":
            self.troubles.append(f"run {identifier} ended with status {status}")
        self.executed.add(identifier)
        self.executed_at = max(self.executed_at, datetime.fromisoformat(event["occurred"]).timestamp())

    def report(self) -> bytes:
        """What the benchmark wants to know."""
        return json.dumps(
            {
                "executed": len(self.executed),
                "troubles": self.troubles,
                "seconds": self.executed_at - self.handed_out_at,
                "requests": self.requests,
            }
        ).encode()


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not left open."""
    return {key: value for key, value in fields.items() if value is not None}
