"""Execute a flow run in a fresh process, as `python -m` would, but without collecting garbage during the imports.

That is what is left of a warm start where no process can be forked. Nothing of what is imported is garbage, and
looking for some takes a fifth of the time.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from .newborn import run_as_main, set_arguments
from .preloading import ENGINE, SUPERVISOR, program_of

_START = str(Path(__file__).with_name("start.py"))

# What a program imports itself, first of all.
_IMPORTS = {
    ENGINE: ("prefect.flow_engine", "prefect._internal.metrics"),
    SUPERVISOR: ("prefect.runner._workspace_starter",),
}


def main(arguments: Sequence[str]) -> int:
    """Execute a module of Prefect; what it raises leaves.

    Args:
        arguments: the module, and its arguments.
    """
    module, *own = arguments
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path.cwd())
    gc.disable()
    program = program_of(module)
    for name in _IMPORTS.get(module, ()):
        # What is not there, the program itself may miss, or not.
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    if module == SUPERVISOR:
        os.execvpe = _going_on_alone(os.execvpe)
    set_arguments(module, program, own)
    run_as_main(program)
    return 0


def _going_on_alone(execvpe: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
    """What stands in for `os.execvpe`, for an engine that is to be executed likewise."""

    def go_on(file: str, args: Sequence[str], env: Mapping[str, str]) -> NoReturn:
        if [file, *args[1:]] == [sys.executable, "-m", ENGINE]:
            args = [file, _START, "alone", ENGINE]
        execvpe(file, args, env)

    return go_on
