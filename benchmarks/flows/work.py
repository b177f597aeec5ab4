"""A flow that keeps a journal, so that one knows afterwards how often it began and whether it came to its end."""

import json
import os
import subprocess
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow  # type: ignore[untyped-decorator]
def work(
    journal: str, seconds: float, prints: bool = False, has_helper: bool = False, leaves: bool = False
) -> None:
    """Work for some seconds.

    Args:
        journal: the file to note the beginning and the end in.
        seconds: how long it takes.
        prints: whether it prints a line ten times a second.
        has_helper: whether it starts a program that takes much longer.
        leaves: whether it ends its process at the end, instead of returning.
    """
    if has_helper:
        subprocess.Popen(["sleep", "600"])  # noqa: S607
    _note(journal, {"what": "began", "pid": os.getpid(), "attempt": flow_run.run_count})
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if prints:
            print("at work", flush=True)
        time.sleep(0.1)
    if leaves:
        os._exit(0)
    _note(journal, {"what": "ended", "pid": os.getpid(), "attempt": flow_run.run_count})


def _note(journal: str, entry: dict[str, object]) -> None:
    with Path(journal).open("a") as file:
        file.write(json.dumps(entry) + "\n")
