"""What is asked of the API about one flow run, with the patience that each request deserves."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import attrs
import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError, APIUnavailableError, MalformedAnswerError, ObjectNotFoundError
from trioworker.api.handing_on import HandingOn
from trioworker.api.models import (
    Deployment,
    Flow,
    FlowRun,
    OrchestrationResult,
    ProposedState,
    SetStateStatus,
    State,
)
from trioworker.runs.active import ActiveRun
from trioworker.runs.log import RunLog
from trioworker.service import Rhythm, patiently

_logger = logging.getLogger(__name__)

# How often a request about a run that has not begun may fail while the API answers others. With the delays between
# them, and the attempts that each is on the wire, that takes some minutes; then the fault is the run's.
STRIKES = 8

# The same about a run that has, and whose end must be known: some two hours.
_STRIKES_ONCE_BEGUN = 60

T = TypeVar("T")


class DeploymentGoneError(Exception):
    """Somebody has deleted the run's deployment, so there is nothing to execute."""


@attrs.frozen(eq=False, repr=False)
class RunRequests:
    """The requests about one run.

    Each outlasts an outage of the API, however long it is. Where the API answers others and fails this run alone,
    patience has an end.

    Attributes:
        api: the API.
        active: the run; learns of every transition id that is proposed for it.
        patience: the delays between attempts.
        run_log: told what was reported.
    """

    api: PrefectAPI
    active: ActiveRun
    patience: Rhythm
    run_log: RunLog

    async def read(self) -> FlowRun:
        """The run as it is now; `ObjectNotFoundError` if it was deleted."""
        flow_run = await self._patiently(lambda: self.api.read_flow_run(self._flow_run.id))
        self.active.state = flow_run.state
        return flow_run

    async def history(self) -> list[State]:
        """All states of the run, oldest first."""
        return await self._patiently(lambda: self.api.read_flow_run_states(self._flow_run.id), STRIKES)

    async def flow(self, strikes: int = STRIKES) -> Flow:
        """The run's flow."""
        return await self._patiently(lambda: self.api.read_flow(self._flow_run.flow_id), strikes)

    async def deployment(self, deployment_id: UUID, strikes: int = STRIKES) -> Deployment:
        """The run's deployment, whose id this is.

        Raises:
            DeploymentGoneError: it was deleted.
        """
        try:
            return await self._patiently(lambda: self.api.read_deployment(deployment_id), strikes)
        except ObjectNotFoundError as error:
            message = f"Deployment {deployment_id} no longer exists, cancelled run."
            raise DeploymentGoneError(message) from error

    async def document(self) -> dict[str, Any]:
        """The run whole, as the API shows it."""
        return await self._patiently(lambda: self.api.read_flow_run_document(self._flow_run.id), STRIKES)

    async def block(self, type_slug: str, name: str) -> Mapping[str, Any]:
        """The data of a block document; `ObjectNotFoundError` if there is none of that name."""
        document = await self._patiently(lambda: self.api.read_block_document(type_slug, name), STRIKES)
        return document.data

    async def block_by_id(self, block_document_id: str) -> Mapping[str, Any]:
        """The data of a block document; `ObjectNotFoundError` if there is none of that id."""
        document = await self._patiently(
            lambda: self.api.read_block_document_by_id(block_document_id), STRIKES
        )
        return document.data

    async def variable(self, name: str) -> Any:
        """The value of a Prefect variable; `ObjectNotFoundError` if there is none of that name."""
        return await self._patiently(lambda: self.api.read_variable(name), STRIKES)

    async def report_place(self, identifier: str) -> None:
        """Record where the run runs; that it cannot be done is said and harms nothing."""
        try:
            await self._patiently(lambda: self.api.set_infrastructure_pid(self._flow_run.id, identifier))
        except APIError as error:
            self.run_log.warning(
                f"The process id could not be reported, so the server may not know it: {error}"
            )

    async def forget_place(self) -> None:
        """Record that the run runs nowhere; that it cannot be done is said and harms nothing.

        Of a run that waits without a place the server sees to a cancellation itself; otherwise it waits for whoever
        is there.
        """
        try:
            await self._patiently(lambda: self.api.set_infrastructure_pid(self._flow_run.id, ""))
        except APIError as error:
            self.run_log.warning(f"The run's place could not be taken back, where it no longer is: {error}")

    async def release_slot(self, lease_id: UUID | None) -> None:
        """Give back the slot of the deployment's concurrency limit; that it cannot be done is said and harms nothing.

        Args:
            lease_id: on the slot; None if there is none.
        """
        if lease_id is None:
            return
        try:
            await self._patiently(lambda: self.api.release_concurrency_lease(lease_id))
        except APIError as error:
            self.run_log.warning(
                f"The slot of the deployment's concurrency limit stays taken for a while: {error}"
            )

    async def propose(
        self, state: ProposedState, *, force: bool = False, strikes: int = _STRIKES_ONCE_BEGUN
    ) -> OrchestrationResult:
        """Propose a state until the server has an answer that is not "wait"."""
        self.active.transition_ids.add(state.transition_id)
        await self.active.record.propose(state.transition_id)
        if state.hands_on:
            action = HandingOn(self.api, self._flow_run.id, state, self._is_ours).attempt
        else:
            action = partial(self.api.set_flow_run_state, self._flow_run.id, state, force=force)
        while True:
            result = await self._patiently(partial(self._without_doubt, action), strikes)
            if result.state is not None:
                self.active.state = result.state
            if result.status is not SetStateStatus.WAIT:
                return result
            await trio.sleep(max(result.details.delay_seconds, 0.1))

    async def _without_doubt(self, action: Callable[[], Awaitable[T]]) -> T:
        """Make a request for a state; should its answer not come, take note that it may yet take effect."""
        try:
            return await action()
        except (APIUnavailableError, MalformedAnswerError, trio.Cancelled):
            self.active.note_doubt()
            raise

    async def report(self, *states: ProposedState, write: Callable[[str], None] | None = None) -> bool:
        """Propose states in order; False as soon as one is not accepted.

        Args:
            states: what to propose.
            write: told what was reported; by default this machine's log.
        """
        write = write or self.run_log.note
        for state in states:
            result = await self.propose(state)
            if not result.has_made(state):
                return False
            message = f"Reported flow run '{self._flow_run.id}' as {state.name.lower()}"
            write(f"{message}: {state.message}" if state.message else message)
        return True

    def _is_ours(self, current: FlowRun) -> bool:
        return self.active.has_proposed(current.state)

    @property
    def _flow_run(self) -> FlowRun:
        return self.active.flow_run

    async def _patiently(self, action: Callable[[], Awaitable[T]], strikes: int = _STRIKES_ONCE_BEGUN) -> T:
        def note(error: APIError) -> None:
            _logger.debug("Flow run %r waits for the API: %s", self._flow_run.name, error)

        return await patiently(action, self.patience, self.api.condition, strikes=strikes, on_failure=note)
