"""Why a worker could not start, or ended early. Errors of the API are in `trioworker.api.errors`.

```
WorkerError
├── ConfigurationError    an option or a setting is wrong: mend it
├── WorkerRefusedError    this work pool is not for a worker such as this
├── HealthServerError     the health server cannot use its address
└── GaveUpError           the API was away for longer than the user is willing to wait
```
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WorkerError(Exception):
    """The root of the errors of a worker itself; the message says what to do."""


class ConfigurationError(WorkerError):
    """An option or a setting is missing or wrong."""


class WorkerRefusedError(WorkerError):
    """The Prefect work pool exists, but its runs are not for this worker."""


class HealthServerError(WorkerError):
    """The address of the health server cannot be used."""


class GaveUpError(WorkerError):
    """The Prefect API was unreachable for as many seconds as `TRIOWORKER_GIVE_UP_AFTER` allows."""


@contextmanager
def sole_errors_bare() -> Iterator[None]:
    """Let an error that came alone out of nested nurseries leave without its groups.

    Several errors stay in their groups, as Trio raised them.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = _sole_error(group)
        if error is None:
            raise
        raise error from error.__cause__


def _sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error
