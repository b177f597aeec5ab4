"""Brings functions to the server: their work pool, their flows and their deployments, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import ObjectExistsError, ObjectNotFoundError, RequestRefusedError
from trioworker.api.models import DeploymentDraft, DeploymentSchedule
from trioworker.api.transport import is_unicode
from trioworker.errors import ConfigurationError
from trioworker.flows.declaration import TrioFlow
from trioworker.flows.pool import TRIO_BASE_JOB_TEMPLATE, TRIO_TYPE, refuse_other_type
from trioworker.flows.registration import DeploymentChange, sync_deployment
from trioworker.flows.schedules import Schedule, schedules_problem
from trioworker.lean_attrs import frozen

# What the server takes in no name.
_RESERVED = "/%&<>"


@frozen(kw_only=True)
class FlowDeployment:
    """A function that is deployed: a Prefect deployment, known as `flow_name/name`.

    Attributes:
        id: of the deployment, on the server.
        flow_name: the flow's name.
        name: the deployment's own name.
        pool: the work pool that its runs wait in.
        change: whether it was there before, and as it should be.
    """

    id: UUID
    flow_name: str
    name: str
    pool: str
    change: DeploymentChange


@frozen(kw_only=True)
class DeploymentPlan:
    """What is to be deployed, where and when it runs.

    Attributes:
        pool: the work pool.
        flows: the functions.
        name: of each deployment; None for the pool's name.
        queue: the work queue of the pool; None for its default queue.
        schedules: of each deployment; None for those that its function was declared with.

    Raises:
        ConfigurationError: a name that no server takes, or schedules that are none.
    """

    pool: str
    flows: Sequence[TrioFlow]
    name: str | None = None
    queue: str | None = None
    schedules: Sequence[Schedule] | None = None

    def __attrs_post_init__(self) -> None:
        for what, name in (("deployment", self.name), ("work queue", self.queue)):
            if name is not None and (not name.strip() or not is_unicode(name)):
                raise ConfigurationError(f"{name!r} cannot be the name of a {what}.")
            if name is not None and any(character in name for character in _RESERVED):
                raise ConfigurationError(
                    f"{name!r} cannot be a {what}: a name has none of {' '.join(_RESERVED)}."
                )
        if self.schedules is not None and (problem := schedules_problem(self.schedules)):
            raise ConfigurationError(f"{problem}.")

    def draft(self, flow: TrioFlow, flow_id: UUID) -> DeploymentDraft:
        """The deployment of one function."""
        schedules = flow.schedules if self.schedules is None else self.schedules
        return DeploymentDraft(
            name=self.pool if self.name is None else self.name,
            flow_id=flow_id,
            work_pool_name=self.pool,
            work_queue_name=self.queue,
            entrypoint=flow.entrypoint,
            description=flow.description,
            tags=list(flow.tags),
            version=flow.version,
            parameter_openapi_schema=flow.parameters.schema,
            concurrency_limit=flow.concurrency_limit,
            schedules=[DeploymentSchedule(schedule=schedule.document()) for schedule in schedules],
        )


def choose_flows(flows: Iterable[TrioFlow], names: Sequence[str] | None) -> list[TrioFlow]:
    """The flows of these names, all if none is given.

    Raises:
        ConfigurationError: there is no flow of such a name.
    """
    if isinstance(names, str):
        # It is a sequence of names, too, each of one letter.
        raise ConfigurationError(f"The flows to deploy are a list of names, not {names!r}.")
    known = {flow.name: flow for flow in flows}
    for name in names or ():
        if name not in known:
            raise ConfigurationError(f"There is no flow {name!r}; there are: {', '.join(known) or 'none'}.")
    return list(known.values()) if names is None else [known[name] for name in dict.fromkeys(names)]


async def deploy(api: PrefectAPI, plan: DeploymentPlan) -> list[FlowDeployment]:
    """Create what is not there and change what is different; done twice, the second time changes nothing.

    Args:
        api: the API.
        plan: what is to be deployed; the signatures of its flows have been checked.

    Raises:
        WorkerRefusedError: the work pool is there, but of another type; nothing was changed.
        ConfigurationError: the server does not accept something, such as a malformed cron expression; the message
            says which flows were deployed before.
        APIError: the API cannot be reached, or used as configured.
    """
    await _have_pool(api, plan.pool)
    deployed: list[FlowDeployment] = []
    for flow in plan.flows:
        try:
            deployed.append(await _deploy_one(api, plan, flow))
        except RequestRefusedError as error:
            if not error.is_of_body:
                raise
            raise _refusal(flow, error, deployed) from error
    return deployed


async def _deploy_one(api: PrefectAPI, plan: DeploymentPlan, flow: TrioFlow) -> FlowDeployment:
    known = await api.create_flow(flow.name)
    synced = await sync_deployment(api, flow.name, plan.draft(flow, known.id))
    deployment = synced.deployment
    return FlowDeployment(
        id=deployment.id,
        flow_name=flow.name,
        name=deployment.name,
        pool=plan.pool,
        change=synced.change,
    )


def _refusal(
    flow: TrioFlow, error: RequestRefusedError, before: Sequence[FlowDeployment]
) -> ConfigurationError:
    names = ", ".join(repr(deployment.flow_name) for deployment in before)
    done = f" (deployed before it: {names})" if before else ""
    return ConfigurationError(
        f"The server does not accept the deployment of flow {flow.name!r}{done}: {error.detail}"
    )


async def _have_pool(api: PrefectAPI, name: str) -> None:
    try:
        pool = await api.read_work_pool(name)
    except ObjectNotFoundError:
        try:
            pool = await api.create_work_pool(
                name, pool_type=TRIO_TYPE, base_job_template=TRIO_BASE_JOB_TEMPLATE
            )
        except ObjectExistsError:
            # Somebody else was quicker, a worker that serves it perhaps.
            pool = await api.read_work_pool(name)
    refuse_other_type(name, pool.type)
