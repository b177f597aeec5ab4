"""Which process it was: told so that a later worker finds it again, and takes no other one for it.

A number alone does not tell, since the kernel gives it to another process some time after the first has ended. The
moment of its start, in ticks of the kernel's clock, does, together with the machine's boot and the namespace in which
the number counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from socket import gethostname
from typing import Any, Final

import attrs

from trioworker import process_table
from trioworker.lean_attrs import frozen

__all__ = ["Machine", "ProcessDetails", "Sight", "mark_of"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")


@frozen(kw_only=True)
class Machine:
    """Where the numbers of processes mean what they meant when they were written down.

    Attributes:
        host: its name.
        boot: one for each time that it was started; empty where it cannot be told.
        namespace: one for each container, mostly; empty where it cannot be told.
        ends_with_worker: whether all of the namespace's processes end with the worker, since the worker is its first
            process, or the child of that.
    """

    host: str
    boot: str
    namespace: str
    ends_with_worker: bool

    @classmethod
    def this(cls) -> Machine:
        """The one that this worker runs on."""
        namespace = _link(_NAMESPACE)
        return cls(
            host=gethostname(),
            boot=_text(_BOOT_ID),
            namespace=namespace,
            ends_with_worker=1 in {os.getpid(), os.getppid()} and namespace != _FIRST_NAMESPACE,
        )

    def still_has_processes_of(self, earlier: Machine) -> bool | None:
        """Whether processes of an earlier worker may be among this machine's; None if they may live where we see not.

        Args:
            earlier: where that worker ran, which is gone.
        """
        if self.boot and self.boot == earlier.boot and self.namespace == earlier.namespace:
            return True
        if earlier.ends_with_worker:
            return False
        if earlier.boot and self.boot and self.boot != earlier.boot and self.host == earlier.host:
            # It has been started anew since.
            return False
        return None


# The namespace of a machine outside of all containers has this number on every Linux.
_FIRST_NAMESPACE: Final = "pid:[4026531836]"


@frozen
class Sight:
    """What was seen of a process that an earlier worker had started.

    Attributes:
        pid: of the process, if it lives.
        gone: whether it is certain that it does not. If neither is known, it may live where we cannot look.
    """

    pid: int | None = None
    gone: bool = False


@frozen(kw_only=True)
class ProcessDetails:
    """What is written down of a run's process, beside its number.

    Attributes:
        machine: where the number counts.
        started: the moment of its start; None while it is not known, as just before the start.
        private: the directory in which the worker keeps what concerns the run alone.
        temporary: the directory that was made for the run to work in; None if it works in a lasting one.
        stream_output: whether the process writes to the worker's standard output and error, or nowhere.
    """

    machine: Machine
    started: int | None = None
    private: str
    temporary: str | None = None
    stream_output: bool = True

    def of_process(self, pid: int) -> ProcessDetails:
        """The same with the start of a process, which lives or has not been reaped."""
        process = process_table.look_up(pid) if process_table.is_there() else None
        return attrs.evolve(self, started=None if process is None else process.started)

    def encode(self) -> str:
        """As text."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, text: str) -> ProcessDetails | None:
        """The details that a text is; None if it is none."""
        try:
            fields: Any = json.loads(text)
        except (ValueError, RecursionError):
            return None
        match fields:
            case {
                "machine": {
                    "host": str(host),
                    "boot": str(boot),
                    "namespace": str(namespace),
                    "ends_with_worker": bool(ends_with_worker),
                },
                "started": int() | None as started,
                "private": str(private),
                "temporary": str() | None as temporary,
                "stream_output": bool(stream_output),
            }:
                machine = Machine(
                    host=host, boot=boot, namespace=namespace, ends_with_worker=ends_with_worker
                )
                return cls(
                    machine=machine,
                    started=started,
                    private=private,
                    temporary=temporary,
                    stream_output=stream_output,
                )
        return None

    def see(self, pid: int | None, flow_run_id: object) -> Sight:
        """Look for the process of a run, whose worker is gone.

        Args:
            pid: its number; None if the worker was about to start it, so that nobody knows.
            flow_run_id: of the run.
        """
        here = Machine.this().still_has_processes_of(self.machine)
        if not here:
            return Sight(gone=here is False)
        if not process_table.is_there():
            return Sight()
        if pid is None:
            found = _find_by_environment(flow_run_id)
            return Sight(pid=found, gone=found is None)
        process = process_table.look_up(pid)
        same = process is not None and process.lives and process.started == self.started
        return Sight(pid=pid) if same else Sight(gone=True)


def mark_of(flow_run_id: object) -> str:
    """What the processes of a run have in their environment, and no others."""
    return f"PREFECT__FLOW_RUN_ID={flow_run_id}"


def _find_by_environment(flow_run_id: object) -> int | None:
    """The process of a run that leads a session of its own, as those that workers start; None if there is none."""
    wanted = mark_of(flow_run_id).encode()
    for pid in process_table.process_ids():
        process = process_table.look_up(pid)
        if process is None or not process.lives or process.session != pid:
            continue
        if wanted in process_table.environment_of(pid):
            return pid
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
