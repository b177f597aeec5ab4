"""Run the flow runs of Prefect work pools from Trio."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioworker.api.errors import APIError, ObjectNotFoundError, RequestRefusedError
    from trioworker.api.models import StateType
    from trioworker.config import WorkerConfig
    from trioworker.embedding import open_worker
    from trioworker.errors import (
        ConfigurationError,
        GaveUpError,
        HealthServerError,
        WorkerError,
        WorkerRefusedError,
    )
    from trioworker.flows.declaration import TrioFlow
    from trioworker.flows.deployment import FlowDeployment
    from trioworker.flows.registration import DeploymentChange
    from trioworker.flows.schedules import Cron, Interval, RRule
    from trioworker.infrastructure.trio_flows.current import CurrentFlowRun, current_flow_run
    from trioworker.notices import Notice
    from trioworker.observation import (
        APILost,
        APIRegained,
        Happening,
        RunClaimed,
        RunFinished,
        RunHappening,
        RunStarted,
        RunStatus,
        Watch,
        WatchOverflow,
        WorkerPhase,
        WorkerStatus,
    )
    from trioworker.runs.active import RunEnd
    from trioworker.serving import TrioFlows
    from trioworker.settings import Settings, SettingsError
    from trioworker.surroundings import Surroundings
    from trioworker.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "APILost",
    "APIRegained",
    "ConfigurationError",
    "Cron",
    "CurrentFlowRun",
    "DeploymentChange",
    "FlowDeployment",
    "GaveUpError",
    "Happening",
    "HealthServerError",
    "Interval",
    "Notice",
    "ObjectNotFoundError",
    "RRule",
    "RequestRefusedError",
    "RunClaimed",
    "RunEnd",
    "RunFinished",
    "RunHappening",
    "RunStarted",
    "RunStatus",
    "Settings",
    "SettingsError",
    "StateType",
    "Surroundings",
    "TrioFlow",
    "TrioFlows",
    "Watch",
    "WatchOverflow",
    "Worker",
    "WorkerConfig",
    "WorkerError",
    "WorkerPhase",
    "WorkerRefusedError",
    "WorkerStatus",
    "__version__",
    "current_flow_run",
    "open_worker",
]

# Imported when first asked for: the command line, and programs that want one name, shall not pay for all.
_HOMES = {
    "APIError": "api.errors",
    "APILost": "observation",
    "APIRegained": "observation",
    "ConfigurationError": "errors",
    "Cron": "flows.schedules",
    "CurrentFlowRun": "infrastructure.trio_flows.current",
    "DeploymentChange": "flows.registration",
    "FlowDeployment": "flows.deployment",
    "GaveUpError": "errors",
    "Happening": "observation",
    "HealthServerError": "errors",
    "Interval": "flows.schedules",
    "Notice": "notices",
    "ObjectNotFoundError": "api.errors",
    "RRule": "flows.schedules",
    "RequestRefusedError": "api.errors",
    "RunClaimed": "observation",
    "RunEnd": "runs.active",
    "RunFinished": "observation",
    "RunHappening": "observation",
    "RunStarted": "observation",
    "RunStatus": "observation",
    "Settings": "settings",
    "SettingsError": "settings",
    "StateType": "api.models",
    "Surroundings": "surroundings",
    "TrioFlow": "flows.declaration",
    "TrioFlows": "serving",
    "Watch": "observation",
    "WatchOverflow": "observation",
    "Worker": "worker",
    "WorkerConfig": "config",
    "WorkerError": "errors",
    "WorkerPhase": "observation",
    "WorkerRefusedError": "errors",
    "WorkerStatus": "observation",
    "current_flow_run": "infrastructure.trio_flows.current",
    "open_worker": "embedding",
}

# To a type checker that saw this, every misspelt name would be one of ours.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
