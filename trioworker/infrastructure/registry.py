"""The kinds of infrastructure that are available."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from trioworker.infrastructure.process import ProcessInfrastructure
from trioworker.infrastructure.protocol import Infrastructure
from trioworker.settings import Settings

ENTRY_POINT_GROUP = "trioworker.infrastructure"

# Made from the settings and the seconds that a run has between SIGTERM and SIGKILL.
InfrastructureFactory = Callable[[Settings, float], Infrastructure[Any]]


def available_types() -> Sequence[str]:
    """The names of all kinds, built in or installed."""
    return sorted({ProcessInfrastructure.type, *(point.name for point in _installed())})


def find_infrastructure(infrastructure_type: str) -> InfrastructureFactory | None:
    """The maker of a kind of infrastructure; None if there is none of that name."""
    if infrastructure_type == ProcessInfrastructure.type:
        return ProcessInfrastructure
    for point in _installed():
        if point.name == infrastructure_type:
            factory: InfrastructureFactory = point.load()
            return factory
    return None


def _installed() -> Sequence[EntryPoint]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))
