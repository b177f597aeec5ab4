"""The command line: options into a `WorkerConfig`, notices onto the terminal, errors into exit codes.

Exit codes: 0 when every run in hand came to its end, 1 when something kept the worker from starting or runs had
to be cut off, 2 when the command was called wrongly, 130 after Ctrl-C in the first instant.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncclick as click
import trio

from trioworker import __version__
from trioworker.api.errors import APIError
from trioworker.config import WorkerConfig
from trioworker.errors import ConfigurationError, WorkerError, sole_errors_bare
from trioworker.infrastructure.interpreter import find_interpreter
from trioworker.logs import configure_logging
from trioworker.notices import Notice
from trioworker.settings import Settings
from trioworker.signals import SignalListener
from trioworker.worker import Worker

INSTALL_POLICIES = ("always", "if-not-present", "never", "prompt")


class _Command(click.Command):
    """A command whose every usage error shows the usage."""

    async def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, as the base class does."""
        try:
            return await super().parse_args(ctx, args)
        except click.UsageError as error:
            # Errors that come from deep within the parser know of no context, and would show a bare line.
            error.ctx = error.ctx or ctx
            raise


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, "--version", prog_name="trioworker", message="%(prog)s %(version)s")
def trioworker() -> None:
    """Run the flow runs of Prefect work pools.

    A drop-in replacement for `prefect worker`: lighter, and honest when it
    stops.
    """


@trioworker.command(cls=_Command)
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
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="How far ahead of their time flow runs are taken.  [default: PREFECT_WORKER_PREFETCH_SECONDS]",
)
@click.option("--run-once", is_flag=True, help="Poll once, wait for those flow runs, and exit.")
@click.option(
    "-l",
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most flow runs at a time.  [default: any number]",
)
@click.option(
    "--with-healthcheck",
    is_flag=True,
    help="Serve GET /health on PREFECT_WORKER_WEBSERVER_HOST and _PORT.",
)
@click.option(
    "--install-policy",
    type=click.Choice(INSTALL_POLICIES, case_sensitive=False),
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
    "--local-server",
    is_flag=True,
    help="Start a Prefect server on this machine and work for that.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=20.0,
    metavar="SECONDS",
    help="How long flow runs may go on when the worker is told to stop.  [default: 20]",
)
@click.option(
    "--kill-grace",
    type=click.FloatRange(min=0),
    default=5.0,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL for flow runs that are cut off.  [default: 5]",
)
async def start(
    *,
    name: str | None,
    pool: str | None,
    base_job_template: Path | None,
    local_server: bool,
    install_policy: str,
    **options: Any,
) -> None:
    """Start a worker that polls a work pool for flow runs."""
    del install_policy  # parsed for the sake of scripts: so far every type that there is comes built in
    try:
        settings = Settings.load(os.environ, Path.cwd())
        configure_logging(settings)
        if name is not None:
            options["name"] = name
        if base_job_template is not None:
            options["base_job_template"] = _read_template(base_job_template)
        options["pool"] = pool or await _ask_for_pool()
        with sole_errors_bare():
            cut_off = await _run(settings, options, local_server=local_server)
    except (WorkerError, APIError) as error:
        raise click.ClickException(str(error)) from error
    if cut_off:
        sys.exit(1)


async def _run(settings: Settings, options: dict[str, Any], *, local_server: bool) -> bool:
    """Run a worker until it is told to stop; returns whether flow runs were cut off."""
    async with trio.open_nursery() as listening:
        signals = SignalListener(_show)
        await listening.start(signals.listen)
        cut_off = False
        with signals.starting:
            async with _server(settings, wanted=local_server) as effective:
                config = WorkerConfig(settings=effective, **options)
                worker = Worker(config, notify=_show)
                signals.worker = worker
                await _work(worker, config)
                cut_off = worker.cut_off
        listening.cancel_scope.cancel()
    return cut_off


async def _work(worker: Worker, config: WorkerConfig) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        if worker.ready:
            _say(f"Worker {worker.name!r} started!", fg="green")
            if not config.run_once:
                _say(
                    f"Once told to stop, the worker is gone within {config.stop_bound:g} s"
                    f" (drain {config.drain_timeout:g} s, kill grace {config.kill_grace:g} s,"
                    f" flush {config.flush_timeout:g} s)."
                )
    _say(f"Worker {worker.name!r} stopped!", fg="green")


@asynccontextmanager
async def _server(settings: Settings, *, wanted: bool) -> AsyncIterator[Settings]:
    """The settings to work with: those of a server on this machine, if that is wanted."""
    if not wanted:
        yield settings
        return
    from trioworker.local_server import open_local_server  # noqa: PLC0415 - few need it

    preferred_port = settings.server_api_port
    if settings.api_url is not None:
        source = settings.source_of("api_url")
        _show(Notice(f"PREFECT_API_URL ({source}) does not count: the worker works for the local server."))
    async with open_local_server(
        python=find_interpreter(settings.python),
        home=settings.home,
        environment=settings.environment,
        preferred_port=preferred_port,
        on_notice=lambda message: _show(Notice(message)),
    ) as server:
        if not server.dashboard_url.endswith(f":{preferred_port}"):
            _show(Notice(f"Port {preferred_port} is taken, so the server has another one.", warning=True))
        _show(Notice(f"For other terminals: export PREFECT_API_URL={server.url}"))
        yield settings.with_api_url(server.url)


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
    if not isinstance(template, dict):
        raise ConfigurationError(f"{what} must be a JSON object, not {type(template).__name__}.")
    for part in ("job_configuration", "variables"):
        if not isinstance(template.get(part), dict):
            raise ConfigurationError(f"{what} must have an object {part!r}.")
    return template


def _show(notice: Notice) -> None:
    _say(notice.message, fg="yellow" if notice.warning else None)


def _say(message: str, fg: str | None = None) -> None:
    """Print a line, if there still is somebody to read it: a worker outlives its terminal, or `| head`."""
    with suppress(OSError):
        click.secho(message, fg=fg)
