"""What the tests of the ledger share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from trioworker.infrastructure.protocol import Trace
from trioworker.ledger.entry import Entry, Stage


def entry(name: str = "red-fox", **fields: Any) -> Entry:
    """An attempt at a run that has just been claimed."""
    return Entry(
        **{
            "attempt": uuid4(),
            "flow_run_id": uuid4(),
            "flow_run_name": name,
            "flow_id": uuid4(),
            "worker_name": "worker",
            **fields,
        }
    )


def full_entry() -> Entry:
    """An attempt of which all is known that can be."""
    return entry(
        "röte\n'fox' \N{FOX FACE}",
        deployment_id=uuid4(),
        due=datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=UTC),
        stage=Stage.ENDED,
        transition_ids=frozenset({uuid4(), uuid4(), uuid4()}),
        trace=Trace("4711", '{"machine": "here"}'),
        ended="It ended, 'somehow'.",
        fate="SCHEDULED",
    )


def names(entries: Any) -> list[str]:
    """By which tests tell entries apart."""
    return [one.flow_run_name for one in entries]
