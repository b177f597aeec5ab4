"""What an event about a worker says: pure functions from facts to `Event`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from trioworker.api.models import Deployment, Event, Flow, FlowRun, WorkPool
from trioworker.api.transport import PREFECT_VERSION
from trioworker.lean_attrs import frozen

# An event says which one it follows only if that was a short while ago, as Prefect's own client does: the server
# holds an event back for as long as it may still be waiting for the one before.
_LINKED_WITHIN = timedelta(minutes=5)

# Prefect's worker has each run executed by a runner of this name, which reports cancellations.
_RUNNER_NAME = "standalone"

# Of these characters a slug has the letters and digits, and one dash for whatever is between them.
_SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9 ._-]*")
_NOT_IN_A_SLUG: Final = re.compile(r"[^a-z0-9]+")


@frozen(kw_only=True)
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
        return {
            "prefect.resource.id": f"prefect.worker.{self.type}.{_slug(self.name)}",
            "prefect.resource.name": self.name,
            "prefect.worker-type": self.type,
        } | self._version()

    def runner_as_resource(self) -> dict[str, str]:
        """What executes a run, as Prefect's event feed knows it."""
        return {
            "prefect.resource.id": f"prefect.runner.{_RUNNER_NAME}",
            "prefect.resource.name": _RUNNER_NAME,
        } | self._version()

    def _version(self) -> dict[str, str]:
        return {} if self.prefect_version is None else {"prefect.version": self.prefect_version}


@frozen(kw_only=True)
class RunFacts:
    """What an event about a run is related to.

    Attributes:
        flow_run: the run.
        flow: its flow.
        deployment: its deployment, if it has one.
    """

    flow_run: FlowRun
    flow: Flow
    deployment: Deployment | None

    @property
    def tags(self) -> list[str]:
        """The tags of them all, each once."""
        tags = {*self.flow_run.tags, *self.flow.tags}
        if self.deployment is not None:
            tags.update(self.deployment.tags)
        return sorted(tags)


def _slug(name: str) -> str:
    if _SIMPLE_NAME.fullmatch(name):
        return _NOT_IN_A_SLUG.sub("-", name.lower()).strip("-")
    # It has a transliteration for every character there is: 4 MB, for names that most workers do not have.
    from slugify import slugify  # noqa: PLC0415

    return slugify(name)


def worker_started(worker: WorkerIdentity, pool: WorkPool | None, now: datetime) -> Event:
    """The event of a worker that has begun to poll."""
    return _event("prefect.worker.started", worker.as_resource(), _work_pool(pool), now)


def worker_stopped(
    worker: WorkerIdentity, pool: WorkPool | None, now: datetime, *, follows: Event | None
) -> Event:
    """The event of a worker whose last run has ended; `follows` is its started event."""
    return _event("prefect.worker.stopped", worker.as_resource(), _work_pool(pool), now, follows)


def flow_run_submitted(worker: WorkerIdentity, pool: WorkPool | None, run: RunFacts, now: datetime) -> Event:
    """The event of a run whose job configuration is ready."""
    related = [*_run(run), *_work_pool(pool)]
    return _event("prefect.worker.submitted-flow-run", worker.as_resource(), related, now)


def flow_run_executed(
    worker: WorkerIdentity,
    pool: WorkPool | None,
    run: RunFacts,
    now: datetime,
    *,
    identifier: str,
    status_code: int,
    follows: Event | None,
) -> Event:
    """The event of a run whose infrastructure has ended.

    Args:
        worker: who executed it.
        pool: the work pool that it came from.
        run: the run and what belongs to it.
        now: the time of day.
        identifier: where it ran.
        status_code: how that ended.
        follows: the event that said that it was submitted.
    """
    infrastructure = {
        "prefect.infrastructure.identifier": identifier,
        "prefect.infrastructure.status-code": str(status_code),
    }
    related = [*_run(run, infrastructure), *_work_pool(pool)]
    return _event("prefect.worker.executed-flow-run", worker.as_resource(), related, now, follows)


def flow_run_cancelled(worker: WorkerIdentity, run: RunFacts, now: datetime) -> Event:
    """The event of a run that was cancelled while it ran."""
    deployment = [] if run.deployment is None else [_deployment(run.deployment)]
    related = [*deployment, _named("flow", run.flow), _named("flow-run", run.flow_run), *_tags(run.tags)]
    return _event("prefect.runner.cancelled-flow-run", worker.runner_as_resource(), related, now)


def flow_run_heartbeat(flow_run: FlowRun, flow_name: str, now: datetime) -> Event:
    """The event of a run that goes on; Prefect's engine has it, for automations that miss it."""
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
        "prefect.resource.name": flow_run.name,
        "prefect.version": PREFECT_VERSION,
    }
    related: list[Mapping[str, str]] = [
        {
            "prefect.resource.id": f"prefect.flow.{flow_run.flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": flow_name,
        }
    ]
    if flow_run.deployment_id is not None:
        deployment_id = f"prefect.deployment.{flow_run.deployment_id}"
        related.append({"prefect.resource.id": deployment_id, "prefect.resource.role": "deployment"})
    related += _tags(sorted(flow_run.tags))
    return _event("prefect.flow-run.heartbeat", resource, related, now)


def _event(
    name: str,
    resource: Mapping[str, str],
    related: list[Mapping[str, str]],
    now: datetime,
    follows: Event | None = None,
) -> Event:
    linked = follows is not None and abs(now - follows.occurred) < _LINKED_WITHIN
    return Event(
        id=uuid4(),
        occurred=now,
        event=name,
        resource=resource,
        related=related,
        follows=follows.id if follows is not None and linked else None,
    )


def _work_pool(pool: WorkPool | None) -> list[Mapping[str, str]]:
    return [] if pool is None else [_named("work-pool", pool)]


def _run(run: RunFacts, infrastructure: Mapping[str, str] | None = None) -> list[Mapping[str, str]]:
    deployment = [] if run.deployment is None else [_deployment(run.deployment)]
    flow_run = {**_named("flow-run", run.flow_run), **(infrastructure or {})}
    return [*deployment, _named("flow", run.flow), flow_run, *_tags(run.tags)]


def _named(kind: str, thing: Flow | FlowRun | WorkPool | Deployment) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.{kind}.{thing.id}",
        "prefect.resource.role": kind,
        "prefect.resource.name": thing.name,
    }


def _deployment(deployment: Deployment) -> dict[str, str]:
    """A deployment with what Prefect Cloud knows of its versions, none of which a server of one's own has."""
    resource = _named("deployment", deployment)
    if deployment.branch:
        resource["prefect.deployment.branch"] = deployment.branch
    if deployment.base:
        resource["prefect.deployment.base"] = f"prefect.deployment.{deployment.base}"
    if deployment.root:
        resource["prefect.deployment.root"] = f"prefect.deployment.{deployment.root}"
    if deployment.version_id and deployment.version_info:
        resource["prefect.deployment.version-id"] = str(deployment.version_id)
        resource["prefect.deployment.version-type"] = deployment.version_info.type
        resource["prefect.deployment.version"] = deployment.version_info.version
    return resource


def _tags(tags: list[str]) -> list[Mapping[str, str]]:
    return [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]
