"""What an event about a worker says."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from trioworker.api.converter import unstructure
from trioworker.api.models import WorkPool
from trioworker.events import WorkerIdentity, slug, worker_started, worker_stopped

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKER = WorkerIdentity(name="My Worker", type="process", prefect_version="3.8.8")
POOL = WorkPool(id=uuid4(), name="pool", type="process")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ProcessWorker 5d1f", "processworker-5d1f"),
        ("Zürich & Genève", "zurich-geneve"),
        ("--a__b--", "a-b"),
        ("a.b.c", "a-b-c"),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_worker_is_the_resource() -> None:
    assert worker_started(WORKER, POOL, NOW).resource == {
        "prefect.resource.id": "prefect.worker.process.my-worker",
        "prefect.resource.name": "My Worker",
        "prefect.worker-type": "process",
        "prefect.version": "3.8.8",
    }


def test_version_is_left_out_where_prefect_is_not_installed() -> None:
    identity = WorkerIdentity(name="worker", type="process")
    assert "prefect.version" not in identity.as_resource()


def test_pool_is_a_related_resource() -> None:
    assert worker_started(WORKER, POOL, NOW).related == [
        {
            "prefect.resource.id": f"prefect.work-pool.{POOL.id}",
            "prefect.resource.role": "work-pool",
            "prefect.resource.name": "pool",
        }
    ]


def test_pool_that_is_gone_is_left_out() -> None:
    assert worker_stopped(WORKER, None, NOW, follows=None).related == []


def test_stopped_follows_started() -> None:
    started = worker_started(WORKER, POOL, NOW)
    stopped = worker_stopped(WORKER, POOL, NOW, follows=started.id)
    assert (started.event, stopped.event) == ("prefect.worker.started", "prefect.worker.stopped")
    assert started.follows is None
    assert stopped.follows == started.id
    assert started.id != stopped.id


def test_event_is_sent_as_the_api_wants_it() -> None:
    sent = unstructure(worker_started(WORKER, POOL, NOW))
    assert sent["occurred"] == "2026-01-01T00:00:00+00:00"
    assert UUID(sent["id"])
    assert sent["payload"] == {}


def test_names_without_any_letter_that_counts_are_told_apart_by_a_digest() -> None:
    one, other = slug("工人"), slug("猫")
    assert one != other
    assert one == slug("工人")
    assert len(one) == 16
