"""Whose a run's infrastructure is: the name and the labels that Prefect gives it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from trioworker.api.models import Deployment, Flow, FlowRun, WorkPool
from trioworker.job.template import render_text, require_mapping, require_text


def render_name(
    name: str | None,
    flow: Mapping[str, Any],
    flow_run: Mapping[str, Any],
    fallback: str,
    *,
    environment: Mapping[str, str],
) -> str:
    """Fill in ``{{ ctx.flow... }}`` and ``{{ ctx.flow_run... }}`` in the ``name`` of a job configuration.

    As in Prefect, a name that is nothing but a placeholder without a value stays as it is.

    Args:
        name: The configuration's ``name``, if it has one.
        flow: The flow, as the API shows it.
        flow_run: The flow run, as the API shows it.
        fallback: The flow run's name: used where there is no name, or nothing is left of it.
        environment: Where ``{{ $NAME }}`` is looked up: the worker's environment variables.

    Raises:
        JobTemplateError: `name` is no string.
    """
    if name is None:
        return fallback
    field = "job_configuration.name"
    text = require_text(name, field)
    context = {"ctx": {"flow": flow, "flow_run": flow_run}}
    rendered = render_text(text, context, field=field, environment=environment, default=text)
    return str(rendered or fallback)


def job_labels(
    configuration: Mapping[str, Any],
    *,
    flow_run: FlowRun,
    flow: Flow,
    deployment: Deployment | None,
    work_pool: WorkPool,
    worker_name: str,
    prefect_version: str,
) -> dict[str, str]:
    """Label a run's infrastructure as Prefect does; the configuration's own ``labels`` win.

    Args:
        configuration: The rendered job configuration.
        flow_run: The run.
        flow: Its flow.
        deployment: Its deployment, if it has one.
        work_pool: The work pool that it was taken from.
        worker_name: Who took it.
        prefect_version: The version of Prefect that the worker stands in for.

    Raises:
        JobTemplateError: ``labels`` is not a mapping of strings to strings.
    """
    labels = {
        "prefect.io/flow-run-id": str(flow_run.id),
        "prefect.io/flow-run-name": flow_run.name,
        "prefect.io/version": prefect_version,
        "prefect.io/work-pool-name": work_pool.name,
        "prefect.io/work-pool-id": str(work_pool.id),
        "prefect.io/worker-name": worker_name,
        "prefect.io/flow-id": str(flow.id),
        "prefect.io/flow-name": flow.name,
    }
    if deployment is not None:
        labels["prefect.io/deployment-id"] = str(deployment.id)
        labels["prefect.io/deployment-name"] = deployment.name
        if deployment.updated is not None:
            labels["prefect.io/deployment-updated"] = deployment.updated.astimezone(UTC).isoformat()
    return labels | _own_labels(configuration)


def _own_labels(configuration: Mapping[str, Any]) -> dict[str, str]:
    field = "job_configuration.labels"
    own = require_mapping(configuration.get("labels", {}), field)
    return {key: require_text(value, f"{field}.{key}") for key, value in own.items()}
