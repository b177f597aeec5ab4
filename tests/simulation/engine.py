"""What the process of a run does: as Prefect's engine, it tells the API itself how its run goes."""

from __future__ import annotations

import enum
import random
from typing import Final, Protocol

import attrs
import trio

from trioworker.api.models import OrchestrationResult, SetStateStatus
from trioworker.testing import FakePrefectAPI

from .machine import TERMINATED, Process

__all__ = ["Behaviour", "End", "EngineWorld", "draw_behaviour", "execute", "execute_child"]

# How often an engine asks an API that is away, and seconds between that.
_ATTEMPTS: Final = 6
_PAUSE: Final = 4.0


class End(enum.Enum):
    """How a body comes to its end by itself."""

    COMPLETED = "completed"
    FAILED = "failed"
    SUSPENDED = "suspended"
    DIES = "dies"
    NEVER = "never"


@attrs.frozen(kw_only=True)
class Behaviour:
    """What one process does.

    Attributes:
        start_seconds: until it asks whether it may begin.
        seconds: how long its body takes.
        end: how that ends.
        retries: how often the body fails first, and is tried again in the same process.
        retry_seconds: between these attempts.
        status: of a process that dies.
        linger_seconds: from the report of its end until the process has ended.
        ignores_terminate: whether SIGTERM does not end it.
        terminate_seconds: until SIGTERM has ended it.
        reachable: whether it can be told why it is to end.
        reports: whether it tells its worker how its run has ended.
        child_seconds: how long a process lives that it starts; None if it starts none.
        child_ignores_terminate: whether SIGTERM does not end that.
    """

    start_seconds: float = 1.0
    seconds: float = 10.0
    end: End = End.COMPLETED
    retries: int = 0
    retry_seconds: float = 5.0
    status: int = 0
    linger_seconds: float = 0.0
    ignores_terminate: bool = False
    terminate_seconds: float = 0.1
    reachable: bool = True
    reports: bool = True
    child_seconds: float | None = None
    child_ignores_terminate: bool = False


def draw_behaviour(chance: random.Random) -> Behaviour:
    """Draw what a process does."""
    [end] = chance.choices(list(End), [60, 10, 6, 14, 5])
    # A run that once has waited for a retry itself is offered to nobody when it is resumed: Prefect's own affair.
    retries = 0 if end is End.SUSPENDED else chance.choice([0, 0, 0, 0, 0, 1, 2])
    return Behaviour(
        start_seconds=chance.choice([0.0, 0.2, 1.0, 3.0, 40.0]),
        seconds=chance.choice([0.0, 0.5, 5.0, 20.0, 60.0]),
        end=end,
        retries=retries,
        retry_seconds=chance.choice([0.5, 10.0, 40.0]),
        status=chance.choice([0, 1, 7, -9, -11]),
        linger_seconds=chance.choice([0.0, 0.0, 0.5, 2.0, 20.0]),
        ignores_terminate=chance.random() < 0.15,
        terminate_seconds=chance.choice([0.0, 0.1, 0.1, 1.0, 7.0]),
        reachable=chance.random() < 0.8,
        reports=chance.random() < 0.8,
        child_seconds=chance.choice([None, None, None, 1.0, 30.0, 100_000.0]),
        child_ignores_terminate=chance.random() < 0.3,
    )


class EngineWorld(Protocol):
    """What a process finds around it."""

    server: FakePrefectAPI

    @property
    def api_answers(self) -> bool:
        """Whether the API can be reached just now."""
        ...

    def fork(self, process: Process, behaviour: Behaviour, seconds: float) -> None:
        """The process starts another one, which lives for so long."""
        ...

    def run_step(self, step: str, process: Process) -> None:
        """The process has come to a step."""
        ...

    def body_begins(self, process: Process) -> None:
        """The body is executed from now on."""
        ...

    def reported(self, process: Process, name: str) -> None:
        """The API has taken a state that is the run's end, as far as the process knows."""
        ...


class _GaveUpError(Exception):
    """The process ends, since the API is away, or has nothing for it to do."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def execute(world: EngineWorld, process: Process, behaviour: Behaviour) -> None:
    """Be the process, from its start to its end."""
    with process.life:
        await process.released.wait()
        world.run_step("run starts", process)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_heed_terminate, nursery.cancel_scope, process)
                await _work(world, process, behaviour)
                nursery.cancel_scope.cancel()
        except* _GaveUpError as errors:
            process.end(next(error.status for error in errors.exceptions if isinstance(error, _GaveUpError)))
        if process.terminated.is_set() and process.lives:
            with trio.CancelScope() as process.life:
                await _be_terminated(world, process, behaviour)
    world.run_step("run ends", process)


async def execute_child(child: Process, seconds: float) -> None:
    """Be a process that another one has started."""
    with child.life:
        with trio.move_on_after(seconds):
            await child.terminated.wait()
        child.end(TERMINATED if child.terminated.is_set() else 0)


async def _heed_terminate(work: trio.CancelScope, process: Process) -> None:
    await process.terminated.wait()
    work.cancel()


async def _be_terminated(world: EngineWorld, process: Process, behaviour: Behaviour) -> None:
    """What an engine does that gets SIGTERM: without a word why, it calls that a crash."""
    await trio.sleep(behaviour.terminate_seconds)
    if process.told is None and process.reported is None and world.api_answers:
        try:
            result = world.server.set_state(process.flow_run_id, "Crashed", message="terminated", force=True)
        except LookupError:
            pass
        else:
            if behaviour.reports:
                process.conclusion = result.state
    process.end(TERMINATED)


async def _work(world: EngineWorld, process: Process, behaviour: Behaviour) -> None:
    if behaviour.child_seconds is not None:
        world.fork(process, behaviour, behaviour.child_seconds)
    await trio.sleep(behaviour.start_seconds)
    await _propose(world, process, "Running")
    world.body_begins(process)
    world.run_step("run begins", process)
    for _ in range(behaviour.retries):
        await trio.sleep(behaviour.seconds)
        await _propose(world, process, "AwaitingRetry", retry_type="in_process")
        await trio.sleep(behaviour.retry_seconds)
        await _propose(world, process, "Running")
    await trio.sleep(behaviour.seconds)
    world.run_step("run reports", process)
    match behaviour.end:
        case End.NEVER:
            await trio.sleep_forever()
        case End.DIES:
            process.end(behaviour.status)
        case End.SUSPENDED:
            await _propose(world, process, "Suspended")
            world.reported(process, "Suspended")
            await trio.sleep(behaviour.linger_seconds)
            process.end(0)
        case End.COMPLETED | End.FAILED:
            name = behaviour.end.value.capitalize()
            result = await _propose(world, process, name)
            world.reported(process, name)
            if behaviour.reports:
                process.conclusion = result.state
            await trio.sleep(behaviour.linger_seconds)
            process.end(0 if behaviour.end is End.COMPLETED else 1)


async def _propose(
    world: EngineWorld, process: Process, name: str, *, retry_type: str | None = None
) -> OrchestrationResult:
    """Propose a state, as often as the API says to wait, or does not answer."""

    def propose() -> OrchestrationResult:
        try:
            return world.server.set_state(process.flow_run_id, name, retry_type=retry_type)
        except LookupError:  # somebody has deleted the run
            raise _GaveUpError(1) from None

    attempts = 0
    while True:
        await trio.lowlevel.checkpoint()
        if not world.api_answers:
            attempts += 1
            if attempts == _ATTEMPTS:
                raise _GaveUpError(1)
            await trio.sleep(_PAUSE)
            continue
        result = propose()
        if result.status is SetStateStatus.WAIT:
            await trio.sleep(max(result.details.delay_seconds, 0.1))
        elif result.status is SetStateStatus.ACCEPT:
            return result
        else:
            raise _GaveUpError(0)
