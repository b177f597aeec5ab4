"""What an event about a worker says: pure functions from facts to `Event`."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID, uuid4

import attrs

from trioworker.api.models import Event, WorkPool


@attrs.frozen(kw_only=True)
class WorkerIdentity:
    """Who an event is about.

    Attributes:
        name: the worker's name.
        type: the worker's type, which is that of its infrastructure.
        prefect_version: the Prefect version that its flows run with, if known.
    """

    name: str
    type: str
    prefect_version: str | None = None

    def as_resource(self) -> dict[str, str]:
        """The worker as Prefect's event feed knows it."""
        resource = {
            "prefect.resource.id": f"prefect.worker.{self.type}.{slug(self.name)}",
            "prefect.resource.name": self.name,
            "prefect.worker-type": self.type,
        }
        if self.prefect_version is not None:
            resource["prefect.version"] = self.prefect_version
        return resource


def slug(name: str) -> str:
    """A name as it stands in a resource id: lower-case letters, digits and single dashes.

    A name that has nothing of these is known by a digest of itself.
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")
    return words or hashlib.sha256(name.encode()).hexdigest()[:16]


def related_work_pool(pool: WorkPool) -> Mapping[str, str]:
    """The work pool as a resource that an event is related to."""
    return {
        "prefect.resource.id": f"prefect.work-pool.{pool.id}",
        "prefect.resource.role": "work-pool",
        "prefect.resource.name": pool.name,
    }


def worker_started(worker: WorkerIdentity, pool: WorkPool | None, now: datetime) -> Event:
    """The event of a worker that has begun to poll."""
    return _worker_event("prefect.worker.started", worker, pool, now)


def worker_stopped(
    worker: WorkerIdentity, pool: WorkPool | None, now: datetime, *, follows: UUID | None
) -> Event:
    """The event of a worker whose last run has ended; `follows` is the id of its started event."""
    return _worker_event("prefect.worker.stopped", worker, pool, now, follows)


def _worker_event(
    name: str, worker: WorkerIdentity, pool: WorkPool | None, now: datetime, follows: UUID | None = None
) -> Event:
    return Event(
        id=uuid4(),
        occurred=now,
        event=name,
        resource=worker.as_resource(),
        related=[related_work_pool(pool)] if pool is not None else [],
        follows=follows,
    )
