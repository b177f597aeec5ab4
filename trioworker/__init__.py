"""Run the flow runs of Prefect work pools from Trio."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioworker.api.errors import APIError
    from trioworker.config import WorkerConfig
    from trioworker.embedding import open_worker
    from trioworker.errors import (
        ConfigurationError,
        GaveUpError,
        HealthServerError,
        WorkerError,
        WorkerRefusedError,
    )
    from trioworker.notices import Notice
    from trioworker.settings import Settings, SettingsError
    from trioworker.surroundings import Surroundings
    from trioworker.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "ConfigurationError",
    "GaveUpError",
    "HealthServerError",
    "Notice",
    "Settings",
    "SettingsError",
    "Surroundings",
    "Worker",
    "WorkerConfig",
    "WorkerError",
    "WorkerRefusedError",
    "__version__",
    "open_worker",
]

# Imported when first asked for: the command line, and programs that want one name, shall not pay for all.
_HOMES = {
    "APIError": "api.errors",
    "ConfigurationError": "errors",
    "GaveUpError": "errors",
    "HealthServerError": "errors",
    "Notice": "notices",
    "Settings": "settings",
    "SettingsError": "settings",
    "Surroundings": "surroundings",
    "Worker": "worker",
    "WorkerConfig": "config",
    "WorkerError": "errors",
    "WorkerRefusedError": "errors",
    "open_worker": "embedding",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
