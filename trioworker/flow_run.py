"""One flow run's life: claim, prepare, execute, conclude.

Whatever goes wrong with a run ends that run with a state and frees its slot; nothing of it reaches another
run or a loop of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import attrs
import trio

from trioworker.active_runs import ActiveRun, ActiveRuns
from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError, ObjectNotFoundError
from trioworker.api.models import (
    Deployment,
    Flow,
    FlowRun,
    ProposedState,
    SetStateStatus,
    State,
    StateType,
)
from trioworker.claim import Cancelling, Lost, Revived, judge_claim
from trioworker.conclusion import Leave, cancelled, conclude, restored, scheduled
from trioworker.errors import sole_errors_bare
from trioworker.infrastructure.protocol import (
    Assignment,
    Infrastructure,
    InfrastructureError,
    InfrastructureFullError,
    Outcome,
)
from trioworker.job_template import JobTemplateError, merge_job_variables, render
from trioworker.outbox import Outbox
from trioworker.run_log import RunLog
from trioworker.run_requests import STRIKES, DeploymentGoneError, RunRequests
from trioworker.service import Rhythm
from trioworker.shutdown import Shutdown
from trioworker.work_pool import WorkPoolKeeper

_logger = logging.getLogger(__name__)

# Between the SIGTERM and the SIGKILL of a run that somebody cancels, as in Prefect's worker.
CANCEL_GRACE = 30.0

# A state that changes under our hands is looked at again, but not for ever.
_LOOKS = 5


class _NotOurs(Exception):  # noqa: N818 - not an error: the run goes to somebody else, or nowhere
    """The server did not give us the run."""


@attrs.frozen(kw_only=True)
class FlowRunner:
    """Lives the life of any run that it is given.

    Attributes:
        api: the API.
        active: the runs in hand.
        infrastructure: executes them.
        keeper: knows the work pool and its base job template.
        worker_name: who claims the runs.
        worker_environment: the environment that job templates may refer to.
        outbox: takes log lines.
        logs_to_api: whether lines about a run go to the server too.
        shutdown: tells how long there is to speak for a run that is cut off.
        patience: the delays between attempts while the API is away.
        now: the time of day.
    """

    api: PrefectAPI
    active: ActiveRuns
    infrastructure: Infrastructure[Any]
    keeper: WorkPoolKeeper
    worker_name: str
    worker_environment: Mapping[str, str] = attrs.field(repr=False)
    outbox: Outbox
    logs_to_api: bool
    shutdown: Shutdown
    patience: Rhythm
    now: Callable[[], datetime]

    async def run(
        self, flow_run: FlowRun, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See a run from its claim to its end; started when it holds its slot."""
        run_log = RunLog(flow_run, self.outbox if self.logs_to_api else None, self.now)
        with self.active.hold(flow_run) as active:
            task_status.started()
            requests = RunRequests(self.api, active, self.patience, run_log)
            life = _Life(self, active, run_log, requests)
            cut_off = True
            try:
                await life.live()
                cut_off = False
            finally:
                if cut_off:
                    await life.have_last_words()  # noqa: ASYNC102 - shielded and bounded in there


@attrs.define(eq=False)
class _Life:
    """What a runner knows of one run."""

    runner: FlowRunner
    active: ActiveRun
    run_log: RunLog
    requests: RunRequests
    # One state for all attempts to claim: its transition id tells a repetition from somebody else's claim.
    claim: ProposedState = attrs.field(factory=lambda: ProposedState(type=StateType.PENDING, name="Pending"))
    claim_sent: bool = False

    @property
    def flow_run(self) -> FlowRun:
        return self.active.flow_run

    async def live(self) -> None:
        """From claim to conclusion; no error leaves it."""
        try:
            await self._claim()
            await self._conclude(await self._execute_or_explain())
        except _NotOurs as reason:
            self.run_log.info(f"Aborted submission of flow run '{self.flow_run.id}': {reason}")
        except APIError as error:
            # Refused for good: there is no way left to speak for this run.
            _logger.error("Flow run %r is left as it is: %s", self.flow_run.name, error)
        except Exception:
            _logger.exception("Flow run %r is left as it is, because of a bug", self.flow_run.name)

    async def _claim(self) -> None:
        if self.runner.shutdown.requested:
            raise _NotOurs("the worker was told to stop before it had claimed it")
        name, run_id = self.runner.worker_name, self.flow_run.id
        self.run_log.info(f"Worker '{name}' submitting flow run '{run_id}'")
        self.claim_sent = True
        # Not to be interrupted: a claim takes effect also when nobody waits for the answer any more, and the run
        # would be Pending for ever.
        with self.runner.shutdown.unbroken() as scope:
            await self._propose_claim()
        if scope.cancelled_caught:
            await trio.sleep_forever()

    async def _propose_claim(self) -> None:
        result = await self.requests.propose(self.claim, strikes=STRIKES)
        reason = result.details.reason or "no reason given"
        if result.status is SetStateStatus.ABORT:
            await self._cancel_if_deployment_is_gone()
            raise _NotOurs(reason)
        state = result.state
        if state is None or state.type is not StateType.PENDING:
            label = "no state" if state is None else f"state {state.label}"
            raise _NotOurs(f"the server answered with {label}: {reason}")

    async def _cancel_if_deployment_is_gone(self) -> None:
        """Make an end of a run that waits for ever, since the server lets nobody claim it."""
        try:
            await self.requests.deployment()
        except DeploymentGoneError as gone:
            current = await self.requests.read()
            if current.state is not None and current.state.type is StateType.SCHEDULED:
                await self.requests.report(cancelled(str(gone)))

    async def _make_sure_of_claim(self) -> None:
        """See to it that nobody else has run, or is about to run, what we have claimed."""
        history = await self.requests.history()
        match judge_claim(history, self.claim.transition_id):
            case Lost():
                raise _NotOurs("somebody else has claimed or ended it")
            case Cancelling():
                self.active.cancel_requested.set()
            case Revived(ended_as):
                current = await self.requests.read()
                if current.state is not None and self._is_claim(current.state):
                    await self.requests.propose(restored(ended_as), force=True)
                raise _NotOurs(f"somebody else has run it, and it ended {ended_as.label}")

    def _is_claim(self, state: State) -> bool:
        return state.state_details.transition_id == self.claim.transition_id

    async def _execute_or_explain(self) -> str:
        """Execute the run and return how it ended, or why it could not be executed, as a sentence."""
        job: Any = None
        obstacle: Exception | None = None
        try:
            job = await self._prepare()
        except Exception as error:  # noqa: BLE001 - the failure boundary of a run
            obstacle = error
        # As late as possible: until the process is there, nobody else knows that somebody acts upon the claim. And
        # before anything is said about the run: it may be another worker's.
        await self._make_sure_of_claim()
        if isinstance(obstacle, DeploymentGoneError):
            await self.requests.report(cancelled(str(obstacle)))
            raise _NotOurs(str(obstacle))
        if self.active.cancel_requested.is_set():
            return "Flow run was cancelled before it began."
        if obstacle is not None:
            return self._explain(obstacle)
        if self.runner.shutdown.requested:
            await self._give_back("the worker was told to stop")
        try:
            outcome = await self._execute(job)
        except InfrastructureFullError as error:
            await self._give_back(str(error))
        except Exception as error:  # noqa: BLE001 - the failure boundary of a run
            return self._explain(error)
        if outcome.status_code != 0 and not self.active.cancel_requested.is_set():
            self.run_log.error(f"Flow run '{self.flow_run.name}': {outcome.message}")
        return outcome.message

    def _explain(self, error: Exception) -> str:
        """Why a run could not be executed. A bug, of ours or of an installed infrastructure, ends this run alone."""
        match error:
            case ObjectNotFoundError(detail=detail):
                reason = detail
            case JobTemplateError() | InfrastructureError() | APIError():
                reason = str(error)
            case _:
                _logger.error("Flow run %r met with a bug", self.flow_run.name, exc_info=error)
                reason = f"{type(error).__name__}: {error}"
        if self.active.identifier is None:
            self.run_log.error(
                f"Failed to submit flow run '{self.flow_run.name}' to infrastructure: {reason}"
            )
            return f"Flow run could not start: {reason}"
        self.run_log.error(f"Infrastructure of flow run '{self.flow_run.name}' failed: {reason}")
        return f"Flow run's infrastructure failed: {reason}"

    async def _prepare(self) -> Any:
        """Read what belongs to the run and make a job of it."""
        deployment = await self.requests.deployment()
        flow = await self.requests.flow()
        pool = self.runner.keeper.pool
        if pool is None:
            raise InfrastructureError("its work pool is gone")
        variables = merge_job_variables(
            deployment.job_variables if deployment else None, self.flow_run.job_variables
        )
        configuration = render(pool.base_job_template, variables, environment=self.runner.worker_environment)
        return self.runner.infrastructure.prepare(
            Assignment(
                flow_run_id=self.flow_run.id,
                flow_run_name=self.flow_run.name,
                configuration=configuration,
                environment=self._environment(deployment, flow),
            )
        )

    def _environment(self, deployment: Deployment | None, flow: Flow) -> dict[str, str]:
        """By what the run's process knows itself, and is known to the API in turn."""
        environment = {
            "PREFECT__FLOW_RUN_ID": str(self.flow_run.id),
            "PREFECT__FLOW_ID": str(flow.id),
            "PREFECT__FLOW_NAME": flow.name,
            "PREFECT__WORKER_NAME": self.runner.worker_name,
        }
        if deployment is not None:
            environment["PREFECT__DEPLOYMENT_ID"] = str(deployment.id)
            environment["PREFECT__DEPLOYMENT_NAME"] = deployment.name
        return environment

    async def _execute(self, job: Any) -> Outcome:
        infrastructure = self.runner.infrastructure
        ended: list[Outcome | Exception] = []

        async def run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128 - passed on
            try:
                ended.append(await infrastructure.run(job, task_status=task_status))
            except Exception as error:
                if self.active.identifier is None:
                    raise
                # Kept, since in the company of cancelled watchers it would leave in a group that nobody expects.
                ended.append(error)
            watchers.cancel_scope.cancel()

        # What keeps a run from being started shall arrive as it was raised, not in the nursery's group.
        with sole_errors_bare():
            async with trio.open_nursery() as watchers:
                self.active.identifier = await watchers.start(run)
                self.run_log.info(f"Flow run '{self.flow_run.name}' submitted to infrastructure")
                watchers.start_soon(self.requests.report_place, self.active.identifier)
                watchers.start_soon(self._kill_when_cancelled, self.active.identifier)
        if isinstance(ended[0], Exception):
            raise ended[0]
        return ended[0]

    async def _kill_when_cancelled(self, identifier: str) -> None:
        await self.active.cancel_requested.wait()
        self.run_log.info(f"Cancelling flow run '{self.flow_run.name}'")
        await self.runner.infrastructure.kill(identifier, CANCEL_GRACE)

    async def _conclude(self, ended: str) -> None:
        """Bring the server's record of the run to what is true, if it is not already."""
        for _ in range(_LOOKS):
            try:
                current = await self.requests.read()
            except ObjectNotFoundError:
                self.run_log.debug(f"Flow run '{self.flow_run.id}' was deleted")
                return
            conclusion = conclude(
                current,
                ended=ended,
                known_places={self.active.identifier, self.flow_run.infrastructure_pid},
                own_transition_ids=self.active.transition_ids,
                cancel_requested=self.active.cancel_requested.is_set(),
                now=self.runner.now(),
            )
            if isinstance(conclusion, Leave):
                self.run_log.debug(f"Flow run '{self.flow_run.name}': {conclusion.reason}")
                return
            if await self.requests.report(*conclusion.states):
                return
        _logger.error("The state of flow run %r keeps changing; it is left as it is", self.flow_run.name)

    async def have_last_words(self) -> None:
        """Speak for a run that the worker's end has interrupted; its process is gone by now."""
        with self.runner.shutdown.last_words() as scope:
            try:
                await self._conclude_cut_off()
            except _NotOurs as reason:
                self.run_log.info(f"Left flow run '{self.flow_run.id}': {reason}")
            except APIError as error:
                _logger.error("Flow run %r is left as it is: %s", self.flow_run.name, error)
            except Exception:
                _logger.exception("Flow run %r is left as it is, because of a bug", self.flow_run.name)
        if scope.cancelled_caught:
            _logger.error("Flow run %r is left as it is: the API did not answer in time", self.flow_run.name)

    async def _conclude_cut_off(self) -> None:
        if not self.claim_sent:
            return
        if self.active.identifier is None:
            await self._make_sure_of_claim()
            await self._give_back("the worker was stopped")
        await self._conclude(f"Worker '{self.runner.worker_name}' was stopped before the flow run had ended.")

    async def _give_back(self, why: str) -> NoReturn:
        """Offer a run that was claimed, but has not begun, to any worker.

        Raises:
            _NotOurs: always; from now on it is not.
        """
        if self.active.cancel_requested.is_set():
            await self._conclude("Flow run was cancelled before it began.")
        else:
            reason = f"Given back by worker '{self.runner.worker_name}': {why}."
            await self.requests.report(scheduled(reason, self.runner.now()))
        raise _NotOurs(f"given back, because {why}")
