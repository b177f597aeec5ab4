"""What a worker is told to do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, get_args
from uuid import uuid4

import attrs

from trioworker.api.transport import TransportConfig, is_unicode
from trioworker.errors import ConfigurationError
from trioworker.flows.pool import TRIO_TYPE
from trioworker.infrastructure.protocol import ShutdownPolicy
from trioworker.lean_attrs import frozen
from trioworker.settings import Settings, is_module_name

if TYPE_CHECKING:
    from trioworker.flows.declaration import FlowDeclarations

# Prefect's default, in seconds.
_PREFETCH_OF_PREFECT = 10.0

_SHUTDOWN_POLICIES: Final[tuple[str, ...]] = get_args(ShutdownPolicy)

# Runs in processes a second, if nobody says how many: what a machine of two cores bears, and hardly any server gives.
_LAUNCH_RATE = 50.0


def _unique_name(config: WorkerConfig) -> str:
    return f"{'ProcessWorker' if config.flows is None else 'TrioWorker'} {uuid4()}"


def template_problem(base_job_template: Mapping[str, Any]) -> str | None:
    """Why a base job template cannot be sent as JSON, to follow its name; None if it can."""
    try:
        text = json.dumps(base_job_template, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        return "is nested too deeply."
    except (TypeError, ValueError) as error:
        return f"holds what JSON cannot: {error}."
    return None if is_unicode(text) else "holds half a character, such as \\ud800, which is no Unicode text."


class OptionalWorkerOptions(TypedDict, total=False):
    """The fields of `WorkerConfig` that have a default."""

    flows: FlowDeclarations | None
    name: str
    queues: Sequence[str]
    worker_type: str | None
    prefetch_seconds: float | None
    websocket: bool | None
    run_once: bool
    limit: int | None
    launch_rate: float | None
    with_healthcheck: bool
    base_job_template: Mapping[str, Any] | None
    create_pool_if_not_found: bool
    drain_timeout: float
    kill_grace: float
    flush_timeout: float
    on_shutdown: ShutdownPolicy
    ledger: bool | Path
    warm_start: bool | None
    preload: Sequence[str] | None
    settings: Settings


class WorkerOptions(OptionalWorkerOptions):
    """The fields of `WorkerConfig`, as `open_worker` takes them."""

    pool: str


@frozen(kw_only=True)
class WorkerConfig:
    """What a worker is told to do; every field but `pool` has a default that suits most.

    Work pools, work queues, base job templates and health checks are Prefect's, as for `prefect worker start`.

    Attributes:
        pool: the name of the Prefect work pool.
        flows: the functions to serve as flows, of deployments in a work pool of type `trio`; None to serve the
            deployments of other pools.
        name: the name of the worker, by which Prefect tells it from others; unique unless given.
        queues: the names of the work queues to take runs from; empty for all of the pool.
        worker_type: the kind of infrastructure, which is Prefect's worker type; None for that of the pool.
        prefetch_seconds: how many seconds ahead of their time runs are taken; None for
            `PREFECT_WORKER_PREFETCH_SECONDS`, and if that is not set either, each run is taken when it is due.
        websocket: whether to be told by Prefect's events websocket, at once, of runs that are scheduled or cancelled;
            if not, polling finds them. None for `TRIOWORKER_WEBSOCKET`, which is to be told unless it is set.
        run_once: poll once, see those runs to their end, and stop.
        limit: how many runs may be in hand at once; None for any number.
        launch_rate: how many runs are started a second, `math.inf` for any number; None for 50, or for any number of
            functions. After a second without any, as many as in a second are started at once.
        with_healthcheck: whether to serve `GET /health`, on `PREFECT_WORKER_WEBSERVER_HOST` and `_PORT`.
        base_job_template: Prefect's, for the pool if this worker creates it; None for that of the infrastructure.
        create_pool_if_not_found: whether to create a pool that does not exist, or wait for it.
        drain_timeout: seconds that runs get to end by themselves when the worker stops.
        kill_grace: seconds between SIGTERM and SIGKILL for runs that did not.
        flush_timeout: seconds to tell the API, after that, what is left to tell.
        on_shutdown: what becomes of runs that did not end in time when the worker stops: `crash` has them ended and
            reported as crashed, `reschedule` ended and offered to any worker, `leave` has them go on for the next
            worker of the same name.
        ledger: where the worker writes down what it has claimed, so that the next one can bring to its end what this
            one leaves behind, should it be killed: a directory, True for one in `PREFECT_HOME`, False for nowhere.
        warm_start: whether the processes of runs are forked from one that has Prefect imported, where that makes no
            difference to them; None for `TRIOWORKER_WARM_START`, by default they are.
        preload: the modules that are imported there besides; None for `TRIOWORKER_PRELOAD`.
        settings: Prefect's settings; by default those that this process finds.

    Raises:
        ConfigurationError: a value that cannot be right.
        SettingsError: a setting that cannot be right.
    """

    pool: str
    flows: FlowDeclarations | None = attrs.field(default=None, repr=False)
    name: str = attrs.field(default=attrs.Factory(_unique_name, takes_self=True))
    queues: Sequence[str] = ()
    worker_type: str | None = None
    prefetch_seconds: float | None = None
    websocket: bool | None = None
    run_once: bool = False
    limit: int | None = None
    launch_rate: float | None = None
    with_healthcheck: bool = False
    base_job_template: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    create_pool_if_not_found: bool = True
    drain_timeout: float = 20.0
    kill_grace: float = 5.0
    flush_timeout: float = 3.0
    on_shutdown: ShutdownPolicy = "crash"
    ledger: bool | Path = True
    warm_start: bool | None = None
    preload: Sequence[str] | None = None
    settings: Settings = attrs.field(factory=Settings.load, repr=False)

    def __attrs_post_init__(self) -> None:
        self._require_unicode()
        if not self.pool:
            raise ConfigurationError("The name of the work pool is empty.")
        if any(character in self.pool for character in "/%&<>"):
            raise ConfigurationError(f"{self.pool!r} cannot be a work pool: a name has none of / % & < >.")
        if not self.name or any(character in self.name for character in "/%"):
            raise ConfigurationError("Worker name cannot contain '/' or '%', nor be empty.")
        if not self.name.isprintable() and is_unicode(self.name):
            # It goes into the headers of requests, which flow runs would repeat for hours.
            raise ConfigurationError(
                f"The name of the worker has a line break or the like in it: {self.name!r}."
            )
        self._check_flows()
        if isinstance(self.queues, str):
            raise ConfigurationError(f"queues must be a list of names, not the text {self.queues!r}.")
        if not all(self.queues):
            raise ConfigurationError("The name of a work queue is empty.")
        if not _are_module_names(self.preload):
            raise ConfigurationError(f"preload must be a list of names of modules, not {self.preload!r}.")
        for field in ("websocket", "warm_start"):
            flag = getattr(self, field)
            if flag is not None and type(flag) is not bool:
                raise ConfigurationError(f"{field} must be True, False or None, not {flag!r}.")
        self._check_numbers()
        self._check_shutdown_policy()
        if self.base_job_template is not None and (problem := template_problem(self.base_job_template)):
            raise ConfigurationError(f"The base job template {problem}")
        if self.settings.api_url is None:
            raise ConfigurationError(
                "PREFECT_API_URL is not set, so there is no Prefect to work with. Set it to the URL of a Prefect API"
                " (such as http://127.0.0.1:4200/api). If there is none yet, `trioworker start --local-server` starts"
                " one and says its URL."
            )

    def _check_flows(self) -> None:
        if self.flows is None:
            return
        # Here, since most workers serve none.
        from trioworker.flows.declaration import FlowDeclarations  # noqa: PLC0415

        if not isinstance(self.flows, FlowDeclarations):
            raise ConfigurationError(
                f"flows must be a trioworker.TrioFlows, which functions are declared with, not {self.flows!r}."
            )
        if self.worker_type not in {None, TRIO_TYPE}:
            raise ConfigurationError(
                f"Functions are served by a worker of type {TRIO_TYPE!r}, not {self.worker_type!r}."
            )

    def _check_numbers(self) -> None:
        if self.limit is not None and type(self.limit) is not int:
            raise ConfigurationError(f"limit must be a whole number of runs, or None, not {self.limit!r}.")
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(f"A limit of {self.limit} runs would let none start: give 1 or more.")
        rate = self.launch_rate
        if rate is not None and (type(rate) not in {int, float} or not rate > 0):
            raise ConfigurationError(f"launch_rate must be more than 0 runs a second, not {rate!r}.")
        for field in ("drain_timeout", "kill_grace", "flush_timeout", "prefetch_seconds"):
            seconds = getattr(self, field)
            if seconds is None and field == "prefetch_seconds":
                continue
            # NaN compares false with everything.
            if not isinstance(seconds, int | float) or not seconds >= 0:
                raise ConfigurationError(f"{field} must be 0 seconds or more, not {seconds!r}.")

    def _check_shutdown_policy(self) -> None:
        if self.on_shutdown not in _SHUTDOWN_POLICIES:
            policies = ", ".join(map(repr, _SHUTDOWN_POLICIES))
            raise ConfigurationError(f"on_shutdown must be one of {policies}, not {self.on_shutdown!r}.")
        if not isinstance(self.ledger, bool | Path):
            raise ConfigurationError(f"ledger must be True, False or a pathlib.Path, not {self.ledger!r}.")
        if self.on_shutdown == "leave" and self.ledger is False:
            raise ConfigurationError(
                "Flow runs can be left for the next worker only if it is written down which they are: leave them with"
                " a ledger, or let them crash or be rescheduled."
            )
        if self.on_shutdown == "leave" and self.flows is not None:
            raise ConfigurationError(
                "Flow runs that are calls of functions cannot be left for the next worker, since they end with this"
                " program: let them crash or be rescheduled."
            )

    def _require_unicode(self) -> None:
        """Refuse names that no API would take: what is no text where it was typed comes as lone surrogates."""
        names = [("work pool", self.pool), ("worker", self.name), ("worker type", self.worker_type or "")]
        for what, name in (*names, *(("work queue", queue) for queue in self.queues)):
            if not is_unicode(name):
                raise ConfigurationError(f"The name of the {what} is no Unicode text: {name!r}.")

    @property
    def effective_worker_type(self) -> str | None:
        """The kind of infrastructure; None for that of the pool."""
        return self.worker_type if self.flows is None else TRIO_TYPE

    @property
    def stop_bound(self) -> float:
        """Seconds within which the worker is gone after `shutdown()`, come what may."""
        return self.drain_timeout + self.kill_grace + self.flush_timeout

    @property
    def ledger_directory(self) -> Path:
        """The directory of all ledgers."""
        return self.ledger if isinstance(self.ledger, Path) else self.settings.home / "trioworker" / "ledgers"

    @property
    def shown_api_url(self) -> str:
        """The API's URL for messages, without the password that it may hold."""
        return self.transport_config().shown_url

    @property
    def effective_prefetch_seconds(self) -> float | None:
        """How far ahead of their time runs are taken, in seconds; None to take each when it is due."""
        if self.prefetch_seconds is not None:
            return self.prefetch_seconds
        if self.settings.worker_prefetch_seconds is None and self.run_once:
            # There is no later poll, which could take them when they are due.
            return _PREFETCH_OF_PREFECT
        return self.settings.worker_prefetch_seconds

    @property
    def effective_settings(self) -> Settings:
        """The settings, with what was told otherwise here."""
        told = {"warm_start": self.warm_start, "preload": self.preload}
        changes: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
        return attrs.evolve(self.settings, **changes) if changes else self.settings

    @property
    def listens(self) -> bool:
        """Whether the events websocket is listened to."""
        return self.settings.websocket if self.websocket is None else self.websocket

    @property
    def effective_launch_rate(self) -> float:
        """How many runs are started a second."""
        if self.launch_rate is not None:
            return self.launch_rate
        return _LAUNCH_RATE if self.flows is None else math.inf

    @property
    def cancellation_poll_seconds(self) -> float:
        """Seconds between two polls for cancelled runs."""
        configured = self.settings.worker_cancellation_poll_seconds
        return configured if configured is not None else 2 * self.settings.worker_query_seconds

    def transport_config(self) -> TransportConfig:
        """How the API is reached."""
        settings = self.settings
        assert settings.api_url is not None  # noqa: S101 - checked when this object was made
        return TransportConfig(
            url=settings.api_url,
            key=settings.api_key,
            auth_string=settings.api_auth_string,
            headers=settings.client_custom_headers,
            verify=_verification(settings),
            timeout=settings.api_request_timeout,
            max_retries=settings.client_max_retries,
            retry_jitter=settings.client_retry_jitter_factor,
            retry_extra_codes=settings.client_retry_extra_codes,
            csrf=settings.client_csrf_support_enabled,
        )


def _are_module_names(names: object) -> bool:
    if names is None:
        return True
    if not isinstance(names, Sequence) or isinstance(names, str):
        return False
    return all(isinstance(name, str) and is_module_name(name) for name in names)


def _verification(settings: Settings) -> bool | Path:
    if settings.api_tls_insecure_skip_verify:
        return False
    return settings.api_ssl_cert_file or True
