"""The answer to a worker type that nothing here brings: what there is, and what serves the pool meanwhile."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from trioworker.errors import WorkerRefusedError


class UnavailableTypeError(WorkerRefusedError):
    """There is no infrastructure of the type that the work pool wants.

    Args:
        pool: the work pool.
        worker_type: the type that is not there.
        available: the types that are.
        options: further options that the command of Prefect's own worker shall have.
    """

    def __init__(
        self, pool: str, worker_type: str, available: Sequence[str], options: Sequence[str] = ()
    ) -> None:
        super().__init__(
            "Unable to start worker. Please ensure you have the necessary dependencies installed to run your"
            " desired worker type.\n"
            f"Worker types available here: {', '.join(available)}.\n"
            "Prefect's own worker may serve the pool meanwhile:\n"
            f"  {prefect_command(pool, worker_type, options)}"
        )
        self.pool = pool
        self.worker_type = worker_type
        self.available = available

    def with_options(self, options: Sequence[str]) -> UnavailableTypeError:
        """The same, with further options for the command of Prefect's own worker."""
        return UnavailableTypeError(self.pool, self.worker_type, self.available, options)


def prefect_command(pool: str, worker_type: str, options: Sequence[str] = ()) -> str:
    """The command that starts Prefect's own worker, to be pasted into a shell."""
    # A name that needs no quotes gets them too: it is what the eye looks for.
    quoted_pool = "'" + pool.replace("'", "'\"'\"'") + "'"
    words = ["prefect worker start --pool", quoted_pool, "--type", *map(shlex.quote, [worker_type, *options])]
    return " ".join(words)
