"""The ten faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from benchmarks.faults.scene import Scene
from benchmarks.faults.supervisor import STOP_SECONDS
from benchmarks.faults.valve import UNAUTHORIZED

OUTAGE_SECONDS: Final = 30.0
"""How long the server is away, or refuses everybody."""

AWAY_SECONDS: Final = 10.0
"""How long a worker is away whose run is cancelled meanwhile."""

LONG: Final = 120.0
"""Seconds of a flow that takes longer than anybody watches."""

WORKING: Final = 15.0
"""Seconds of a flow that may well come to its end in spite of the fault."""

SHORT: Final = 3.0
"""Seconds of a flow that need not take long."""


@attrs.frozen
class Fault:
    """A fault, and what is right after it.

    Attributes:
        key: names it on the command line.
        title: what it is, in a table.
        done: what exactly is done, in whole sentences.
        truth: which end of the run is true then.
        counted_from: the moment from which the seconds are counted.
        inflict: schedules a run and does it.
    """

    key: str
    title: str
    done: str
    truth: str
    counted_from: str
    inflict: Callable[[Scene], Awaitable[None]]


async def _stop_worker(scene: Scene) -> None:
    await scene.begin_run(LONG)
    scene.inflicted()
    await scene.supervisor.stop()


async def _kill_worker(scene: Scene) -> None:
    await scene.begin_run(WORKING, prints=True)
    scene.inflicted()
    scene.supervisor.kill()


async def _kill_everything(scene: Scene) -> None:
    await scene.begin_run(LONG)
    scene.inflicted()
    scene.kill_all()


async def _kill_worker_after_claim(scene: Scene) -> None:
    lost = trio.Event()

    def die() -> None:
        scene.supervisor.kill()
        scene.inflicted()
        lost.set()

    scene.valve.lose_answer(scene.claims, die)
    await scene.start_run(SHORT)
    await scene.until_lost(lost)


async def _kill_flow(scene: Scene) -> None:
    await scene.begin_run(LONG, has_helper=True)
    scene.inflicted()
    scene.kill_flow()


async def _leave(scene: Scene) -> None:
    await scene.begin_run(SHORT, leaves=True)
    # It is at work for two seconds by now.
    await trio.sleep(SHORT - 2)
    scene.inflicted()


async def _cancel_while_away(scene: Scene) -> None:
    await scene.begin_run(LONG)
    scene.supervisor.pause = AWAY_SECONDS
    scene.inflicted()
    scene.supervisor.kill()
    await trio.sleep(AWAY_SECONDS / 2)
    await scene.cancel()
    scene.count_from_now()


async def _die_in_outage(scene: Scene) -> None:
    await scene.begin_run(LONG)
    scene.inflicted()
    scene.valve.shut()
    await trio.sleep(OUTAGE_SECONDS / 6)
    scene.kill_flow()
    await trio.sleep(OUTAGE_SECONDS - OUTAGE_SECONDS / 6)
    scene.valve.open()
    scene.count_from_now()


async def _lose_answer_to_claim(scene: Scene) -> None:
    lost = trio.Event()

    def note() -> None:
        scene.inflicted()
        lost.set()

    scene.valve.lose_answer(scene.claims, note)
    await scene.start_run(SHORT)
    await scene.until_lost(lost)


async def _die_while_refused(scene: Scene) -> None:
    await scene.begin_run(LONG)
    scene.inflicted()
    scene.valve.refuse(UNAUTHORIZED)
    await trio.sleep(OUTAGE_SECONDS / 6)
    scene.kill_flow()
    await trio.sleep(OUTAGE_SECONDS - OUTAGE_SECONDS / 6)
    scene.valve.admit()
    scene.count_from_now()


FAULTS: Final = (
    Fault(
        "stop",
        "SIGTERM to the worker, flow takes longer than the drain",
        f"The flow works for {LONG:g} s. Two seconds after it began, the worker alone gets SIGTERM, and SIGKILL "
        f"{STOP_SECONDS:g} s later if it is still there then. It is started again afterwards.",
        "`Crashed`, as the flow was cut off.",
        "SIGTERM. trioworker lets flows go on for 20 s, which are in that.",
        _stop_worker,
    ),
    Fault(
        "kill",
        "SIGKILL of the worker alone",
        f"The flow works for {WORKING:g} s, and prints a line ten times a second. Two seconds after it began, the "
        "worker alone gets SIGKILL, and is started again.",
        "`Completed` if the flow comes to its end, which it can, and `Crashed` if it was cut off.",
        "SIGKILL. The flow's own end is 13 s later.",
        _kill_worker,
    ),
    Fault(
        "kill-all",
        "SIGKILL of the worker and of all that it has started",
        f"The flow works for {LONG:g} s. Two seconds after it began, the worker and all processes below it get "
        "SIGKILL at once, as when a container or a machine comes to its end. The worker is started again.",
        "`Crashed`.",
        "SIGKILL.",
        _kill_everything,
    ),
    Fault(
        "kill-claiming",
        "SIGKILL of the worker between claim and start",
        f"The flow works for {SHORT:g} s. The worker gets SIGKILL at the moment when the server has made the run "
        "`Pending` for it, before it knows, and is started again.",
        "`Completed`, as nothing keeps the run from being executed.",
        "SIGKILL.",
        _kill_worker_after_claim,
    ),
    Fault(
        "kill-flow",
        "SIGKILL of the flow's process",
        f"The flow works for {LONG:g} s, and has started a program that takes longer still, and has its output open. "
        "Two seconds after it began, the flow's own process alone gets SIGKILL, as when memory runs out. "
        "(Without that program, both workers report `Crashed` at once.)",
        "`Crashed`, and the program that it has started is gone.",
        "SIGKILL.",
        _kill_flow,
    ),
    Fault(
        "exit",
        "The flow leaves by `os._exit(0)`",
        f"After {SHORT:g} s, the flow ends its process with `os._exit(0)`: status 0, and not a word to the server.",
        "`Crashed`, as the flow did not come to its end.",
        "the end of the process.",
        _leave,
    ),
    Fault(
        "cancel",
        "Cancelled while the worker is dead",
        f"The flow works for {LONG:g} s, and prints nothing. Two seconds after it began, the worker alone gets "
        f"SIGKILL, and is started again {AWAY_SECONDS:g} s later. In the middle of that, a user cancels the run.",
        "`Cancelled`, and the flow's process is gone.",
        f"the user's request, which is {AWAY_SECONDS / 2:g} s before the worker is started again.",
        _cancel_while_away,
    ),
    Fault(
        "outage",
        "The flow's process dies while the server is away",
        f"The flow works for {LONG:g} s. For {OUTAGE_SECONDS:g} s, every connection to the server is reset; "
        f"{OUTAGE_SECONDS / 6:g} s after the beginning of that, the flow's process gets SIGKILL.",
        "`Crashed`.",
        "the end of the outage.",
        _die_in_outage,
    ),
    Fault(
        "lost-answer",
        "The answer to the claim is lost",
        f"The flow works for {SHORT:g} s. The worker's request to make the run `Pending` comes to the server, which "
        "does so, but instead of the answer the worker sees its connection reset.",
        "`Completed`, as nothing keeps the run from being executed.",
        "the reset.",
        _lose_answer_to_claim,
    ),
    Fault(
        "refused",
        "The flow's process dies while the API key is refused",
        f"The flow works for {LONG:g} s. For {OUTAGE_SECONDS:g} s, every request is answered with 401, as when a key "
        f"has run out; {OUTAGE_SECONDS / 6:g} s after the beginning of that, the flow's process gets SIGKILL.",
        "`Crashed`.",
        "the end of the refusals.",
        _die_while_refused,
    ),
)
"""All of them, in the order in which they are told."""
