"""A program: call the hooks that a flow has for its cancellation or its crash.

It is run by its path, in the interpreter, environment and directory of the flow, so it needs nothing but the standard
library and Prefect, and does without what is newer than the oldest Python that Prefect runs on.

    call_hooks.py KIND FLOW_RUN.json STATE.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_HOOKS_OF_FLOW = {"cancellation": "on_cancellation_hooks", "crashed": "on_crashed_hooks"}


def main() -> int:
    """Call the hooks; the exit status is 1 if the flow cannot be had. A hook that fails is logged on the run."""
    arguments = _arguments()
    flow_run, state = (path.read_text(encoding="utf-8") for path in (arguments.flow_run, arguments.state))
    _make_room_for_the_flows_modules()
    try:
        asyncio.run(_call_hooks(arguments.kind, flow_run, state))
    except Exception as error:  # noqa: BLE001 - whatever the flow's module does on import
        # Why it cannot be had, the flow's own process has told at length.
        sys.stderr.write(f"The flow whose hooks are to be called cannot be loaded: {_in_a_line(error)}\n")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Call the hooks of a flow.")
    parser.add_argument("kind", choices=sorted(_HOOKS_OF_FLOW))
    parser.add_argument("flow_run", type=Path)
    parser.add_argument("state", type=Path)
    return parser.parse_args()


def _make_room_for_the_flows_modules() -> None:
    """Import from the working directory, as Prefect's engine does, and not from the directory of this file."""
    own = Path(__file__).resolve().parent
    sys.path[:] = [os.getcwd(), *(entry for entry in sys.path if Path(entry).resolve() != own)]  # noqa: PTH109


async def _call_hooks(kind: str, flow_run_document: str, state_document: str) -> None:
    # Prefect is imported here, since it must be looked for where the flow's modules are.
    from prefect.client.schemas.objects import FlowRun, State  # noqa: PLC0415
    from prefect.flows import load_flow_from_flow_run  # noqa: PLC0415
    from prefect.logging.handlers import APILogHandler  # noqa: PLC0415
    from prefect.logging.loggers import flow_run_logger  # noqa: PLC0415

    flow_run = FlowRun.model_validate_json(flow_run_document)
    state = State.model_validate_json(state_document)
    try:
        flow = await load_flow_from_flow_run(flow_run)
        hooks: Sequence[Callable[..., Any]] = getattr(flow, _HOOKS_OF_FLOW[kind]) or []
        logger = flow_run_logger(flow_run, flow)
        for hook in hooks:
            await _call_hook(hook, logger, state.name, {"flow": flow, "flow_run": flow_run, "state": state})
    finally:
        await APILogHandler.aflush()


async def _call_hook(
    hook: Callable[..., Any], logger: Any, state_name: str | None, told: dict[str, Any]
) -> None:
    name = _name(hook)
    logger.info("Running hook %r in response to entering state %r", name, state_name)
    try:
        # In a thread, since it may block, or run an event loop of its own; an async one is but begun there.
        result = await asyncio.get_running_loop().run_in_executor(None, functools.partial(hook, **told))
        if inspect.isawaitable(result):
            await result
    except Exception:
        logger.exception("An error was encountered while running hook %r", name)
    else:
        logger.info("Hook %r finished running successfully", name)


def _in_a_line(error: BaseException) -> str:
    return " ".join("".join(traceback.format_exception_only(type(error), error)).split())


def _name(hook: Callable[..., Any]) -> str:
    with contextlib.suppress(AttributeError):
        return str(hook.__name__)
    if isinstance(hook, functools.partial):
        return _name(hook.func)
    return type(hook).__name__


if __name__ == "__main__":
    sys.exit(main())
