"""What is done to them, each in turn."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from benchmarks.endurance.load import Load
from benchmarks.endurance.site import MORTAL, STEADY, Site
from benchmarks.faults.valve import UNAUTHORIZED, UNAVAILABLE

_A_WHILE: Final = 10.0


@attrs.frozen
class Harm:
    """One kind of fault.

    Attributes:
        name: what it is called in the report.
        inflict: inflicts it, and returns when it is over.
    """

    name: str
    inflict: Callable[[Site, Load, random.Random], Awaitable[None]]


async def _kill_worker(site: Site, _load: Load, _chance: random.Random) -> None:
    _send(site, MORTAL, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def _stop_worker(site: Site, _load: Load, _chance: random.Random) -> None:
    _send(site, MORTAL, signal.SIGTERM)
    await trio.lowlevel.checkpoint()


async def _stop_worker_at_once(site: Site, _load: Load, _chance: random.Random) -> None:
    _send(site, MORTAL, signal.SIGTERM)
    await trio.sleep(0.5)
    _send(site, MORTAL, signal.SIGTERM)


async def _kill_worker_and_runs(site: Site, _load: Load, _chance: random.Random) -> None:
    worker = site.workers[MORTAL].living
    if worker is not None:
        # None of them is to see that another one has gone.
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for pid in worker.kept():
                _kill(pid, sent)
    await trio.lowlevel.checkpoint()


async def _freeze_worker(site: Site, _load: Load, chance: random.Random) -> None:
    name = chance.choice((STEADY, MORTAL))
    _send(site, name, signal.SIGSTOP)
    await trio.sleep(_A_WHILE)
    _send(site, name, signal.SIGCONT)


async def _kill_template(site: Site, _load: Load, chance: random.Random) -> None:
    worker = site.workers[chance.choice((STEADY, MORTAL))].living
    if worker is not None:
        for pid in worker.kept():
            if b"\0template\0" in _command_line(pid):
                _kill(pid, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def _kill_flow(_site: Site, load: Load, chance: random.Random) -> None:
    going_on = load.going_on()
    if going_on:
        _kill(chance.choice(going_on).pid, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def _cancel_run(site: Site, load: Load, chance: random.Random) -> None:
    going_on = load.going_on()
    if going_on:
        run = chance.choice(going_on).run
        load.cancelled.add(run)
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        await site.rest.call("POST", f"flow_runs/{run}/set_state", state)


async def _cut_network(site: Site, _load: Load, _chance: random.Random) -> None:
    site.valve.shut()
    await trio.sleep(_A_WHILE)
    site.valve.open()


async def _mute_network(site: Site, _load: Load, _chance: random.Random) -> None:
    site.valve.mute()
    await trio.sleep(_A_WHILE)
    site.valve.unmute()


async def _refuse_key(site: Site, _load: Load, _chance: random.Random) -> None:
    site.valve.refuse(UNAUTHORIZED)
    await trio.sleep(_A_WHILE)
    site.valve.admit()


async def _answer_unavailable(site: Site, _load: Load, _chance: random.Random) -> None:
    site.valve.refuse(UNAVAILABLE)
    await trio.sleep(_A_WHILE)
    site.valve.admit()


async def _kill_server(site: Site, _load: Load, _chance: random.Random) -> None:
    if site.server.pid is not None:
        os.killpg(site.server.pid, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def _freeze_server(site: Site, _load: Load, _chance: random.Random) -> None:
    pid = site.server.pid
    if pid is not None:
        os.killpg(pid, signal.SIGSTOP)
        await trio.sleep(_A_WHILE)
        os.killpg(pid, signal.SIGCONT)


HARMS: Final = (
    Harm("SIGKILL of a worker", _kill_worker),
    Harm("SIGTERM of a worker", _stop_worker),
    Harm("SIGTERM of a worker, twice", _stop_worker_at_once),
    Harm("SIGKILL of a worker with all its runs", _kill_worker_and_runs),
    Harm("a worker stands still for 10 s", _freeze_worker),
    Harm("SIGKILL of a template", _kill_template),
    Harm("SIGKILL of a flow's process", _kill_flow),
    Harm("a run is cancelled", _cancel_run),
    Harm("the network is cut for 10 s", _cut_network),
    Harm("the network is mute for 10 s", _mute_network),
    Harm("401 for 10 s", _refuse_key),
    Harm("503 for 10 s", _answer_unavailable),
    Harm("SIGKILL of the server", _kill_server),
    Harm("the server stands still for 10 s", _freeze_server),
)


def _send(site: Site, name: str, number: signal.Signals) -> None:
    worker = site.workers[name].living
    if worker is not None:
        _kill(worker.pid, number)


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
