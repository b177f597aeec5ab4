"""A flow run of the fake with all that the API shows of one, for those who want more than a worker reads."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from trioworker.api.converter import unstructure
from trioworker.api.models import State, StateType
from trioworker.testing.records import Run

# What the API shows of every run or state, and what in the fake is never anything else.
_NEVER_SET_IN_RUN = (
    "deployment_version",
    "flow_version",
    "parent_task_run_id",
    "infrastructure_document_id",
    "created_by",
)
_NEVER_SET_IN_STATE = (
    "task_run_id",
    "child_flow_run_id",
    "cache_key",
    "cache_expiration",
    "pause_timeout",
    "pause_key",
    "run_input_keyset",
    "refresh_cache",
    "retriable",
    "task_parameters_id",
    "traceparent",
)


def flow_run_document(run: Run, *, now: datetime) -> dict[str, Any]:
    """What `GET /flow_runs/{id}` answers, decoded.

    Args:
        run: the run.
        now: the server's time, for the estimates.

    Which of its pauses a run has passed is not noted in its policy.
    """
    state = _state(run)
    created, updated = _moment(run.states[0]), _moment(run.state)
    ran = _time_running(run)
    runs_for = now - updated if run.state.type is StateType.RUNNING else timedelta()
    is_waiting = run.state.type is StateType.SCHEDULED
    document = {
        **dict.fromkeys(_NEVER_SET_IN_RUN),
        **unstructure(run.public),
        "created": created.isoformat(),
        "updated": updated.isoformat(),
        "state": state,
        "state_id": state["id"],
        "state_type": state["type"],
        "state_name": state["name"],
        "work_queue_id": str(run.queue.id),
        "work_pool_id": str(run.pool.public.id),
        "work_pool_name": run.pool.public.name,
        "idempotency_key": run.idempotency_key,
        "labels": run.labels,
        "context": {},
        "empirical_policy": {
            "max_retries": 0,
            "retry_delay_seconds": 0.0,
            **unstructure(run.public.empirical_policy),
        },
        "expected_start_time": run.expected.isoformat(),
        "next_scheduled_start_time": run.due.isoformat() if is_waiting else None,
        "end_time": updated.isoformat() if run.state.type.is_final else None,
        "total_run_time": ran.total_seconds(),
        "estimated_run_time": (ran + runs_for).total_seconds(),
        "estimated_start_time_delta": run.lateness(now),
        "auto_scheduled": run.auto_scheduled,
    }
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _state(run: Run) -> dict[str, Any]:
    state = unstructure(run.state)
    suspended = run.state.type is StateType.PAUSED and run.state.name == "Suspended"
    state["id"] = str(_state_id(run))
    state["state_details"] |= {
        **dict.fromkeys(_NEVER_SET_IN_STATE),
        "flow_run_id": str(run.public.id),
        "deferred": False,
        "untrackable_result": False,
        "pause_reschedule": suspended,
    }
    return state


def _state_id(run: Run) -> UUID:
    assert run.state.id is not None  # noqa: S101 - the fake gives every state one
    return run.state.id


def _moment(state: State) -> datetime:
    assert state.timestamp is not None  # noqa: S101 - the fake gives every state one
    return state.timestamp


def _time_running(run: Run) -> timedelta:
    """How long the run has been running, less the time since it last began to."""
    return sum(
        (
            _moment(after) - _moment(before)
            for before, after in pairwise(run.states)
            if before.type is StateType.RUNNING
        ),
        timedelta(),
    )
