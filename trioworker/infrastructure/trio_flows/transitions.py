"""What is asked of the server about the states of one run, and told about the run beside them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import attrs
import trio

from trioworker.api.errors import APIError
from trioworker.api.handing_on import HandingOn
from trioworker.api.models import (
    FlowRun,
    FlowRunPolicy,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
    StateType,
)
from trioworker.flows.declaration import TrioFlow
from trioworker.infrastructure.protocol import NoteTransition
from trioworker.infrastructure.trio_flows.report import RunReport
from trioworker.infrastructure.trio_flows.services import Services
from trioworker.service import patiently

T = TypeVar("T")

# How often a request may fail while the API answers others, before the fault is taken for the run's: about two hours.
_STRIKES = 60

# The same for what a run can do without: some minutes.
_STRIKES_OF_EXTRAS = 8

# Clocks that differ by less than this, in seconds, agree as far as one can tell: the server tells whole seconds.
_AGREEMENT = 1.0

# How many seconds before a run's time it is looked at whether it is still ours: enough for that to cost no time.
_LOOK_AHEAD = 1.0

_RETRY_HERE = "in_process"


class StoppedWaitingError(Exception):
    """The worker was told to stop before the run had begun."""


class NotBegunError(Exception):
    """The server does not let the run begin."""


class Transitions:
    """The states of one run.

    Args:
        flow: what it is a run of.
        flow_run: the run, claimed.
        place: how the place where it runs is told to the server.
        services: what runs share.
        report: told what is not as it should be.
        transition_ids: gets the ids of all states that are proposed.
        note_transition: takes each down before it is proposed.
    """

    def __init__(
        self,
        flow: TrioFlow,
        flow_run: FlowRun,
        *,
        place: str,
        services: Services,
        report: RunReport,
        transition_ids: set[UUID],
        note_transition: NoteTransition,
    ) -> None:
        self._flow = flow
        self._flow_run = flow_run
        self._place = place
        self._services = services
        self._report = report
        self._transition_ids = transition_ids
        self._note_transition = note_transition
        self._policy = flow_run.empirical_policy
        self._due = flow_run.next_scheduled_start_time
        # On the slot that the run has begun with: a state that others have put back does not tell.
        self._lease_id: UUID | None = None
        self._introduced = trio.Event()

    async def begin(self) -> State:
        """Propose `Running` once the run's time has come; the state that it is in then.

        Raises:
            StoppedWaitingError: the worker was told to stop before.
            NotBegunError: the server does not let the run begin, or it is somebody else's by now; the message says
                which.
        """
        running = ProposedState(type=StateType.RUNNING, name="Running")
        # The server rounds, and would let it begin up to half a second ahead of its time.
        if (left := self._seconds_left()) is not None and 0 < left < _AGREEMENT:
            await self._pause(left)
        while True:
            answer = await self._propose_unless_stopping(running)
            if answer.status is not SetStateStatus.WAIT:
                break
            told, left = answer.details.delay_seconds, self._seconds_left()
            agreed = left is not None and left > 0 and abs(left - told) <= _AGREEMENT
            await self._wait(left if agreed and left is not None else told)
        state = answer.state
        if state is not None and state.type is StateType.RUNNING and answer.has_made(running):
            self._lease_id = state.state_details.deployment_concurrency_lease_id
            return state
        reason = answer.details.reason or "no reason given"
        label = "no state" if state is None else f"state {state.label}"
        raise NotBegunError(f"The server did not let the flow run begin ({label}): {reason}")

    def _seconds_left(self) -> float | None:
        return None if self._due is None else (self._due - self._services.now()).total_seconds()

    async def _propose_unless_stopping(self, state: ProposedState) -> OrchestrationResult:
        """Propose a state; once the worker is told to stop, no attempt to do so is made any more."""
        api, flow_run_id = self._services.api, self._flow_run.id

        async def propose() -> OrchestrationResult:
            if self._services.stopping():
                raise StoppedWaitingError
            return await api.set_flow_run_state(flow_run_id, state)

        self._transition_ids.add(state.transition_id)
        await self._note_transition(state.transition_id)
        return await self._patiently(propose)

    async def _wait(self, seconds: float) -> None:
        """Let the time pass until the run may begin, if nobody has made something else of it by then."""
        due = trio.current_time() + seconds
        if seconds > _LOOK_AHEAD:
            await self._pause(seconds - _LOOK_AHEAD)
            current = await self._read()
            if not self._is_ours(current):
                label = "in no state" if current.state is None else current.state.label
                raise NotBegunError(f"Somebody has made something else of the flow run, which is {label} now")
        await self._pause(due - trio.current_time())

    def _is_ours(self, current: FlowRun) -> bool:
        """Whether a run is still as we have claimed, begun or left it."""
        state = current.state
        if state is None:
            return False
        if state.state_details.transition_id in self._transition_ids:
            return True
        # No worker is offered it then; whoever claims it all the same is late, and puts it back.
        waits_here = current.empirical_policy.retry_type == _RETRY_HERE
        return waits_here and state.type in {StateType.SCHEDULED, StateType.PENDING}

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(max(seconds, 0.0)):
            await self._services.wait_stopping()
            raise StoppedWaitingError

    async def end(self, end: ProposedState, attempt: int) -> OrchestrationResult:
        """Propose the state that the end of the function leads to; `REJECT` with a scheduled state is a retry.

        If the answer gets lost by which the server decides upon a retry, it takes the repetition for the end of a run
        that waits for that retry. Then it is asked for the retry once more.

        Args:
            end: the state.
            attempt: which attempt has ended, from 1.
        """
        answer = await self.propose(end)
        self._due = None if answer.state is None else answer.state.state_details.scheduled_time
        retries = self._policy.retries
        is_last = retries is None or attempt > retries
        if end.type is not StateType.FAILED or not answer.has_made(end) or is_last:
            return answer
        api, flow_run_id = self._services.api, self._flow_run.id
        history = await self._patiently(lambda: api.read_flow_run_states(flow_run_id))
        before, last = history[-2:] if len(history) > 1 else (answer.state, answer.state)
        is_ours = last is not None and last.state_details.transition_id == end.transition_id
        if before is None or before.type is not StateType.SCHEDULED or not is_ours:
            return answer
        self._report.say(
            logging.WARNING, "An answer of the server got lost; the retry is left to whichever worker is free"
        )
        await self._release()
        again = await self.propose(ProposedState.again(before))
        await self._mention(lambda: api.set_infrastructure_pid(flow_run_id, ""), "that it runs nowhere")
        return attrs.evolve(again, status=SetStateStatus.ACCEPT)

    async def give_back(self, why: str) -> OrchestrationResult | None:
        """Offer a run that was never called to any worker; None if somebody has made something else of it."""
        current = await self._read()
        if not self._is_about_to_begin(current):
            return None
        now = self._services.now()
        scheduled = ProposedState(
            type=StateType.SCHEDULED,
            name="Scheduled",
            message=f"Given back: {why}.",
            scheduled_time=max(now, self._due or now),
        )
        return await self.propose(scheduled)

    async def leave_retry(self) -> State | None:
        """Leave a retry, at its time, to any worker: to Prefect it is one in this process otherwise.

        Returns:
            The state that the run is in; `AwaitingRetry`, unless somebody has made something else of it.
        """
        current = await self._read()
        # The server has let the retry begin already, or a late claim has met it.
        if self._is_about_to_begin(current):
            answer = await self.propose(_awaiting_retry(self._services.now()))
            current = attrs.evolve(await self._read(), state=answer.state)
        state = current.state
        if state is None or state.name != "AwaitingRetry":
            return state
        # First the slot, as long as nobody else can take the run: it would find none.
        await self._release()
        policy = attrs.evolve(current.empirical_policy, retry_type="reschedule")
        api = self._services.api
        # Without a place, since there is nobody at this one who would see to a cancellation.
        await self._patiently(lambda: api.update_flow_run_policy(current.id, policy, infrastructure_pid=""))
        return state

    def _is_about_to_begin(self, current: FlowRun) -> bool:
        """Whether a run whose function is not being called is claimed or begun, and still ours."""
        state = current.state
        begins = state is not None and state.type in {StateType.PENDING, StateType.RUNNING}
        return begins and self._is_ours(current)

    async def _release(self) -> None:
        """Give back the slot of the deployment's concurrency limit; the server would keep it for minutes."""
        api, lease_id = self._services.api, self._lease_id
        if lease_id is None:
            return
        try:
            await self._patiently(lambda: api.release_concurrency_lease(lease_id))
        except APIError as error:
            self._report.say(
                logging.WARNING,
                f"The slot of the deployment's concurrency limit stays taken for a while: {error}",
            )

    async def introduce(self) -> None:
        """Tell the server where the run runs, and how often it is to be tried again if nobody has said so yet.

        Not before the run is `Running`, since that would make it wait; neither is of importance sooner.
        """
        api, flow_run_id = self._services.api, self._flow_run.id
        policy, place = self._wanted_policy(), self._place
        if policy != self._policy and await self._mention(
            lambda: api.update_flow_run_policy(flow_run_id, policy, infrastructure_pid=place),
            "how often to try it again",
        ):
            self._policy = policy
        else:
            await self._mention(lambda: api.set_infrastructure_pid(flow_run_id, place), "where it runs")
        self._introduced.set()

    @property
    def introduced(self) -> bool:
        """Whether the server knows about retries."""
        return self._introduced.is_set()

    async def wait_introduced(self) -> None:
        """Return once the server knows about retries."""
        await self._introduced.wait()

    async def propose(self, state: ProposedState) -> OrchestrationResult:
        """Propose a state until the server has an answer that is not "wait"."""
        while True:
            answer = await self._propose(state)
            if answer.status is not SetStateStatus.WAIT:
                return answer
            await trio.sleep(max(answer.details.delay_seconds, 0.1))

    async def _propose(self, state: ProposedState) -> OrchestrationResult:
        self._transition_ids.add(state.transition_id)
        await self._note_transition(state.transition_id)
        api, flow_run_id = self._services.api, self._flow_run.id
        if state.hands_on:
            return await self._patiently(HandingOn(api, flow_run_id, state, self._is_ours).attempt)
        return await self._patiently(lambda: api.set_flow_run_state(flow_run_id, state))

    async def _read(self) -> FlowRun:
        api, flow_run_id = self._services.api, self._flow_run.id
        return await self._patiently(lambda: api.read_flow_run(flow_run_id))

    async def _patiently(self, action: Callable[[], Awaitable[T]]) -> T:
        services = self._services
        return await patiently(action, services.patience, services.api.condition, strikes=_STRIKES)

    def _wanted_policy(self) -> FlowRunPolicy:
        policy, flow = self._policy, self._flow
        if policy.retries is None and flow.retries:
            policy = attrs.evolve(policy, retries=flow.retries)
        if policy.retry_delay is None and flow.retry_delay:
            policy = attrs.evolve(policy, retry_delay=flow.retry_delay)
        return policy

    async def _mention(self, action: Callable[[], Awaitable[None]], what: str) -> bool:
        """Tell the server something that the run can do without; whether it was taken."""
        services = self._services
        try:
            await patiently(action, services.patience, services.api.condition, strikes=_STRIKES_OF_EXTRAS)
        except APIError as error:
            self._report.say(logging.WARNING, f"The server does not take of the flow run {what}: {error}")
            return False
        return True


def _awaiting_retry(due: datetime) -> ProposedState:
    return ProposedState(type=StateType.SCHEDULED, name="AwaitingRetry", scheduled_time=due)
