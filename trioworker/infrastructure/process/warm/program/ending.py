"""End the process of a flow run as Python ends one, but for what the template has imported.

At the end Python takes every module apart. Nobody notices that of Prefect's, whose memory the process shares with its
template: to take it apart is to copy nearly all of it, a quarter of all that a short run costs. So what the run
itself has imported and made is taken apart, and with the rest the process just ends.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import sys
import threading
import traceback
import weakref
from collections.abc import Iterable, Mapping
from types import ModuleType
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
    own = _OwnModules(template)
    if not _write_out() or own.are_in_use():
        return
    # Before, since what is collected together may be closed in the wrong order; after, for last words into others.
    _flush_forgotten_files()
    own.take_apart()
    _flush_forgotten_files()
    # Not `os._exit`: what libraries in C have registered, and have not yet written, shall have its turn. With
    # Python's lock held, so that no thread goes on meanwhile.
    ctypes.PyDLL(None).exit(status if _write_out() else _UNWRITTEN)


def _wait_for_threads() -> None:
    try:
        threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
    except BaseException:  # noqa: BLE001 - such as an interrupt: Python tells of it, and goes on to the end
        sys.stderr.write(f"Exception ignored in: {threading!r}\n{traceback.format_exc()}")


class _OwnModules:
    """The modules of this process that its template has not had."""

    def __init__(self, template: Mapping[str, ModuleType]) -> None:
        kept = [vars(module) for module in template.values() if isinstance(module, ModuleType)]
        self._template = {id(space) for space in [*kept, globals()]}
        self._names = [name for name, module in sys.modules.items() if template.get(name) is not module]

    def are_in_use(self) -> bool:
        """Whether other threads execute code of theirs, which Python would keep from going on."""
        here = threading.get_ident()
        frames: Iterable[Any] = [frame for ident, frame in sys._current_frames().items() if ident != here]  # noqa: SLF001
        for innermost in frames:
            frame = innermost
            while frame is not None:
                if id(frame.f_globals) not in self._template:
                    return True
                frame = frame.f_back
        return False

    def take_apart(self) -> None:
        """Let go of them in the order that Python has: first whatever nobody refers to, then the rest by force."""
        modules = [sys.modules.pop(name, None) for name in self._names]
        alive = [weakref.ref(module) for module in modules if isinstance(module, ModuleType)]
        modules.clear()
        gc.collect()
        spaces = [vars(module) for reference in alive if (module := reference()) is not None]
        for space in reversed(spaces):
            _clear(space)
        spaces.clear()
        gc.collect()


def _clear(space: dict[str, Any]) -> None:
    for name in [name for name in space if name.startswith("_") and not name.startswith("__")]:
        space[name] = None
    for name in [name for name in space if name != "__builtins__"]:
        space[name] = None


def _flush_forgotten_files() -> None:
    """Write what is left in files that nobody has closed, and that are still there."""
    for each in gc.get_objects():
        if isinstance(each, (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            try:
                each.flush()
            except (OSError, ValueError):
                continue


def _write_out() -> bool:
    """Flush the standard streams; whether that is possible."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or getattr(stream, "closed", False):
            continue
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 - whatever stands in for a stream may raise
            return False
    return True
