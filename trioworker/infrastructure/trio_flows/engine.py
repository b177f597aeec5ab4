"""The life of one flow run as its engine: the states that Prefect's own engine takes a run through, and a function.

```
Pending ── Running ── Completed
             │  └──── Failed, TimedOut       as often as the server decides:  AwaitingRetry ── Running
             └─────── Cancelled, Crashed     left to the worker, who knows more about why
```
"""

from __future__ import annotations

import logging
import math
from typing import Any

import attrs
import trio

from trioworker import events
from trioworker.api.errors import APIError, ObjectNotFoundError
from trioworker.api.models import (
    FlowRun,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
    StateType,
)
from trioworker.errors import sole_errors_bare
from trioworker.flows.declaration import TrioFlow
from trioworker.flows.parameters import ParameterError
from trioworker.infrastructure.protocol import Outcome
from trioworker.infrastructure.trio_flows.call import (
    Broken,
    Cancelled,
    FunctionCall,
    Raised,
    Returned,
    TimedOut,
)
from trioworker.infrastructure.trio_flows.current import CurrentFlowRun, RunInContext
from trioworker.infrastructure.trio_flows.lease import keep_lease
from trioworker.infrastructure.trio_flows.report import RunReport, in_short, shown
from trioworker.infrastructure.trio_flows.run_logs import sendable
from trioworker.infrastructure.trio_flows.services import Room, Services
from trioworker.infrastructure.trio_flows.transitions import NotBegunError, StoppedWaitingError, Transitions

# As exit statuses: the run came to an end of its own, or was ended.
_ENDED = 0
_WAS_CANCELLED = -15
_BROKEN = 1

_BROKEN_OFF = "Execution was interrupted by an unexpected exception"


class FlowEngine:
    """Takes one flow run through its states.

    Args:
        flow: what it is a run of.
        flow_run: the run, claimed.
        transitions: its states.
        report: told what there is to say about it.
        services: what engines share.
        room: where the function is called.
        grace: seconds that an async function has for its clean-up once it is cancelled.
    """

    def __init__(
        self,
        flow: TrioFlow,
        flow_run: FlowRun,
        *,
        transitions: Transitions,
        report: RunReport,
        services: Services,
        room: Room,
        grace: float,
    ) -> None:
        self._flow = flow
        self._flow_run = flow_run
        self._services = services
        self._room = room
        self._grace = grace
        self._report = report
        self._transitions = transitions
        self._states = trio.CancelScope()
        self._call: FunctionCall | None = None
        self._end: ProposedState | None = None
        self._retry_due = False
        self._lost: str | None = None
        self._left = False
        self._told = False
        self._attempts = flow_run.run_count

    @property
    def interruptible(self) -> bool:
        """Whether cancelling the run has an effect before its function returns."""
        return self._call is None or self._call.interruptible

    @property
    def is_calling(self) -> bool:
        """Whether code of the function may yet be executed."""
        return self._call is not None and self._call.goes_on

    def cancel(self, grace: float) -> None:
        """Cancel the run, whatever it is doing; how it ends is told by `run`, `grace` seconds later at the latest."""
        self._grace = grace
        self._states.cancel()
        self.cancel_call()

    def cancel_call(self) -> None:
        """Cancel the call of the function, if there is one."""
        if self._call is not None:
            self._call.cancel()

    async def run(self) -> Outcome:
        """Take the run as far as it goes, and return when its end may be reported.

        Of a function that was cancelled, code may still be going on then, if its clean-up is shielded.

        Raises:
            APIError: the server does not take a state.
        """
        outcome: Outcome | None = None
        failure: APIError | None = None
        with sole_errors_bare():
            async with trio.open_nursery() as upkeep:
                try:
                    with self._states:
                        outcome = await self._take_through_states(upkeep)
                except APIError as error:
                    # Kept, since in the company of a cancellation it would leave in a group that nobody expects.
                    failure = error
                if outcome is None and failure is None:
                    outcome = await self._cancelled()
                upkeep.cancel_scope.cancel()
        if failure is not None:
            raise failure
        assert outcome is not None  # noqa: S101 - either or
        return outcome

    async def wait_for_call(self) -> None:
        """Wait until no code of the function is being executed any more."""
        if self._call is None:
            return
        result = await self._call.wait()
        if isinstance(result, Cancelled) and result.error is not None and not self._told:
            self._told = True
            self._report.say_error("Clean-up after the cancellation failed", result.error)

    async def finish(self) -> Outcome | None:
        """Tell the server what is certain of a run that was cut off; None if nothing is.

        A function that has ended has ended, whoever was in a hurry. One that was never called, or waits to be called
        once more, may be called by another worker.

        Raises:
            APIError: the server does not take it.
        """
        if self._states.cancel_called:
            return None
        if self._retry_due:
            return await self._stop_waiting()
        if self._end is None and self._call is not None and isinstance(self._call.result, Returned):
            self._end = _completed()
        if self._end is not None:
            if self._call is not None and not self._transitions.introduced:
                await self._transitions.introduce()
            answer = await self._transitions.end(self._end, self._attempts)
            return await self._stop_waiting() if _is_retry(answer) else self._finished(answer)
        if self._call is None:
            given_back = await self._transitions.give_back(
                "the worker was stopped before the function was called"
            )
            return None if given_back is None else self._finished(given_back)
        return None

    async def _take_through_states(self, upkeep: trio.Nursery) -> Outcome:
        try:
            while True:
                try:
                    # Anew for each attempt: the one before may have changed what it was given.
                    arguments = self._flow.parameters.structure(self._flow_run.parameters)
                except ParameterError as error:
                    message = f"Validation of flow parameters failed with error: {error}"
                    self._report.say(logging.ERROR, message)
                    self._end = end = _failed(message)
                    return self._finished(await self._transitions.propose(end))
                except SystemExit as error:
                    # Classes of parameters have code, too.
                    return self._broken(error)
                outcome = await self._attempt(arguments, upkeep)
                if outcome is not None:
                    return outcome
        except NotBegunError as refusal:
            self._report.say(logging.INFO, str(refusal))
            return Outcome(status_code=_ENDED, message=str(refusal))
        except StoppedWaitingError:
            return await self._stop_waiting()
        except ObjectNotFoundError:
            message = "The flow run was deleted."
            self._report.say(logging.WARNING, message)
            return Outcome(status_code=_ENDED, message=message)

    async def _stop_waiting(self) -> Outcome:
        """Leave what the run waits for to another worker."""
        self._left = True
        if self._call is None:
            answer = await self._transitions.give_back("the worker was told to stop before the run had begun")
            state = None if answer is None else answer.state
            message = "The worker was told to stop; the run is left to whichever worker is free."
        else:
            state = await self._transitions.leave_retry()
            message = "The worker was told to stop; the retry is left to whichever worker is free."
        self._report.say(logging.INFO, message)
        return Outcome(status_code=_ENDED, message=message, state=state)

    async def _attempt(self, arguments: dict[str, Any], upkeep: trio.Nursery) -> Outcome | None:
        """Call the function as soon as the server lets the run begin; None if it wants another attempt."""
        running = await self._transitions.begin()
        self._retry_due = False
        if self._call is None:
            self._keep_up(running, upkeep)
        self._report.say(
            logging.INFO, f"Beginning flow run {self._flow_run.name!r} for flow {self._flow.name!r}"
        )
        result = await self._call_function(arguments)
        if isinstance(result, Broken):
            return self._broken(result.error)
        self._end = end = self._end_of(result)
        # Only then does the server know about retries.
        await self._transitions.wait_introduced()
        answer = await self._transitions.end(end, self._attempts)
        if not _is_retry(answer):
            return self._finished(answer)
        self._end, self._retry_due = None, True
        retry = "" if answer.state is None else answer.state.label
        self._report.say(
            logging.INFO,
            f"Received non-final state {retry!r} when proposing final state {end.name!r}"
            " and will attempt to run again...",
        )
        return None

    def _keep_up(self, running: State, upkeep: trio.Nursery) -> None:
        """Begin what goes on beside the function for as long as the run lasts, its pauses included."""
        services = self._services
        upkeep.start_soon(self._transitions.introduce)
        if services.heartbeat_seconds is not None:
            upkeep.start_soon(self._beat, services.heartbeat_seconds)
        lease_id = running.state_details.deployment_concurrency_lease_id
        if lease_id is not None:
            upkeep.start_soon(keep_lease, services.api, lease_id, services.patience, self._lose_slot)

    async def _beat(self, seconds: float) -> None:
        services = self._services
        while True:
            services.send_event(events.flow_run_heartbeat(self._flow_run, self._flow.name, services.now()))
            await trio.sleep(seconds)

    def _lose_slot(self, reason: str) -> None:
        if self._end is not None or self._left:
            # There is nothing left to be done that would need it.
            return
        self._lost = f"The slot of the deployment's concurrency limit was lost: {reason}"
        self._report.say(logging.ERROR, self._lost)
        self.cancel(self._grace)

    async def _call_function(self, arguments: dict[str, Any]) -> Returned | Raised | TimedOut | Broken:
        self._attempts += 1
        self._call = call = FunctionCall(
            self._flow.function,
            arguments,
            timeout=self._flow.timeout,
            is_async=self._flow.is_async,
            context=self._context(),
            threads=self._room.threads,
        )
        self._room.log_handler.attach()
        self._room.nursery.start_soon(call.run, name=f"flow run {self._flow_run.name}")
        result = await call.wait()
        if result is None or isinstance(result, Cancelled):
            # Whoever has cancelled it cancels us, too.
            await trio.sleep_forever()
        assert result is not None  # noqa: S101 - nobody sleeps for ever but to be cancelled
        return result

    def _context(self) -> RunInContext:
        run = self._flow_run
        return RunInContext(
            flow_run=CurrentFlowRun(
                id=run.id,
                name=run.name,
                flow_name=self._flow.name,
                deployment_id=run.deployment_id,
                tags=tuple(run.tags),
                attempt=self._attempts,
            ),
            owner=self._room.log_handler,
            send=self._services.send_log,
        )

    def _end_of(self, result: Returned | TimedOut | Raised) -> ProposedState:
        """The state that the end of a call leads to."""
        if isinstance(result, Returned):
            return _completed()
        if isinstance(result, Raised):
            self._report.say_error("Encountered exception during execution", result.error)
            return _failed(f"Flow run encountered an exception: {in_short(result.error)}")
        message = f"Flow run exceeded timeout of {float(self._flow.timeout or 0)} second(s)"
        self._report.say(logging.ERROR, message)
        if result.error is not None:
            self._report.say_error("Clean-up after the timeout failed", result.error)
        return _failed(message, name="TimedOut")

    def _broken(self, error: BaseException) -> Outcome:
        if isinstance(error, SystemExit):
            message = "Execution was aborted by Python system exit call."
        else:
            message = f"{_BROKEN_OFF}: {in_short(error)}"
        self._report.say_error(f"Crash detected! {message}", error)
        return Outcome(status_code=_BROKEN, message=sendable(message))

    async def _cancelled(self) -> Outcome:
        """How the run ended that was cancelled, once its function has, or has used up its time."""
        if self._lost is not None:
            outcome = Outcome(status_code=_BROKEN, message=self._lost)
        else:
            outcome = Outcome(status_code=_WAS_CANCELLED, message="Flow run was cancelled.")
        grace = self._grace if self.interruptible else math.inf
        with trio.move_on_after(grace):
            await self.wait_for_call()
            return outcome
        overdue = (
            f"Its clean-up did not end within {grace:g} s and goes on. It is shielded from cancellation;"
            " give the shield a deadline."
        )
        self._report.say(logging.ERROR, overdue)
        return attrs.evolve(outcome, message=f"{outcome.message} {overdue}")

    def _finished(self, answer: OrchestrationResult) -> Outcome:
        self._report.say(logging.INFO, f"Finished in state {shown(answer.state)}")
        message = f"Flow run ended {shown(answer.state)}."
        return Outcome(status_code=_ENDED, message=message, state=answer.state)


def _is_retry(answer: OrchestrationResult) -> bool:
    """Whether the server wants another attempt instead of the end that was proposed."""
    scheduled = answer.state is not None and answer.state.type is StateType.SCHEDULED
    return scheduled and answer.status is SetStateStatus.REJECT


def _completed() -> ProposedState:
    return ProposedState(type=StateType.COMPLETED, name="Completed")


def _failed(message: str, name: str = "Failed") -> ProposedState:
    return ProposedState(type=StateType.FAILED, name=name, message=sendable(message))
