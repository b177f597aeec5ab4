"""Work pools whose flow runs are calls of functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trioworker.errors import WorkerRefusedError

TRIO_TYPE: Final = "trio"

# There is nothing to choose, but the server takes no template without a configuration.
TRIO_BASE_JOB_TEMPLATE: Final[Mapping[str, Any]] = {
    "job_configuration": {"type": TRIO_TYPE},
    "variables": {"type": "object", "properties": {}},
}


def refuse_other_type(pool_name: str, pool_type: str) -> None:
    """Refuse a work pool whose runs are something else.

    Raises:
        WorkerRefusedError: says what to do about it.
    """
    if pool_type != TRIO_TYPE:
        raise WorkerRefusedError(
            f"Work pool {pool_name!r} is of type {pool_type!r}, but functions are served on pools of type"
            f" {TRIO_TYPE!r}. Give the name of one; if there is none of that name, it is created."
        )
