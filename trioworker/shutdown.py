"""How a worker stops: first no new runs, then a time to finish, then the end.

```
request()   nothing new is begun; runs get `drain_timeout` seconds to end
stop()      runs are ended now: terminate, `kill_grace` seconds, kill
abandon()   everything is killed now, and there is a second left to say so
```

Each includes the one before it, and each may be called at any time, any number of times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from trioworker.infrastructure.protocol import ShutdownPolicy
from trioworker.runs.tally import Tally

# What the API gets to hear of a worker that leaves in a hurry; one that is well needs milliseconds.
_ABANDONED_SECONDS = 1.0


class Shutdown:
    """The cancel scopes that a worker's parts run in, and the order in which they end.

    Args:
        drain_timeout: seconds for runs to end by themselves.
        kill_grace: seconds between terminating and killing a run.
        flush_timeout: seconds to tell the API about it all.
        policy: what becomes of runs that are cut off.
        on_cut_off: called once when runs begin to be ended before their time.

    Attributes:
        tally: of the runs that were cut off.
    """

    def __init__(
        self,
        *,
        drain_timeout: float,
        kill_grace: float,
        flush_timeout: float,
        policy: ShutdownPolicy = "crash",
        on_cut_off: Callable[[], None] = lambda: None,
    ) -> None:
        self.starting: trio.CancelScope = trio.CancelScope()
        self.intake: trio.CancelScope = trio.CancelScope()
        self.runs: trio.CancelScope = trio.CancelScope()
        self.flush: trio.CancelScope = trio.CancelScope(shield=True)
        self.tally: Tally = Tally()
        self._drain_timeout = drain_timeout
        self._kill_grace = kill_grace
        self._flush_timeout = flush_timeout
        self._policy: ShutdownPolicy = policy
        self._on_cut_off = on_cut_off
        self._requested = trio.Event()
        self._cut_off = False
        self._decided: ShutdownPolicy | None = None
        self._may_leave: Callable[[], bool] = lambda: True
        self._last_deadline = math.inf
        self._unbroken: set[trio.CancelScope] = set()

    @property
    def requested(self) -> bool:
        """Whether the worker is on its way down."""
        return self._requested.is_set()

    async def wait_requested(self) -> None:
        """Return when the worker is on its way down, at once if it is now."""
        await self._requested.wait()

    @property
    def cut_off(self) -> bool:
        """Whether runs were ended before their time."""
        return self._cut_off

    @property
    def policy(self) -> ShutdownPolicy:
        """What becomes of runs that are cut off; that does not change any more once the first one is."""
        if self._decided is not None:
            return self._decided
        return "crash" if self._policy == "leave" and not self._may_leave() else self._policy

    @property
    def leaves_none(self) -> bool:
        """Whether runs are ended that were to be left, since the next worker would not know of them."""
        return self._policy == "leave" and self.policy != "leave"

    def leave_only_if(self, may_leave: Callable[[], bool]) -> None:
        """Leave runs for the next worker only if that will know of them, whatever the policy is."""
        self._may_leave = may_leave

    def leave_none(self) -> None:
        """Have no run left for the next worker: those that are cut off are reported as crashed then."""
        if self.policy == "leave":
            self._policy = self._decided = "crash"

    def request(self) -> None:
        """Begin nothing new and let what runs end, for `drain_timeout` seconds at the most."""
        if self.requested:
            return
        self._requested.set()
        self.starting.cancel()
        self.intake.cancel()
        self.runs.deadline = trio.current_time() + self._drain_timeout

    def stop(self) -> None:
        """End the runs now."""
        self.request()
        self.runs.cancel()

    def abandon(self) -> None:
        """Leave a second for everything that still waits; whoever kills processes has done so before."""
        self.leave_none()
        self.stop()
        deadline = trio.current_time() + _ABANDONED_SECONDS
        self._bring_forward(deadline)
        # Not the last deadline, which may be over long since if a thread holds the worker up.
        self.flush.deadline = min(self.flush.deadline, deadline)

    def begin_cut_off(self) -> None:
        """Take note that runs are being ended before their time; from now on the last deadline counts."""
        if not self._cut_off:
            self._cut_off = True
            self._decided = self.policy
            self._bring_forward(trio.current_time() + self._kill_grace + self._flush_timeout)
            self._on_cut_off()

    def _bring_forward(self, deadline: float) -> None:
        self._last_deadline = min(self._last_deadline, deadline)
        for scope in self._unbroken:
            scope.deadline = self._last_deadline

    @contextmanager
    def unbroken(self) -> Iterator[trio.CancelScope]:
        """A shielded scope for a request whose answer must be known before anything else can be decided.

        When runs are cut off, it gets their last deadline.
        """
        with trio.CancelScope(shield=True, deadline=self._last_deadline) as scope:
            self._unbroken.add(scope)
            try:
                yield scope
            finally:
                self._unbroken.discard(scope)

    @contextmanager
    def last_words(self) -> Iterator[trio.CancelScope]:
        """A shielded scope for what must be said about a run that was cut off.

        All such scopes, and the flush of the outbox, share one deadline: grace and flush after runs began to
        be cut off.
        """
        self.begin_cut_off()
        with self.unbroken() as scope:
            yield scope

    def flush_deadline(self) -> float:
        """Until when the outbox may go on sending, asked once the runs have ended.

        What nothing can end, such as a thread, may have held the worker up beyond the last deadline. Then there is as
        much time again for what has been left to tell meanwhile, but no more than a second.
        """
        now = trio.current_time()
        held_up = max(0.0, now - self._last_deadline)
        last = max(self._last_deadline, now + min(held_up, _ABANDONED_SECONDS))
        return min(now + self._flush_timeout, last)
