"""Functions that two workers serve while the API, people and the workers' own ends get in the way.

Many worlds are played, each in virtual time and the same in every test run, and of each the same must be true in the
end. What happens in them is drawn from few values, so that things coincide that seldom do.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, TypeVar
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from hypothesis import Phase, example, given, note, seed, settings
from hypothesis import strategies as st

from trioworker import RunClaimed, RunFinished, TrioFlows, Worker, WorkerConfig, current_flow_run
from trioworker.api.errors import APIUnavailableError
from trioworker.api.models import StateType
from trioworker.observation import Happening
from trioworker.testing import FakePrefect

T = TypeVar("T")

POOL = "functions"
RETRIES = 2

# Seconds: enough for all that is ever done, faults included.
LONG_ENOUGH = 1200.0

FINAL = ("Completed", "Failed", "Crashed", "Cancelled")

REQUESTS = (
    "set_flow_run_state",
    "read_flow_run",
    "read_flow_run_states",
    "update_flow_run_policy",
    "set_infrastructure_pid",
    "release_concurrency_lease",
    "renew_concurrency_lease",
    "read_deployment",
)


@attrs.frozen
class PlannedRun:
    """When a run is created and due, what its function does, and after how long somebody cancels it, if anybody does.

    Each call takes `seconds`, and so many of them fail. One that is cancelled cleans up, shielded, for a time.
    """

    created: float = 0.0
    due_after: float = 0.0
    seconds: float = 1.0
    failures: int = 0
    clean_up: float = 0.0
    cancelled_after: float | None = None


@attrs.frozen
class Fault:
    """What goes wrong, from a moment on, with the next requests of one kind."""

    at: float
    kind: Literal["refused", "answer lost", "answer malformed"]
    times: int = 1
    request: str = "set_flow_run_state"

    def plant(self, api: FakePrefect) -> None:
        match self.kind:
            case "refused":
                api.fail(self.request, APIUnavailableError("the API answered 503"), times=self.times)
            case "answer lost":
                api.lose_answer(self.request, times=self.times)
            case "answer malformed":
                api.malform_answer(self.request, times=self.times)


@attrs.frozen
class Outage:
    """When the API answers nobody, and for how many seconds."""

    at: float
    seconds: float


@attrs.frozen
class End:
    """How and when the first worker ends."""

    at: float
    how: Literal["shutdown", "stop", "cancel", "abandon"]


@attrs.frozen
class World:
    """All that is to happen; the second worker is there from the beginning, or comes when the first has gone."""

    runs: Sequence[PlannedRun]
    faults: Sequence[Fault] = ()
    outage: Outage | None = None
    end: End | None = None
    together: bool = True
    limit: int | None = None
    retry_delay: int = 0
    latency: float = 0.0

    @property
    def abandoned(self) -> bool:
        """Whether runs may be left as they are."""
        return self.end is not None and self.end.how == "abandon"


def mostly(value: T, others: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The value, in three cases of four."""
    return st.sampled_from([True, True, True, False]).flatmap(
        lambda usual: st.just(value) if usual else others
    )


# With these, things happen at once, or just before others or after them.
BEFORE = st.sampled_from([0.0, 0.0, 0.9, 0.9, 4.9, 9.9])
AFTER = st.sampled_from([0.1, 1.1, 2.5, 5.1, 9.9, 20.1])

RUNS = st.builds(
    PlannedRun,
    created=mostly(0.0, st.sampled_from([1.0, 9.0])),
    due_after=mostly(0.0, st.sampled_from([5.0, 9.0])),
    seconds=st.sampled_from([0.0, 1.0, 1.0, 5.0]),
    failures=st.sampled_from([0, 1, 1, RETRIES]),
    clean_up=mostly(0.0, st.just(2.0)),
    cancelled_after=st.none() | st.none() | AFTER,
)
FAULTS = st.builds(
    Fault,
    at=BEFORE,
    kind=st.sampled_from(["refused", "answer lost", "answer malformed"]),
    times=st.sampled_from([1, 2]),
    request=mostly("set_flow_run_state", st.sampled_from(REQUESTS)),
)
WORLDS = st.builds(
    World,
    runs=st.lists(RUNS, min_size=2, max_size=4),
    # So few that nobody loses patience.
    faults=st.lists(FAULTS, min_size=1, max_size=3).filter(
        lambda faults: sum(each.times for each in faults) <= 4
    ),
    outage=mostly(None, st.builds(Outage, BEFORE, st.sampled_from([3.0, 9.0]))),
    end=st.none() | st.builds(End, AFTER, st.sampled_from(["shutdown", "stop", "cancel", "abandon"])),
    together=mostly(True, st.just(False)),
    limit=st.sampled_from([None, 1, 2]),
    retry_delay=st.sampled_from([0, 3, 20, 20]),
    latency=mostly(0.0, st.sampled_from([0.1, 0.5])),
)


@attrs.define
class Call:
    """A call of a function: when, how its run stood at the time, and whether the function returned."""

    begun: float
    state_type: StateType
    ended: float = math.inf
    returned: bool = False


@attrs.define(eq=False)
class Play:
    """A world that is played, and what has been seen in it."""

    world: World
    api: FakePrefect = attrs.field(factory=FakePrefect)
    app: TrioFlows = attrs.field(factory=TrioFlows)
    runs: dict[UUID, PlannedRun] = attrs.field(factory=dict)
    calls: defaultdict[UUID, list[Call]] = attrs.field(factory=lambda: defaultdict(list))
    happenings: list[Happening] = attrs.field(factory=list)
    # Of the first worker.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def perform(self) -> None:
        """Play it, from the deploying on until both workers have gone."""
        world = self.world
        declare = self.app.flow(
            name="work", retries=RETRIES, retry_delay=world.retry_delay, concurrency_limit=world.limit
        )
        declare(self._work)
        await self.app.deploy(pool=POOL, **self.api.worker_options)
        self.api.latency = world.latency
        first, second = self._worker("first"), self._worker("second")
        async with trio.open_nursery() as nursery:
            if world.together:
                nursery.start_soon(self._serve, first)
                nursery.start_soon(self._serve, second)
            else:
                nursery.start_soon(self._serve, first, second)
            await self._interfere(first)
            await self._wait_until_settled(first, second)
            # If a slot was not given back, one of these waits for it.
            for _ in range(world.limit or 1):
                self._create(PlannedRun())
            await self._wait_until_settled(first, second)
            first.shutdown()
            second.shutdown()

    def _worker(self, name: str) -> Worker:
        config = WorkerConfig(
            pool=POOL,
            name=name,
            flows=self.app,
            # Nobody is to be in such a hurry that faults keep a run from being settled.
            kill_grace=LONG_ENOUGH,
            flush_timeout=LONG_ENOUGH,
            settings=self.api.settings,
        )
        return Worker(config, notify=lambda _: None, surroundings=self.api.surroundings)

    async def _serve(self, *workers: Worker) -> None:
        """Have workers serve, one after the other."""
        for worker in workers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, worker)
                with self.scope if worker.name == "first" else trio.CancelScope():
                    await worker.run()

    async def _watch(self, worker: Worker) -> None:
        with worker.watch() as happenings:
            async for happening in happenings:
                self.happenings.append(happening)

    async def _work(self) -> None:
        run_id = current_flow_run().id
        planned, calls = self.runs[run_id], self.calls[run_id]
        state = self.api.flow_run(run_id).state
        assert state is not None
        calls.append(call := Call(trio.current_time(), state.type))
        try:
            await trio.sleep(planned.seconds)
            if len(calls) <= planned.failures:
                raise ValueError("no luck")
            call.returned = True
        except trio.Cancelled:
            with trio.move_on_after(planned.clean_up, shield=True):
                await trio.sleep_forever()
            raise
        finally:
            call.ended = trio.current_time()

    async def _interfere(self, first: Worker) -> None:
        """Do everything at its time."""
        for at, action in sorted(self._interferences(first), key=lambda each: each[0]):
            await trio.sleep_until(at)
            action()

    def _interferences(self, first: Worker) -> Iterator[tuple[float, Callable[[], object]]]:
        world, api = self.world, self.api
        for planned in world.runs:
            yield planned.created, partial(self._create, planned)
            if planned.cancelled_after is not None:
                yield planned.created + planned.cancelled_after, partial(self._cancel, planned)
        for fault in world.faults:
            yield fault.at, partial(fault.plant, api)
        if world.outage is not None:
            yield world.outage.at, api.start_outage
            yield world.outage.at + world.outage.seconds, api.end_outage
        if world.end is not None:
            yield (
                world.end.at,
                self.scope.cancel if world.end.how == "cancel" else getattr(first, world.end.how),
            )

    def _create(self, planned: PlannedRun) -> None:
        run = self.api.schedule("work", at=self.api.seconds() + planned.due_after)
        self.runs[run.id] = planned

    def _cancel(self, planned: PlannedRun) -> None:
        for run_id, each in self.runs.items():
            if each is planned:
                self.api.cancel(run_id)

    async def _wait_until_settled(self, *workers: Worker) -> None:
        """Wait until all runs have ended and no worker knows anything better to do with them."""
        with trio.move_on_after(LONG_ENOUGH):
            for run_id in self.runs:
                await self.api.wait_for_state(run_id, *FINAL)
            while any(worker.status().runs for worker in workers):  # noqa: ASYNC110 - in virtual time
                await trio.sleep(1)
            for run_id in self.runs:
                await self.api.wait_for_state(run_id, *FINAL)


def check_calls(calls: Sequence[Call]) -> None:
    for call, following in pairwise(calls):
        assert call.ended <= following.begun, "a function was called while it was being called"
        assert not call.returned, "a function was called again that had returned"
    assert not any(call.state_type.is_final for call in calls), (
        "a function was called for a run that had ended"
    )


def check_end(states: Sequence[str], calls: Sequence[Call], planned: PlannedRun, world: World) -> None:
    match states[-1]:
        case "Completed":
            assert calls[-1].returned, "a run is completed whose function has not returned"
        case "Failed":
            assert states.count("Running") > RETRIES or world.abandoned, "a retry was lost"
        case "Cancelled":
            assert planned.cancelled_after is not None, "a run is cancelled that nobody has cancelled"
        case "Crashed":
            assert world.end is not None, "a run has crashed, though its worker has not ended"
        case _:
            assert world.abandoned, "a run has not ended"


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@seed(3)
# Without a search for the smallest world that goes wrong, which takes minutes: add `Phase.shrink` for that.
@settings(database=None, deadline=None, max_examples=250, phases=[Phase.explicit, Phase.generate])
@given(world=WORLDS)
# A claim whose repetition meets a run that waits for its retry, or has ended while another one has the only slot.
@example(World([PlannedRun(failures=1)], [Fault(0.0, "refused")], retry_delay=3))
@example(
    World([PlannedRun(failures=1)], [Fault(0.0, "refused")], end=End(2.5, "stop"), limit=1, retry_delay=20)
)
@example(World([PlannedRun(seconds=0.0)] * 2, [Fault(0.0, "refused", 2)] * 2, limit=1, latency=0.1))
# Answers that get lost by which the server decides upon a retry.
@example(World([PlannedRun(failures=1)], [Fault(0.9, "answer lost")], limit=1))
@example(World([PlannedRun(failures=1)], [Fault(0.9, "answer lost", 2)]))
# The answer gets lost by which a worker that leaves gives a run back, just before the other one takes it.
@example(World([PlannedRun(due_after=10.3)], [Fault(9.9, "answer lost")], end=End(9.9, "stop"), latency=0.1))
# A retry that a worker has left is cancelled before another one takes it.
@example(World([PlannedRun(failures=1, cancelled_after=5.1)], end=End(2.5, "shutdown"), retry_delay=20))
def test_every_run_is_seen_to_its_end_by_one_call_at_a_time(world: World) -> None:
    play = Play(world)
    trio.run(play.perform, clock=trio.testing.MockClock(autojump_threshold=0))
    for run_id, planned in play.runs.items():
        states, calls = play.api.states(run_id), play.calls[run_id]
        note(f"{states} {calls}")
        check_calls(calls)
        check_end(states, calls, planned, world)
    claimed = [each.flow_run_id for each in play.happenings if isinstance(each, RunClaimed)]
    finished = [each.flow_run_id for each in play.happenings if isinstance(each, RunFinished)]
    assert Counter(claimed) == Counter(finished)
