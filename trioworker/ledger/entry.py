"""What is written down of one attempt at a flow run."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Literal
from uuid import UUID

from trioworker.api.models import FlowRun
from trioworker.infrastructure.protocol import Trace
from trioworker.lean_attrs import frozen

__all__ = ["Entry", "Fate", "Stage"]

# What is to become of a run whose process is gone, if that was decided before: as a state type of Prefect's says it.
Fate = Literal["CRASHED", "SCHEDULED"]


class Stage(enum.StrEnum):
    """How far an attempt at a flow run has come.

    Attributes:
        CLAIMED: its claim may have been sent to the server; nothing was started for it.
        LAUNCHING: it is about to be started, or was.
        LAUNCHED: it was started.
        ENDED: what was started for it has ended.
    """

    CLAIMED = "claimed"
    LAUNCHING = "launching"
    LAUNCHED = "launched"
    ENDED = "ended"


@frozen(kw_only=True)
class Entry:
    """One attempt at a flow run, from before it is claimed until its end is settled.

    No secrets are among all this: neither the parameters of the run nor its environment.

    Attributes:
        attempt: the transition id of the claim, which no two attempts share.
        flow_run_id: of the run.
        flow_run_name: of the run.
        flow_id: of its flow.
        deployment_id: of its deployment, if it has one.
        worker_name: of the worker that has claimed it.
        due: when it was to start.
        found_as: the id of the state in which it was found to be due.
        found_at: where it was said to run then, from an earlier attempt; None for nowhere.
        stage: how far it has come.
        transition_ids: of every state that was proposed for it, the claim's among them.
        trace: by which what was started for it can be found.
        ended: how that ended, as a sentence for the run's state; empty if it has not, or nobody knows.
        fate: what is to become of the run then, if the worker has decided that; None to go by the server's state.
    """

    attempt: UUID
    flow_run_id: UUID
    flow_run_name: str
    flow_id: UUID
    deployment_id: UUID | None = None
    worker_name: str = ""
    due: datetime | None = None
    found_as: UUID | None = None
    found_at: str | None = None
    stage: Stage = Stage.CLAIMED
    transition_ids: frozenset[UUID] = frozenset()
    trace: Trace | None = None
    ended: str = ""
    fate: Fate | None = None

    @property
    def flow_run(self) -> FlowRun:
        """The run, as far as it is known from here."""
        return FlowRun(
            id=self.flow_run_id,
            name=self.flow_run_name,
            flow_id=self.flow_id,
            deployment_id=self.deployment_id,
            next_scheduled_start_time=self.due,
            state_id=self.found_as,
            infrastructure_pid=self.found_at,
        )
