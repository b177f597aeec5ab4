"""For tests of programs that run a worker: a Prefect API that lives in memory and keeps virtual time."""

from __future__ import annotations

from trioworker.testing.fake_api import Call, FakePrefectAPI, Heartbeat

__all__ = ["Call", "FakePrefectAPI", "Heartbeat"]
