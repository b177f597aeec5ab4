"""Plain functions served as Prefect deployments: what a program declares, and how it brings that to the server."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from trioworker.api.condition import Condition, ConditionChange
from trioworker.api.errors import APINotFoundError, NotAuthenticatedError
from trioworker.config import WorkerConfig
from trioworker.event_loop import require_trio
from trioworker.flows.declaration import FlowDeclarations
from trioworker.flows.deployment import DeploymentPlan, FlowDeployment, choose_flows, deploy
from trioworker.flows.schedules import Schedule
from trioworker.notices import Notice, log_notice
from trioworker.settings import Settings
from trioworker.start_up import explain_refusal
from trioworker.surroundings import Surroundings


class TrioFlows(FlowDeclarations):
    """The functions that a program serves as Prefect flows.

    ```python
    app = trioworker.TrioFlows()

    @app.flow(name="resize", retries=2, retry_delay=10, timeout=60)
    async def resize(path: str, width: int = 640) -> None: ...

    await app.deploy(pool="media")
    async with trioworker.open_worker(pool="media", flows=app): ...
    ```

    A run of `resize` that somebody starts, or a schedule, is then a call of the function, as a task within this
    program; a function that is not async is called in a worker thread of Trio's.
    """

    async def deploy(
        self,
        *,
        pool: str,
        flows: Sequence[str] | None = None,
        schedules: Sequence[Schedule] | None = None,
        name: str | None = None,
        queue: str | None = None,
        settings: Settings | None = None,
        surroundings: Surroundings | None = None,
    ) -> list[FlowDeployment]:
        """Create or update the work pool, the flows and their deployments on the server, all by name.

        What is as it should be already is left alone: a schedule that somebody has paused stays paused, and runs
        that are scheduled stay. Deploying needs no worker, and a worker no deploying if it was done before.

        While the API does not answer, each request is repeated as often as `PREFECT_CLIENT_MAX_RETRIES` says, which
        may take minutes. A cancel scope around it, such as `trio.fail_after(60)`, ends it sooner; nothing that was
        deployed is lost by that, and the next time does the rest.

        Args:
            pool: the work pool, of type `trio`; created if there is none.
            flows: the names of those to deploy; None for all.
            schedules: when runs of each of them are created: `Cron`, `Interval` and `RRule`; none for an empty
                list; those that each was declared with for None.
            name: of the deployments; by default that of the pool.
            queue: the work queue of the pool that the runs wait in; by default the pool's default queue.
            settings: Prefect's settings; by default those that this process finds.
            surroundings: what is touched of the world; by default the real one.

        Raises:
            ConfigurationError: there is no flow of such a name, a signature cannot be served, the server does not
                accept something (such as a malformed cron expression; of that flow nothing was changed then), or the
                URL or the key of the API is wrong.
            WorkerRefusedError: there is such a work pool, but of another type; nothing was changed.
            SettingsError: a setting that cannot be right.
            APIError: the API could not be reached, or not to the end; deploy once more, then.

        Returns:
            The deployments, in the order in which the functions were declared or named.
        """
        require_trio()
        self.check()
        plan = DeploymentPlan(
            pool=pool, flows=choose_flows(self, flows), name=name, queue=queue, schedules=schedules
        )
        config = WorkerConfig(pool=pool, flows=self, settings=settings or Settings.load())
        async with (surroundings or Surroundings()).open_api(config, Condition(_log_loss)) as api:
            try:
                return await deploy(api, plan)
            except (NotAuthenticatedError, APINotFoundError) as error:
                raise explain_refusal(config, error) from error


def _log_loss(change: ConditionChange) -> None:
    """Say why nothing happens for a while: requests are repeated."""
    if change.reachable:
        return
    # This is called within a request, and so within the cancel scopes of whoever deploys.
    left = trio.current_effective_deadline() - trio.current_time()
    bound = "" if left == math.inf else f", for {left:.0f} s at most"
    log_notice(
        Notice(f"The Prefect API does not answer: {change.reason}. Trying again{bound}.", warning=True)
    )
