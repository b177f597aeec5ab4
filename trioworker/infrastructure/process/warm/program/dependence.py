"""What a process depends on that has imported Prefect: a fresh one must have found it the same.

Of the environment it is what has its effect while Python starts and modules are imported. All the rest of it is only
looked at later, and can be set in the child.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .unfit import UnfitError

_PREFIXES = (
    # Prefect's settings, and how its logs look.
    "PREFECT_",
    "XDG_",
    # The interpreter, the C library and what they load.
    "PYTHON",
    "LC_",
    "LANG",
    "LD_",
    "MALLOC_",
    "GLIBC_",
    "OPENSSL_",
    "SSL",
    # What libraries read when they are imported, those that Prefect uses first.
    "COOLNAME_",
    "DO_NOT_TRACK",
    "FSSPEC_",
    "GRIFFE_",
    "OTEL_",
    "PENDULUM_",
    "PROMETHEUS_",
    "prometheus_",
    "PYDANTIC_",
    "WEBSOCKETS_",
    "COVERAGE_",
    "OMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "GOTO_",
    "BLIS_",
    "NUMEXPR_",
    "NUMBA_",
    "CUDA_",
)
_NAMES = frozenset(
    {
        "HOME",
        "TERM",
        "COLORTERM",
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
        "JUPYTER_COLUMNS",
        "JUPYTER_LINES",
    }
)
# Of a single flow run: its ids, its control channel.
_OF_RUN = "PREFECT__"

_IMPORTED_AT_START = frozenset({"sitecustomize", "usercustomize"})

Fingerprint = dict[str, tuple[int, int] | None]


def matters_at_start(name: str) -> bool:
    """Whether a variable of the environment may have its effect before a flow is loaded."""
    return (name in _NAMES or name.startswith(_PREFIXES)) and not name.startswith(_OF_RUN)


def environment_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a template has to be started with."""
    return {name: value for name, value in environment.items() if matters_at_start(name)}


def difference(first: Mapping[str, str], second: Mapping[str, str], *, but: Iterable[str] = ()) -> list[str]:
    """The names of variables that matter at the start and are not the same in two environments."""
    one, other = environment_at_start(first), environment_at_start(second)
    changed = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    return sorted(changed.difference(but))


def fingerprint(paths: Iterable[str]) -> Fingerprint:
    """By what it shows whether files and directories have changed; None for one that is not there."""
    return {path: _look_at(path) for path in paths}


def require_unchanged(before: Fingerprint) -> None:
    """See to it that files and directories are what they were.

    Raises:
        UnfitError: one is not, so that another template is needed.
    """
    for path, look in before.items():
        if _look_at(path) != look:
            raise UnfitError(f"{path} has changed", is_stale=True)


def imported_files() -> list[str]:
    """The files of all modules, and the directories that change whenever a package is installed or removed."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return sorted({path for path in [*files, *packages] if isinstance(path, str) and path})


def require_no_settings_in(directory: str) -> None:
    """See to it that Prefect would find no settings in a directory that a process starts in.

    Raises:
        UnfitError: it would, or cannot tell.
    """
    import dotenv  # noqa: PLC0415 - Prefect's, so it is there once Prefect is
    from prefect._internal.compatibility.backports import tomllib  # noqa: PLC0415

    prefect_toml, dot_env, pyproject_toml = (
        Path(directory, name) for name in ("prefect.toml", ".env", "pyproject.toml")
    )
    if os.path.lexists(prefect_toml):
        raise UnfitError("there is a prefect.toml in the working directory")
    if os.path.lexists(dot_env):
        try:
            names = dotenv.dotenv_values(dot_env)
        except (OSError, ValueError) as error:
            raise UnfitError(f"the .env in the working directory cannot be read ({error})") from error
        if any(name.upper().startswith("PREFECT") for name in names):
            raise UnfitError("there are Prefect settings in the .env of the working directory")
    if os.path.lexists(pyproject_toml):
        try:
            document = tomllib.loads(pyproject_toml.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UnfitError(
                f"the pyproject.toml in the working directory cannot be read ({error})"
            ) from error
        if "prefect" in document.get("tool", {}):
            raise UnfitError("there are Prefect settings in the pyproject.toml of the working directory")


def require_nothing_shadowed(directories: Iterable[str], imported: frozenset[str]) -> None:
    """See to it that directories, in which modules are looked for first, have none that was imported from elsewhere.

    Args:
        directories: where to look.
        imported: what was imported, without what is in packages.

    Raises:
        UnfitError: there is one, or one that Python would import at its start.
    """
    for directory in directories:
        if not os.path.isdir(directory):  # noqa: PTH112 - that of `Path` raises if it may not look
            if os.path.lexists(directory):
                raise UnfitError(f"modules are to be imported from {directory}, which is no directory")
            continue
        found = [name for name in _modules_in(directory) if name in imported or name in _IMPORTED_AT_START]
        shadows = sorted(name for name in found if not _is_from(name, directory))
        if shadows:
            raise UnfitError(f"{directory} has a module {shadows[0]!r} of its own")


def _modules_in(directory: str) -> list[str]:
    # Where it may not look, Python finds no modules, and goes on.
    try:
        entries = os.listdir(directory)  # noqa: PTH208
    except OSError:
        return []
    found: list[str] = []
    for entry in entries:
        name, dot, _ = entry.partition(".")
        is_module = bool(dot) and entry.endswith((".py", ".pyc", ".so"))
        if is_module or os.path.isfile(f"{directory}/{entry}/__init__.py"):  # noqa: PTH113
            found.append(name)
    return found


def _is_from(name: str, directory: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and file.startswith(f"{directory}{os.sep}")


def _look_at(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - that of `Path` would take more time for a thousand files
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
