"""Which Python runs the flows: the one that has Prefect, which is not always the worker's own."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from trioworker.errors import ConfigurationError

__all__ = ["find_interpreter", "installed_prefect_version"]


def find_interpreter(configured: str | None) -> str:
    """The interpreter that flows run in.

    Args:
        configured: `TRIOWORKER_PYTHON`: a path, or a program on the PATH.

    Raises:
        ConfigurationError: the configured one does not exist, or none is configured and this one has no Prefect.
    """
    if configured:
        found = shutil.which(configured)
        if found is None:
            raise ConfigurationError(
                f"TRIOWORKER_PYTHON is {configured!r}, which is not a program that can be executed."
            )
        # Not resolved: a virtual environment's interpreter is a link that must be called by its own name.
        return str(Path(found).absolute())
    # Found, not imported: the worker itself has no use for Prefect.
    if importlib.util.find_spec("prefect") is None:
        raise ConfigurationError(
            "No interpreter to run flows in: Prefect is not installed beside trioworker."
            " Install it here (pip install 'trioworker[local]'), or set TRIOWORKER_PYTHON to a Python that has it."
        )
    return sys.executable


def installed_prefect_version() -> str | None:
    """The version of Prefect beside the worker, read without importing it; None if there is none."""
    package = importlib.util.find_spec("prefect")
    if package is None or package.origin is None:
        return None
    # As pip names what it installs. What asks Python properly takes 1 MB and 10 ms to import.
    for metadata in Path(package.origin).parents[1].glob("prefect-*.dist-info"):
        return metadata.name.removeprefix("prefect-").removesuffix(".dist-info")
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("prefect")
    except PackageNotFoundError:
        return None
