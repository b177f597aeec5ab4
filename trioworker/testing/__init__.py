"""For tests of programs that run a worker: a Prefect API that lives in memory and keeps virtual time.

As a pytest plugin it is there by itself, with the fixtures `prefect_api` and `prefect_server`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioworker.testing.fake_api import Call, FakePrefectAPI, Heartbeat, LeaseRenewal
    from trioworker.testing.fake_infrastructure import (
        CalledHooks,
        Execution,
        FakeInfrastructure,
        FakeJob,
        Kill,
        Script,
    )
    from trioworker.testing.fake_prefect import FakePrefect
    from trioworker.testing.schedules import ScheduleError, occurrences
    from trioworker.testing.server import PrefectServer, ServerStartError

__all__ = [
    "Call",
    "CalledHooks",
    "Execution",
    "FakeInfrastructure",
    "FakeJob",
    "FakePrefect",
    "FakePrefectAPI",
    "Heartbeat",
    "Kill",
    "LeaseRenewal",
    "PrefectServer",
    "ScheduleError",
    "Script",
    "ServerStartError",
    "occurrences",
]

# Imported when first asked for: pytest imports the plugin next to this in every test run.
_HOMES = {
    "Call": "fake_api",
    "CalledHooks": "fake_infrastructure",
    "Execution": "fake_infrastructure",
    "FakeInfrastructure": "fake_infrastructure",
    "FakeJob": "fake_infrastructure",
    "FakePrefect": "fake_prefect",
    "FakePrefectAPI": "fake_api",
    "Heartbeat": "fake_api",
    "Kill": "fake_infrastructure",
    "LeaseRenewal": "fake_api",
    "PrefectServer": "server",
    "ScheduleError": "schedules",
    "Script": "fake_infrastructure",
    "ServerStartError": "server",
    "occurrences": "schedules",
}

# To a type checker that saw this, every misspelt name would be one of ours.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
