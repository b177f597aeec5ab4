"""Flows that end badly, or oddly."""

import os
import signal
import subprocess
import sys

import probe
from prefect import flow
from prefect.flow_runs import pause_flow_run, suspend_flow_run


@flow  # type: ignore[untyped-decorator]
def fails() -> None:
    """Raise an exception."""
    probe.take()
    raise ValueError("it went wrong")


@flow  # type: ignore[untyped-decorator]
def exits(code: int) -> None:
    """End by `sys.exit`."""
    probe.take()
    sys.exit(code)


@flow  # type: ignore[untyped-decorator]
def vanishes(code: int) -> None:
    """End without any clean-up."""
    probe.take()
    probe.flush_log()
    os._exit(code)


@flow  # type: ignore[untyped-decorator]
def is_killed(by: str) -> None:
    """End by a signal."""
    probe.take()
    probe.flush_log()
    os.kill(os.getpid(), signal.Signals[by])
    probe.wait_for("never")


@flow  # type: ignore[untyped-decorator]
def waits() -> None:
    """Wait until told to go on."""
    probe.take()
    probe.wait_for("go")


@flow  # type: ignore[untyped-decorator]
def ignores_sigterm() -> None:
    """Wait, and do not mind SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    probe.take()
    probe.wait_for("go")


_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(300)
"""


def _start_stubborn_child(*, detached: bool = True) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _STUBBORN],
        env={**os.environ, "PARITY_ROLE": "stubborn child"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if detached else None,
    )
    assert child.stdout is not None
    child.stdout.readline()


@flow  # type: ignore[untyped-decorator]
def has_stubborn_child() -> None:
    """Wait, with a child that ignores SIGTERM."""
    _start_stubborn_child()
    probe.take()
    probe.wait_for("go")


@flow  # type: ignore[untyped-decorator]
def leaves_child_behind(detached: bool) -> None:
    """End well while a child goes on, detached or with the standard error of the flow."""
    _start_stubborn_child(detached=detached)
    probe.take()


@flow  # type: ignore[untyped-decorator]
def fails_with_child() -> None:
    """End by `sys.exit` while a child goes on."""
    _start_stubborn_child()
    probe.take()
    sys.exit(4)


@flow  # type: ignore[untyped-decorator]
def suspends() -> None:
    """Leave, to be resumed."""
    probe.take()
    suspend_flow_run(timeout=600)


@flow  # type: ignore[untyped-decorator]
def pauses() -> None:
    """Wait to be resumed."""
    probe.take()
    pause_flow_run(timeout=600, poll_interval=1)
