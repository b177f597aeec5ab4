"""The runs that this worker has in hand, and the slots that they take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import attrs
import trio

from trioworker.api.models import FlowRun


@attrs.define(eq=False)
class ActiveRun:
    """A run in hand, from before it is claimed until after it has ended.

    Attributes:
        flow_run: the run as it was when it was found.
        identifier: where it runs, once it does.
        transition_ids: of every state that this worker proposed for it.
        cancel_requested: set when somebody wants it cancelled.
    """

    flow_run: FlowRun
    identifier: str | None = None
    transition_ids: set[UUID] = attrs.field(factory=set)
    cancel_requested: trio.Event = attrs.field(factory=trio.Event)


class ActiveRuns:
    """Every run in hand, by id. A run holds its slot for as long as it is in here.

    Args:
        limit: how many may be in hand at once; None for any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._by_id: dict[UUID, ActiveRun] = {}

    def __len__(self) -> int:
        """How many runs are in hand."""
        return len(self._by_id)

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
    def hold(self, flow_run: FlowRun) -> Iterator[ActiveRun]:
        """Keep a run in hand, and a slot with it, for the length of a block."""
        run = ActiveRun(flow_run)
        self._by_id[flow_run.id] = run
        try:
            yield run
        finally:
            del self._by_id[flow_run.id]
