"""The worker: a tree of nurseries, each outliving the one inside it.

```
outbox          the emitter; flushed last
└─ upkeep       health server, heartbeat, cancellation poll, listener
   └─ runs      one child for each flow run in hand; those of earlier workers come first
      └─ intake the poller; started last, cancelled first
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import attrs
import trio

from trioworker import events
from trioworker.api.client import PrefectAPI
from trioworker.api.condition import Condition, ConditionChange
from trioworker.api.models import StateChange, StateType
from trioworker.assembly import assemble
from trioworker.cancellation import CancellationWatch
from trioworker.config import WorkerConfig
from trioworker.errors import GaveUpError, sole_errors_bare
from trioworker.flows.run_parameters import run_parameters
from trioworker.health import PollingHealth, bind_health_socket, serve_health
from trioworker.heartbeat import MissingPoolAlarm, keep_heartbeat
from trioworker.infrastructure.protocol import Infrastructure
from trioworker.intake import Intake
from trioworker.launch_rate import LaunchRate
from trioworker.ledger.ledger import Ledger
from trioworker.listener import keep_listening
from trioworker.notices import Notice, Notify, count_runs, log_notice
from trioworker.observation import LARGEST_BACKLOG, Observation, Watch, WorkerPhase, WorkerStatus, run_status
from trioworker.outbox import open_outbox
from trioworker.reconciliation import Reconciliation
from trioworker.runs.active import ActiveRuns
from trioworker.runs.flow_run import FlowRunner
from trioworker.server_clock import ServerClock
from trioworker.service import Rhythm, WakeUp, patiently
from trioworker.shutdown import Shutdown
from trioworker.start_up import explain_refusal, tell_of_paused_queues
from trioworker.surroundings import Surroundings

# How soon something that must be done is tried again, to begin with.
_PATIENCE_SECONDS = 1.0

# Seconds between two looks for what workers have left behind that are gone.
_LEDGER_SECONDS = 60.0

# How long the first poll may take, before all that comes after it does not wait for it any more.
_FIRST_LOOK_SECONDS = 2.0


class Worker:
    """A worker of one Prefect work pool. Runs once.

    ```python
    worker = trioworker.Worker(trioworker.WorkerConfig(pool="demo"))
    await nursery.start(worker.run)
    ...
    worker.shutdown()
    ```

    Args:
        config: what to do.
        notify: told of changes of condition; by default they are logged.
        surroundings: what the worker touches of the world; by default the real one.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        notify: Notify = log_notice,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._config = config
        self._notify = notify
        self._surroundings = surroundings or Surroundings()
        self._observation = Observation(self._surroundings.now)
        self._active = ActiveRuns(config.limit, self._observation)
        self._infrastructure: Infrastructure[Any] | None = None
        self._gave_up: GaveUpError | None = None
        self._api: PrefectAPI | None = None
        self._intake: Intake | None = None
        self._reconciliation: Reconciliation | None = None
        self._running = False
        self._ready = False
        self._shutdown = Shutdown(
            drain_timeout=config.drain_timeout,
            kill_grace=config.kill_grace,
            flush_timeout=config.flush_timeout,
            policy=config.on_shutdown,
            on_cut_off=self._say_cut_off,
        )

    @property
    def config(self) -> WorkerConfig:
        """What the worker was told to do."""
        return self._config

    @property
    def name(self) -> str:
        """The worker's name, by which Prefect knows it."""
        return self._config.name

    @property
    def ready(self) -> bool:
        """Whether it got as far as polling."""
        return self._ready

    @property
    def runs_in_hand(self) -> int:
        """How many flow runs it has taken that have not ended."""
        return len(self._active)

    @property
    def cut_off(self) -> bool:
        """Whether it had to end flow runs before their time."""
        return self._shutdown.cut_off and self._shutdown.policy != "leave"

    def status(self) -> WorkerStatus:
        """What it is doing now. To be asked at any time, in the thread that Trio runs in."""
        return WorkerStatus(
            name=self.name,
            pool=self._config.pool,
            type=None if self._infrastructure is None else self._infrastructure.type,
            phase=self._phase,
            limit=self._config.limit,
            free=self._active.free,
            api_reachable=self._observation.api_reachable,
            runs=tuple(run_status(run) for run in self._active),
        )

    def watch(self, capacity: int = LARGEST_BACKLOG) -> Watch:
        """Be told of everything that happens to it from now on, before `run()` too.

        ```python
        with worker.watch() as happenings:
            async for happening in happenings:
                ...
        ```

        Any number may watch; none holds the worker up. The iteration ends when the worker has stopped, in whatever
        way; at once if it has already.

        Args:
            capacity: how many happenings may wait to be taken before some are left out; see `WatchOverflow`.

        Raises:
            ValueError: a capacity below 1.
        """
        return self._observation.watch(capacity)

    async def create_flow_run(
        self,
        deployment_id: UUID,
        *,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        scheduled_time: datetime | None = None,
    ) -> UUID:
        """Have Prefect create a run of a deployment, over the worker's own connection, and look for it at once.

        Args:
            deployment_id: of any deployment; a worker of its work pool will run it, which need not be this one.
            parameters: in place of the deployment's; what JSON has, or what else functions can take: dates and times,
                UUIDs, paths, enumerations, attrs classes and dataclasses.
            name: of the run; by default Prefect's idea.
            scheduled_time: when it is to run, with its time zone; now if not given.

        Returns:
            Prefect's id of the run.

        Raises:
            RequestRefusedError: parameters that do not fit the deployment's schema; this and the next one are in
                `trioworker.api.errors`.
            ObjectNotFoundError: there is no such deployment.
            APIError: the API does not answer, also after some attempts.
            ValueError: JSON has no form for a parameter, or the scheduled time has no time zone.
            RuntimeError: the worker is not running.
        """
        if self._api is None or self._observation.stopped:
            raise RuntimeError("the worker is not running, so it has no connection to Prefect")
        if scheduled_time is not None and scheduled_time.utcoffset() is None:
            raise ValueError(
                f"The scheduled time of a flow run needs a time zone: {scheduled_time}. Give it one, such as with"
                " `.astimezone()` for the time of this machine."
            )
        flow_run = await self._api.create_flow_run(
            deployment_id,
            parameters=run_parameters(parameters or {}),
            name=name,
            scheduled_time=scheduled_time,
        )
        if self._intake is not None:
            self._intake.say_scheduled(flow_run.id)
        return flow_run.id

    @property
    def _phase(self) -> WorkerPhase:
        if self._observation.stopped:
            return WorkerPhase.STOPPED
        if self._shutdown.requested or self._observation.draining:
            return WorkerPhase.DRAINING
        return WorkerPhase.WORKING if self._ready else WorkerPhase.STARTING

    def shutdown(self) -> None:
        """Take no more runs, let those in hand end within `drain_timeout` seconds, then stop. Returns at once."""
        self._shutdown.request()

    def stop(self) -> None:
        """As `shutdown`, but end the runs in hand now: SIGTERM, `kill_grace` seconds, SIGKILL. Returns at once."""
        self._shutdown.stop()

    def abandon(self) -> None:
        """As `stop`, but kill at once, and be gone a second later. Returns at once."""
        if self._infrastructure is not None:
            self._infrastructure.kill_now()
        self._shutdown.abandon()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until `shutdown` is called; started once the worker is synced and polling.

        Shut down before that, it counts as started and returns. Cancelling it is the hard stop: runs are
        ended and reported within the seconds of `kill_grace` and `flush_timeout`.

        Args:
            task_status: what `nursery.start` gives; others need not give anything.

        Raises:
            WorkerError: it cannot start, or gave up; see `trioworker.errors`.
            SettingsError: a setting that cannot be right.
            APIError: the API cannot be used as configured.
            RuntimeError: it has been run before.
        """
        if self._running:
            raise RuntimeError("a Worker runs once: make another one of the same configuration")
        self._running = True
        condition = Condition(self._say_condition)
        heartbeat_due, poll_due, cancellations_due = WakeUp(), WakeUp(), WakeUp()
        runner: FlowRunner | None = None
        with self._observation.until_stopped(), sole_errors_bare():
            async with (
                self._surroundings.open_api(self._config, condition) as api,
                open_outbox(
                    api,
                    self._rhythm(_PATIENCE_SECONDS),
                    shield=self._shutdown.flush,
                    flush_deadline=self._shutdown.flush_deadline,
                    on_heartbeat=MissingPoolAlarm(heartbeat_due),
                ) as outbox,
                trio.open_nursery() as upkeep,
                AsyncExitStack() as stack,
            ):
                self._api = api
                with self._shutdown.starting:
                    health = await self._open_health(upkeep, condition)
                    upkeep.start_soon(self._give_up_when_lost, condition)
                    upkeep.start_soon(
                        _wake_when_back,
                        condition,
                        (heartbeat_due, poll_due, cancellations_due, self._retry_ledger),
                    )
                    runner = await assemble(
                        api,
                        outbox,
                        config=self._config,
                        surroundings=self._surroundings,
                        active=self._active,
                        shutdown=self._shutdown,
                        patience=self._rhythm(_PATIENCE_SECONDS),
                        notify=self._notify,
                    )
                    self._infrastructure = runner.infrastructure
                    await upkeep.start(
                        partial(
                            keep_heartbeat,
                            runner.keeper,
                            outbox,
                            runner.registration,
                            self._rhythm(self._config.settings.worker_heartbeat_seconds),
                            wake_up=heartbeat_due,
                            wait_for_pool=not self._config.run_once,
                            explain=partial(explain_refusal, self._config),
                        )
                    )
                    if self._config.run_once:
                        await self._tell_of_paused_queues(api)
                    opening = self._surroundings.open_ledger(
                        self._config, runner.keeper.pool_id(), self._notify
                    )
                    ledger = await stack.enter_async_context(opening)
                    self._shutdown.leave_only_if(lambda: ledger.lasts)
                    stack.callback(self._say_what_became, ledger)
                    runner = attrs.evolve(runner, ledger=ledger)
                    self._intake = self._make_intake(runner, health, heartbeat_due, poll_due)
                    upkeep.start_soon(self._look_out, self._intake, poll_due, cancellations_due)
                if self._intake is None or self._shutdown.requested:
                    if self._gave_up is None:
                        task_status.started()
                else:
                    with _announced(self._intake.runner):
                        await self._serve(self._intake, task_status)
                upkeep.cancel_scope.cancel()
        if self._gave_up is not None:
            raise self._gave_up

    async def _serve(self, intake: Intake, task_status: trio.TaskStatus[None]) -> None:
        """The inner rooms: what runs share, the runs, and the intake that fills it."""
        self._reconciliation = reconciliation = Reconciliation(
            runner=intake.runner, notify=self._notify, look_for=intake.say_scheduled
        )
        async with intake.runner.infrastructure.open():
            with self._shutdown.runs:
                async with trio.open_nursery() as lookout:
                    lookout.start_soon(self._notice_cut_off)
                    async with trio.open_nursery() as runs:
                        await reconciliation.look(runs)
                        with self._shutdown.intake:
                            async with trio.open_nursery() as polling:
                                self._ready = True
                                task_status.started()
                                if self._config.run_once:
                                    poll = partial(intake.poll, runs, only_time=True)
                                    await patiently(poll, intake.rhythm, intake.api.condition)
                                else:
                                    await polling.start(intake.keep_polling, runs)
                                    await reconciliation.keep_looking(runs, self._rhythm(_LEDGER_SECONDS))
                        self._observation.intake_over()
                        intake.health.draining()
                    lookout.cancel_scope.cancel()

    def _retry_ledger(self) -> None:
        if self._reconciliation is not None:
            self._reconciliation.connection_is_back()

    async def _notice_cut_off(self) -> None:
        """Start the clock of the last deadline as soon as runs are cancelled, for whatever reason that is."""
        try:
            await trio.sleep_forever()
        finally:
            # Nothing is to be begun any more, also when nobody has called `shutdown`.
            self._shutdown.request()
            if self.runs_in_hand:
                self._shutdown.begin_cut_off()

    async def _open_health(self, upkeep: trio.Nursery, condition: Condition) -> PollingHealth:
        settings = self._config.settings
        health = PollingHealth(settings.worker_query_seconds, condition)
        if self._config.with_healthcheck:
            bound = bind_health_socket(settings.worker_webserver_host, settings.worker_webserver_port)
            await upkeep.start(serve_health, bound, health)
        return health

    def _cancellation_watch(self, runner: FlowRunner) -> CancellationWatch:
        return CancellationWatch(
            api=runner.api,
            pool_name=self._config.pool,
            queue_names=self._config.queues,
            active=self._active,
            # Twice the time within which the run's own worker looks.
            orphan_age=2 * self._config.cancellation_poll_seconds,
        )

    def _make_intake(
        self, runner: FlowRunner, health: PollingHealth, heartbeat_due: WakeUp, poll_due: WakeUp
    ) -> Intake:
        prefetch = self._config.effective_prefetch_seconds
        return Intake(
            api=runner.api,
            pool_name=self._config.pool,
            queue_names=self._config.queues,
            prefetch=None if prefetch is None else timedelta(seconds=prefetch),
            rhythm=self._rhythm(self._config.settings.worker_query_seconds),
            active=self._active,
            runner=runner,
            health=health,
            launches=LaunchRate(self._config.effective_launch_rate),
            pool_is_gone=heartbeat_due,
            notify=self._notify,
            clock=ServerClock(self._surroundings.now),
            wake_up=poll_due,
        )

    async def _look_out(self, intake: Intake, poll_due: WakeUp, cancellations_due: WakeUp) -> None:
        """All that is watched beside the polling for runs, whose first poll goes before anything else."""
        with trio.move_on_after(_FIRST_LOOK_SECONDS):
            await intake.wait_first_look()
        self._surroundings.after_first_poll()
        async with trio.open_nursery() as lookout:
            lookout.start_soon(
                self._cancellation_watch(intake.runner).keep_polling,
                self._rhythm(self._config.cancellation_poll_seconds),
                cancellations_due,
            )
            if self._config.listens:
                lookout.start_soon(self._listen, intake, poll_due, cancellations_due)
            if not self._config.run_once:
                lookout.start_soon(self._tell_of_paused_queues, intake.api)

    async def _tell_of_paused_queues(self, api: PrefectAPI) -> None:
        await tell_of_paused_queues(api, self._config, self._rhythm(_PATIENCE_SECONDS), self._notify)

    async def _listen(self, intake: Intake, poll_due: WakeUp, cancellations_due: WakeUp) -> None:
        """Bring polls forward as the events websocket tells of something; each connecting is followed by all."""

        def connected() -> None:
            poll_due()
            cancellations_due()

        await keep_listening(
            intake.api,
            intake.runner.keeper.pool_id,
            connected,
            partial(self._heed, cancellations_due),
            self._rhythm(_PATIENCE_SECONDS),
            poll_interval=self._config.settings.worker_query_seconds,
        )

    def _heed(self, cancellations_due: WakeUp, change: StateChange) -> None:
        """Have a poll find out about what was told, if it concerns this worker."""
        if change.state_type is StateType.CANCELLING:
            if change.flow_run_id in self._active:
                cancellations_due()
        elif self._intake is not None:
            self._intake.say_scheduled(change.flow_run_id, change.queue_name)

    async def _give_up_when_lost(self, condition: Condition) -> None:
        seconds = self._config.settings.give_up_after
        if seconds is None:
            return
        await condition.wait_lost_for(seconds)
        self._gave_up = GaveUpError(
            f"The API at {self._config.shown_api_url} was unreachable for {seconds:g} s, which is as long as"
            " TRIOWORKER_GIVE_UP_AFTER allows."
        )
        self.shutdown()

    def _rhythm(self, interval: float) -> Rhythm:
        return Rhythm(interval=interval, chance=self._surroundings.chance)

    def _say_condition(self, change: ConditionChange) -> None:
        self._observation.condition_changed(change)
        url = self._config.shown_api_url
        if change.reachable:
            self._notify(Notice(f"The Prefect API at {url} is back after {change.seconds:.0f} s."))
        else:
            message = f"The Prefect API does not answer: {change.reason}. Trying again until it does."
            self._notify(Notice(message, warning=True))

    def _say_cut_off(self) -> None:
        self._notify(Notice(self._what_cutting_off_means(), warning=True))

    def _what_cutting_off_means(self) -> str:
        runs, grace = count_runs(self.runs_in_hand), f"{self._config.kill_grace:g} s"
        them = "it" if self.runs_in_hand == 1 else "them"
        if self._shutdown.policy == "leave":
            return f"Leaving {runs} running, for the worker that comes next."
        then = f" Then any worker may take {them} again." if self._shutdown.policy == "reschedule" else ""
        if self._config.flows is not None:
            return f"Cancelling {runs} now; functions get {grace} for their clean-up.{then}"
        why = f", since the next worker would not know of {them}" if self._shutdown.leaves_none else ""
        return f"Stopping {runs} now{why}: SIGTERM, and SIGKILL after {grace}.{then}"

    def _say_what_became(self, ledger: Ledger) -> None:
        """Sum up what has become of the runs that were cut off, if any were."""
        tally = self._shutdown.tally
        if not tally.sentence:
            return
        rest = " The worker that comes next sees to what is not reported." if ledger.lasts else ""
        self._notify(Notice(tally.sentence + (rest if tally.unsettled else ""), warning=True))


async def _wake_when_back(condition: Condition, sleepers: Iterable[Callable[[], None]]) -> None:
    """End the back-off of loops when any of them finds that the API is back."""
    while True:
        await condition.wait_lost()
        await condition.wait_back()
        for wake in sleepers:
            wake()


@contextmanager
def _announced(runner: FlowRunner) -> Iterator[None]:
    """Tell Prefect's event feed that the worker has started, and at the end that it has stopped."""
    started = events.worker_started(runner.worker, runner.keeper.pool, runner.now())
    runner.outbox.event(started)
    try:
        yield
    finally:
        stopped = events.worker_stopped(runner.worker, runner.keeper.pool, runner.now(), follows=started)
        runner.outbox.event(stopped)
