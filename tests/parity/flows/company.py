"""Flows with processes and threads of their own."""

import atexit
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import others
import probe
import seen_in_process
from prefect import flow

# What stays open is written when the interpreter ends.
KEPT: list[object] = []


@flow  # type: ignore[untyped-decorator]
def forks(method: str) -> None:
    """Have functions executed by processes of `multiprocessing`."""
    probe.take()
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=queue.put, args=("from the child",))
    child.start()
    probe.note(probe.this_run(), f"queue: {queue.get()}")
    child.join()
    probe.note(probe.this_run(), f"exit code: {child.exitcode}")
    if method == "fork":
        # The more is forked from a process with threads, the likelier it is that something waits for a lock for ever.
        return
    with context.Pool(2) as pool:
        probe.note(probe.this_run(), f"pool: {pool.map(others.look, [2, 3])}")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        probe.note(probe.this_run(), f"executor: {executor.submit(others.look, 4).result()}")
    with context.Manager() as manager:
        probe.note(probe.this_run(), f"manager: {dict(manager.dict(a=1))}")


_CHILD = """
import json, os, signal, sys
ignored = [s.name for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN]
blocked = [str(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
print(json.dumps([sorted(os.listdir("/proc/self/fd")), ignored, blocked, os.getcwd() == os.environ["HERE"],
    os.getpgid(0) == os.getppid(), sys.argv, os.environ.get("PYTHONPATH")]))
"""


@flow  # type: ignore[untyped-decorator]
def starts_programs() -> None:
    """Start programs, and look at what they inherit."""
    probe.take()
    seen_in_process.settle()
    command = [sys.executable, "-c", _CHILD, "argument"]
    environment = {**os.environ, "HERE": str(Path.cwd())}
    for close in (True, False):
        done = subprocess.run(
            command, env=environment, close_fds=close, capture_output=True, text=True, check=True
        )
        probe.note(probe.this_run(), done.stdout.strip())
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    probe.note(probe.this_run(), f"a child: {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
    probe.note(probe.this_run(), f"a shell: {os.system('exit 3')}")  # noqa: S605 - what flows do
    previous = signal.signal(signal.SIGALRM, lambda *_: probe.note(probe.this_run(), "an alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    signal.signal(signal.SIGALRM, previous)


class Witness:
    """Notes when it is collected."""

    def __del__(self) -> None:
        probe.note(probe.this_run(), "collected")


@flow  # type: ignore[untyped-decorator]
def leaves_things_to_the_end() -> None:
    """End with a thread that goes on, an open file, and functions to be called."""
    run = probe.this_run()
    probe.take()
    atexit.register(probe.note, run, "registered first")
    atexit.register(probe.note, run, "registered last")
    multiprocessing.util.Finalize(None, probe.note, args=(run, "multiprocessing's"), exitpriority=1)
    witness = Witness()
    weakref.finalize(witness, probe.note, run, "finalized")
    file = probe.output(run, "unflushed").open("w")
    file.write("written at the end")
    KEPT.extend([file, witness])
    threading.Thread(target=_note_later, args=(run,)).start()
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def _note_later(run: str) -> None:
    time.sleep(1)
    probe.note(run, "the thread")
