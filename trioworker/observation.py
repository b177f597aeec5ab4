"""What a worker shows to the program that it runs in: what it is doing, and what happens.

Both cost a worker next to nothing, and nothing that its host does with them holds it up.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Self, TypedDict
from uuid import UUID

import attrs
import trio

from trioworker.api.condition import ConditionChange
from trioworker.api.models import StateType
from trioworker.lean_attrs import frozen
from trioworker.runs.active import ActiveRun, Ending, RunEnd

# How many happenings may wait for whoever watches: those of some hundred runs that come and go at once.
LARGEST_BACKLOG = 1024

# A process id, which on no system has more digits, alone or before a colon and what else there is to say.
_PID = re.compile(r"([0-9]{1,7})(?::.*)?", re.DOTALL)


@frozen(kw_only=True)
class Happening:
    """Something that happened to a worker.

    Attributes:
        at: the date and time, with its time zone.
    """

    at: datetime


@frozen(kw_only=True)
class RunHappening(Happening):
    """Something that happened to a flow run.

    Attributes:
        flow_run_id: Prefect's id of the run.
        flow_run_name: its name.
        flow_name: that of its flow; None where it is not known.
    """

    flow_run_id: UUID
    flow_run_name: str
    flow_name: str | None


@frozen(kw_only=True)
class RunClaimed(RunHappening):
    """The worker has a run, and it is certain that no other has it.

    That is a little later than Prefect's state `Pending`, and just before anything is started. Every one of these is
    followed by one `RunFinished` of the same run, whatever happens. A run that another worker was quicker to claim
    is not told of at all.
    """


@frozen(kw_only=True)
class RunStarted(RunHappening):
    """What executes a run was started: its process, say.

    Attributes:
        identifier: where the run runs, as Prefect is told it in `infrastructure_pid`.
        pid: the id of its process; None where that is not in the identifier, see `RunStatus`.
    """

    identifier: str
    pid: int | None


@frozen(kw_only=True)
class RunFinished(RunHappening):
    """The worker is done with a run, and its slot is free.

    Its state is settled, unless the end is `UNSETTLED` or `LEFT`. Nothing of it runs any more, unless it was `LEFT`,
    or the worker's own end has cut it off: a function's thread or shielded clean-up, which nobody can end, may then
    go on until `Worker.run` returns.

    Attributes:
        end: what kind of end it was.
        message: the same as a sentence.
        status_code: of what was started for the run: 0 is good, the negative number of a signal or anything else is
            not; None if nothing was started, or if nobody knows.
        state_type: the type of the state that Prefect's API last showed of the run; of a run that is `UNSETTLED` it
            may be an old one.
        state_name: the name of that state, which is finer.
        seconds: for how many seconds the run was in hand, on Trio's clock.
    """

    end: RunEnd
    message: str
    status_code: int | None
    state_type: StateType | None
    state_name: str | None
    seconds: float


@frozen(kw_only=True)
class APILost(Happening):
    """The Prefect API does not answer any more, or has never answered yet; the worker keeps trying.

    Attributes:
        reason: why, in a few words.
    """

    reason: str


@frozen(kw_only=True)
class APIRegained(Happening):
    """The Prefect API answers again.

    Attributes:
        seconds: for how many seconds it had not, on Trio's clock.
    """

    seconds: float


@frozen(kw_only=True)
class WatchOverflow(Happening):
    """Here something is missing: whoever watches was too slow. What is true now, `Worker.status()` tells.

    Attributes:
        at: when the first of it happened.
        missed: how many happenings are missing.
    """

    missed: int


class WorkerPhase(enum.StrEnum):
    """How far a worker has come; it never goes back.

    Attributes:
        STARTING: it does not poll yet.
        WORKING: it takes runs.
        DRAINING: it takes no more; those in hand go on, or are being ended.
        STOPPED: `run()` is over.
    """

    STARTING = "starting"
    WORKING = "working"
    DRAINING = "draining"
    STOPPED = "stopped"


@frozen(kw_only=True)
class RunStatus:
    """A flow run that a worker has in hand.

    Attributes:
        flow_run_id: Prefect's id of the run.
        flow_run_name: its name.
        flow_name: that of its flow; None until it is known.
        age: seconds since the worker took it in hand, on Trio's clock.
        claimed: whether it is certain that it is this worker's; see `RunClaimed`.
        identifier: where it runs, as Prefect is told it in `infrastructure_pid`; None until it was started.
        pid: the id of its process: the number that the identifier is, or that stands in it before a colon; None
            where there is none.
        cancelling: whether somebody wants it cancelled.
    """

    flow_run_id: UUID
    flow_run_name: str
    flow_name: str | None
    age: float
    claimed: bool
    identifier: str | None
    pid: int | None
    cancelling: bool


@frozen(kw_only=True)
class WorkerStatus:
    """What a worker is doing at one moment.

    Attributes:
        name: the worker's name.
        pool: the name of its work pool.
        type: the kind of infrastructure, which is Prefect's worker type; None until it is known.
        phase: how far it has come.
        limit: how many runs may be in hand at once; None for any number.
        free: how many more may be taken in hand; None for any number.
        api_reachable: whether the Prefect API answers; true until the contrary is known.
        runs: those in hand, in the order in which they were taken.
    """

    name: str
    pool: str
    type: str | None
    phase: WorkerPhase
    limit: int | None
    free: int | None
    api_reachable: bool
    runs: tuple[RunStatus, ...]


class _Mailbox:
    """What waits for one watcher, and the word that there will be no more."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[Happening] = deque()
        self._closed = False
        self._news = trio.Event()

    def add(self, happening: Happening) -> None:
        if len(self._waiting) < self._capacity:
            self._waiting.append(happening)
        elif isinstance(last := self._waiting[-1], WatchOverflow):
            self._waiting[-1] = attrs.evolve(last, missed=last.missed + 1)
        else:
            self._waiting.append(WatchOverflow(at=happening.at, missed=1))
        self._wake()

    def close(self) -> None:
        """Take no more; what waits can still be taken."""
        self._closed = True
        self._wake()

    def clear(self) -> None:
        self._waiting.clear()

    async def take(self) -> Happening | None:
        """The next happening; None if there is none left and none will come."""
        await trio.lowlevel.checkpoint()
        while not self._waiting and not self._closed:
            await self._news.wait()
        return self._waiting.popleft() if self._waiting else None

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


class Watch:
    """What happens to a worker, everything from the call of `Worker.watch()` on: an async iterator.

    One task iterates. The iteration ends when the worker has stopped. Leaving its `with` block, or `close()`, ends it
    before; without that, what is not taken waits until the worker has gone. No more than its capacity does: what
    comes on top of that is counted, and a `WatchOverflow` stands in its place.
    """

    def __init__(self, mailbox: _Mailbox, on_close: Callable[[_Mailbox], None]) -> None:
        self._mailbox = mailbox
        self._on_close = on_close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Happening:
        happening = await self._mailbox.take()
        if happening is None:
            raise StopAsyncIteration
        return happening

    def close(self) -> None:
        """Watch no more; what waits to be taken is dropped. May be called any number of times."""
        self._on_close(self._mailbox)
        self._mailbox.clear()
        self._mailbox.close()


class Observation:
    """Tells whoever watches one worker what happens to it.

    Args:
        now: the time of day.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._mailboxes: list[_Mailbox] = []
        self._api_reachable = True
        self._draining = False
        self._stopped = False

    @property
    def api_reachable(self) -> bool:
        """Whether the API answers, as far as anybody was told."""
        return self._api_reachable

    @property
    def draining(self) -> bool:
        """Whether the worker takes no more runs."""
        return self._draining

    @property
    def stopped(self) -> bool:
        """Whether the worker is at its end."""
        return self._stopped

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """However this block is left, the worker has stopped then, and nobody waits for more."""
        try:
            yield
        finally:
            self._stopped = True
            for mailbox in self._mailboxes:
                mailbox.close()
            self._mailboxes.clear()

    def intake_over(self) -> None:
        """Take note that the worker takes no more runs."""
        self._draining = True

    def watch(self, capacity: int = LARGEST_BACKLOG) -> Watch:
        """See `Worker.watch`."""
        if capacity < 1:
            raise ValueError(f"a watch must have room for 1 happening or more, not {capacity}")
        mailbox = _Mailbox(capacity)
        if self._stopped:
            mailbox.close()
        else:
            self._mailboxes.append(mailbox)
        return Watch(mailbox, self._forget)

    def condition_changed(self, change: ConditionChange) -> None:
        """Tell that the API was lost or is back."""
        self._api_reachable = change.reachable
        if change.reachable:
            self._tell(APIRegained(at=self._now(), seconds=change.seconds))
        else:
            self._tell(APILost(at=self._now(), reason=change.reason))

    def run_claimed(self, run: ActiveRun) -> None:
        """See `RunObserver.run_claimed`."""
        self._tell(RunClaimed(at=self._now(), **_named(run)))

    def run_started(self, run: ActiveRun) -> None:
        """See `RunObserver.run_started`."""
        identifier = run.identifier or ""
        self._tell(RunStarted(at=self._now(), **_named(run), identifier=identifier, pid=_pid(identifier)))

    def run_finished(self, run: ActiveRun, ending: Ending) -> None:
        """See `RunObserver.run_finished`."""
        self._tell(
            RunFinished(
                at=self._now(),
                **_named(run),
                end=ending.how,
                message=ending.message,
                status_code=ending.status_code,
                state_type=None if run.state is None else run.state.type,
                state_name=None if run.state is None else run.state.label,
                seconds=trio.current_time() - run.taken_at,
            )
        )

    def _tell(self, happening: Happening) -> None:
        for mailbox in self._mailboxes:
            mailbox.add(happening)

    def _forget(self, mailbox: _Mailbox) -> None:
        if mailbox in self._mailboxes:
            self._mailboxes.remove(mailbox)


def run_status(run: ActiveRun) -> RunStatus:
    """What a run in hand looks like now."""
    return RunStatus(
        **_named(run),
        age=trio.current_time() - run.taken_at,
        claimed=run.claimed,
        identifier=run.identifier,
        pid=_pid(run.identifier or ""),
        cancelling=run.cancel_requested.is_set(),
    )


class _Name(TypedDict):
    flow_run_id: UUID
    flow_run_name: str
    flow_name: str | None


def _named(run: ActiveRun) -> _Name:
    return _Name(flow_run_id=run.flow_run.id, flow_run_name=run.flow_run.name, flow_name=run.flow_name)


def _pid(identifier: str) -> int | None:
    found = _PID.fullmatch(identifier)
    return int(found[1]) if found else None
