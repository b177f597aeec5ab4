"""What can go wrong, and when it does in one episode."""

from __future__ import annotations

import enum
import random
from collections import Counter, deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import attrs

from . import steps

__all__ = ["Fault", "Kind", "Plan", "can_come", "draw_plan"]


class Kind(enum.StrEnum):
    """A kind of fault.

    Attributes:
        CRASH: the worker gets SIGKILL.
        STOP: it gets SIGTERM, and drains.
        STOP_TWICE: and a second signal some seconds later.
        STOP_THRICE: and a third one.
        CANCEL: the program in which the worker is a guest cancels it.
        REPLACE: another worker of its name is started beside it, and it gets SIGTERM some time later.
        FREEZE: the worker is held up for a while.
        LOSE_ANSWER: a request takes effect, but its answer is lost.
        REFUSE: a request finds nobody.
        DELAY: a request finds nobody, as it seems, and takes effect some time later.
        OUTAGE: the API is away for some seconds or minutes.
        LONG_OUTAGE: the API is away for hours.
        UNAVAILABLE: it answers 503 for a while.
        RATE_LIMIT: it answers 429 with `Retry-After` for a while.
        UNAUTHORIZED: it answers 401 for a while.
        SLOW: it takes its time for a while.
        DEAF: nobody is told over the websocket for a while.
        DISK_FULL: nothing can be written to a ledger for a while.
        KILL_PROCESS: the process of a run gets SIGKILL.
        KILL_GROUP: all processes of a run get it.
        REBOOT: the machine is started anew.
        USER_CANCELS: somebody has a run cancelled.
        USER_DELETES: somebody deletes a run.
        USER_RESCHEDULES: somebody has a run scheduled anew, whatever it does just then.
    """

    CRASH = "crash"
    STOP = "stop"
    STOP_TWICE = "stop twice"
    STOP_THRICE = "stop thrice"
    CANCEL = "cancel"
    REPLACE = "replace"
    FREEZE = "freeze"
    LOSE_ANSWER = "lose answer"
    REFUSE = "refuse"
    DELAY = "delay"
    OUTAGE = "outage"
    LONG_OUTAGE = "long outage"
    UNAVAILABLE = "unavailable"
    RATE_LIMIT = "rate limit"
    UNAUTHORIZED = "unauthorized"
    SLOW = "slow"
    DEAF = "deaf"
    DISK_FULL = "disk full"
    KILL_PROCESS = "kill process"
    KILL_GROUP = "kill group"
    REBOOT = "reboot"
    USER_CANCELS = "user cancels"
    USER_DELETES = "user deletes"
    USER_RESCHEDULES = "user reschedules"


OF_REQUESTS: Final = frozenset({Kind.LOSE_ANSWER, Kind.REFUSE, Kind.DELAY})

_WEIGHTS: Final[Mapping[Kind, float]] = MappingProxyType(
    dict.fromkeys(Kind, 1.0) | {Kind.CRASH: 4.0, Kind.LONG_OUTAGE: 0.2, Kind.LOSE_ANSWER: 2.0}
)

# What has to go wrong before, for a worker to come to a step at all.
_BEFORE: Final[Mapping[str, tuple[Kind, ...]]] = MappingProxyType(
    {
        "find": (Kind.CRASH, Kind.REPLACE),
        "adopt": (Kind.CRASH, Kind.REPLACE),
        "clear": (Kind.CRASH, Kind.KILL_PROCESS),
        "read history": (Kind.CRASH, Kind.LOSE_ANSWER),
        "read run": (Kind.CRASH, Kind.KILL_PROCESS),
        "report crashed": (Kind.KILL_PROCESS, Kind.KILL_GROUP, Kind.REBOOT),
        "report cancelled": (Kind.USER_CANCELS,),
        "read document": (Kind.USER_CANCELS, Kind.KILL_PROCESS),
        "call hooks": (Kind.USER_CANCELS, Kind.KILL_PROCESS),
        "kill": (Kind.USER_CANCELS,),
        "cut off": (Kind.STOP_TWICE, Kind.CANCEL, Kind.STOP),
        "give back": (Kind.STOP, Kind.CRASH),
        "hand on": (Kind.STOP_TWICE, Kind.CANCEL),
        "put back": (Kind.DELAY,),
        "release slot": (Kind.STOP_TWICE,),
        "write end": (Kind.KILL_PROCESS, Kind.STOP_TWICE),
        "write proposal": (Kind.KILL_PROCESS, Kind.USER_CANCELS),
        "take over ledgers": (Kind.CRASH, Kind.REPLACE),
        "let ledgers go": (Kind.CRASH, Kind.REPLACE),
    }
)

# The steps of a run's life up to its process, at which a fault brings about most that comes later.
_EARLY: Final = tuple(
    f"{moment} {what}"
    for moment in ("before", "after")
    for what in (
        "claim",
        "write claim",
        "submit",
        "write launching",
        "start",
        "write launched",
        "report place",
    )
)


@attrs.define(eq=False)
class Fault:
    """A fault to come.

    Attributes:
        kind: what goes wrong.
        step: at which step; None for at a time.
        nth: at which time that this step is reached.
        at: when, in seconds since the beginning, if at a time.
        size: how bad it is, 0 to 1: how long it lasts, or which run it befalls.
        lasting: whether it may come when the others are over, since the step is reached no sooner.
    """

    kind: Kind
    step: str | None
    nth: int = 1
    at: float = 0.0
    size: float = 0.0
    lasting: bool = False

    @classmethod
    def at_step(cls, kind: Kind, step: str, seed: int) -> Fault:
        """A fault at the first time that a step is reached, as bad as a seed has it."""
        # Chance in simulation keeps no secrets.
        size = random.Random(f"{seed} {kind} {step}").random()  # noqa: S311
        return cls(kind, step, size=size, lasting=True)


@attrs.define(eq=False)
class Plan:
    """The faults of one episode.

    Attributes:
        faults: those to come, in the order in which they were drawn.
        met: those that came, by kind and step.
    """

    faults: list[Fault]
    met: Counter[tuple[Kind, str]] = attrs.field(factory=Counter)
    _reached: Counter[str] = attrs.field(factory=Counter)
    _by_step: dict[str, deque[Fault]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for fault in self.faults:
            if fault.step is not None:
                self._by_step.setdefault(fault.step, deque()).append(fault)

    @property
    def timed(self) -> list[Fault]:
        """The faults that come at a time, in that order."""
        return sorted((fault for fault in self.faults if fault.step is None), key=lambda fault: fault.at)

    def due(self, step: str) -> list[Fault]:
        """The faults that come now that a step is reached."""
        waiting = self._by_step.get(step)
        if not waiting:
            return []
        self._reached[step] += 1
        due = [fault for fault in waiting if fault.nth <= self._reached[step]]
        for fault in due:
            waiting.remove(fault)
        return due

    def note(self, fault: Fault, step: str) -> None:
        """Take down that a fault has come."""
        self.met[fault.kind, step] += 1

    def expire(self) -> None:
        """Let nothing come any more that does not last."""
        for step, waiting in self._by_step.items():
            self._by_step[step] = deque(fault for fault in waiting if fault.lasting)


def can_come(kind: Kind, step: str) -> bool:
    """Whether a kind of fault can come at a step."""
    return kind not in OF_REQUESTS or step.removeprefix("before ") in steps.REQUESTS


def draw_plan(chance: random.Random, seconds: float) -> list[Fault]:
    """Draw the faults of an episode.

    Args:
        chance: by which they are drawn.
        seconds: the time within which they come.
    """
    faults: list[Fault] = []
    [number] = chance.choices([0, 1, 2, 3, 5], [2, 40, 30, 20, 8])
    for _ in range(number):
        faults += _draw(chance, seconds)
    return faults


def _draw(chance: random.Random, seconds: float) -> list[Fault]:
    [kind] = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    [where] = chance.choices(["any", "early", "time"], [60, 25, 15])
    if where == "time" and kind not in OF_REQUESTS:
        return [Fault(kind, None, at=chance.uniform(0, seconds), size=chance.random())]
    if kind in OF_REQUESTS:
        step = f"before {chance.choice(steps.REQUESTS)}"
    else:
        step = chance.choice(_EARLY if where == "early" else steps.STEPS)
    nth = chance.choice([1, 1, 1, 1, 2, 2, 3])
    return [*_prelude(chance, step, seconds), Fault(kind, step, nth=nth, size=chance.random())]


def _prelude(chance: random.Random, step: str, seconds: float) -> list[Fault]:
    """What brings a worker to a step that it would not come to by itself."""
    what = step.partition(" ")[2]
    kinds = _BEFORE.get(what)
    if kinds is None or chance.random() < 0.2:
        return []
    moment: Literal["early", "run", "time"] = chance.choice(["early", "run", "time"])
    size = chance.random()
    kind = chance.choice(kinds)
    if kind in OF_REQUESTS:
        return [Fault(kind, "before claim", size=size)]
    if moment == "time":
        return [Fault(kind, None, at=chance.uniform(0, seconds), size=size)]
    place = chance.choice(_EARLY) if moment == "early" else "run begins"
    return [Fault(kind, place, size=size)]
