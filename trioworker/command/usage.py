"""How a command that was called wrongly answers."""

from __future__ import annotations

import math
from typing import Any

import asyncclick as click


class Command(click.Command):
    """A command whose every usage error shows the usage."""

    async def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, as the base class does."""
        try:
            return await super().parse_args(ctx, args)
        except click.UsageError as error:
            # Errors that come from deep within the parser know of no context, and would show a bare line.
            error.ctx = error.ctx or ctx
            raise


class WholeNumber(click.IntRange):
    """A whole number within the limits of the base class, whose name for it nobody would say."""

    name = "whole number"


class Number(click.FloatRange):
    """A number, `inf` included, within the limits of the base class."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a value, as the base class does, which takes NaN for as good as any number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no {self.name}.", param, ctx)
        return number


class Seconds(Number):
    """How long something may take: 0 or more, and `inf` for ever."""

    name = "number of seconds"

    def __init__(self) -> None:
        super().__init__(min=0)
