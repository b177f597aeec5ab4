"""For tests of programs that run a worker: a Prefect API that lives in memory and keeps virtual time."""

from __future__ import annotations

from trioworker.testing.fake_api import Call, FakePrefectAPI, Heartbeat, LeaseRenewal
from trioworker.testing.fake_infrastructure import (
    CalledHooks,
    Execution,
    FakeInfrastructure,
    FakeJob,
    Kill,
    Script,
)

__all__ = [
    "Call",
    "CalledHooks",
    "Execution",
    "FakeInfrastructure",
    "FakeJob",
    "FakePrefectAPI",
    "Heartbeat",
    "Kill",
    "LeaseRenewal",
    "Script",
]
