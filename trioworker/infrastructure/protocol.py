"""What a kind of infrastructure is: where and how a flow run is executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

import attrs
import trio


class InfrastructureError(Exception):
    """The run cannot be executed as it is configured; the message becomes that of its `Crashed` state."""


class InfrastructureFullError(InfrastructureError):
    """There is no room for the run just now; it may well be started later, or by another worker."""


@attrs.frozen(kw_only=True)
class Assignment:
    """A flow run as the infrastructure gets it.

    Attributes:
        flow_run_id: which run.
        flow_run_name: its name, for people.
        configuration: the job configuration, rendered from the work pool's base job template.
        environment: what the worker adds to the environment of the run.
    """

    flow_run_id: UUID
    flow_run_name: str
    configuration: Mapping[str, Any]
    environment: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run's infrastructure ended.

    Attributes:
        status_code: 0 is good, the negative number of a signal or anything else is not.
        message: the same as a sentence.
    """

    status_code: int
    message: str


@attrs.frozen
class Running:
    """A run was found where it is said to be."""


@attrs.frozen
class Gone:
    """A run is not (or no longer) where it is said to be."""


JobT = TypeVar("JobT")


class Infrastructure(Protocol[JobT]):
    """A kind of infrastructure. Third parties add theirs by the entry-point group `trioworker.infrastructure`.

    Attributes:
        type: the name of the kind, which is the type of the work pools that it serves.
        default_base_job_template: given to work pools that have none.
    """

    type: ClassVar[str]

    @property
    def default_base_job_template(self) -> Mapping[str, Any]:
        """Given to work pools that have none."""
        ...

    def prepare(self, assignment: Assignment) -> JobT:
        """Check the configuration and make a job of it, without touching anything yet.

        Raises:
            InfrastructureError: the configuration is wrong; the message names the field.
        """
        ...

    async def run(
        self, job: JobT, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> Outcome:
        """Start the job, report its identifier through `task_status`, and return how it ended.

        Cancelled, it ends the run with everything that the run has started, and leaves nothing behind.

        Raises:
            InfrastructureFullError: it cannot be started just now.
            InfrastructureError: it cannot be started.
        """
        ...

    async def kill(self, identifier: str, grace: float) -> None:
        """Ask a run to end, wait up to `grace` seconds, then make it; returns when it is gone."""
        ...

    def kill_now(self) -> None:
        """Kill every run at once, without waiting for anything."""
        ...

    async def find(self, identifier: str) -> Running | Gone:
        """Whether a run still runs, asked after a restart of the worker."""
        ...
