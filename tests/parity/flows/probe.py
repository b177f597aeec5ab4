"""What the flows of the matrix leave behind for the comparison: files named after their run."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def output(run: object, kind: str) -> Path:
    """The file of a run in which something of this kind stands."""
    return Path(os.environ["PARITY_OUTPUT"]) / f"{run}.{kind}"


def this_run() -> str:
    """The id of the flow run that this process was started for."""
    return os.environ["PREFECT__FLOW_RUN_ID"]


def take() -> None:
    """Write down what the process sees of its surroundings."""
    seen = {
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "files": sorted(path.name for path in Path.cwd().iterdir() if path.name != "__pycache__"),
        "arguments": sys.argv,
        "executable": sys.executable,
        "path": sys.path,
        "pid": os.getpid(),
        "leads_its_group": os.getpgrp() == os.getpid(),
        "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "standard_input": Path("/proc/self/fd/0").resolve().name.partition(":")[0],
    }
    # A reader must never see half of it.
    draft = output(this_run(), "draft")
    draft.write_text(json.dumps(seen))
    draft.rename(output(this_run(), "probe"))


def flush_log() -> None:
    """Send what is in the flow's log so far, which is lost otherwise when the process ends at once."""
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=30)


def note(run: object, text: str) -> None:
    """Add a line to the notes of a run."""
    with output(run, "notes").open("a") as notes:
        notes.write(text + "\n")


def mark(text: str) -> str:
    """A text that is found again in the output of the worker."""
    return f"<<{this_run()}|{text}>>"


def wait_for(what: str) -> None:
    """Wait until the matrix has made the file of this run that it waits for."""
    flush_log()
    while not output(this_run(), what).exists():
        time.sleep(0.05)


def hook_note(name: str, flow_run: Any, state: Any) -> None:
    """Note that a hook was called, and how."""
    taken = output(flow_run.id, "probe")
    in_flow = taken.exists() and json.loads(taken.read_text())["pid"] == os.getpid()
    place = "in the process of the flow" if in_flow else "in another process"
    note(flow_run.id, f"hook {name} on {state.type.value} {state.name!r} ({state.message}), {place}")
