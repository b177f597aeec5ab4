"""A flow with every kind of hook, among them one that fails."""

import os
import signal
import sys
from typing import Any

import probe
from prefect import flow


def first(flow: Any, flow_run: Any, state: Any) -> None:
    """Note the call."""
    probe.hook_note("first", flow_run, state)


def failing(flow: Any, flow_run: Any, state: Any) -> None:
    """Note the call, and fail."""
    probe.hook_note("failing", flow_run, state)
    raise ValueError("a hook went wrong")


async def last(flow: Any, flow_run: Any, state: Any) -> None:
    """Note the call, asynchronously."""
    probe.hook_note("last", flow_run, state)


HOOKS = [first, failing, last]


@flow(on_completion=HOOKS, on_failure=HOOKS, on_cancellation=HOOKS, on_crashed=HOOKS)  # type: ignore[untyped-decorator]
def hooked(end: str) -> None:
    """End in the way that is asked for."""
    probe.take()
    match end:
        case "fail":
            raise ValueError("it went wrong")
        case "exit":
            sys.exit(3)
        case "vanish":
            probe.flush_log()
            os._exit(3)
        case "kill":
            probe.flush_log()
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            probe.wait_for("go")
        case _:
            pass
