"""Flows that write, in every way that there is; each text is marked, to be found among those of others."""

import atexit
import logging
import os
import sys
import warnings

import probe
from prefect import flow, get_run_logger

print(probe.mark("printed at import"))  # noqa: T201 - that is what it is for


@flow  # type: ignore[untyped-decorator]
def writes() -> None:
    """Write in every way."""
    probe.take()
    atexit.register(print, probe.mark("printed at the end"))
    print(probe.mark("printed"))  # noqa: T201 - that is what it is for
    print(probe.mark("printed to standard error"), file=sys.stderr)  # noqa: T201 - the same
    sys.stdout.buffer.write(probe.mark("bytes \xff").encode("latin-1") + b"\n")
    os.write(1, probe.mark("past all buffers").encode() + b"\n")
    get_run_logger().info(probe.mark("logged"))
    logging.getLogger("user").warning(probe.mark("logged by the user"))
    warnings.warn(probe.mark("a warning"), stacklevel=1)
    sys.stdout.write(probe.mark("without an end of line"))


@flow  # type: ignore[untyped-decorator]
def vanishes() -> None:
    """Write what stays in a buffer, and end without any clean-up."""
    probe.take()
    probe.flush_log()
    print(probe.mark("never seen"))  # noqa: T201 - that is what it is for
    os.write(1, probe.mark("past all buffers").encode() + b"\n")
    os._exit(0)


@flow  # type: ignore[untyped-decorator]
def logs(lines: int) -> None:
    """Log a lot, and end."""
    probe.take()
    logger = get_run_logger()
    for number in range(lines):
        logger.info("line %s", number)
