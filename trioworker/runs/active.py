"""The runs that this worker has in hand, and the slots that they take."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

import attrs
import trio

from trioworker.api.models import FlowRun, State
from trioworker.lean_attrs import frozen
from trioworker.ledger.ledger import Ledger
from trioworker.runs.record import RunRecord


class RunEnd(enum.StrEnum):
    """How a worker came to be done with a flow run that it had claimed. Not Prefect's state of the run, but ours.

    Attributes:
        EXECUTED: what was started for it has come to its end, by itself or because somebody cancelled the run.
        NOT_STARTED: nothing could be started for it, or it was cancelled before; its state says so.
        GIVEN_BACK: it was offered again to any worker, before anything was started for it.
        LOST: it has turned out to be another worker's, or was ended or deleted by somebody.
        CUT_OFF: the worker's own end came before that of the run, and the run's state says so.
        LEFT: it goes on without this worker, for the one that comes next.
        UNSETTLED: its state is what it was, though it should not be: the API refused to hear of it, did not answer in
            time, or there is a bug.
    """

    EXECUTED = "executed"
    NOT_STARTED = "not started"
    GIVEN_BACK = "given back"
    LOST = "lost"
    CUT_OFF = "cut off"
    LEFT = "left"
    UNSETTLED = "unsettled"


@frozen
class Ending:
    """The end of a run, as far as this worker is concerned.

    Attributes:
        how: what kind of end it was.
        message: the same as a sentence.
        status_code: of what was started for the run; None if nothing was, or if nobody knows.
    """

    how: RunEnd
    message: str = ""
    status_code: int | None = None


class RunObserver(Protocol):
    """Is told what becomes of the runs in hand. Its methods return at once and raise nothing."""

    def run_claimed(self, run: ActiveRun) -> None:
        """It is certain that a run is this worker's."""
        ...

    def run_started(self, run: ActiveRun) -> None:
        """A run has got its identifier."""
        ...

    def run_finished(self, run: ActiveRun, ending: Ending) -> None:
        """A run that was claimed is not in hand any more."""
        ...


class NoObserver:
    """Nobody looks."""

    def run_claimed(self, run: ActiveRun) -> None:
        """See `RunObserver.run_claimed`."""

    def run_started(self, run: ActiveRun) -> None:
        """See `RunObserver.run_started`."""

    def run_finished(self, run: ActiveRun, ending: Ending) -> None:
        """See `RunObserver.run_finished`."""


@attrs.define(eq=False, repr=False)
class ActiveRun:
    """A run in hand, from before it is claimed until after it has ended.

    Attributes:
        flow_run: the run as it was when it was found.
        observer: told what becomes of it.
        found_at: when it was found to be due, in seconds on Trio's clock.
        taken_at: since when it is in hand, on the same clock.
        flow_name: the name of its flow, once that is known.
        claimed: whether it is certain that it is this worker's.
        identifier: where it runs, once it does.
        state: as the API last showed it.
        ending: how it ended, once that is known.
        transition_ids: of every state that this worker proposed for it, or the one whose run it has taken over.
        cancel_requested: set when somebody wants it cancelled.
        in_doubt_since: when a request for a state was last without an answer, so that it may yet take effect, on
            Trio's clock; None if all were answered.
        record: what the ledger knows of it.
    """

    flow_run: FlowRun
    observer: RunObserver = attrs.field(factory=NoObserver)
    found_at: float = attrs.field(factory=trio.current_time)
    taken_at: float = attrs.field(factory=trio.current_time)
    flow_name: str | None = None
    claimed: bool = False
    identifier: str | None = None
    state: State | None = attrs.field(
        default=attrs.Factory(lambda self: self.flow_run.state, takes_self=True)
    )
    ending: Ending | None = None
    transition_ids: set[UUID] = attrs.field(factory=set)
    cancel_requested: trio.Event = attrs.field(factory=trio.Event)
    in_doubt_since: float | None = None
    record: RunRecord = attrs.field(
        default=attrs.Factory(lambda self: RunRecord(Ledger(), self.flow_run, ""), takes_self=True)
    )

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do about it, for this worker or the next."""
        return self.ending is not None and self.ending.how not in {RunEnd.LEFT, RunEnd.UNSETTLED}

    def has_proposed(self, state: State | None) -> bool:
        """Whether a state is one that this worker proposed."""
        return state is not None and state.state_details.transition_id in self.transition_ids

    def note_claim(self) -> None:
        """Take note, once, that the run is certainly this worker's."""
        if not self.claimed:
            self.claimed = True
            self.observer.run_claimed(self)

    def note_doubt(self) -> None:
        """Take note that a request for a state was not answered."""
        self.in_doubt_since = trio.current_time()

    def note_start(self, identifier: str) -> None:
        """Take note of where the run runs."""
        self.identifier = identifier
        self.observer.run_started(self)

    def note_end(self, how: RunEnd, message: str = "", status_code: int | None = None) -> None:
        """Take note of how the run ended; what comes of it later does not change that."""
        if self.ending is None:
            self.ending = Ending(how, message, status_code)


class ActiveRuns:
    """Every run in hand, by id. A run holds its slot for as long as it is in here.

    Args:
        limit: how many may be in hand at once; None for any number.
        observer: told what becomes of them.
    """

    def __init__(self, limit: int | None, observer: RunObserver | None = None) -> None:
        self._limit = limit
        self._observer = observer or NoObserver()
        self._by_id: dict[UUID, ActiveRun] = {}

    def __len__(self) -> int:
        """How many runs are in hand."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[ActiveRun]:
        """The runs in hand, the one that was taken first first."""
        return iter(self._by_id.values())

    def __contains__(self, flow_run_id: object) -> bool:
        """Whether the run is in hand."""
        return flow_run_id in self._by_id

    @property
    def free(self) -> int | None:
        """How many more runs may be taken in hand; None for any number."""
        return None if self._limit is None else max(0, self._limit - len(self._by_id))

    def get(self, flow_run_id: UUID) -> ActiveRun | None:
        """The run, if it is in hand."""
        return self._by_id.get(flow_run_id)

    @contextmanager
    def hold(self, flow_run: FlowRun, found_at: float | None = None) -> Iterator[ActiveRun]:
        """Keep a run in hand, and a slot with it, for the length of a block.

        Args:
            flow_run: the run.
            found_at: when it was found to be due, on Trio's clock; now if not given.
        """
        now = trio.current_time()
        run = ActiveRun(flow_run, self._observer, now if found_at is None else found_at, now)
        self._by_id[flow_run.id] = run
        try:
            yield run
        finally:
            # Should somebody else have taken it in hand meanwhile, it stays there.
            if self._by_id.get(flow_run.id) is run:
                del self._by_id[flow_run.id]
            if run.claimed:
                nothing_known = Ending(RunEnd.UNSETTLED, "nothing is known of its end")
                self._observer.run_finished(run, run.ending or nothing_known)
