"""What is needed to execute a flow run: read what belongs to it, and make a job of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from trioworker.api.converter import unstructure
from trioworker.api.models import FlowRun, WorkPool
from trioworker.api.transport import PREFECT_VERSION
from trioworker.events import RunFacts
from trioworker.infrastructure.protocol import Assignment, Infrastructure, InfrastructureError
from trioworker.job.attribution import job_labels, render_name
from trioworker.job.configuration import resolve_job_configuration
from trioworker.job.template import merge_job_variables
from trioworker.registration import Registration
from trioworker.runs.flow_memory import FlowMemory
from trioworker.runs.requests import RunRequests


@attrs.frozen(kw_only=True)
class PreparedRun:
    """A run that is ready to be executed.

    Attributes:
        job: what the infrastructure made of its configuration.
        facts: the run with its flow and its deployment.
        pool: the work pool as it was when the job was made.
    """

    job: Any
    facts: RunFacts
    pool: WorkPool


@attrs.frozen(kw_only=True)
class Preparation:
    """Prepares the runs of one worker.

    Attributes:
        infrastructure: will execute them.
        registration: how the worker that took them is known.
        worker_environment: the environment that job templates may refer to.
    """

    infrastructure: Infrastructure[Any]
    registration: Registration
    worker_environment: Mapping[str, str] = attrs.field(repr=False)
    _flows: FlowMemory = attrs.field(factory=FlowMemory, init=False)

    async def prepare(self, flow_run: FlowRun, requests: RunRequests, pool: WorkPool | None) -> PreparedRun:
        """Prepare a run.

        Args:
            flow_run: the run.
            requests: asks the API about it.
            pool: the work pool; None if it is gone.

        Raises:
            DeploymentGoneError: its deployment was deleted.
            JobTemplateError: the work pool's template or the job variables are malformed.
            InfrastructureError: the job configuration is wrong, or the work pool is gone.
            APIError: something could not be read.
        """
        deployment = await requests.deployment()
        flow = await self._flows.get(flow_run.flow_id, requests.flow)
        facts = RunFacts(flow_run=flow_run, flow=flow, deployment=deployment)
        if pool is None:
            raise InfrastructureError("its work pool is gone")
        variables = merge_job_variables(
            deployment.job_variables if deployment else None, flow_run.job_variables
        )
        configuration = await resolve_job_configuration(
            requests, pool.base_job_template, variables, environment=self.worker_environment
        )
        assignment = Assignment(
            flow_run=flow_run,
            flow_name=facts.flow.name,
            name=await self._name(configuration.get("name"), facts, requests),
            labels=job_labels(
                configuration,
                flow_run=flow_run,
                flow=facts.flow,
                deployment=deployment,
                work_pool=pool,
                worker_name=self.registration.worker.name,
                prefect_version=self.registration.worker.prefect_version or PREFECT_VERSION,
            ),
            configuration=configuration,
            environment=self._environment(facts),
            transition_ids=requests.active.transition_ids,
        )
        return PreparedRun(job=self.infrastructure.prepare(assignment), facts=facts, pool=pool)

    async def _name(self, template: Any, facts: RunFacts, requests: RunRequests) -> str:
        flow_run: Mapping[str, Any] = {}
        if isinstance(template, str) and "ctx.flow_run" in template:
            flow_run = await requests.document()
        return render_name(
            template,
            unstructure(facts.flow),
            flow_run,
            facts.flow_run.name,
            environment=self.worker_environment,
        )

    def _environment(self, facts: RunFacts) -> dict[str, str]:
        """By what the run's process knows itself, and is known to the API in turn."""
        environment = {
            "PREFECT__FLOW_RUN_ID": str(facts.flow_run.id),
            "PREFECT__FLOW_ID": str(facts.flow.id),
            "PREFECT__FLOW_NAME": facts.flow.name,
            **self.registration.environment,
        }
        if facts.deployment is not None:
            environment["PREFECT__DEPLOYMENT_ID"] = str(facts.deployment.id)
            environment["PREFECT__DEPLOYMENT_NAME"] = facts.deployment.name
        return environment
