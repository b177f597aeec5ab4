"""The command line: options into a `WorkerConfig`, notices onto the terminal, errors into exit codes.

Exit codes: 0 when every run in hand came to its end, 1 when something kept the worker from starting or runs had
to be cut off, 2 when the command was called wrongly, 130 after Ctrl-C in the first instant.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import asyncclick as click
import attrs
import trio
from asyncclick.core import ParameterSource

from trioworker import __version__
from trioworker.command.client_metrics import client_metrics_notice
from trioworker.command.deploy import deploy
from trioworker.command.last_resort import LastResort
from trioworker.command.lean_imports import (
    collect_at_last,
    import_httpcore,
    import_process_infrastructure,
)
from trioworker.command.output import CommandOutput, log_format_asked_for
from trioworker.command.package_installation import EnvironmentInstaller
from trioworker.command.signals import SignalListener
from trioworker.command.terminal import at_terminal, confirm
from trioworker.command.type_provision import InstallPolicy, TypeProvision, refuse_type_without_server
from trioworker.command.usage import Command, Number, Seconds, WholeNumber
from trioworker.config import WorkerConfig, template_problem
from trioworker.errors import ConfigurationError, sole_errors_bare
from trioworker.infrastructure.interpreter import find_interpreter
from trioworker.infrastructure.protocol import ShutdownPolicy
from trioworker.lean_attrs import frozen
from trioworker.logs.configuration import configure_logging
from trioworker.notices import Notice
from trioworker.settings import Settings
from trioworker.surroundings import Surroundings
from trioworker.unavailable_type import UnavailableTypeError
from trioworker.worker import Worker

if TYPE_CHECKING:
    from trioworker.command.served_flows import ServedFlows
    from trioworker.serving import TrioFlows

# The options of `prefect worker start`, but for the pool and the type.
_PREFECT_OPTIONS = frozenset(
    {
        "name",
        "queues",
        "prefetch_seconds",
        "run_once",
        "limit",
        "with_healthcheck",
        "install_policy",
        "base_job_template",
        "create_pool_if_not_found",
    }
)


# Stands for the API of the local server until that is there.
_API_TO_COME = "http://127.0.0.1/api"

# Under this key the context of the call holds what `log_format_asked_for` has found.
_LOG_FORMAT = f"{__name__}.log_format"


class _Group(click.Group):
    """A group of commands whose usage errors are JSON where that is asked for, though nothing is parsed yet."""

    async def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments of the group, as the base class does."""
        # A copy, since the parser takes out what it has read.
        log_format = log_format_asked_for(tuple(args), os.environ)
        with CommandOutput(log_format, os.environ).ending_with_errors():
            context = await super().make_context(info_name, args, parent, **extra)
        context.meta[_LOG_FORMAT] = log_format
        return context

    async def invoke(self, ctx: click.Context) -> Any:
        """Parse the arguments of the command and call it, as the base class does."""
        with CommandOutput(ctx.meta[_LOG_FORMAT], os.environ).ending_with_errors():
            return await super().invoke(ctx)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, "--version", prog_name="trioworker", message="%(prog)s %(version)s")
def trioworker() -> None:
    """Run the flow runs of Prefect work pools.

    A drop-in replacement for `prefect worker`: lighter, and honest when it
    stops.
    """


@trioworker.command(cls=Command)
@click.option("-n", "--name", metavar="NAME", help="Name of the worker.  [default: a unique one]")
@click.option("-p", "--pool", metavar="POOL", help="Work pool to take flow runs from.")
@click.option(
    "-q",
    "--work-queue",
    "queues",
    metavar="QUEUE",
    multiple=True,
    help="Work queue to take flow runs from; may be repeated.  [default: all of the pool]",
)
@click.option(
    "-t", "--type", "worker_type", metavar="TYPE", help="Type of the worker.  [default: that of the pool]"
)
@click.option(
    "--prefetch-seconds",
    type=WholeNumber(min=0),
    metavar="SECONDS",
    help="How far ahead of their time flow runs are taken.  [default: PREFECT_WORKER_PREFETCH_SECONDS if that is set;"
    " or else each is taken when it is due]",
)
@click.option(
    "--websocket/--no-websocket",
    default=None,
    help="Whether Prefect's events websocket tells of flow runs at once, or polling alone finds them."
    "  [default: TRIOWORKER_WEBSOCKET, or on]",
)
@click.option("--run-once", is_flag=True, help="Poll once, wait for those flow runs, and exit.")
@click.option(
    "-l",
    "--limit",
    type=WholeNumber(min=1),
    metavar="N",
    help="Most flow runs at a time.  [default: any number]",
)
@click.option(
    "--launch-rate",
    type=Number(min=0, min_open=True),
    metavar="N",
    help="Most flow runs to start a second.  [default: 50; functions: any number]",
)
@click.option(
    "--with-healthcheck",
    is_flag=True,
    help="Serve GET /health on PREFECT_WORKER_WEBSERVER_HOST and _PORT.",
)
@click.option(
    "--install-policy",
    type=click.Choice(get_args(InstallPolicy), case_sensitive=False),
    default="prompt",
    show_default=True,
    help="Whether to install what a worker type needs.",
)
@click.option(
    "--base-job-template",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSON file with the base job template for a work pool that this worker creates.",
)
@click.option(
    "--create-pool-if-not-found/--no-create-pool-if-not-found",
    default=True,
    help="Whether to create a work pool that does not exist, or to wait for it.  [default: create]",
)
@click.option(
    "--flows",
    metavar="MODULE:ATTR",
    help="Functions to serve: a trioworker.TrioFlows in a module. The pool is of type trio then.",
)
@click.option(
    "--local-server",
    is_flag=True,
    help="Start a Prefect server on this machine and work for that.",
)
@click.option(
    "--drain-timeout",
    type=Seconds(),
    default=20.0,
    metavar="SECONDS",
    help="How long flow runs may go on when the worker is told to stop.  [default: 20]",
)
@click.option(
    "--kill-grace",
    type=Seconds(),
    default=5.0,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL for flow runs that are cut off.  [default: 5]",
)
@click.option(
    "--on-shutdown",
    type=click.Choice(get_args(ShutdownPolicy)),
    default="crash",
    show_default=True,
    help="What becomes of flow runs that are cut off: reported as crashed, offered to any worker again, or left"
    " running for the next worker of this name.",
)
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Where to write down which flow runs are in hand, for the next worker should this one be killed."
    "  [default: trioworker/ledgers in PREFECT_HOME]",
)
@click.option("--no-ledger", is_flag=True, help="Do not write that down.")
@click.option(
    "--warm-start/--no-warm-start",
    default=None,
    help="Whether flow runs start from a process that has Prefect imported.  [default: warm]",
)
@click.option(
    "--preload",
    metavar="MODULE",
    multiple=True,
    callback=lambda _context, _option, modules: modules or None,
    help="Module to import there too; may be repeated.  [default: TRIOWORKER_PRELOAD]",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json"), case_sensitive=False),
    help="Text for people, or all lines on standard error as JSON.  [default: TRIOWORKER_LOG_FORMAT, or text]",
)
async def start(
    *,
    name: str | None,
    pool: str | None,
    base_job_template: Path | None,
    flows: str | None,
    local_server: bool,
    install_policy: InstallPolicy,
    log_format: str | None,
    ledger: Path | None,
    no_ledger: bool,
    **options: Any,
) -> None:
    """Start a worker that polls a work pool for flow runs."""
    output = CommandOutput(log_format or os.environ.get("TRIOWORKER_LOG_FORMAT", ""), os.environ)
    with output.ending_with_errors():
        settings = Settings.load(os.environ, Path.cwd())
        _begin_to_log(settings, log_format or settings.log_format, output)
        if name is not None:
            options["name"] = name
        options["ledger"] = _ledger(ledger, none=no_ledger)
        if base_job_template is not None:
            options["base_job_template"] = _read_template(base_job_template)
        if flows is not None:
            options["flows"] = _functions(flows)
        options["pool"] = pool or await _ask_for_pool()
        context = click.get_current_context()
        # Whoever calls the command from Python may hand in a world of another kind, as the context's object.
        provision = _type_provision(install_policy, settings, output)
        surroundings = attrs.evolve(
            context.ensure_object(Surroundings), provide_type=provision, after_first_poll=collect_at_last
        )
        if flows is None:
            surroundings = attrs.evolve(surroundings, while_api_is_asked=import_process_infrastructure)
        import_httpcore()
        # Before anything is started, since it may not be right.
        known = settings.with_api_url(_API_TO_COME) if local_server else settings
        config = WorkerConfig(settings=known, **options)
        served = None if flows is None else _served(options["flows"], flows, output, surroundings)
        try:
            if local_server:
                await refuse_type_without_server(config, surroundings, provision)
            with sole_errors_bare():
                cut_off = await _run(
                    config, surroundings, output, served, local_server=settings if local_server else None
                )
        except UnavailableTypeError as error:
            raise error.with_options(_options_for_prefect(context)) from error
    if cut_off:
        sys.exit(1)


trioworker.add_command(deploy)


def _ledger(directory: Path | None, *, none: bool) -> bool | Path:
    if none and directory is not None:
        raise ConfigurationError(
            "--ledger says where, and --no-ledger that there is to be none: give one of them."
        )
    return not none if directory is None else directory.absolute()


def _begin_to_log(settings: Settings, log_format: str, output: CommandOutput) -> None:
    output.use(settings, log_format)
    problems = configure_logging(settings, as_json=output.as_json, identity=output.identity)
    for problem in problems:
        output.show(Notice(problem, warning=True))
    if notice := client_metrics_notice(settings):
        output.show(notice)


async def _run(
    config: WorkerConfig,
    surroundings: Surroundings,
    output: CommandOutput,
    served: ServedFlows | None,
    *,
    local_server: Settings | None,
) -> bool:
    """Run a worker until it is told to stop; returns whether flow runs were cut off.

    Args:
        config: what it is told to do.
        surroundings: what it touches of the world.
        output: shows what it has to tell.
        served: tells of the functions that it serves, if it does.
        local_server: the settings of the server that is to be started for it, if one is.
    """
    async with trio.open_nursery() as listening:
        signals = SignalListener(output.show)
        await listening.start(signals.listen)
        cut_off = False
        with signals.starting:
            async with AsyncExitStack() as local:
                server_grace = 0.0
                if local_server is not None:
                    server = await local.enter_async_context(_server(local_server, output))
                    config = attrs.evolve(config, settings=server.settings)
                    server_grace = server.grace
                worker = Worker(
                    config,
                    notify=lambda notice: _show(notice, worker, signals, output),
                    surroundings=surroundings,
                )
                output.identity.worker_name = worker.name
                output.identity.work_pool_name = config.pool
                signals.worker = worker
                async with _gone_in_time(worker, signals, output):
                    await _work(worker, output, served, server_grace)
                cut_off = worker.cut_off
        listening.cancel_scope.cancel()
    return cut_off


def _show(notice: Notice, worker: Worker, signals: SignalListener, output: CommandOutput) -> None:
    output.show(notice)
    # Not by signals alone, but also when the API is away for too long.
    if worker.cut_off:
        signals.runs_were_cut_off()


@asynccontextmanager
async def _gone_in_time(
    worker: Worker, signals: SignalListener, output: CommandOutput
) -> AsyncIterator[None]:
    """See to it that the process is gone within the bound, though a function that was cut off goes on."""
    if worker.config.flows is None:
        yield
        return
    signals.last_resort = LastResort(output.show)
    async with signals.last_resort.ready():
        yield


async def _work(
    worker: Worker, output: CommandOutput, served: ServedFlows | None, server_grace: float
) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - passed on
        await worker.run(task_status=task_status)
        if not worker.config.run_once:
            # The end waits for nobody who is asked about functions.
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        if worker.ready:
            output.say(f"Worker {worker.name!r} started!", fg="green")
            if served is not None:
                served.say()
                nursery.start_soon(served.ask, worker.config)
            if not worker.config.run_once:
                output.say(_time_to_stop(worker.config, server_grace))
    output.say(f"Worker {worker.name!r} stopped!", fg="green")


def _time_to_stop(config: WorkerConfig, server_grace: float) -> str:
    parts = (
        f"drain {config.drain_timeout:g} s, kill grace {config.kill_grace:g} s,"
        f" flush {config.flush_timeout:g} s"
    )
    if server_grace:
        parts += f", local server {server_grace:g} s"
    return f"Once told to stop, the worker is gone within {config.stop_bound + server_grace:g} s ({parts})."


@frozen
class _Server:
    """A server on this machine.

    Attributes:
        settings: those to work with, for which it is the API.
        grace: seconds that it may take to end.
    """

    settings: Settings
    grace: float


@asynccontextmanager
async def _server(settings: Settings, output: CommandOutput) -> AsyncIterator[_Server]:
    """Run a server on this machine."""
    from trioworker.command.local_server import GRACE, open_local_server  # noqa: PLC0415 - few need it

    preferred_port = settings.server_api_port
    if settings.api_url is not None:
        source = settings.source_of("api_url")
        output.show(
            Notice(f"PREFECT_API_URL ({source}) does not count: the worker works for the local server.")
        )
    async with open_local_server(
        python=find_interpreter(settings.python),
        home=settings.home,
        environment=settings.environment,
        preferred_port=preferred_port,
        on_notice=lambda message: output.show(Notice(message)),
    ) as server:
        if not server.dashboard_url.endswith(f":{preferred_port}"):
            output.show(
                Notice(f"Port {preferred_port} is taken, so the server has another one.", warning=True)
            )
        output.show(Notice(f"For other terminals: export PREFECT_API_URL={server.url}"))
        yield _Server(settings.with_api_url(server.url), GRACE)


def _functions(reference: str) -> TrioFlows:
    """The functions to serve; what they log is shown from now on."""
    from trioworker.command.flow_loading import load_flows  # noqa: PLC0415 - few need it
    from trioworker.logs.functions import enable_own_loggers, show_logs_of_functions  # noqa: PLC0415 - few need it

    # First, so that a module that configures `logging` has the last word.
    show_logs_of_functions()
    flows = load_flows(reference, Path.cwd())
    enable_own_loggers()
    return flows


def _served(
    flows: TrioFlows, reference: str, output: CommandOutput, surroundings: Surroundings
) -> ServedFlows:
    from trioworker.command.served_flows import ServedFlows  # noqa: PLC0415 - few need it

    return ServedFlows(flows, reference, output.show, surroundings)


def _type_provision(policy: InstallPolicy, settings: Settings, output: CommandOutput) -> TypeProvision:
    return TypeProvision(
        policy=policy,
        installer=EnvironmentInstaller(settings.environment),
        notify=output.show,
        confirm=confirm if at_terminal() else None,
    )


def _options_for_prefect(context: click.Context) -> list[str]:
    """The options of this call that Prefect's own command has too, but for the pool and the type."""
    words: list[str] = []
    for option in context.command.params:
        if option.name not in _PREFECT_OPTIONS:
            continue
        if context.get_parameter_source(option.name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[option.name]
        if isinstance(value, bool):
            words.append(option.opts[-1] if value else option.secondary_opts[-1])
        else:
            for word in value if option.multiple else [value]:
                words += [option.opts[-1], str(word)]
    return words


async def _ask_for_pool() -> str:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("Missing option '-p' / '--pool': the name of the work pool.")
    answer: str = await click.prompt("Work pool name")
    return answer


def _read_template(path: Path) -> dict[str, Any]:
    """Read a base job template, before anything is created on the server."""
    what = f"The base job template {path}"
    try:
        template = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{what} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what} is not a text file.") from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{what} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{what} is nested too deeply.") from error
    except ValueError as error:  # a number of thousands of digits
        raise ConfigurationError(f"{what} cannot be read: {error}.") from error
    if not isinstance(template, dict):
        raise ConfigurationError(f"{what} must be a JSON object, not {type(template).__name__}.")
    for part in ("job_configuration", "variables"):
        if not isinstance(template.get(part), dict):
            raise ConfigurationError(f"{what} must have an object {part!r}.")
    if problem := template_problem(template):
        raise ConfigurationError(f"{what} {problem}")
    return template
