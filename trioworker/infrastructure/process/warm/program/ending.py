"""End the process of a flow run as Python ends one, but for what the template has imported.

At the end Python takes every module apart. Nobody notices that of Prefect's, whose memory the process shares with its
template: to take it apart is to copy nearly all of it, a quarter of all that a short run costs. So what the run
itself has imported and made is taken apart, and with the rest the process just ends.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import functools
import gc
import io
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import AsyncGeneratorType, CoroutineType, ModuleType
from typing import Any, Final

# What Python ends with if the last words cannot be written.
_UNWRITTEN: Final = 120
_LARGEST_STATUS: Final = 2**31 - 1


def status_of(ending: SystemExit) -> int | None:
    """The exit status that somebody has asked for; None if Python has more to do about it than that."""
    code = ending.code
    if code is None:
        return 0
    return code if isinstance(code, int) and abs(code) <= _LARGEST_STATUS else None


def end(status: int, template: Mapping[str, ModuleType]) -> None:
    """End this process, or return if Python has to do it, which has more to say, or threads to keep from going on.

    Args:
        status: what it ends with.
        template: the modules that were there when it was forked.
    """
    _wait_for_threads()
    atexit._run_exitfuncs()  # noqa: SLF001
    try:
        own = _OwnModules(template)
        if not _write_out() or _library_threads() or own.are_in_use():
            return
        # As Python does it, whatever stands in for them, before that is taken apart.
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        # Before, since what is collected together may be closed in the wrong order; after, for last words into
        # others.
        _flush_forgotten_files()
        own.take_apart()
        _flush_forgotten_files()
    except Exception:  # noqa: BLE001 - of whatever it met with, Python makes the best
        return
    # Not `os._exit`: what libraries in C have registered with the C library, and have not yet written, shall have its
    # turn. With Python's lock held, so that no thread goes on meanwhile.
    ctypes.PyDLL(None).exit(status if _write_out() else _UNWRITTEN)


def _wait_for_threads() -> None:
    try:
        threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
    except BaseException:  # noqa: BLE001 - such as an interrupt: Python tells of it, and goes on to the end
        sys.stderr.write(f"Exception ignored in: {threading!r}\n{traceback.format_exc()}")


def _library_threads() -> bool:
    """Whether there are threads that are not Python's, for which the lock would never be free again."""
    return len(os.listdir("/proc/self/task")) > len(sys._current_frames())  # noqa: PTH208, SLF001


class _OwnModules:
    """The modules of this process that its template has not had."""

    def __init__(self, template: Mapping[str, ModuleType]) -> None:
        kept = [_namespace(module) for module in template.values() if _is_module(module)]
        self._template = {id(space) for space in [*kept, globals()]}
        self._names = [name for name, module in sys.modules.items() if template.get(name) is not module]

    def are_in_use(self) -> bool:
        """Whether other threads execute code of theirs, or are about to, which Python would keep them from."""
        here = threading.get_ident()
        others = [frame for ident, frame in sys._current_frames().items() if ident != here]  # noqa: SLF001
        if not others:
            return False
        executed = [frame.f_globals for innermost in others for frame in _with_callers(innermost)]
        return any(id(space) not in self._template for space in [*executed, *_waiting_code()])

    def take_apart(self) -> None:
        """Let go of them in the order that Python has: first whatever nobody refers to, then the rest by force."""
        modules = [sys.modules.pop(name, None) for name in self._names]
        alive = [weakref.ref(module) for module in modules if _is_module(module)]
        modules.clear()
        gc.collect()
        spaces = [_namespace(module) for reference in alive if (module := reference()) is not None]
        for space in reversed(spaces):
            _clear(space)
        spaces.clear()
        gc.collect()


def _is_module(each: object) -> bool:
    # Not `isinstance`, to which others may have an answer of their own, or none.
    return issubclass(type(each), ModuleType)


def _namespace(module: object) -> dict[str, Any]:
    # Not `vars`, for which a module that is yet to be imported is imported.
    space: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return space


def _with_callers(frame: Any) -> Iterator[Any]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _waiting_code() -> Iterator[dict[str, Any]]:
    """The namespaces of what threads may execute next, though they do not just then."""
    for each in gc.get_objects():
        kind = type(each)
        if issubclass(kind, CoroutineType):
            frame = each.cr_frame
        elif issubclass(kind, AsyncGeneratorType):
            frame = each.ag_frame
        else:
            frame = None
            if issubclass(kind, asyncio.Handle):
                yield from _namespaces_of(each._callback)  # noqa: SLF001
            elif issubclass(kind, threading.Thread) and each.is_alive():
                yield from _namespaces_of(kind.run)
                yield from _namespaces_of(getattr(each, "_target", None))
                yield from _namespaces_of(getattr(each, "function", None))
        if frame is not None:
            yield frame.f_globals


def _namespaces_of(function: Any) -> Iterator[dict[str, Any]]:
    while type(function) is functools.partial:
        function = function.func
    space = getattr(getattr(function, "__func__", function), "__globals__", None)
    if space is not None:
        yield space


def _clear(space: dict[Any, Any]) -> None:
    names = [name for name in space if isinstance(name, str) and name != "__builtins__"]
    private = [name for name in names if name.startswith("_") and not name.startswith("__")]
    for name in [*private, *names]:
        space[name] = None


def _flush_forgotten_files() -> None:
    """Write what is left in files that nobody has closed, and that are still there."""
    for each in gc.get_objects():
        if issubclass(type(each), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            # What keeps such a file from being written Python does not say either, or once it is collected.
            with suppress(Exception):
                each.flush()


def _write_out() -> bool:
    """Flush the standard streams; whether that is possible."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except Exception:  # noqa: BLE001 - whatever stands in for a stream may raise
            return False
    return True
