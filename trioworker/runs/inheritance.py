"""A run that is in the ledger, and in nobody's hand: what an earlier worker has begun is brought to its end.

What it has started may go on: then it is watched from now on. Or it has ended while nobody watched, or was never
started: then the run gets the state that is true of it. Nothing is said about a run that somebody else has claimed
since.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import attrs
import trio

from trioworker.api.errors import APIError, ObjectNotFoundError
from trioworker.api.models import FlowRun, ProposedState, State, StateType
from trioworker.errors import sole_errors_bare
from trioworker.infrastructure.protocol import Gone, InfrastructureError, Running, Trace, Unknown
from trioworker.ledger.entry import Entry, Stage
from trioworker.runs.active import ActiveRun, RunEnd
from trioworker.runs.boundary import NotOursError, failure_boundary
from trioworker.runs.claim import Granted, Late, judge_claim
from trioworker.runs.conclusion import scheduled
from trioworker.runs.cut_off import CutOff
from trioworker.runs.flow_run import CANCEL_GRACE, FlowRunner
from trioworker.runs.log import RunLog
from trioworker.runs.record import RunRecord
from trioworker.runs.requests import RunRequests
from trioworker.runs.settlement import Hooks, Settlement

__all__ = ["inherit", "is_last_claim"]


async def inherit(
    runner: FlowRunner,
    entry: Entry,
    *,
    keep_entry: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> ActiveRun:
    """See a run to its end that an earlier worker has claimed; started when it holds a slot, be one free or not.

    Args:
        runner: lives the lives of runs.
        entry: what the ledger knows of it.
        keep_entry: whether the entry is to stay, though there is nothing left to do: a request of the earlier worker
            may yet take effect.
        task_status: told once the slot is held.

    Returns:
        What has become of it.
    """
    flow_run = entry.flow_run
    run_log = RunLog(flow_run, runner.outbox if runner.logs_to_api else None, runner.now)
    with runner.active.hold(flow_run) as active:
        active.record = RunRecord(runner.ledger, flow_run, runner.worker.name, entry)
        # Those of other attempts, too: what was asked for in one may take effect when another one has begun.
        for known in runner.ledger.entries:
            if known.flow_run_id == entry.flow_run_id:
                active.transition_ids |= known.transition_ids
        task_status.started()
        requests = RunRequests(runner.api, active, runner.patience, run_log)
        settlement = Settlement(
            active,
            requests,
            run_log,
            runner.infrastructure.speaks_for_itself,
            runner.now,
            inherited=True,
        )
        cut_off = CutOff(
            active, run_log, settlement, runner.infrastructure, runner.shutdown, runner.worker.name
        )
        life = _Inherited(runner, entry, active, run_log, requests, settlement, cut_off)
        ended = False
        try:
            with failure_boundary(active, run_log, lost="Left"):
                await life.live()
            ended = True
        finally:
            if not ended:
                # Shields itself, and is bounded.
                await cut_off.have_last_words(life.conclude_cut_off)  # noqa: ASYNC102
            if not keep_entry:
                await runner.close_record(active)  # noqa: ASYNC102 - shielded and bounded in there
    return active


def is_last_claim(history: Sequence[State], attempt: UUID) -> bool:
    """Whether nobody has claimed a run after an attempt, whose claim took effect.

    Args:
        history: all states of the run, oldest first.
        attempt: the transition id of the attempt's claim.
    """
    claims = [
        state.state_details.transition_id
        for state in history
        # Finer names are those of workers that act upon their claim.
        if state.type is StateType.PENDING and state.name in {None, "Pending"}
    ]
    return bool(claims) and claims[-1] == attempt


@attrs.define(eq=False, repr=False)
class _Inherited:
    """What is known of one such run.

    Attributes:
        trace: by which what was started for it can be found; None if nothing was.
        found: whether that goes on, or did until now; None before it has been looked for.
        watched: whether that is being watched.
    """

    runner: FlowRunner
    entry: Entry
    active: ActiveRun
    run_log: RunLog
    requests: RunRequests
    settlement: Settlement
    cut_off: CutOff
    trace: Trace | None = attrs.field(
        default=attrs.Factory(lambda self: self.entry.trace, takes_self=True), init=False
    )
    found: Running | Gone | None = attrs.field(default=None, init=False)
    watched: bool = attrs.field(default=False, init=False)

    async def live(self) -> None:
        """From where the earlier worker has left it to its end."""
        if self.trace is None:
            await self.conclude()
            return
        await self._look_for(self.trace)
        async with AsyncExitStack() as stack:
            # With what is left of its directories, which go with the run.
            remains = self.runner.infrastructure.open_remains(self.entry.flow_run_id, self.trace)
            job = await stack.enter_async_context(remains)
            if isinstance(self.found, Running):
                await self._watch(job, self.trace)
            await self.conclude(job)

    async def _look_for(self, trace: Trace) -> None:
        """Look for what was started.

        Raises:
            InfrastructureError: it cannot be told whether that goes on.
            NotOursError: nor does that matter any more.
        """
        found = await self.runner.infrastructure.find(self.entry.flow_run_id, trace)
        if isinstance(found, Unknown):
            current, history = await self._read_with_history()
            if current.state is not None and current.state.type.is_final:
                raise NotOursError(f"it ended {current.state.label}")
            self._require_ours(current, history)
            raise InfrastructureError(f"whether it still runs cannot be told, because {found.reason}")
        if isinstance(found, Running):
            self.trace = found.trace
            self.active.identifier = found.trace.identifier
            await self.active.record.note_trace(found.trace)
        self.found = found

    async def conclude_cut_off(self) -> None:
        """Do as the shutdown policy says, wherever the worker's end has met with the run."""
        if self.trace is not None and self.found is None:
            await self._look_for(self.trace)
        if self.trace is None or not isinstance(self.found, Running):
            await self.conclude()
            return
        if not self.watched:
            infrastructure, trace = self.runner.infrastructure, self.trace
            async with infrastructure.open_remains(self.entry.flow_run_id, trace) as job:
                # Watched by somebody who is cancelled, it becomes of it what is to become of any that is cut off.
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await infrastructure.adopt(
                        job, trace, shutdown_policy=lambda: self.runner.shutdown.policy
                    )
        await self.cut_off.conclude()

    async def _watch(self, job: Any, trace: Trace) -> None:
        """Wait for the end of what goes on."""
        identifier = trace.identifier or ""
        self.watched = True
        self.active.note_claim()
        self.active.note_start(identifier)
        self.run_log.info(
            f"Flow run '{self.active.flow_run.name}' goes on in process {identifier}, which worker"
            f" '{self.entry.worker_name}' has started; watching it"
        )
        infrastructure = self.runner.infrastructure
        failure: Exception | None = None
        with sole_errors_bare():
            async with trio.open_nursery() as beside:
                # These begin after it is watched, so that `kill` knows it.
                beside.start_soon(self._kill_when_cancelled, identifier)
                beside.start_soon(self._see_what_is_wanted, identifier)
                try:
                    await infrastructure.adopt(
                        job, trace, shutdown_policy=lambda: self.runner.shutdown.policy
                    )
                except Exception as error:  # noqa: BLE001 - in the company of others it would leave in a group
                    failure = error
                beside.cancel_scope.cancel()
        if failure is not None:
            raise failure
        self.found, self.watched = Gone(), False

    async def _see_what_is_wanted(self, identifier: str) -> None:
        """See whether somebody wanted the run cancelled while nobody watched, and tell where it runs.

        Nothing is the worse for it if that cannot be done, the run itself least of all.
        """
        try:
            current = await self._read()
            if current is None or current.state is None:
                return
            if current.state.type is StateType.CANCELLING:
                self.active.cancel_requested.set()
            if current.infrastructure_pid == identifier or current.state.type.is_final:
                return
            if is_last_claim(await self.requests.history(), self.entry.attempt):
                await self.requests.report_place(identifier)
        except APIError as error:
            self.run_log.warning(
                f"What has become of flow run '{self.active.flow_run.name}' cannot be read: {error}"
            )

    async def _kill_when_cancelled(self, identifier: str) -> None:
        await self.active.cancel_requested.wait()
        self.run_log.note(f"Cancelling flow run '{self.active.flow_run.name}'")
        try:
            await self.runner.infrastructure.kill(identifier, CANCEL_GRACE, intent="cancel")
        except Exception as error:  # noqa: BLE001 - the run goes on, and it is watched
            self.run_log.alarm(f"Flow run '{self.active.flow_run.name}' could not be killed: {error}")

    async def conclude(self, job: Any = None) -> None:
        """Give the run, of which nothing goes on, the state that is true of it.

        Args:
            job: what is left of it, to call its flow's hooks with; None for no hooks.
        """
        current, history = await self._read_with_history()
        left_as = await self.settlement.undo_late_request(current)
        if left_as is not None:
            # It is again as it was before. Whose it is, what has come since does not tell.
            history = history[: [state.id for state in history].index(left_as.id) + 1]
            current, _ = await self._read_with_history()
        self._require_ours(current, history)
        state = current.state
        if self.entry.stage is Stage.CLAIMED or self.runner.infrastructure.speaks_for_itself:
            await self._make_sure_of_claim(state, history)
        if self._never_began and state is not None and state.type is StateType.PENDING:
            await self._give_back(current)
            return
        if self.trace is not None and not (state is not None and state.type is StateType.COMPLETED):
            # As in every run: what it has started may go on after a good end only.
            await self.runner.infrastructure.clear(self.entry.flow_run_id, self.trace)
        # Nobody has claimed it since, so wherever it was said to run, that is the attempt's doing.
        self.active.flow_run = attrs.evolve(
            self.active.flow_run, infrastructure_pid=current.infrastructure_pid
        )
        ended = self.entry.ended or self._unknown_end()
        hooks = None
        if job is not None:
            hooks = Hooks(self.runner.infrastructure, job, self.requests, self.run_log, self.runner.now)
        if await self.settlement.settle(ended, hooks, fate=self.entry.fate) is not None:
            self.active.note_claim()
            self.run_log.alarm(f"Flow run '{self.active.flow_run.name}': {ended}")
        never_started = self.entry.stage is Stage.CLAIMED
        self.active.note_end(RunEnd.NOT_STARTED if never_started else RunEnd.EXECUTED, ended)

    @property
    def _never_began(self) -> bool:
        """Whether nothing of the run has been executed while it is Pending."""
        # Whoever speaks for itself begins with `Running`.
        return self.entry.stage is Stage.CLAIMED or self.runner.infrastructure.speaks_for_itself

    async def _make_sure_of_claim(self, state: State | None, history: Sequence[State]) -> None:
        """See to it that the run is the attempt's, of which nobody had made sure yet.

        Raises:
            NotOursError: it is somebody else's, or nobody's; if others had executed it before the claim took effect,
                it is put back as it was.
        """
        if state is None or state.type is StateType.CANCELLING:
            return
        ids = [known.state_details.transition_id for known in history]
        if self.entry.attempt not in ids:
            raise NotOursError("somebody has deleted it")
        upto = ids.index(self.entry.attempt) + 1
        is_pending = state.type is StateType.PENDING
        # Of one that is Pending still, also what stands after its claim may have been before that.
        verdict = judge_claim(
            history if is_pending else history[:upto], self.active.transition_ids, self.entry.found_as
        )
        if isinstance(verdict, Late) and is_pending:
            left_as = verdict.left_as
            await self.requests.propose(ProposedState.again(left_as), force=left_as.type.is_final)
        if not isinstance(verdict, Granted):
            raise NotOursError("somebody else has run it")
        if self.runner.infrastructure.speaks_for_itself:
            # All that has been said about it since, the attempt has said, whether or not that was written down.
            self.active.transition_ids |= {
                known.state_details.transition_id
                for known in history[upto:]
                if known.state_details.transition_id is not None
            }
        elif not is_pending:
            raise NotOursError(f"it is {state.label}, though nothing was started for it here")

    async def _give_back(self, current: FlowRun) -> None:
        """Offer the run to any worker."""
        reason = (
            f"Given back by worker '{self.runner.worker.name}': worker '{self.entry.worker_name}', which had claimed"
            " it, was gone before it was started."
        )
        self.active.note_claim()
        due = max(self.runner.now(), current.next_scheduled_start_time or self.entry.due or self.runner.now())
        if await self.requests.report(scheduled(reason, due)):
            self.run_log.info(f"Flow run '{self.active.flow_run.name}': {reason}")
            self.active.note_end(RunEnd.GIVEN_BACK, reason)
        else:
            await self.settlement.settle(reason)
            self.active.note_end(RunEnd.NOT_STARTED, reason)

    def _unknown_end(self) -> str:
        if self.entry.stage is Stage.CLAIMED:
            return f"Flow run was never started: worker '{self.entry.worker_name}', which had claimed it, was gone."
        worker = f"worker '{self.entry.worker_name}', which had started it, was gone by then"
        trace = self.trace
        if self.entry.stage is Stage.LAUNCHING and not self.active.identifier:
            return f"Flow run may have been started, but nothing of it goes on: {worker}."
        place = "" if trace is None or trace.identifier is None else f" ({trace.identifier})"
        return f"Flow run's process{place} has ended, and how, nobody knows: {worker}."

    async def _read_with_history(self) -> tuple[FlowRun, list[State]]:
        """The run as it is now, and all its states.

        Raises:
            NotOursError: it is nobody's.
        """
        current = await self._read()
        if current is None:
            raise NotOursError("somebody has deleted it")
        return current, await self.requests.history()

    def _require_ours(self, current: FlowRun, history: Sequence[State]) -> None:
        """Make sure that it is nobody else's.

        Raises:
            NotOursError: it is.
        """
        state = current.state
        # The history is in the order in which requests arrived, and the last claim need not be the one that counts.
        is_ours = (
            state is not None
            and state.type is StateType.PENDING
            and state.state_details.transition_id is not None
            and state.state_details.transition_id in self.entry.transition_ids
        )
        if not is_ours and not is_last_claim(history, self.entry.attempt):
            raise NotOursError("it was not claimed, or somebody else has claimed it since")

    async def _read(self) -> FlowRun | None:
        """The run as it is now; None if it was deleted."""
        try:
            return await self.requests.read()
        except ObjectNotFoundError:
            return None
