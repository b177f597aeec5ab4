"""One flow run's life: claim, prepare, execute, conclude.

Whatever goes wrong with a run ends that run with a state and frees its slot; nothing of it reaches another
run or a loop of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

import attrs
import trio

from trioworker import events
from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError, ObjectNotFoundError, RequestRefusedError
from trioworker.api.models import Event, FlowRun, ProposedState, SetStateStatus, State, StateType
from trioworker.errors import sole_errors_bare
from trioworker.events import WorkerIdentity
from trioworker.infrastructure.protocol import (
    Infrastructure,
    InfrastructureError,
    InfrastructureFullError,
    Outcome,
)
from trioworker.job.template import JobTemplateError
from trioworker.ledger.ledger import Ledger
from trioworker.outbox import Outbox
from trioworker.registration import Registration
from trioworker.runs.active import ActiveRun, ActiveRuns, RunEnd
from trioworker.runs.boundary import NotOursError, failure_boundary
from trioworker.runs.claim import Cancelling, Granted, Late, Lost, is_proved, judge_claim, judge_refusal
from trioworker.runs.conclusion import cancelled, scheduled
from trioworker.runs.cut_off import CutOff
from trioworker.runs.log import RunLog
from trioworker.runs.preparation import Preparation, PreparedRun
from trioworker.runs.record import RunRecord
from trioworker.runs.requests import STRIKES, DeploymentGoneError, RunRequests
from trioworker.runs.settlement import Hooks, Settlement
from trioworker.runs.submissions import Submissions
from trioworker.service import Rhythm
from trioworker.shutdown import Shutdown
from trioworker.work_pool import WorkPoolKeeper

_logger = logging.getLogger(__name__)

# Between the SIGTERM and the SIGKILL of a run that somebody cancels, as in Prefect's worker.
CANCEL_GRACE = 30.0

# Seconds after a claim was sent during which its answer tells enough of the run; later, others may have had time for
# all kinds of things.
_PROOF_GOOD_FOR = 10.0

# Seconds for which a request may lie in the server before it takes effect, when nobody waits for its answer any more.
IN_FLIGHT_SECONDS = 60.0

_NEVER_BEGAN = "Flow run was cancelled before it began."


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FlowRunner:
    """Lives the life of any run that it is given.

    Attributes:
        api: the API.
        active: the runs in hand.
        infrastructure: executes them.
        preparation: makes them ready for that.
        keeper: knows the work pool and its base job template.
        registration: how the worker that claims them is known.
        outbox: takes log lines and events.
        logs_to_api: whether lines about a run go to the server too.
        shutdown: tells how long there is to speak for a run that is cut off.
        patience: the delays between attempts while the API is away.
        now: the time of day.
        ledger: takes down what is claimed.
        submissions: tell the server which runs are about to be started.
        second_looks: the attempts in the ledger that are settled, but are to be looked at once more, and from when
            on, on Trio's clock.
    """

    api: PrefectAPI
    active: ActiveRuns
    infrastructure: Infrastructure[Any]
    preparation: Preparation
    keeper: WorkPoolKeeper
    registration: Registration
    outbox: Outbox
    logs_to_api: bool
    shutdown: Shutdown
    patience: Rhythm
    now: Callable[[], datetime]
    ledger: Ledger = attrs.field(factory=Ledger)
    submissions: Submissions = attrs.field(
        default=attrs.Factory(lambda self: Submissions(self.api), takes_self=True), init=False
    )
    second_looks: dict[UUID, float] = attrs.field(factory=dict, init=False)

    @property
    def worker(self) -> WorkerIdentity:
        """Who claims the runs."""
        return self.registration.worker

    async def run(
        self,
        flow_run: FlowRun,
        found_at: float | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> ActiveRun:
        """See a run from its claim to its end; started when it holds its slot.

        Args:
            flow_run: the run.
            found_at: when it was found to be due, on Trio's clock; now if not given. Runs that were found together
                share what is read for them.
            task_status: told once the slot is held.

        Returns:
            What has become of it.
        """
        run_log = RunLog(flow_run, self.outbox if self.logs_to_api else None, self.now)
        with self.active.hold(flow_run, found_at) as active:
            active.record = RunRecord(self.ledger, flow_run, self.worker.name)
            task_status.started()
            requests = RunRequests(self.api, active, self.patience, run_log)
            settlement = Settlement(
                active, requests, run_log, self.infrastructure.speaks_for_itself, self.now
            )
            cut_off = CutOff(
                active, run_log, settlement, self.infrastructure, self.shutdown, self.worker.name
            )
            life = _Life(self, active, run_log, requests, settlement, cut_off)
            ended = False
            try:
                await life.live()
                ended = True
            finally:
                if not ended:
                    # Shields itself, and is bounded.
                    await life.cut_off.have_last_words(life.conclude_cut_off)  # noqa: ASYNC102
                await self.close_record(active)  # noqa: ASYNC102 - shielded and bounded in there
        return active

    async def close_record(self, active: ActiveRun) -> None:
        """Strike a run out of the ledger, if there is nothing left to do about it, and no request can undo that."""
        entry = active.record.entry
        if not active.is_settled or entry is None:
            return
        in_doubt_since = active.in_doubt_since
        if in_doubt_since is not None and trio.current_time() < in_doubt_since + IN_FLIGHT_SECONDS:
            self.second_looks[entry.attempt] = in_doubt_since + IN_FLIGHT_SECONDS
        else:
            self.second_looks.pop(entry.attempt, None)
            with self.shutdown.unbroken():
                await active.record.strike_out()


@attrs.define(eq=False, repr=False)
class _Execution:
    """A run that was submitted: what is known of it, and how it ended, once it has.

    Attributes:
        prepared: what was submitted.
        submitted: the event that said so.
        outcome: how its infrastructure ended.
        told: whether the event that says so is on its way.
        failure: what has kept it from being ended, or from being watched; None if nothing has.
    """

    prepared: PreparedRun
    submitted: Event
    outcome: Outcome | None = None
    told: bool = False
    failure: Exception | None = None


class _NotedPlace(trio.TaskStatus[str]):
    """Takes note of where a run runs, also when nobody waits for its start any more."""

    def __init__(self, active: ActiveRun, task_status: trio.TaskStatus[str]) -> None:
        self._active = active
        self._task_status = task_status

    def started(self, value: str = "") -> None:
        self._active.note_start(value)
        self._task_status.started(value)


@attrs.define(eq=False, repr=False)
class _Life:
    """What a runner knows of one run."""

    runner: FlowRunner
    active: ActiveRun
    run_log: RunLog
    requests: RunRequests
    settlement: Settlement
    cut_off: CutOff
    # One state for all attempts to claim: its transition id tells a repetition from somebody else's claim.
    claim: ProposedState = attrs.field(factory=lambda: ProposedState(type=StateType.PENDING, name="Pending"))
    claim_sent_at: float | None = None
    claim_proved: bool = False
    execution: _Execution | None = None

    @property
    def flow_run(self) -> FlowRun:
        return self.active.flow_run

    @property
    def cancelling(self) -> bool:
        """Whether somebody wants the run cancelled."""
        return self.active.cancel_requested.is_set()

    async def live(self) -> None:
        """From claim to conclusion; no error leaves it."""
        with failure_boundary(self.active, self.run_log, lost="Aborted submission of"):
            await self._claim()
            await self._see_to_its_end(await self._prepare())

    async def _claim(self) -> None:
        if self.runner.shutdown.requested:
            raise NotOursError("the worker was told to stop before it had claimed it")
        self.run_log.info(f"Worker '{self.runner.worker.name}' submitting flow run '{self.flow_run.id}'")
        if (introduction := self.runner.registration.introduction) is not None:
            self.run_log.info(introduction)
        self.claim_sent_at = trio.current_time()
        with sole_errors_bare():
            async with trio.open_nursery() as beside:
                beside.start_soon(self.runner.preparation.read_ahead, self.requests)
                # Not to be interrupted: a claim takes effect also when nobody waits for the answer any more, and the
                # run would be Pending for ever.
                with self.runner.shutdown.unbroken() as scope:
                    await self._propose_claim()
                if scope.cancelled_caught:
                    await trio.sleep_forever()

    async def _propose_claim(self) -> None:
        try:
            result = await self.requests.propose(self.claim, strikes=STRIKES)
        except RequestRefusedError:
            if self.active.in_doubt_since is None:
                # It has had no effect, nor will it: there is nothing to be looked at later. Who is cut off meanwhile
                # asks for the history of the run.
                await self.active.record.strike_out()  # noqa: ASYNC120
            raise
        reason = result.details.reason or "no reason given"
        if result.status is SetStateStatus.ABORT:
            await self._cancel_if_deployment_is_gone()
            raise NotOursError(reason)
        state = result.state
        if state is None or state.type is not StateType.PENDING:
            if result.status is SetStateStatus.REJECT and state is not None:
                await self._undo_refusal(state)
            label = "no state" if state is None else f"state {state.label}"
            raise NotOursError(f"the server answered with {label}: {reason}")
        self.claim_proved = is_proved(self.claim, result, self.flow_run)

    async def _undo_refusal(self, refused_as: State) -> None:
        """Put back what others have made of the run, if the server has overwritten that as it refused the claim."""
        if refused_as.type not in {StateType.SCHEDULED, StateType.CANCELLED}:
            # It tells us how the run is, and has changed nothing.
            return
        history = await self.requests.history()
        late = judge_refusal(history, refused_as, self.flow_run.state_id)
        if late is not None:
            await self._put_back(late, lambda state: state.id == refused_as.id)

    async def _put_back(self, late: Late, is_ours: Callable[[State], bool]) -> NoReturn:
        """Leave the run as it was before our claim, if it is that by which it is something else now."""
        current = await self.requests.read()
        left_as = late.left_as
        if current.state is not None and is_ours(current.state):
            await self.requests.propose(ProposedState.again(left_as), force=left_as.type.is_final)
        raise NotOursError(f"somebody else has run it, and left it {left_as.label}")

    async def _cancel_if_deployment_is_gone(self) -> None:
        """Make an end of a run that waits for ever, since the server lets nobody claim it."""
        deployment_id = self.flow_run.deployment_id
        if deployment_id is None:
            return
        try:
            await self.requests.deployment(deployment_id)
        except DeploymentGoneError as gone:
            current = await self.requests.read()
            if current.state is not None and current.state.type is StateType.SCHEDULED:
                await self.requests.report(cancelled(str(gone)))

    async def _make_sure_of_claim_if_in_doubt(self) -> None:
        sent_at = self.claim_sent_at
        fresh = sent_at is not None and trio.current_time() - sent_at < _PROOF_GOOD_FOR
        if self.claim_proved and fresh:
            self.active.note_claim()
        else:
            await self._make_sure_of_claim()

    async def _make_sure_of_claim(self) -> None:
        """See to it that nobody else has run, or is about to run, what we have claimed."""
        history = await self.requests.history()
        if not history:
            raise NotOursError("somebody has deleted it")
        match judge_claim(history, self.active.transition_ids, self.flow_run.state_id):
            case Lost():
                raise NotOursError("somebody else has claimed or ended it")
            case Cancelling():
                self.active.note_claim()
                self.active.cancel_requested.set()
            case Late() as late:
                await self._put_back(late, self.active.has_proposed)
            case Granted():
                self.active.note_claim()

    async def _prepare(self) -> PreparedRun | Exception:
        """Prepare the run; what kept it from being prepared waits until the claim is certain."""
        try:
            prepared = await self.runner.preparation.prepare(
                self.flow_run, self.requests, self.runner.keeper.pool
            )
        except Exception as error:  # noqa: BLE001 - the failure boundary of a run
            return error
        self.active.flow_name = prepared.facts.flow.name
        return prepared

    async def _see_to_its_end(self, prepared: PreparedRun | Exception) -> None:
        # As late as possible: until the process is there, nobody else knows that somebody acts upon the claim. And
        # before anything is said about the run: it may be another worker's.
        await self._make_sure_of_claim_if_in_doubt()
        if isinstance(prepared, DeploymentGoneError):
            await self.requests.report(cancelled(str(prepared)))
            self.active.note_end(RunEnd.NOT_STARTED, str(prepared))
            raise NotOursError(str(prepared))
        if isinstance(prepared, Exception) and not self.cancelling:
            await self._settle_unstarted(self._explain(prepared))
        elif isinstance(prepared, PreparedRun) and not self.cancelling:
            await self._execute(prepared)
        else:
            await self._settle_unstarted(_NEVER_BEGAN)

    async def _settle_unstarted(self, reason: str) -> None:
        await self.settlement.settle(reason)
        self.active.note_end(RunEnd.NOT_STARTED, reason)

    async def _execute(self, prepared: PreparedRun) -> None:
        """Execute the run and conclude it, in its workspace."""
        await self._give_back_if_stopping()
        self.execution = execution = _Execution(prepared, await self._submit(prepared))
        if self.cancelling:
            await self._settle_unstarted(_NEVER_BEGAN)
            return
        await self._give_back_if_stopping()
        async with AsyncExitStack() as stack:
            try:
                workspace = self.runner.infrastructure.open_workspace(prepared.job)
                job = await stack.enter_async_context(workspace)
                outcome = await self._run(job, execution)
            except InfrastructureFullError as error:
                await self._give_back(str(error))
            except Exception as error:  # noqa: BLE001 - the failure boundary of a run
                reason = self._explain(error)
                await self.settlement.settle(reason)
                begun = self.active.identifier is not None
                self.active.note_end(RunEnd.EXECUTED if begun else RunEnd.NOT_STARTED, reason)
            else:
                await self._conclude(execution, outcome, job)

    async def _submit(self, prepared: PreparedRun) -> Event:
        """Tell the world that the run is about to be started."""
        runner = self.runner
        event = events.flow_run_submitted(runner.worker, prepared.pool, prepared.facts, runner.now())
        runner.outbox.event(event)
        if not runner.infrastructure.speaks_for_itself:
            await self._propose_submitting()
        return event

    def _label(self, prepared: PreparedRun) -> None:
        """Have the run labelled before long; it waits for nothing that it does not need."""
        worker = self.runner.worker
        labels = {
            "prefect.worker.name": worker.name,
            "prefect.worker.type": worker.type,
            "prefect.work-pool.name": prepared.pool.name,
            "prefect.work-pool.id": str(prepared.pool.id),
        }
        self.runner.outbox.label(self.flow_run.id, labels)

    async def _propose_submitting(self) -> None:
        try:
            result = await self.runner.submissions.propose(self.requests)
        except ObjectNotFoundError as error:
            raise NotOursError("somebody has deleted it") from error
        if result.status is not SetStateStatus.ACCEPT:
            # Something has happened to the run meanwhile, and its history knows what.
            await self._make_sure_of_claim()

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
            return f"Failed to submit flow run to infrastructure: {reason}"
        self.run_log.error(f"Infrastructure of flow run '{self.flow_run.name}' failed: {reason}")
        return f"Flow run's infrastructure failed: {reason}"

    async def _run(self, job: Any, execution: _Execution) -> Outcome:
        infrastructure = self.runner.infrastructure

        async def run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128 - passed on
            place = _NotedPlace(self.active, task_status)
            try:
                execution.outcome = await infrastructure.run(job, task_status=place)
            except Exception as error:
                execution.failure = error
                if self.active.identifier is None:
                    raise
                # Kept, since in the company of cancelled watchers it would leave in a group that nobody expects.
            watchers.cancel_scope.cancel()

        # What keeps a run from being started shall arrive as it was raised, not in the nursery's group.
        with sole_errors_bare():
            async with trio.open_nursery() as watchers:
                identifier = await watchers.start(run)
                # Not before: a run that could not be started goes to another worker, with that one's labels.
                self._label(execution.prepared)
                self.run_log.info(f"Flow run '{self.flow_run.name}' submitted to infrastructure")
                watchers.start_soon(self.active.record.note_start, identifier)
                watchers.start_soon(self._kill_when_cancelled, identifier)
                if not infrastructure.speaks_for_itself:
                    watchers.start_soon(self.requests.report_place, identifier)
        if execution.failure is not None:
            raise execution.failure
        assert execution.outcome is not None  # noqa: S101 - either or
        return execution.outcome

    async def _kill_when_cancelled(self, identifier: str) -> None:
        await self.active.cancel_requested.wait()
        self.run_log.note(f"Cancelling flow run '{self.flow_run.name}'")
        try:
            await self.runner.infrastructure.kill(identifier, CANCEL_GRACE, intent="cancel")
        except Exception as error:  # noqa: BLE001 - as of `run`, it is not to leave in anybody's company
            self.run_log.alarm(f"Flow run '{self.flow_run.name}' could not be killed: {error}")

    async def _conclude(self, execution: _Execution, outcome: Outcome, job: Any) -> None:
        """Bring a run to its end whose process is gone, but whose workspace is still there."""
        runner = self.runner
        if outcome.status_code != 0 and not self.cancelling:
            self.run_log.alarm(f"Flow run '{self.flow_run.name}': {outcome.message}")
        hooks = Hooks(runner.infrastructure, job, self.requests, self.run_log, runner.now)
        reported = await self._settle(outcome, hooks)
        if reported is StateType.CRASHED and outcome.status_code == 0:
            self.run_log.alarm(f"Flow run '{self.flow_run.name}': {outcome.message}")
        await self._clear_after(outcome)
        if reported is StateType.CRASHED and outcome.hint:
            self.run_log.info(outcome.hint)
        elif reported is StateType.CANCELLED:
            facts = execution.prepared.facts
            runner.outbox.event(events.flow_run_cancelled(runner.worker, facts, runner.now()))
        self._note_outcome(execution, outcome)

    async def _clear_after(self, outcome: Outcome) -> None:
        """End what a run has left behind whose process had ended well, as it seemed, though the run has not."""
        state, entry = self.active.state, self.active.record.entry
        if outcome.status_code != 0 or state is None or entry is None or entry.trace is None:
            return
        if state.type not in {StateType.CRASHED, StateType.CANCELLED}:
            return
        try:
            await self.runner.infrastructure.clear(self.flow_run.id, entry.trace)
        except InfrastructureError as error:
            self.run_log.alarm(f"Flow run '{self.flow_run.name}': something of it may go on: {error}")

    def _note_outcome(self, execution: _Execution, outcome: Outcome) -> None:
        if outcome.state is not None and outcome.state.name == "Scheduled":
            self.active.note_end(RunEnd.GIVEN_BACK, outcome.message)
            return
        self._tell_execution(execution, outcome)
        self.active.note_end(RunEnd.EXECUTED, outcome.message, outcome.status_code)

    async def _settle(self, outcome: Outcome, hooks: Hooks | None = None) -> StateType | None:
        """Settle the run, unless its infrastructure knows that it has ended, or was left to other workers."""
        state = outcome.state
        is_over = state is not None and (state.type.is_final or state.type is StateType.SCHEDULED)
        if state is None or not is_over or self.active.in_doubt_since is not None:
            # If the API cannot be told just now, whoever comes after this worker shall know.
            await self.active.record.note_end(outcome.message)
            return await self.settlement.settle(outcome.message, hooks)
        if state.type is StateType.CRASHED and self.cancelling:
            # An engine that was terminated without word of the cancellation calls that a crash.
            return await self.settlement.settle(outcome.message, hooks)
        self.active.state = state
        return None

    def _tell_execution(self, execution: _Execution, outcome: Outcome) -> None:
        """Tell the world, once, that a run was executed."""
        if self.active.identifier is None or execution.told:
            return
        execution.told = True
        executed = events.flow_run_executed(
            self.runner.worker,
            execution.prepared.pool,
            execution.prepared.facts,
            self.runner.now(),
            identifier=self.active.identifier,
            status_code=outcome.status_code,
            follows=execution.submitted,
        )
        self.runner.outbox.event(executed)

    async def conclude_cut_off(self) -> None:
        """Speak for a run that the worker's end has interrupted; its process is gone by now, unless it is left."""
        if self.claim_sent_at is None:
            return
        if await self._has_not_begun():
            await self._make_sure_of_claim()
            await self._give_back("the worker was stopped")
        execution = self.execution
        if execution is None or execution.outcome is None:
            await self.cut_off.conclude(ended=self._has_been_ended)
        else:
            await self._settle(execution.outcome)
            await self._clear_after(execution.outcome)
            self._note_outcome(execution, execution.outcome)

    @property
    def _has_been_ended(self) -> bool:
        """Whether its infrastructure has done what is to be done about a run that is cut off."""
        return self.execution is not None and self.execution.failure is None

    async def _has_not_begun(self) -> bool:
        """Whether it is certain that nothing of the run was executed, and that nothing will be."""
        if self.active.identifier is not None:
            return False
        entry = self.active.record.entry
        if entry is None or entry.trace is None:
            return True
        if await self.cut_off.goes_on(ended=self._has_been_ended):
            return False
        # It was started, and has ended before its number was known.
        try:
            current = await self.requests.read()
        except ObjectNotFoundError:
            return False
        return current.state is not None and current.state.type is StateType.PENDING

    async def _give_back_if_stopping(self) -> None:
        if self.runner.shutdown.requested:
            await self._give_back("the worker was told to stop")

    async def _give_back(self, why: str) -> NoReturn:
        """Offer a run that was claimed, but has not begun, to any worker.

        Raises:
            NotOursError: always; from now on it is not.
        """
        if self.cancelling:
            await self._settle_unstarted(_NEVER_BEGAN)
        else:
            reason = f"Given back by worker '{self.runner.worker.name}': {why}."
            # One that was taken ahead of its time keeps that.
            due = max(self.runner.now(), self.flow_run.next_scheduled_start_time or self.runner.now())
            if not await self.requests.report(scheduled(reason, due)):
                await self._settle_unstarted(reason)
            self.active.note_end(RunEnd.GIVEN_BACK, reason)
        raise NotOursError(f"given back, because {why}")
