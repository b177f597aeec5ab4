"""The kinds of infrastructure that are available: built in, or brought by installed packages.

A package brings a kind by an entry point of the group `trioworker.infrastructure`, whose name is the kind's type
and whose object makes the infrastructure from `Settings` and the seconds that a run has between SIGTERM and SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trioworker.infrastructure.protocol import Infrastructure
from trioworker.lean_attrs import frozen
from trioworker.settings import Settings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

ENTRY_POINT_GROUP = "trioworker.infrastructure"

# Made from the settings and the seconds that a run has between SIGTERM and SIGKILL.
InfrastructureFactory = Callable[[Settings, float], Infrastructure[Any]]


def _process_infrastructure(settings: Settings, kill_grace: float) -> Infrastructure[Any]:
    # Here, since workers of other kinds do without it, and the command imports it while it waits for the API.
    from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure  # noqa: PLC0415

    return ProcessInfrastructure(settings, kill_grace)


BUILT_IN: Mapping[str, InfrastructureFactory] = {"process": _process_infrastructure}

_MEMBERS = sorted(
    name for name in {*vars(Infrastructure), *Infrastructure.__annotations__} if not name.startswith("_")
)


class BrokenKindError(Exception):
    """A package says that it brings a kind of infrastructure, but does not; the message names both and why."""


@frozen
class Provider:
    """An installed package that brings a kind."""

    package: str
    version: str


def available_types() -> Sequence[str]:
    """The names of all kinds, built in or installed."""
    return sorted({*BUILT_IN, *kinds_of(_entry_points())})


def kinds_of(points: Iterable[EntryPoint]) -> frozenset[str]:
    """The names of the kinds that entry points bring."""
    return frozenset(point.name for point in points if point.group == ENTRY_POINT_GROUP)


def find_provider(infrastructure_type: str) -> Provider | None:
    """The installed package that brings a kind; None if none does, or the kind is built in."""
    point = _installed(infrastructure_type)
    if point is None or point.dist is None:
        return None
    return Provider(point.dist.name, point.dist.version)


def make_infrastructure(
    infrastructure_type: str, settings: Settings, kill_grace: float
) -> Infrastructure[Any] | None:
    """Make a kind of infrastructure; None if there is none of that name.

    Args:
        infrastructure_type: the name of the kind.
        settings: the settings of the worker.
        kill_grace: seconds between SIGTERM and SIGKILL for runs that are cut off.

    Raises:
        BrokenKindError: a package brings the kind, but it cannot be used.
    """
    if infrastructure_type in BUILT_IN:
        return BUILT_IN[infrastructure_type](settings, kill_grace)
    point = _installed(infrastructure_type)
    if point is None:
        return None
    try:
        infrastructure = point.load()(settings, kill_grace)
    except Exception as error:
        # Somebody else's code may raise whatever it likes. It is no coroutine, so nothing of Trio's is among that.
        raise _broken(point, f"{type(error).__name__}: {error}") from error
    missing = [name for name in _MEMBERS if not hasattr(infrastructure, name)]
    if missing:
        made = type(infrastructure).__name__
        raise _broken(point, f"it makes a {made}, which has no {', '.join(missing)}")
    if infrastructure.type != infrastructure_type:
        raise _broken(point, f"what it makes is of type {infrastructure.type!r}")
    checked: Infrastructure[Any] = infrastructure
    return checked


def _installed(infrastructure_type: str) -> EntryPoint | None:
    if infrastructure_type in BUILT_IN:
        return None
    for point in _entry_points():
        if point.name == infrastructure_type:
            return point
    return None


def _entry_points() -> EntryPoints:
    # A worker of a kind that is built in need not look for others, and does without what looks for them.
    from importlib.metadata import entry_points  # noqa: PLC0415

    return entry_points(group=ENTRY_POINT_GROUP)


def _broken(point: EntryPoint, reason: str) -> BrokenKindError:
    package = (
        "An unknown package" if point.dist is None else f"Package {point.dist.name} {point.dist.version}"
    )
    return BrokenKindError(
        f"{package} brings the worker type {point.name!r}, but its entry point {point.value!r}"
        f" (group {ENTRY_POINT_GROUP}) cannot be used: {reason}. Update or uninstall the package."
    )
