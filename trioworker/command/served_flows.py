"""What the command says of the functions that a worker serves: which they are, and that none of them is deployed."""

from __future__ import annotations

import shlex
from contextlib import suppress

import attrs
import trio

from trioworker.api.condition import Condition
from trioworker.api.errors import APIError
from trioworker.config import WorkerConfig
from trioworker.flows.declaration import FlowDeclarations
from trioworker.notices import Notice, Notify
from trioworker.surroundings import Surroundings

# Seconds that the server has to say whether there are deployments.
_PATIENCE = 5.0


@attrs.frozen(eq=False, repr=False)
class ServedFlows:
    """Tells a user what is served, and if there can be no runs of it.

    Attributes:
        flows: what is served.
        reference: where that was found, as the user has put it: `MODULE:ATTR`.
        notify: told.
        surroundings: open the API.
    """

    flows: FlowDeclarations
    reference: str
    notify: Notify
    surroundings: Surroundings

    def say(self) -> None:
        """Say what is served."""
        names = [flow.name for flow in self.flows]
        self.notify(Notice(f"Serving {len(names)} flow{'s' if len(names) != 1 else ''}: {', '.join(names)}."))

    async def ask(self, config: WorkerConfig) -> None:
        """Ask the server, once, whether any of it is deployed in the work pool, and say so if not."""
        names = [flow.name for flow in self.flows]
        # That this cannot be told is no reason to say anything.
        with trio.move_on_after(_PATIENCE), suppress(APIError):
            async with self.surroundings.open_api(config, Condition()) as api:
                if await api.count_deployments(config.pool, flow_names=names):
                    return
            any_of_them = "it" if len(names) == 1 else "any of them"
            command = f"trioworker deploy {shlex.quote(self.reference)} --pool {shlex.quote(config.pool)}"
            advice = (
                f"Work pool {config.pool!r} has no deployment of {any_of_them} yet, so there will be no runs;"
                f" to deploy: {command}"
            )
            self.notify(Notice(advice, warning=True))
