"""What Prefect Cloud, unlike a server of one's own, wants to know of a worker, and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

import attrs

from trioworker.api.models import Integration, WorkerMetadata
from trioworker.events import WorkerIdentity

# Under this, Prefect's integrations announce themselves.
_ENTRY_POINT_GROUP = "prefect.collections"


def installed_integrations() -> WorkerMetadata | None:
    """Prefect's integrations in the worker's environment; None if there are none."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - for workers of Prefect Cloud alone

    versions = {
        point.dist.name: point.dist.version
        for point in entry_points(group=_ENTRY_POINT_GROUP)
        if point.dist is not None
    }
    if not versions:
        return None
    return WorkerMetadata(
        integrations=[Integration(name=name, version=versions[name]) for name in sorted(versions)]
    )


@attrs.define(kw_only=True, eq=False, repr=False)
class Registration:
    """How a worker is known to the API.

    Attributes:
        worker: as it calls itself.
        pool_name: the work pool that it serves.
        on_cloud: whether the API is Prefect Cloud, which gives workers ids.
        ui_url: where people see it.
        metadata: what Prefect Cloud is told of the worker, looked up when it is.
        worker_id: the id that it was given, once it was.
    """

    worker: WorkerIdentity
    pool_name: str
    on_cloud: bool
    ui_url: str | None
    metadata: Callable[[], WorkerMetadata | None] = installed_integrations
    worker_id: UUID | None = attrs.field(default=None, init=False)

    @property
    def wanted(self) -> bool:
        """Whether the worker has yet to be given an id."""
        return self.on_cloud and self.worker_id is None

    def given(self, worker_id: UUID) -> None:
        """Take note of the worker's id."""
        self.worker_id = worker_id

    @property
    def environment(self) -> Mapping[str, str]:
        """By what a run's process names its worker to the API."""
        named = {"PREFECT__WORKER_NAME": self.worker.name}
        return named if self.worker_id is None else named | {"PREFECT__WORKER_ID": str(self.worker_id)}

    @property
    def introduction(self) -> str | None:
        """A line for the log of each run, by which people find the worker's own log; None if there is none."""
        if self.worker_id is None:
            return None
        line = f"Running on worker id: {self.worker_id}."
        if self.ui_url is None:
            return line
        page = f"{self.ui_url}/work-pools/work-pool/{self.pool_name}/worker/{self.worker_id}"
        return f"{line} See worker logs here: {page}"
