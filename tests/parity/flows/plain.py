"""Flows that end well."""

import os
import sys

import probe
from prefect import flow, get_run_logger, task


@flow  # type: ignore[untyped-decorator]
def plain(number: int = 1, words: list[str] | None = None) -> int:
    """Look around, and note the arguments."""
    probe.take()
    probe.note(probe.this_run(), f"number={number!r} words={words!r}")
    return number


@flow(log_prints=True)  # type: ignore[untyped-decorator]
def prints() -> None:
    """Print, to the log and to the standard streams."""
    probe.take()
    print("printed by the flow")  # noqa: T201 - that is what it is for
    print("printed to standard error", file=sys.stderr)  # noqa: T201 - the same
    get_run_logger().warning("a warning of the flow")
    get_run_logger().debug("a detail of the flow")


@flow  # type: ignore[untyped-decorator]
def floods(megabytes: int) -> None:
    """Write much to the standard streams."""
    probe.take()
    megabyte = (b"x" * 127 + b"\n") * 8192
    for _ in range(megabytes):
        os.write(1, megabyte)


@flow  # type: ignore[untyped-decorator]
async def awaits() -> None:
    """Be asynchronous."""
    probe.take()


@flow(retries=1, retry_delay_seconds=0)  # type: ignore[untyped-decorator]
def retries() -> str:
    """Fail at the first attempt."""
    probe.take()
    first = not probe.output(probe.this_run(), "notes").exists()
    probe.note(probe.this_run(), "attempt")
    if first:
        raise ValueError("the first attempt")
    return "well"


@task  # type: ignore[untyped-decorator]
def step(number: int) -> int:
    """A task."""
    return number + 1


@flow  # type: ignore[untyped-decorator]
def inner(number: int) -> int:
    """A flow that is called by another."""
    result: int = step(number)
    return result


@flow  # type: ignore[untyped-decorator]
def nests() -> int:
    """Call another flow."""
    probe.take()
    result: int = inner(1)
    return result
