"""The world of one episode, and how each fault changes it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import attrs
import trio

from trioworker import Settings, WorkerConfig
from trioworker.api.errors import APIError
from trioworker.api.models import StateType
from trioworker.infrastructure.protocol import ShutdownPolicy
from trioworker.testing import FakePrefectAPI
from trioworker.testing.fake_infrastructure import DEFAULT_TEMPLATE
from trioworker.testing.records import Run

from . import network
from .engine import Behaviour, End, draw_behaviour, execute, execute_child
from .faults import OF_REQUESTS, Fault, Kind, Plan
from .incarnation import Incarnation
from .ledgers import Directory
from .machine import KILLED, Machine, Process
from .monitor import Monitor
from .network import Network

__all__ = ["World", "make_world"]

_POOL: Final = "pool"
_SETTINGS: Final = Settings.load(
    {
        "PREFECT_API_URL": "http://fake/api",
        "HOME": "/nonexistent",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    },
    Path("/nonexistent"),
)
_SETTINGS_WITH_LOGS: Final = attrs.evolve(_SETTINGS, logging_to_api_enabled=True)

# For so long the API is slow.
_SLOW_SECONDS: Final = 90.0

# No episode comes to so many steps, unless somebody goes round in circles.
_MOST_STEPS: Final = 200_000

_POLICIES: Final[tuple[ShutdownPolicy, ...]] = ("crash", "reschedule", "leave")


@attrs.define(eq=False)
class World:
    """Everything there is.

    Attributes:
        chance: decides what nothing else does.
        plan: the faults to come.
        server: the Prefect server.
        machine: runs processes.
        network: between workers and server.
        directory: of the ledgers.
        monitor: watches.
        nursery: everything lives in there.
        trace: what has happened, one line each.
        incarnations: every worker that there was.
        keeps_ledger: whether they keep one.
        limit: how many runs a worker has in hand at the most.
        behaviours: what each process does.
        steps: how often each step was reached.
        over: whether no fault is to come any more.
    """

    chance: random.Random
    plan: Plan
    server: FakePrefectAPI
    machine: Machine
    network: Network
    directory: Directory
    monitor: Monitor
    nursery: trio.Nursery
    keeps_ledger: bool = True
    limit: int = 2
    trace: list[str] = attrs.field(factory=list)
    incarnations: list[Incarnation] = attrs.field(factory=list)
    behaviours: dict[Process, Behaviour] = attrs.field(factory=dict)
    steps: Counter[str] = attrs.field(factory=Counter)
    over: bool = False
    _taken: int = 0
    _troubles: int = 0
    _untroubled: trio.Event = attrs.field(factory=trio.Event)

    # What everybody finds around them.

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.server.seconds()

    @property
    def api_answers(self) -> bool:
        """See `EngineWorld.api_answers`."""
        return self.network.answers

    def tell(self, line: str) -> None:
        """Take down what has happened."""
        self.trace.append(f"{self.now:10.2f}  {line}")

    def start(self, flow_run_id: UUID) -> Process:
        """See `Starter.start`."""
        behaviour = draw_behaviour(self.chance)
        if self.over:
            behaviour = Behaviour()
        process = self.machine.start(
            flow_run_id,
            ignores_terminate=behaviour.ignores_terminate,
            reachable=behaviour.reachable,
        )
        self.behaviours[process] = behaviour
        self.tell(f"process {process.pid} of run {_short(flow_run_id)} is started: {_in_short(behaviour)}")
        self.monitor.started(process)
        self.nursery.start_soon(execute, self, process, behaviour)
        return process

    def fork(self, process: Process, behaviour: Behaviour, seconds: float) -> None:
        """See `EngineWorld.fork`."""
        child = self.machine.fork(process, ignores_terminate=behaviour.child_ignores_terminate)
        self.nursery.start_soon(execute_child, child, seconds)

    def forks(self) -> bool:
        """See `Starter.forks`."""
        return self.chance.random() < 0.5

    def hook_seconds(self) -> float:
        """See `Starter.hook_seconds`."""
        return self.chance.choice([0.0, 0.5, 4.0])

    def run_step(self, step: str, process: Process) -> None:
        """See `EngineWorld.run_step`."""
        self.tell(f"{step}: {_short(process.flow_run_id)}, process {process.pid}, {process.status}")
        self._come_to(step, None, process)

    def body_begins(self, process: Process) -> None:
        """See `EngineWorld.body_begins`."""
        self.monitor.body_begins(self.server._runs.get(process.flow_run_id), process)

    def reported(self, process: Process, name: str) -> None:
        """See `EngineWorld.reported`."""
        self.monitor.reported(process, name)

    def meet(self, step: str, incarnation: Incarnation) -> Fault | None:
        """See `incarnation.World.meet`."""
        return self._come_to(step, incarnation, None)

    def complain(self, problem: str) -> None:
        """See `incarnation.World.complain`."""
        self.monitor.violations.append(problem)

    def has_ended(self, incarnation: Incarnation) -> None:
        """See `incarnation.World.has_ended`."""
        self.tell(f"worker {incarnation.number} is gone")
        unwritten = incarnation.owner.unwritten
        if unwritten:
            self.tell(f"no disk knows of {', '.join(map(_short, unwritten))}")
        self.monitor.stranded |= unwritten
        self.nursery.start_soon(self._start_another)

    # Workers.

    def start_worker(self) -> Incarnation:
        """Start a worker, be there others or not."""
        chance = self.chance
        policies = _POLICIES if self.keeps_ledger else _POLICIES[:2]
        config = WorkerConfig(
            pool=_POOL,
            name="worker",
            limit=self.limit,
            drain_timeout=chance.choice([0.0, 3.0, 20.0]),
            kill_grace=chance.choice([0.5, 5.0]),
            on_shutdown=chance.choice(policies),
            ledger=self.keeps_ledger,
            settings=_SETTINGS if chance.random() < 0.8 else _SETTINGS_WITH_LOGS,
        )
        number = len(self.incarnations) + 1
        incarnation = Incarnation(number, self, config, self.server.now, self.keeps_ledger)
        self.incarnations.append(incarnation)
        self.tell(f"worker {number} is started: {config.on_shutdown}, drains {config.drain_timeout:g} s")
        self.nursery.start_soon(incarnation.live)
        return incarnation

    async def _start_another(self) -> None:
        """Do as a service manager: start a worker when there is none any more."""
        await trio.sleep(self.chance.choice([0.0, 0.1, 5.0, 70.0]))
        if not any(each.is_wanted for each in self.incarnations):
            self.start_worker()

    @property
    def alive(self) -> list[Incarnation]:
        """The workers that live."""
        return [each for each in self.incarnations if each.lives]

    # Faults.

    async def have_timed_faults(self) -> None:
        """Have the faults come that come at a time."""
        for fault in self.plan.timed:
            await trio.sleep(max(0.0, fault.at - self.now))
            self._have(fault, "at a time", None, None)

    def _come_to(self, step: str, incarnation: Incarnation | None, process: Process | None) -> Fault | None:
        self.steps[step] += 1
        self._taken += 1
        if self._taken > _MOST_STEPS:
            raise AssertionError("somebody goes round in circles")
        of_request: Fault | None = None
        for fault in self.plan.due(step):
            if fault.kind in OF_REQUESTS:
                self.plan.note(fault, step)
                self.tell(f"FAULT {fault.kind} {step} of worker {incarnation and incarnation.number}")
                of_request = fault
            else:
                self._have(fault, step, incarnation, process)
        return of_request

    def _have(
        self, fault: Fault, step: str, incarnation: Incarnation | None, process: Process | None
    ) -> None:
        alive = self.alive
        if incarnation is None and alive:
            incarnation = alive[int(fault.size * len(alive))]
        whose = "" if incarnation is None else f" of worker {incarnation.number}"
        self.plan.note(fault, step)
        self.tell(f"FAULT {fault.kind} {step}{whose}")
        if fault.kind in _OF_WORKER:
            if incarnation is not None:
                self._befall(incarnation, fault)
        elif fault.kind in _OF_API:
            seconds = 3600 + 7200 * fault.size if fault.kind is Kind.LONG_OUTAGE else 200 * fault.size
            self.nursery.start_soon(self._trouble_network, _OF_API[fault.kind], seconds)
        elif fault.kind is Kind.SLOW:
            self.nursery.start_soon(self._slow_down, 30 * fault.size)
        elif fault.kind is Kind.DEAF:
            self.nursery.start_soon(self._deafen, 200 * fault.size)
        elif fault.kind is Kind.DISK_FULL:
            self.nursery.start_soon(self._fill_disk, 200 * fault.size)
        elif fault.kind is Kind.REBOOT:
            for each in alive:
                each.crash()
            self.machine.reboot()
        elif fault.kind in {Kind.KILL_PROCESS, Kind.KILL_GROUP}:
            self._kill(fault, process)
        else:
            self._meddle(fault, process)

    def _befall(self, incarnation: Incarnation, fault: Fault) -> None:
        match fault.kind:
            case Kind.CRASH:
                incarnation.crash()
            case Kind.CANCEL:
                incarnation.cancel()
            case Kind.FREEZE:
                self.nursery.start_soon(self._freeze, incarnation, 150 * fault.size)
            case Kind.REPLACE:
                self.start_worker()
                self.nursery.start_soon(self._later, 30 * fault.size, incarnation.shutdown)
            case _:
                incarnation.shutdown()
                if fault.kind in {Kind.STOP_TWICE, Kind.STOP_THRICE}:
                    self.nursery.start_soon(self._later, 8 * fault.size, incarnation.stop)
                if fault.kind is Kind.STOP_THRICE:
                    self.nursery.start_soon(self._later, 9 * fault.size, incarnation.abandon)

    async def _later(self, seconds: float, action: Callable[[], None]) -> None:
        await trio.sleep(seconds)
        action()

    @contextmanager
    def _troubled(self) -> Iterator[None]:
        """A fault lasts for the length of the block."""
        self._troubles += 1
        try:
            yield
        finally:
            self._troubles -= 1
            if not self._troubles:
                self._untroubled.set()
                self._untroubled = trio.Event()

    @property
    def is_troubled(self) -> bool:
        """Whether a fault lasts."""
        return bool(self._troubles)

    async def wait_untroubled(self) -> None:
        """Return when no fault lasts any more."""
        while self._troubles:
            await self._untroubled.wait()

    async def _freeze(self, incarnation: Incarnation, seconds: float) -> None:
        with self._troubled():
            incarnation.fence.freeze()
            await trio.sleep(seconds)
            incarnation.fence.thaw()

    async def _trouble_network(self, trouble: Callable[[], APIError], seconds: float) -> None:
        with self._troubled():
            self.network.trouble = trouble
            self.server.refuse_state_changes()
            before, living = self.network.requests, len(self.alive)
            await trio.sleep(seconds)
            self._check_requests(self.network.requests - before, living, seconds)
            self.network.trouble = None
            self.server.accept_state_changes()

    def _check_requests(self, requests: int, living: int, seconds: float) -> None:
        """See to it that nobody is busy while the API is away."""
        # Some loops of each worker and some requests for each of its runs: soon, each comes once a minute.
        most = 150 * (1 + living) + 2 * seconds
        if requests > most:
            self.monitor.violations.append(f"{requests} requests in {seconds:.0f} s without an API")

    async def _slow_down(self, latency: float) -> None:
        with self._troubled():
            before, self.network.latency = self.network.latency, latency
            await trio.sleep(_SLOW_SECONDS)
            self.network.latency = min(before, latency)

    async def _deafen(self, seconds: float) -> None:
        with self._troubled():
            self.server.refuse_state_changes()
            await trio.sleep(seconds)
            self.server.accept_state_changes()

    async def _fill_disk(self, seconds: float) -> None:
        with self._troubled():
            self.directory.full = True
            await trio.sleep(seconds)
            self.directory.full = False

    def _kill(self, fault: Fault, process: Process | None) -> None:
        leaders = self.machine.leaders
        if process is None and leaders:
            process = leaders[int(fault.size * len(leaders))]
        if process is not None:
            for each in process.group if fault.kind is Kind.KILL_GROUP else [process]:
                each.end(KILLED)

    def _meddle(self, fault: Fault, process: Process | None) -> None:
        """Have a user do something with a run that has not ended, or with any."""
        runs = list(self.server._runs.values())
        unended = [run for run in runs if not run.state.type.is_final]
        chosen = unended or runs
        if process is not None:
            chosen = [run for run in runs if run.public.id == process.flow_run_id]
        if not chosen:
            return
        run = chosen[int(fault.size * len(chosen))]
        flow_run_id = run.public.id
        self.tell(f"run {_short(flow_run_id)} is {run.state.label}")
        match fault.kind:
            case Kind.USER_CANCELS:
                self.cancel(run)
            case Kind.USER_DELETES:
                self.server.delete_flow_run(flow_run_id)
            case _:
                # Whoever does so while it is in hand has it executed twice.
                self.monitor.rescheduled.add(flow_run_id)
                self.server.set_state(flow_run_id, "Scheduled", force=True)

    def cancel(self, run: Run) -> None:
        """Do what `prefect flow-run cancel` does."""
        self.tell(f"run {_short(run.public.id)} is to be cancelled")
        self.monitor.cancelled.add(run.public.id)
        self.server.cancel(run.public.id)

    # People.

    async def schedule_runs(self, number: int, seconds: float) -> None:
        """Have runs scheduled, within some seconds."""
        [deployment] = self.server.deployments
        for at in sorted(self.chance.uniform(0, seconds) for _ in range(number)):
            if self.chance.random() < 0.5:
                await trio.sleep(max(0.0, at - self.now))
            run = self.server.schedule(deployment, at=max(at, self.now))
            self.tell(f"run {_short(run.id)} is scheduled for {at:.2f}")

    def state_changed(self, run: Run) -> None:
        """Take note of a state that was recorded."""
        transition_id = run.state.state_details.transition_id
        by = "" if transition_id is None else " by a worker"
        self.tell(f"run {_short(run.public.id)} is {run.state.label}{by}")
        self.monitor.state_changed(run)
        if run.state.label == "Suspended" and self.chance.random() < 0.5:
            self.nursery.start_soon(self._resume, run, self.chance.uniform(1, 60))

    def offered_late(self, run: Run) -> None:
        """Take note of a run that is offered by a request that comes late: the server takes that for a new wish."""
        self.tell(f"run {_short(run.public.id)} is offered late")
        self.monitor.rescheduled.add(run.public.id)

    async def _resume(self, run: Run, seconds: float) -> None:
        """Resume a suspended run, once nothing goes on of it."""
        await trio.sleep(seconds)
        suspended = run.state.label == "Suspended" and run.public.id in self.server._runs
        if suspended and not self.machine.alive_of(run.public.id):
            self.server.set_state(run.public.id, "Resuming")

    def finish(self) -> None:
        """Have nothing new happen, as far as possible."""
        self.over = True
        self.plan.expire()

    def tend(self) -> None:
        """Do what people and the server do in the long run, so that everything can come to an end."""
        self._replace_workers()
        self._cancel_endless()
        self._expire_leases()

    def _replace_workers(self) -> None:
        """Leave one worker, and start one anew that has said that it goes on without a ledger."""
        for incarnation in self.alive:
            surplus = incarnation is not self.alive[-1]
            if (
                incarnation.is_wanted
                and (surplus or incarnation.owner.is_without)
                and not self.directory.full
            ):
                incarnation.shutdown()

    def _expire_leases(self) -> None:
        """Do as the server with leases that nobody renews: what is not active any more has no slot."""
        held = {
            run.state.state_details.deployment_concurrency_lease_id
            for run in self.server._runs.values()
            if run.state.type in _ACTIVE
        }
        for lease_id in list(self.server._leases.keys() - held):
            self.server.expire_lease(lease_id)

    def _cancel_endless(self) -> None:
        """Cancel what would go on for ever."""
        for process in self.machine.leaders:
            run = self.server._runs.get(process.flow_run_id)
            behaviour = self.behaviours[process]
            if not process.lives or behaviour.end is not End.NEVER:
                continue
            if run is not None and run.state.type is StateType.RUNNING:
                self.cancel(run)
            elif run is None or run.public.id in self.monitor.rescheduled:
                # Nobody can cancel it.
                process.end(KILLED)


_ACTIVE: Final = frozenset({StateType.PENDING, StateType.RUNNING, StateType.CANCELLING})

_OF_WORKER: Final = frozenset(
    {
        Kind.CRASH,
        Kind.STOP,
        Kind.STOP_TWICE,
        Kind.STOP_THRICE,
        Kind.CANCEL,
        Kind.REPLACE,
        Kind.FREEZE,
    }
)

_OF_API: Final = {
    Kind.OUTAGE: network.unreachable,
    Kind.LONG_OUTAGE: network.unreachable,
    Kind.UNAVAILABLE: network.unavailable,
    Kind.RATE_LIMIT: network.rate_limited,
    Kind.UNAUTHORIZED: network.unauthorized,
}


def make_world(chance: random.Random, plan: Plan, nursery: trio.Nursery) -> World:
    """A world with a server, a pool, a deployment and a machine."""
    server = FakePrefectAPI()
    server.add_work_pool(_POOL, base_job_template=DEFAULT_TEMPLATE)
    limit = chance.choice([None, None, None, 2])
    server.add_deployment("flow", _POOL, concurrency_limit=limit)
    machine = Machine(chance)
    world = World(
        chance=chance,
        plan=plan,
        server=server,
        machine=machine,
        network=Network(server, nursery, latency=chance.choice([0.0, 0.0, 0.05, 0.3])),
        directory=Directory(),
        monitor=Monitor(machine),
        nursery=nursery,
        keeps_ledger=chance.random() < 0.93,
        limit=chance.choice([1, 2, 2, 3, 5]),
    )
    server._on_change.append(world.state_changed)
    world.network.on_late = world.offered_late
    return world


def _short(flow_run_id: UUID) -> str:
    return str(flow_run_id)[:4]


def _in_short(behaviour: Behaviour) -> str:
    """How a behaviour differs from the plainest."""
    plain = Behaviour()
    differing = [
        f"{field.name}={getattr(behaviour, field.name)}"
        for field in attrs.fields(Behaviour)
        if getattr(behaviour, field.name) != getattr(plain, field.name)
    ]
    return ", ".join(differing) or "plain"
