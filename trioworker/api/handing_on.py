"""Leave a flow run to any worker, but only once."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import attrs

from trioworker.api.client import PrefectAPI
from trioworker.api.models import (
    FlowRun,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
    StateDetails,
    StateType,
)


@attrs.define(eq=False, repr=False)
class HandingOn:
    """A state of type `SCHEDULED` that is proposed for a run, attempt by attempt.

    If an answer gets lost, the run may have been taken by another worker before the next attempt, and even have
    ended, and the server would schedule it once more. So before a repetition it is looked at.

    Attributes:
        api: the API.
        flow_run_id: of the run.
        state: what is proposed.
        is_ours: whether a run is as we have left it; if not, somebody has taken it.
    """

    api: PrefectAPI
    flow_run_id: UUID
    state: ProposedState
    is_ours: Callable[[FlowRun], bool]
    _sent: bool = attrs.field(default=False, init=False)

    async def attempt(self) -> OrchestrationResult:
        """Propose it, unless an earlier attempt has had its effect.

        Raises:
            APIError: as `PrefectAPI.set_flow_run_state`.
        """
        if self._sent:
            current = await self.api.read_flow_run(self.flow_run_id)
            if self._has_had_its_effect(current):
                return OrchestrationResult(status=SetStateStatus.ACCEPT, state=self._made())
        self._sent = True
        return await self.api.set_flow_run_state(self.flow_run_id, self.state)

    def _has_had_its_effect(self, current: FlowRun) -> bool:
        state = current.state
        if state is None or state.type is StateType.CANCELLING:
            return False
        return state.state_details.transition_id == self.state.transition_id or not self.is_ours(current)

    def _made(self) -> State:
        wanted = self.state
        details = StateDetails(scheduled_time=wanted.scheduled_time, transition_id=wanted.transition_id)
        return State(type=wanted.type, name=wanted.name, message=wanted.message, state_details=details)
