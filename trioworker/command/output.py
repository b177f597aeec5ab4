"""What the command itself says: text on standard output, or JSON on standard error among its log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from typing import Any

import asyncclick as click

from trioworker.api.errors import APIError
from trioworker.command.unread_output import waiting_for_nobody
from trioworker.errors import WorkerError
from trioworker.logs.format import JsonFormatter, WorkerNames, colors_wanted
from trioworker.notices import Notice
from trioworker.printable import in_one_line, printable
from trioworker.settings import Settings


def log_format_asked_for(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What `--log-format` or else `TRIOWORKER_LOG_FORMAT` says, found without parsing, which may yet fail.

    Args:
        arguments: of the command, not parsed.
        environment: the environment variables.
    """
    found = environment.get("TRIOWORKER_LOG_FORMAT", "")
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if word == "--":
            break
        option, _, value = word.partition("=")
        if option == "--log-format":
            found = value or following
    return found.lower()


class CommandOutput:
    """Says things as the user wants to be told.

    Args:
        log_format: ``text`` or ``json``.
        environment: may forbid colours.

    Attributes:
        as_json: whether it is JSON.
        colors_enabled: Prefect's setting ``PREFECT_LOGGING_COLORS``.
        identity: whose words these are, for the log as well.
    """

    def __init__(self, log_format: str, environment: Mapping[str, str]) -> None:
        self.as_json: bool = log_format == "json"
        self.colors_enabled: bool = True
        self.identity: WorkerNames = WorkerNames()
        self._environment = environment
        self._formatter = JsonFormatter()

    def use(self, settings: Settings, log_format: str) -> None:
        """Take the user's wishes over, once the settings are known."""
        self.as_json = log_format == "json"
        self.colors_enabled = settings.logging_colors
        if self.as_json:
            _have_standard_error_alone()

    def show(self, notice: Notice) -> None:
        """Say what the worker has to tell."""
        if notice.warning:
            self.say(notice.message, fg="yellow", level=logging.WARNING)
        else:
            self.say(notice.message)

    def say(self, message: str, fg: str | None = None, level: int = logging.INFO) -> None:
        """Say something, if there still is somebody to hear it: a worker outlives its terminal, or `| head`."""
        with suppress(OSError):
            if self.as_json:
                self._say_as_json(
                    {"msg": message, "levelno": level, "levelname": logging.getLevelName(level)}
                )
            else:
                colored = colors_wanted(sys.stdout, self._environment, enabled=self.colors_enabled)
                click.secho(in_one_line(message), fg=fg, color=colored)

    @contextmanager
    def ending_with_errors(self) -> Iterator[None]:
        """End the command with what an error says, and with its exit code, where it is one for the user.

        As JSON that goes for bugs too, since a traceback would not be JSON.
        """
        try:
            try:
                yield
            except (WorkerError, APIError) as error:
                raise click.ClickException(str(error) if self.as_json else printable(str(error))) from error
        except click.ClickException as error:
            if not self.as_json:
                raise
            self.say(error.format_message(), level=logging.ERROR)
            sys.exit(error.exit_code)
        except Exception as error:
            if not self.as_json or isinstance(error, click.exceptions.Exit | click.Abort):
                raise
            with suppress(OSError):
                cause = (type(error), error, error.__traceback__)
                words = f"The worker met with a bug: {error}"
                self._say_as_json(
                    {"msg": words, "levelno": logging.CRITICAL, "levelname": "CRITICAL", "exc_info": cause}
                )
            sys.exit(1)

    def _say_as_json(self, attributes: dict[str, Any]) -> None:
        record = logging.makeLogRecord({"name": "trioworker", **attributes})
        self.identity.filter(record)
        click.echo(self._formatter.format(record), err=True)


def _have_standard_error_alone() -> None:
    """Let what flow runs write to standard error, which is not JSON, go where their other output goes."""
    # To print is of no use if there is no standard output, or no standard error, at all.
    with suppress(OSError):
        alone = os.dup(2)
        os.dup2(1, 2)
        sys.stderr = waiting_for_nobody(
            open(  # noqa: SIM115 - as long as the process lives
                alone, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
            )
        )
