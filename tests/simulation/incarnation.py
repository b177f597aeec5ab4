"""One worker: its ways to the world, each behind a fence, and its end, of whatever kind."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Protocol

import attrs
import trio

from trioworker import Notice, Surroundings, Worker, WorkerConfig
from trioworker.api.client import PrefectAPI
from trioworker.api.condition import Condition
from trioworker.api.errors import APIError
from trioworker.errors import WorkerError

from .faults import Fault
from .fence import DeadError, Fence
from .infrastructure import SimulatedInfrastructure, Starter
from .ledgers import Directory, Owner
from .network import Network, open_wire

__all__ = ["Incarnation", "World"]

# Seconds of the bound that are left to rounding.
_TOLERANCE: Final = 0.1


class World(Starter, Protocol):
    """What a worker finds around it."""

    network: Network
    directory: Directory
    chance: random.Random

    def meet(self, step: str, incarnation: Incarnation) -> Fault | None:
        """Have the faults come that are due at a step; what is to happen to the request that is made there."""
        ...

    def complain(self, problem: str) -> None:
        """Take down what must not be."""
        ...

    def has_ended(self, incarnation: Incarnation) -> None:
        """A worker is gone."""
        ...


@attrs.define(eq=False)
class Incarnation:
    """A worker, from its start to its end.

    Attributes:
        number: which one of its world.
        world: around it.
        config: what it is told to do.
        now: the time of day.
        fence: falls when it crashes.
        worker: itself.
        owner: its way to the disk.
        asked_to_stop_at: since when it has been told to stop; None if it has not been.
        ended: set when it is gone.
    """

    number: int
    world: World
    config: WorkerConfig
    now: Callable[[], datetime]
    keeps_ledger: bool = True
    fence: Fence = attrs.field(factory=Fence)
    asked_to_stop_at: float | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    worker: Worker = attrs.field(init=False)
    owner: Owner = attrs.field(init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        self.owner = Owner(self.world.directory, self.fence, self.pass_step, keeps=self.keeps_ledger)
        infrastructure = SimulatedInfrastructure(
            self.world, self.fence, self.pass_step, self.config.kill_grace
        )
        surroundings = Surroundings(
            open_api=self._open_api,
            infrastructure=lambda _, __: infrastructure,
            open_ledger=self.owner.open,
            now=self.now,
            chance=self.world.chance.random,
        )
        self.worker = Worker(self.config, notify=_ignore, surroundings=surroundings)

    @property
    def lives(self) -> bool:
        """Whether it can still do anything."""
        return not (self.fence.fallen or self.ended.is_set())

    @property
    def is_wanted(self) -> bool:
        """Whether it lives and is to go on."""
        return self.lives and self.asked_to_stop_at is None

    async def live(self) -> None:
        """Work until the end."""
        try:
            with self._scope:
                await self.worker.run()
        except* DeadError:
            pass
        except* (WorkerError, APIError):
            # What would be said to the user; then the service manager starts another one.
            pass
        self.ended.set()
        self._check_end()
        if not self.fence.fallen:
            self.world.has_ended(self)

    async def pass_step(self, step: str) -> Fault | None:
        """See `Passing`."""
        await self.fence.pass_through()
        fault = self.world.meet(step, self)
        self.fence.check()
        return fault

    def crash(self) -> None:
        """Be gone at once: nothing that it does from now on has any effect."""
        if self.lives:
            self.fence.fall()
            self._scope.cancel()
            self.world.has_ended(self)

    def cancel(self) -> None:
        """Be cancelled by the program in which it is a guest."""
        self._note_stop()
        self._scope.cancel()

    def shutdown(self) -> None:
        """Get the first signal."""
        self._note_stop()
        self.worker.shutdown()

    def stop(self) -> None:
        """Get the second one."""
        self.worker.stop()

    def abandon(self) -> None:
        """Get the third one."""
        if self.lives:
            self.worker.abandon()

    def _check_end(self) -> None:
        """See to it that it has not taken longer than it says, unless it was held up."""
        if self.fence.fallen or self.fence.has_frozen or self.asked_to_stop_at is None:
            return
        took = trio.current_time() - self.asked_to_stop_at
        if took > self.config.stop_bound + _TOLERANCE:
            self.world.complain(f"worker {self.number} took {took:.1f} s to stop")

    def _note_stop(self) -> None:
        if self.asked_to_stop_at is None:
            self.asked_to_stop_at = trio.current_time()

    @asynccontextmanager
    async def _open_api(self, _: WorkerConfig, condition: Condition) -> AsyncIterator[PrefectAPI]:
        yield open_wire(self.world.network, self.pass_step, condition)


def _ignore(notice: Notice) -> None:
    """Nobody reads it here."""
