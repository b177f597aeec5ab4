"""What is needed to execute a flow run: read what belongs to it, and make a job of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio

from trioworker.api.converter import unstructure
from trioworker.api.errors import APIError
from trioworker.api.models import Deployment, Flow, FlowRun, WorkPool
from trioworker.api.transport import PREFECT_VERSION
from trioworker.events import RunFacts
from trioworker.infrastructure.protocol import (
    Assignment,
    Infrastructure,
    InfrastructureError,
    ShutdownPolicy,
    always_crash,
)
from trioworker.job.attribution import job_labels, render_name
from trioworker.job.configuration import resolve_job_configuration
from trioworker.job.template import merge_job_variables
from trioworker.lean_attrs import frozen
from trioworker.registration import Registration
from trioworker.runs.requests import STRIKES, DeploymentGoneError, RunRequests
from trioworker.runs.shared_reads import SharedReads

# Seconds. Of a flow that runs are grouped by, nothing ever changes but tags and labels. Of a deployment by which
# nothing is configured, little else is looked at: tags and version, for events, may be as old as that.
_UNCHANGING_GOOD_FOR = 60.0


@frozen(kw_only=True)
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


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Preparation:
    """Prepares the runs of one worker.

    Attributes:
        infrastructure: will execute them.
        registration: how the worker that took them is known.
        worker_environment: the environment that job templates may refer to.
        shutdown_policy: what becomes of runs that the worker's end cuts off, asked for at that moment.
    """

    infrastructure: Infrastructure[Any]
    registration: Registration
    worker_environment: Mapping[str, str] = attrs.field(repr=False)
    shutdown_policy: Callable[[], ShutdownPolicy] = always_crash
    _deployments: SharedReads[Deployment] = attrs.field(factory=SharedReads, init=False)
    _flows: SharedReads[Flow] = attrs.field(factory=SharedReads, init=False)

    async def read_ahead(self, requests: RunRequests) -> None:
        """Read what `prepare` will need, before it is certain that it will; what goes wrong comes up there again."""
        async with trio.open_nursery() as nursery:
            for read in (self._deployment, self._flow):
                nursery.start_soon(_in_vain, partial(read, requests, strikes=1))

    async def _deployment(self, requests: RunRequests, *, strikes: int = STRIKES) -> Deployment | None:
        """The run's deployment; where it matters, as it was when the run was found to be due or later."""
        active = requests.active
        deployment_id = active.flow_run.deployment_id
        if deployment_id is None:
            return None
        read = partial(requests.deployment, deployment_id, strikes)
        since = active.found_at
        if not self.infrastructure.configured_by_deployment:
            since -= _UNCHANGING_GOOD_FOR
        return await self._deployments.get(deployment_id, read, since=since)

    async def _flow(self, requests: RunRequests, *, strikes: int = STRIKES) -> Flow:
        since = trio.current_time() - _UNCHANGING_GOOD_FOR
        read = partial(requests.flow, strikes)
        return await self._flows.get(requests.active.flow_run.flow_id, read, since=since)

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
        deployment = await self._deployment(requests)
        flow = await self._flow(requests)
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
            note_transition=requests.active.record.propose,
            note_trace=requests.active.record.note_trace,
            shutdown_policy=self.shutdown_policy,
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


async def _in_vain(read: Callable[[], Awaitable[object]]) -> None:
    with suppress(DeploymentGoneError, APIError):
        await read()
