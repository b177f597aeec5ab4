"""How a command that was called wrongly answers."""

from __future__ import annotations

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
