"""Tells the server that runs are about to be started: of several at the same moment in one request.

While one request is on its way, the runs that come meanwhile gather for the next. A run that comes alone waits for
nobody, and is told of by a plain request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs
import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import (
    APIError,
    APIUnavailableError,
    NotAuthenticatedError,
    NotPermittedError,
)
from trioworker.api.models import OrchestrationResult, ProposedState, SetStateStatus
from trioworker.runs.active import ActiveRun
from trioworker.runs.conclusion import submitting
from trioworker.runs.record import keep_together
from trioworker.runs.requests import STRIKES, RunRequests

_logger = logging.getLogger(__name__)

# The server sees to the runs of a request one after the other, and answers for all of them at the end.
_MOST = 10

# Seconds that a run waits for others' request to end, and then for its own to be answered, before it goes alone.
_LONGEST_WAIT = 2.0
_LONGEST_ANSWER = 10.0


@attrs.define(eq=False, repr=False)
class _Submission:
    """A run that waits for its turn.

    Attributes:
        run: the run.
        state: what is proposed for it.
        turn: set when there is an answer, or when it is to go on itself.
        leads: whether it is to send the next request, for itself and for those who wait.
        answer: the server's.
        patience: for how long it waits.
    """

    run: ActiveRun
    state: ProposedState = attrs.field(factory=submitting)
    turn: trio.Event = attrs.field(factory=trio.Event)
    leads: bool = False
    answer: OrchestrationResult | None = None
    patience: trio.CancelScope = attrs.field(
        factory=lambda: trio.CancelScope(deadline=trio.current_time() + _LONGEST_WAIT)
    )


class Submissions:
    """The runs of one worker that are about to be started.

    Args:
        api: the API.
    """

    def __init__(self, api: PrefectAPI) -> None:
        self._api = api
        self._waiting: list[_Submission] = []
        self._is_busy = False
        self._are_taken_together = True

    async def propose(self, requests: RunRequests) -> OrchestrationResult:
        """Propose that a run is `Submitting`, until the server has an answer that is not "wait".

        Raises:
            APIError: as `RunRequests.propose`.
        """
        submission = _Submission(requests.active)
        if not self._are_taken_together or _has_lease(requests.active):
            return await requests.propose(submission.state, strikes=STRIKES)
        if self._is_busy:
            await self._wait(submission)
            if not submission.leads:
                return submission.answer or await requests.propose(submission.state, strikes=STRIKES)
        self._is_busy = True
        try:
            if others := self._take_waiting():
                await self._ask_together([submission, *others])
            return submission.answer or await requests.propose(submission.state, strikes=STRIKES)
        finally:
            self._hand_over()

    async def _wait(self, submission: _Submission) -> None:
        self._waiting.append(submission)
        try:
            with submission.patience:
                await submission.turn.wait()
        except trio.Cancelled:
            if submission.leads:
                self._hand_over()
            raise
        finally:
            if submission in self._waiting:
                self._waiting.remove(submission)

    def _take_waiting(self) -> list[_Submission]:
        taken = self._waiting[: _MOST - 1] if self._are_taken_together else []
        del self._waiting[: len(taken)]
        return taken

    def _hand_over(self) -> None:
        """Let the next one send a request, if somebody waits; each for itself where that is the only way."""
        if not self._are_taken_together:
            for submission in self._waiting:
                submission.turn.set()
            self._waiting.clear()
        self._is_busy = bool(self._waiting)
        if self._waiting:
            successor = self._waiting.pop(0)
            successor.leads = True
            successor.turn.set()

    async def _ask_together(self, submissions: Sequence[_Submission]) -> None:
        """Ask for several; whoever has no answer then has to ask alone, with the same transition id."""
        state = submitting()
        for submission in submissions:
            submission.state = state
            submission.run.transition_ids.add(state.transition_id)
            submission.patience.deadline = trio.current_time() + _LONGEST_ANSWER
        try:
            await keep_together([submission.run.record for submission in submissions], state.transition_id)
            answers = await self._api.bulk_set_flow_run_state(
                [submission.run.flow_run.id for submission in submissions], state
            )
            for submission in submissions:
                _take_down(submission, answers.get(submission.run.flow_run.id))
        except trio.Cancelled:
            _note_doubt(submissions)
            raise
        except (APIUnavailableError, NotAuthenticatedError, NotPermittedError) as error:
            _note_doubt(submissions)
            _logger.debug("%d flow runs are submitted one by one: %s", len(submissions), error)
        except APIError as error:
            # An older server has no such request.
            self._are_taken_together = False
            _logger.debug("Flow runs are submitted one by one from now on: %s", error)
        finally:
            for submission in submissions:
                submission.turn.set()


def _has_lease(run: ActiveRun) -> bool:
    """Whether a run has a slot of its deployment's concurrency limit, which the server might mix up with others'."""
    return run.state is not None and run.state.state_details.deployment_concurrency_lease_id is not None


def _note_doubt(submissions: Sequence[_Submission]) -> None:
    """Take note that the request for several runs was not answered."""
    for submission in submissions:
        submission.run.note_doubt()


def _take_down(submission: _Submission, answer: OrchestrationResult | None) -> None:
    """Take an answer down, if it is one: not of a run that is not there, nor of one that the server failed at."""
    if answer is None or answer.status is SetStateStatus.WAIT:
        return
    if answer.status is SetStateStatus.ABORT and answer.state is None:
        return
    submission.answer = answer
    submission.run.state = answer.state or submission.run.state
