"""The steps at which faults come: each is named by what is done there, before or after it has had its effect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from trioworker.api.models import ProposedState, StateType
from trioworker.ledger.entry import Entry, Stage

# What a worker asks of the API, by methods; what it asks for with a state is told apart by that.
_REQUESTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "read_work_pool": "read pool",
        "create_work_pool": "read pool",
        "update_work_pool_template": "read pool",
        "read_work_queues": "read pool",
        "send_worker_heartbeat": "heartbeat",
        "get_scheduled_flow_runs": "poll",
        "find_cancelling_flow_runs": "look for cancellations",
        "read_flow_run": "read run",
        "read_flow_run_document": "read document",
        "read_flow_run_states": "read history",
        "bulk_set_flow_run_state": "submit",
        "set_infrastructure_pid": "report place",
        "update_flow_run_labels": "label",
        "release_concurrency_lease": "release slot",
        "read_deployment": "read deployment",
        "read_flow": "read flow",
        "send_events": "send events",
        "send_logs": "send logs",
        "open_state_changes": "listen",
    }
)

REQUESTS: Final = (
    *dict.fromkeys(_REQUESTS.values()),
    "claim",
    "report crashed",
    "report cancelled",
    "give back",
    "hand on",
    "put back",
)

# Those by which a run is left to whoever takes it.
HANDING_OVER: Final = frozenset({"give back", "hand on", "put back"})

WRITES: Final = (
    "open ledger",
    "write claim",
    "write proposal",
    "write launching",
    "write launched",
    "write end",
    "strike out",
    "take over ledgers",
    "let ledgers go",
)

ACTIONS: Final = ("start", "find", "adopt", "clear", "kill", "cut off", "call hooks")

# What the process of a run does, whoever watches it.
OF_PROCESS: Final = ("run starts", "run begins", "run reports", "run ends")

STEPS: Final = (
    *(f"{moment} {what}" for what in (*REQUESTS, *WRITES, *ACTIONS) for moment in ("before", "after")),
    *OF_PROCESS,
)


def of_request(method: str, arguments: Sequence[Any]) -> str:
    """What a call of a method of `PrefectAPI` is for."""
    if method != "set_flow_run_state":
        return _REQUESTS[method]
    state: ProposedState = arguments[1]
    match state.type:
        case StateType.PENDING:
            return "submit" if state.name == "Submitting" else "claim"
        case StateType.CRASHED:
            return "report crashed"
        case StateType.CANCELLED:
            return "report cancelled"
        case StateType.SCHEDULED:
            return "hand on" if state.name == "AwaitingRetry" else "give back"
        case _:
            return "put back"


def of_write(kept: Sequence[Entry], known: Collection[UUID]) -> str:
    """What a write to a ledger is for.

    Args:
        kept: the entries that are written.
        known: the attempts of which the ledger knows already.
    """
    if not kept:
        return "strike out"
    entry = kept[0]
    match entry.stage:
        case Stage.CLAIMED if entry.attempt not in known:
            return "write claim"
        case Stage.LAUNCHING:
            return "write launching"
        case Stage.LAUNCHED:
            return "write launched"
        case Stage.ENDED if len(entry.transition_ids) <= 2:
            return "write end"
        case _:
            return "write proposal"
