"""`trioworker deploy`: bring functions to the server as deployments."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncclick as click
import trio

from trioworker.command.output import CommandOutput
from trioworker.command.usage import Command
from trioworker.errors import ConfigurationError, GaveUpError
from trioworker.logs.configuration import configure_logging
from trioworker.notices import Notice
from trioworker.settings import Settings
from trioworker.surroundings import Surroundings

if TYPE_CHECKING:
    from trioworker.flows.schedules import Schedule

# Seconds; nobody waits for longer at a terminal, and a script has to come to an end.
_PATIENCE = 60.0

# What a schedule can express, which is more than anybody waits for.
_LONGEST_INTERVAL = timedelta.max.total_seconds()


@click.command(cls=Command)
@click.argument("flows", metavar="MODULE:ATTR")
@click.option(
    "-p", "--pool", required=True, metavar="POOL", help="Work pool of type trio; created if missing."
)
@click.option(
    "-f",
    "--flow",
    "names",
    metavar="FLOW",
    multiple=True,
    help="Flow to deploy; may be repeated.  [default: all]",
)
@click.option("-n", "--name", metavar="NAME", help="Name of the deployments.  [default: that of the pool]")
@click.option("-q", "--work-queue", "queue", metavar="QUEUE", help="Work queue of the pool.")
@click.option("--cron", metavar="CRON", help="When runs are created: a cron expression.")
@click.option("--interval", type=float, metavar="SECONDS", help="When runs are created: every so often.")
@click.option("--rrule", metavar="RRULE", help="When runs are created: an iCalendar recurrence rule.")
@click.option("--timezone", metavar="ZONE", help="Time zone of the schedule, such as Europe/Berlin.")
async def deploy(
    *,
    flows: str,
    pool: str,
    names: Sequence[str],
    name: str | None,
    queue: str | None,
    cron: str | None,
    interval: float | None,
    rrule: str | None,
    timezone: str | None,
) -> None:
    """Create or update deployments of functions.

    MODULE:ATTR is where the functions are: a module and the name of a
    trioworker.TrioFlows in it. Done twice, the second time changes nothing.
    Without a schedule here, functions keep the schedules that they were
    declared with.

    It gives up after 60 seconds at the latest, or after as many as
    TRIOWORKER_GIVE_UP_AFTER says.
    """
    output = CommandOutput(os.environ.get("TRIOWORKER_LOG_FORMAT", ""), os.environ)
    with output.ending_with_errors():
        directory = Path.cwd()
        settings = Settings.load(os.environ, directory)
        _begin_to_log(settings, output)
        wanted_schedules = _schedules(cron, interval, rrule, timezone)
        from trioworker.command.flow_loading import load_flows  # noqa: PLC0415 - not for other commands

        app = load_flows(flows, directory)
        patience = _PATIENCE if settings.give_up_after is None else settings.give_up_after
        with trio.move_on_after(patience) as scope:
            deployments = await app.deploy(
                pool=pool,
                flows=names or None,
                schedules=wanted_schedules,
                name=name,
                queue=queue,
                settings=settings,
                surroundings=click.get_current_context().ensure_object(Surroundings),
            )
        if scope.cancelled_caught:
            raise GaveUpError(
                f"It could not be deployed within {patience:g} s. Try once more, which does the rest; if that is"
                " too short, set TRIOWORKER_GIVE_UP_AFTER to more seconds."
            )
        for deployment in deployments:
            name = f"{deployment.flow_name}/{deployment.name}"
            output.say(f"Deployed '{name}' ({deployment.change}).", fg="green")
        output.say(
            f"Serve them with: trioworker start --pool {shlex.quote(pool)} --flows {shlex.quote(flows)}"
        )


def _begin_to_log(settings: Settings, output: CommandOutput) -> None:
    output.use(settings, settings.log_format)
    for problem in configure_logging(settings, as_json=output.as_json, identity=output.identity):
        output.show(Notice(problem, warning=True))


def _schedules(
    cron: str | None, interval: float | None, rrule: str | None, timezone: str | None
) -> list[Schedule] | None:
    from trioworker.flows.schedules import Cron, Interval, RRule  # noqa: PLC0415 - not for other commands

    given = [
        option
        for option, value in (("--cron", cron), ("--interval", interval), ("--rrule", rrule))
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigurationError(f"Give one of {' and '.join(given)}, not both.")
    zone = "UTC" if timezone is None else timezone
    if cron is not None:
        return [Cron(cron, timezone=zone)]
    if interval is not None:
        # NaN compares false with everything.
        if not 0 < interval <= _LONGEST_INTERVAL:
            raise ConfigurationError(f"--interval must be some seconds, more than 0, not {interval:g}.")
        return [Interval(interval, timezone=zone)]
    if rrule is not None:
        return [RRule(rrule, timezone=zone)]
    if timezone is not None:
        raise ConfigurationError("--timezone is that of a schedule: give --cron, --interval or --rrule too.")
    return None
