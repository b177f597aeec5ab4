"""Which runs to take in hand, and when to look for them.

Polling finds every run within a poll interval. So that none has to wait for that, a poll is brought forward when
somebody says that a run is scheduled, when the time of a run comes that was listed ahead of it, and when a slot
becomes free for which there may be a run. What is said is a hint: what is done goes by what the poll lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import attrs
import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError, ObjectNotFoundError
from trioworker.api.models import FlowRun, StateType
from trioworker.errors import ConfigurationError
from trioworker.health import PollingHealth
from trioworker.hints import Hints
from trioworker.launch_rate import LaunchRate
from trioworker.lean_attrs import frozen
from trioworker.listing import Listing, choose, page_size
from trioworker.notices import Notice, Notify
from trioworker.runs.active import ActiveRun, ActiveRuns, RunEnd
from trioworker.runs.flow_run import FlowRunner
from trioworker.server_clock import ServerClock
from trioworker.service import Rhythm, Spacing, WakeUp, repeat

# Seconds of launches for which one poll lists runs: what is listed for later may be others' by then.
_LAUNCH_AHEAD = 1.0

# Seconds that a poll may take, for which the one before has looked ahead.
_POLL_SECONDS = 5.0


@frozen
class _Room:
    """How many runs may be taken in hand at once.

    Attributes:
        runs: how many; None for any number.
        held_up: whether more have a slot, but would be started too soon after others.
    """

    runs: int | None
    held_up: bool = attrs.field(kw_only=True)

    def all_taken_by(self, number: int) -> bool:
        """Whether there is room for no more than so many runs."""
        return self.runs is not None and self.runs <= number


@attrs.define(kw_only=True, eq=False, repr=False)
class Intake:
    """Polls for runs that are due and starts them.

    Attributes:
        api: the API.
        pool_name: the work pool.
        queue_names: the queues to take runs from; empty for all.
        prefetch: how far ahead of their time runs are taken; None to take each when it is due.
        rhythm: how often to poll when nothing happens.
        active: the runs in hand.
        runner: lives their lives.
        health: told of each good poll.
        launches: how many runs are started a second.
        pool_is_gone: called when the pool turns out not to exist.
        notify: told when a queue does not exist.
        clock: the server's time of day.
        wake_up: has it poll early.
    """

    api: PrefectAPI
    pool_name: str
    queue_names: Sequence[str]
    prefetch: timedelta | None
    rhythm: Rhythm
    active: ActiveRuns
    runner: FlowRunner
    health: PollingHealth
    launches: LaunchRate
    pool_is_gone: Callable[[], None]
    notify: Notify
    clock: ServerClock
    wake_up: WakeUp
    _first_look: trio.Event = attrs.field(factory=trio.Event, init=False)
    _hints: Hints = attrs.field(factory=Hints, init=False)
    _complaint: str = attrs.field(default="", init=False)
    _polling: bool = attrs.field(default=False, init=False)
    _in_trouble: bool = attrs.field(default=False, init=False)
    # Whether there may be runs for a slot that becomes free.
    _left_behind: bool = attrs.field(default=False, init=False)
    # Runs whose claim has come to nothing. Early polls leave them alone, or they would be claimed without a pause.
    _resting: set[UUID] = attrs.field(factory=set, init=False)
    _resting_until: float = attrs.field(default=0.0, init=False)

    def say_scheduled(self, flow_run_id: UUID, queue_name: str | None = None) -> None:
        """Look for a run at once, since somebody says that it is scheduled.

        Args:
            flow_run_id: the run.
            queue_name: its work queue, if that is known.
        """
        if self.queue_names and queue_name is not None and queue_name not in self.queue_names:
            return
        # What becomes of a run in hand, or of one that was given back, is no news to us.
        if flow_run_id in self.active or flow_run_id in self._resting:
            return
        self._hints.say(flow_run_id)
        self._look()

    def _look(self) -> None:
        """Poll early if there is a slot for what may be found, or else as soon as there is one."""
        if self.active.free == 0:
            self._left_behind = True
        elif not (self._polling or self._in_trouble):
            # Whoever polls now sees by itself whether that was enough; and trouble is no reason to poll more often.
            self._poll_when_allowed()

    def _poll_when_allowed(self) -> None:
        """Poll as soon as one more run may be started."""
        seconds = self.launches.seconds_to_next()
        if seconds > 0:
            self.wake_up.by(trio.current_time() + seconds)
        else:
            self.wake_up()

    async def keep_polling(
        self, runs: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Poll for ever; started at once, since what came before made sure that the pool is there."""
        task_status.started()
        await repeat(
            "poll for flow runs",
            lambda: self.poll(runs),
            self.rhythm,
            wake_up=self.wake_up,
            spacing=Spacing(),
        )

    async def wait_first_look(self) -> None:
        """Wait until the first poll has been answered, or has failed."""
        await self._first_look.wait()

    async def poll(self, runs: trio.Nursery, *, only_time: bool = False) -> bool:
        """Poll once, and start what was found; whether that is anything.

        Args:
            runs: where it is started.
            only_time: whether there is no next poll, for which a work queue that is missing might be made.

        Raises:
            ConfigurationError: a work queue is missing, and this is the only poll.
            APIError: the API does not answer, or refuses to.
        """
        self._let_rested_go()
        room = self._room(only_time=only_time)
        try:
            listing = await self._list(room.runs)
        except ObjectNotFoundError as error:
            self._nothing_to_poll(error, only_time=only_time)
            return False
        found_at = trio.current_time()
        self._complaint = ""
        self.health.polled()
        chosen = choose(listing.due, self._not_wanted(), room.runs)
        self._plan(listing, chosen, room)
        for flow_run in chosen:
            # Before it is claimed, so that it is free for others for as long.
            await self.launches.wait()
            await self._start(runs, flow_run, found_at)
        if room.held_up and room.all_taken_by(len(chosen)) and self._left_behind:
            self._poll_when_allowed()
        return bool(chosen)

    async def _start(self, runs: trio.Nursery, flow_run: FlowRun, found_at: float) -> None:
        """Take a run in hand."""
        # One by one, so that the most urgent is claimed first. Shielded, since a shutdown in this very moment
        # would leave the run half way between two nurseries; and without a deadline, which a process that was
        # stopped for a while might exceed. A run waits for nothing before it is started.
        with trio.CancelScope(shield=True):
            await runs.start(self._see_through, flow_run, found_at)

    async def _see_through(  # noqa: ASYNC128 - passed on
        self, flow_run: FlowRun, found_at: float, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Have a run live its life, and see what that means to the polls."""
        if flow_run.id in self.active:
            # What an earlier worker had begun of it has been taken up since it was polled.
            task_status.started()
            return
        run = await self.runner.run(flow_run, found_at, task_status=task_status)
        if _came_to_nothing(run):
            self._resting.add(flow_run.id)
        if self._left_behind or _waits_again(run):
            self._look()

    def _room(self, *, only_time: bool) -> _Room:
        """How many runs one poll may take in hand."""
        free = self.active.free
        soon = None if only_time else self.launches.within(_LAUNCH_AHEAD)
        held_up = soon is not None and (free is None or soon < free)
        return _Room(soon if held_up else free, held_up=held_up)

    async def _list(self, room: int | None) -> Listing:
        self._hints.looking()
        self._polling = True
        self._in_trouble = False
        try:
            return await (self._list_ahead(room) if self.prefetch is None else self._list_due(room))
        except APIError as error:
            # The delays of a failing poll are not to be cut short by whatever is said meanwhile.
            self._in_trouble = not isinstance(error, ObjectNotFoundError)
            raise
        finally:
            self._polling = False
            self._first_look.set()

    async def _list_due(self, room: int | None) -> Listing:
        """List what is due, or is within the prefetch."""
        size = page_size(room, self._still_listed, looks_ahead=False)
        before = self.clock.now() + (self.prefetch or timedelta(0))
        listed = await self._ask(before, size)
        return Listing(due=listed, full=len(listed) >= size)

    async def _list_ahead(self, room: int | None) -> Listing:
        """List what is due, and what will be before the next poll."""
        size = page_size(room, self._still_listed, looks_ahead=True)
        ahead = timedelta(seconds=self.rhythm.longest_interval + _POLL_SECONDS)
        listed = await self._ask(self.clock.now() + ahead, size)
        listing = Listing.at(self.clock.now(), listed, asked_for=size)
        if room != 0 and listing.may_hide(pool_is_limited=self._pool_is_limited):
            due = await self._list_due(room)
            return attrs.evolve(listing, due=due.due, full=due.full)
        return listing

    async def _ask(self, before: datetime, limit: int) -> list[FlowRun]:
        asked_at, asked = trio.current_time(), self.clock.local()
        listed = await self.api.get_scheduled_flow_runs(
            self.pool_name, queue_names=self.queue_names, scheduled_before=before, limit=limit
        )
        server_time = max((run.read_at for run in listed if run.read_at is not None), default=None)
        if server_time is not None:
            self.clock.compare(server_time, asked=asked, answered=self.clock.local())
        elif (date := self.api.condition.date_since(asked_at)) is not None:
            self.clock.compare_with_date(date, asked=asked, answered=self.clock.local())
        return listed

    def _plan(self, listing: Listing, chosen: Sequence[FlowRun], room: _Room) -> None:
        """Decide what the next poll waits for, besides its regular time."""
        left_out = choose(listing.due, self._not_wanted(), None)[len(chosen) :]
        all_taken = room.all_taken_by(len(chosen))
        hidden = listing.full or self._pool_is_limited
        self._left_behind = hidden or bool(left_out) or (all_taken and bool(listing.later))
        found = {run.id for run in (*listing.due, *listing.later)}
        again = self._hints.found(found | self._not_wanted()) or (listing.full and bool(chosen))
        if all_taken:
            self._left_behind |= again
            return
        if again:
            self.wake_up()
        seconds = listing.seconds_to_next(self.clock.now())
        if seconds is not None:
            self.wake_up.by(trio.current_time() + seconds)

    @property
    def _pool_is_limited(self) -> bool:
        """Whether the pool has a concurrency limit, past which the server lists none of its runs."""
        pool = self.runner.keeper.pool
        return pool is not None and pool.concurrency_limit is not None

    @property
    def _still_listed(self) -> int:
        return len(self.active) + len(self._resting)

    def _not_wanted(self) -> set[object]:
        """The runs that are in hand, or are left alone for a while."""
        return {run.flow_run.id for run in self.active} | self._resting

    def _let_rested_go(self) -> None:
        """Try once more what has come to nothing, as often as if there were no early polls."""
        now = trio.current_time()
        if now >= self._resting_until:
            self._resting.clear()
            self._resting_until = now + self.rhythm.shortest_interval

    def _nothing_to_poll(self, error: ObjectNotFoundError, *, only_time: bool) -> None:
        # Of a missing pool the heartbeat has something to say.
        if self.queue_names and "queue" in error.detail:
            missing = f"a work queue is missing: {error.detail}"
            if only_time:
                raise ConfigurationError(f"Nothing was polled, since {missing}") from error
            self._complain(f"Nothing is polled, since {missing}")
        self.pool_is_gone()

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            self._complaint = message
            self.notify(Notice(message, warning=True))


def _came_to_nothing(run: ActiveRun) -> bool:
    """Whether nothing was executed for a run."""
    return run.ending is None or run.ending.how is not RunEnd.EXECUTED


def _waits_again(run: ActiveRun) -> bool:
    """Whether a run was executed, and left to whoever tries it again."""
    return not _came_to_nothing(run) and run.state is not None and run.state.type is StateType.SCHEDULED
