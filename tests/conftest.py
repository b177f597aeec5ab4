"""What the whole suite shares: the environment of processes, and who needs a real Prefect server."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import pytest

from trioworker.testing import PrefectServer
from trioworker.testing.server import without_settings

__all__ = ["PrefectServer", "clean_environment", "process_environment"]


def pytest_configure() -> None:
    # What `nohup` or a shell's background ignores, processes inherit as ignored; what is handled, they get as the
    # default.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _take_no_notice)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_no_notice(number: int, frame: FrameType | None) -> None:
    """Outlive the terminal, as `nohup` means it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment without any setting of Prefect's or our own, for the processes that tests start.

    They buffer their output as at most users': unbuffered, nothing would be left to write at the end.
    """
    clean = without_settings(environment)
    clean.pop("PYTHONUNBUFFERED", None)
    return clean


@pytest.fixture
def process_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that shall find no Prefect settings but those a test gives it."""
    return clean_environment() | {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
