"""Make of a forked child what a fresh process would be: as if it had just been started, and imported Prefect.

A child has all that the template had, which some modules have noted when they were imported: where they were, with
what environment, under which name. Each such note is written anew here. What cannot be is told in the documentation.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import multiprocessing
import multiprocessing.process
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .preloading import Program, entries_of


def set_environment(environment: Mapping[str, str]) -> None:
    """Set the whole environment, for Python and for the C library."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    time.tzset()


def set_directory(directory: str, base_path: Sequence[str]) -> None:
    """Go to a directory, and look for modules as a program does that is started there by `python -m`.

    Raises:
        OSError: there is no such directory, or it may not be entered.
    """
    os.chdir(directory)
    sys.path[:] = path_in(str(Path.cwd()), os.environ, base_path)
    for entry in sys.path_importer_cache.keys() - set(sys.path):
        # What is below a directory of the path, as the parts of packages are, is kept.
        if not entry.startswith(tuple(base_path)):
            del sys.path_importer_cache[entry]
    importlib.invalidate_caches()


def path_in(directory: str, environment: Mapping[str, str], base_path: Sequence[str]) -> list[str]:
    """The `sys.path` of a program that is started by `python -m` in a directory."""
    entries = dict.fromkeys([*entries_of(environment.get("PYTHONPATH", "")), *base_path])
    own = [] if getattr(sys.flags, "safe_path", False) else [directory]
    return [*own, *entries]


def forget_template() -> None:
    """Write anew what modules have noted of the process in which they were imported."""
    # Python's own note of the fork keeps the number of the template's thread.
    main_thread: Any = threading.main_thread()
    main_thread._set_native_id()  # noqa: SLF001
    _seed("random")
    multiprocessing.current_process().authkey = os.urandom(32)
    logging._startTime = _moment(logging._startTime)  # type: ignore[attr-defined] # noqa: SLF001
    _seed("numpy.random")
    trio_chance = getattr(sys.modules.get("trio._core._run"), "_r", None)
    if trio_chance is not None:
        trio_chance.seed()


def note_surroundings() -> None:
    """Write anew what modules have noted of the environment and the directory in which they were imported."""
    tempfile.tempdir = None
    tempfile._name_sequence = None  # type: ignore[attr-defined] # noqa: SLF001
    directory = str(Path.cwd())
    multiprocessing.process.ORIGINAL_DIR = directory  # type: ignore[attr-defined]
    _set("rich", "_IMPORT_CWD", directory)
    handlers = sys.modules.get("wsgiref.handlers")
    if handlers is not None:
        handlers.BaseHandler.os_environ = handlers.read_environ()
    fsspec = sys.modules.get("fsspec.config")
    if fsspec is not None:
        fsspec.conf.clear()
        fsspec.set_conf_files(fsspec.conf_dir, fsspec.conf)
        fsspec.set_conf_env(fsspec.conf)


def set_arguments(module: str, program: Program, arguments: Sequence[str]) -> None:
    """Let the process look as if it had been started by `python -m`."""
    sys.orig_argv[:] = [sys.executable, "-m", module, *arguments]
    sys.argv[:] = [program.spec.origin, *arguments]


def run_as_main(program: Program) -> None:
    """Execute a module as `python -m` does; what it raises leaves."""
    main = ModuleType("__main__")
    vars(main).update(
        __file__=program.spec.origin,
        __cached__=program.spec.cached,
        __loader__=program.spec.loader,
        __package__=program.spec.parent,
        __spec__=program.spec,
        __builtins__=builtins,
    )
    # The second name is that by which `multiprocessing` knows it.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    exec(program.code, vars(main))  # noqa: S102 - the code of Prefect's own program


def _moment(noted: float) -> float:
    # In nanoseconds since Python 3.13.
    return time.time_ns() if isinstance(noted, int) else time.time()


def _seed(module: str) -> None:
    loaded: Any = sys.modules.get(module)
    if loaded is not None:
        loaded.seed()


def _set(module: str, name: str, value: object) -> None:
    loaded = sys.modules.get(module)
    if loaded is not None and hasattr(loaded, name):
        setattr(loaded, name, value)
