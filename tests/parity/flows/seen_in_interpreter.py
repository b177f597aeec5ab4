"""What a flow sees of its interpreter: `sys`, `__main__`, streams, modules, garbage collection, time and place."""

import _locale
import atexit
import builtins
import contextvars
import datetime as dt
import decimal
import gc
import importlib.machinery
import locale
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

_TEXTS = (
    "argv",
    "orig_argv",
    "path",
    "warnoptions",
    "_xoptions",
    "executable",
    "_base_executable",
    "prefix",
    "base_prefix",
    "exec_prefix",
    "base_exec_prefix",
    "pycache_prefix",
    "platlibdir",
    "dont_write_bytecode",
    "flags",
    "byteorder",
    "hexversion",
    "tracebacklimit",
    "last_type",
    "ps1",
)
_CALLS = (
    "getdefaultencoding",
    "getfilesystemencoding",
    "getfilesystemencodeerrors",
    "getrecursionlimit",
    "get_int_max_str_digits",
    "getswitchinterval",
    "getprofile",
    "gettrace",
    "is_finalizing",
    "get_coroutine_origin_tracking_depth",
    "getdlopenflags",
)
_HOOKS = ("displayhook", "excepthook", "unraisablehook", "breakpointhook")


def modules() -> list[str]:
    """The names of what is imported."""
    return sorted(sys.modules)


def module_files() -> dict[str, Any]:
    """Files that have become more than one module; a second one has classes that are not those of the first."""
    names: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        if file := getattr(module, "__file__", None):
            names.setdefault(Path(file).name, []).append(name)
    return {
        file: sorted(found)
        for file, found in sorted(names.items())
        if len({sys.modules[name].__file__ for name in found})
        < len({id(sys.modules[name]) for name in found})
    }


def system() -> dict[str, Any]:
    """The module `sys`."""
    seen: dict[str, Any] = {name: _plain(getattr(sys, name, None)) for name in _TEXTS}
    seen |= {name: _plain(getattr(sys, name)()) for name in _CALLS}
    seen |= {name: _name(getattr(sys, name)) for name in _HOOKS}
    seen["meta_path"] = [_name(finder) for finder in sys.meta_path]
    seen["path_hooks"] = [_name(hook) for hook in sys.path_hooks]
    seen["hash_info"] = repr(sys.hash_info)
    seen["builtins"] = sorted(set(dir(builtins)))
    seen["stale path entries"] = _stale_entries()
    return seen


def main_module() -> dict[str, Any]:
    """The module `__main__`."""
    main = sys.modules["__main__"]
    spec: importlib.machinery.ModuleSpec | None = main.__spec__
    return {
        "file": main.__file__,
        "cached": getattr(main, "__cached__", None),
        "name": main.__name__,
        "package": main.__package__,
        "documentation": main.__doc__,
        "loader": _name(main.__loader__),
        "specification": None if spec is None else [spec.name, spec.origin, spec.parent, spec.has_location],
        # What it has warned of depends on when garbage is collected.
        "names": sorted(vars(main).keys() - {"__warningregistry__"}),
        "builtins": type(vars(main)["__builtins__"]).__name__,
        "is that of children": sys.modules.get("__mp_main__") is main,
    }


def streams() -> dict[str, Any]:
    """The standard streams."""
    return {name: _stream(name) for name in ("stdin", "stdout", "stderr")}


def place_and_time() -> dict[str, Any]:
    """What a program says of languages, times and places."""
    categories = [name for name in dir(locale) if name.startswith("LC_")]
    year = 365 * 86400
    return {
        **{name: _locale.setlocale(getattr(locale, name)) for name in categories if name != "LC_ALL"},
        "encoding": [locale.getpreferredencoding(do_setlocale=False), locale.getencoding()],
        "conventions": {name: str(value) for name, value in sorted(locale.localeconv().items())},
        "time zone": [time.timezone, time.altzone, time.daylight, list(time.tzname)],
        "some times": [time.strftime("%c %z %Z", time.localtime(n * year / 2)) for n in (0, 61, 108)],
        "here": str(dt.datetime.fromtimestamp(108 * year / 2).astimezone()),
        "home": str(Path.home()),
        "terminal": list(os.get_terminal_size(0)) if os.isatty(0) else None,
        "mask": f"{_umask():o}",
    }


def environment() -> dict[str, Any]:
    """The environment, and whether the C library has the same."""
    outside = Path("/proc/self/environ").read_bytes().split(b"\0")
    return {
        **dict(os.environ),
        "(as bytes)": sorted(os.environb) == sorted(map(os.fsencode, os.environ)),
        "(of the process itself)": len(outside) > 1,
    }


def machinery() -> dict[str, Any]:
    """Garbage collection, warnings, what is done at the end, contexts, decimals."""
    return {
        "thresholds": gc.get_threshold(),
        "collects": gc.isenabled(),
        "debugs": gc.get_debug(),
        "callbacks": len(gc.callbacks),
        "kept from collection": gc.get_freeze_count() > 0,
        "at exit": atexit._ncallbacks(),
        "warnings": [_filter(entry) for entry in warnings.filters],
        "warnings are shown by": _name(warnings.showwarning),
        "context variables": sorted(variable.name for variable in contextvars.copy_context()),
        "decimals": [str(decimal.getcontext()), str(decimal.DefaultContext)],
    }


def _stream(name: str) -> dict[str, Any]:
    stream = getattr(sys, name)
    if stream is None:
        return {"is": "missing"}
    # Without a buffer there is nothing in between.
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return {
        "is": type(stream).__name__,
        "the first": stream is getattr(sys, f"__{name}__"),
        "encoding": stream.encoding,
        "errors": stream.errors,
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
        "newlines": stream.newlines,
        "mode": stream.mode,
        "name": stream.name,
        "terminal": stream.isatty(),
        "number": stream.fileno(),
        "buffer": [type(stream.buffer).__name__, stream.buffer.mode, stream.buffer.name],
        "raw": [type(raw).__name__, raw.closefd],
        "block": os.fstat(stream.fileno()).st_blksize,
    }


def _stale_entries() -> list[str]:
    """Entries of the module path that are searched as if they did not exist, though they do."""
    cache = sys.path_importer_cache
    return sorted(entry for entry in sys.path if cache.get(entry, 0) is None and Path(entry).is_dir())


def _filter(entry: Any) -> str:
    action, message, category, module, line = entry
    texts = [getattr(pattern, "pattern", pattern) for pattern in (message, module)]
    return f"{action} {texts[0]!r} {category.__name__} {texts[1]!r} {line}"


def _umask() -> int:
    # Setting it is the only way of asking that is known to `os`.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | list | dict | None) else repr(value)


def _name(value: Any) -> str:
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
