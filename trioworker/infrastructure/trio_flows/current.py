"""Which flow run a function is being called for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from uuid import UUID

import attrs

from trioworker.api.models import LogLine
from trioworker.lean_attrs import frozen


@frozen(kw_only=True)
class CurrentFlowRun:
    """The Prefect flow run that a function is being called for; got by `current_flow_run`.

    Attributes:
        id: the run's id on the server, as in `prefect.runtime.flow_run.id`.
        name: the run's name, for people.
        flow_name: the name of its flow.
        deployment_id: its deployment; None for a run without one.
        tags: of the run.
        attempt: 1 at first, 2 for the first retry, and so on; counted by the server, over all workers.
    """

    id: UUID
    name: str
    flow_name: str
    deployment_id: UUID | None
    tags: Sequence[str]
    attempt: int


@attrs.frozen(eq=False)
class RunInContext:
    """What is known of a call wherever its code has come to, in tasks and threads that it has started too.

    Attributes:
        flow_run: for people who write functions.
        owner: which handler of log records is to see to them.
        send: takes a line for the run's log on the server; None where that is not wanted.
    """

    flow_run: CurrentFlowRun
    owner: object = attrs.field(repr=False)
    send: Callable[[LogLine], None] | None = attrs.field(repr=False)


# The one way to know, deep within somebody's function, for which run that is called. Outside of calls it is empty.
run_in_context: ContextVar[RunInContext | None] = ContextVar("trioworker.flow_run", default=None)


def current_flow_run() -> CurrentFlowRun:
    """The flow run that the calling code belongs to: within a function served as a flow, and in what it starts.

    Raises:
        LookupError: the code was not called by a flow run.
    """
    run = run_in_context.get()
    if run is None:
        raise LookupError("this code was not called by a flow run of trioworker")
    return run.flow_run
