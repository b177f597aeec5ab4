"""Bring the server's record of a run that has ended to what is true, and have the flow's hooks called on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import attrs
import trio

from trioworker.api.errors import APIError, ObjectNotFoundError
from trioworker.api.models import FlowRun, ProposedState, State, StateType
from trioworker.infrastructure.protocol import HookCall, Infrastructure, InfrastructureError
from trioworker.ledger.entry import Fate
from trioworker.runs.active import ActiveRun
from trioworker.runs.claim import overtaken
from trioworker.runs.conclusion import Leave, Propose, conclude, reschedule
from trioworker.runs.log import RunLog
from trioworker.runs.requests import RunRequests

_logger = logging.getLogger(__name__)

# A state that changes under our hands is looked at again, but not for ever.
_LOOKS = 5


class UnsettledError(Exception):
    """The state of a run is not what it should be, and cannot be made so; the message says why."""


@attrs.frozen(eq=False, repr=False)
class Hooks:
    """The hooks of one flow, which are called where the flow has run.

    Attributes:
        infrastructure: calls them.
        job: as it was run.
        requests: reads the run as the hooks shall see it.
        run_log: told of hooks that could not be called.
        now: the time of day.
    """

    infrastructure: Infrastructure[Any]
    job: Any
    requests: RunRequests
    run_log: RunLog
    now: Callable[[], datetime]

    async def call(
        self, kind: Literal["cancellation", "crashed"], state_type: StateType, message: str | None
    ) -> None:
        """Call the hooks for a state; that they could not be called is said and harms nothing.

        Not even if it is a bug, of ours or of an installed infrastructure: the run has yet to be reported.
        """
        state = {
            "type": state_type.value,
            "name": state_type.value.capitalize(),
            "message": message,
            "timestamp": self.now().isoformat(),
        }
        try:
            document = await self.requests.document()
            await self.infrastructure.run_hooks(self.job, HookCall(kind=kind, flow_run=document, state=state))
        except trio.Cancelled:
            self.run_log.hook_warning(
                f"The on_{kind} hooks of the flow were cut short, since the worker stops"
            )
            raise
        except Exception as error:
            if not isinstance(error, APIError | InfrastructureError):
                _logger.error("The on_%s hooks of a flow met with a bug", kind, exc_info=error)
            self.run_log.hook_warning(f"The on_{kind} hooks of the flow could not be called: {error}")


@attrs.frozen(eq=False, repr=False)
class Settlement:
    """Settles one run.

    Attributes:
        active: the run.
        requests: asks the API about it.
        run_log: told what was found.
        knows_running: whether this worker itself proposes that its runs are `Running`.
        now: the time of day.
        inherited: whether an earlier worker has made requests for it, and nobody knows which were answered.
    """

    active: ActiveRun
    requests: RunRequests
    run_log: RunLog
    knows_running: bool
    now: Callable[[], datetime]
    inherited: bool = attrs.field(default=False, kw_only=True)

    async def settle(
        self, ended: str, hooks: Hooks | None = None, *, fate: Fate | None = None
    ) -> StateType | None:
        """Settle the run, if it is not already.

        Args:
            ended: how it ended, as a sentence for its state.
            hooks: the hooks of its flow; None if they are not to be called.
            fate: what is to become of it; None to go by the state that the server has.

        Returns:
            The type of the state that was reported for it; None if there was none to report.

        Raises:
            UnsettledError: whatever is reported, somebody is quicker to report something else.
            APIError: the API refuses to hear of it.
        """
        # Of a run that was executed, its state tells enough.
        write = self.run_log.info if hooks is None else self.run_log.note
        for _ in range(_LOOKS):
            conclusion = await self._conclude(ended, fate)
            if conclusion is None:
                continue
            if isinstance(conclusion, Leave):
                self.run_log.debug(f"Flow run '{self.active.flow_run.name}': {conclusion.reason}")
                return None
            last = conclusion.states[-1]
            if last.type is StateType.CANCELLED and hooks is not None:
                await hooks.call("cancellation", StateType.CANCELLING, "Flow run was cancelled.")
                # However often their call is followed by another look, once is enough.
                hooks = None
            if await self._carry_out(conclusion, write):
                if last.type is StateType.CRASHED and hooks is not None:
                    await hooks.call("crashed", StateType.CRASHED, last.message)
                return last.type
        raise UnsettledError("its state keeps changing")

    async def _carry_out(self, conclusion: Propose, write: Callable[[str], None]) -> bool:
        """Report the states; whether the server has taken them."""
        retry = conclusion.handed_on
        if retry is not None:
            # Before anybody can take the run: it would find no slot. Nor would anybody cancel it where it is not.
            await self.requests.release_slot(retry.state_details.deployment_concurrency_lease_id)
            await self.requests.forget_place()
        return await self.requests.report(*conclusion.states, write=write)

    async def _conclude(self, ended: str, fate: Fate | None) -> Leave | Propose | None:
        """What to do about the run; None to look once more."""
        try:
            current = await self.requests.read()
        except ObjectNotFoundError:
            return Leave("it was deleted")
        conclusion = conclude(
            current,
            ended=ended,
            known_places={self.active.identifier, self.active.flow_run.infrastructure_pid},
            own_transition_ids=self.active.transition_ids,
            cancel_requested=self.active.cancel_requested.is_set(),
            knows_running=self.knows_running,
            now=self.now(),
        )
        if isinstance(conclusion, Propose) and await self.undo_late_request(current) is not None:
            # What it was before may need its end no less, such as a retry that was waited for in the process.
            return None
        if fate == "SCHEDULED":
            return reschedule(conclusion, current, ended=ended, now=self.now())
        return conclusion

    async def undo_late_request(self, current: FlowRun) -> State | None:
        """Put the run back if a request of ours has taken effect when it was past it.

        Args:
            current: the run as it is now.

        Returns:
            The state that it had been in until then, and has again; None if there was no such request.
        """
        state = current.state
        if state is None or state.type is not StateType.PENDING:
            return None
        if self.active.in_doubt_since is None and not self.inherited:
            return None
        left_as = overtaken(await self.requests.history(), state, self.active.transition_ids)
        if left_as is None:
            return None
        await self.requests.propose(ProposedState.again(left_as), force=left_as.type.is_final)
        self.run_log.info(
            f"Flow run '{self.active.flow_run.name}' is {left_as.label} again, which it was before a request took"
            " effect that came late"
        )
        return left_as
