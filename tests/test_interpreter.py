"""Which interpreter runs flows, and what Prefect stands beside the worker."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

from trioworker.errors import ConfigurationError
from trioworker.infrastructure.interpreter import find_interpreter, installed_prefect_version


@pytest.fixture
def no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(importlib.metadata, "version", missing)


def test_configured_interpreter_is_called_by_the_name_that_it_has(tmp_path: Path) -> None:
    """The interpreter of a virtual environment is a link, and knows by its name what it belongs to."""
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert find_interpreter(str(link)) == str(link)


def test_configured_interpreter_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="TRIOWORKER_PYTHON is '/no/such/python'"):
        find_interpreter("/no/such/python")


@pytest.mark.usefixtures("no_prefect")
def test_worker_without_prefect_beside_it_needs_an_interpreter_that_has_it() -> None:
    with pytest.raises(ConfigurationError, match="or set TRIOWORKER_PYTHON to a Python that has it"):
        find_interpreter(None)
    assert installed_prefect_version() is None
