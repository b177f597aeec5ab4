"""What a flow sees of libraries that keep something for the whole process: logging, Prefect, and the others."""

import asyncio
import logging
import multiprocessing
import multiprocessing.process
import multiprocessing.spawn
import os
import platform
import socket
import ssl
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any


def logging_tree() -> dict[str, Any]:
    """Every logger that has something of its own, or is waited for."""
    manager = logging.root.manager
    loggers: dict[str, Any] = {"root": logging.root, **manager.loggerDict}
    return {name: _logger(logger) for name, logger in sorted(loggers.items())}


def logging_module() -> dict[str, Any]:
    """What holds for all loggers."""
    manager = logging.root.manager
    return {
        "disabled below": manager.disable,
        "raises": logging.raiseExceptions,
        "levels": dict(sorted(logging.getLevelNamesMapping().items())),
        "class": logging.getLoggerClass().__qualname__,
        "records": getattr(logging.getLogRecordFactory(), "__qualname__", "?"),
        "last resort": str(logging.lastResort),
        "warnings": getattr(logging, "_warnings_showwarning", None) is not None,
        "handlers": sorted(
            filter(None, (_handler_name(reference) for reference in vars(logging)["_handlerList"]))
        ),
        "counts from the start of the process": _process_began() - 1 <= vars(logging)["_startTime"],
    }


def settings() -> dict[str, Any]:
    """Prefect's settings, where they come from, and its profile."""
    import prefect.context
    from prefect.settings import get_current_settings

    current = get_current_settings()
    context = prefect.context.get_settings_context()
    return {
        **_flat(current.model_dump(mode="json", context={"include_secrets": True})),
        "(set)": sorted(current.to_environment_variables(exclude_unset=True, include_secrets=True).items()),
        "(profile)": [context.profile.name, str(context.profile.source), sorted(_of_profile(context))],
        "(the global ones)": context is prefect.context.GLOBAL_SETTINGS_CONTEXT,
    }


def prefect() -> dict[str, Any]:
    """What Prefect keeps, and whether its classes are the same from wherever they are seen."""
    import prefect
    import prefect.context
    import prefect.engine
    import prefect.exceptions
    import prefect.flows
    from prefect._internal.concurrency import services
    from prefect.blocks.core import Block
    from prefect.serializers import Serializer
    from prefect.utilities.dispatch import get_registry_for_type

    main = sys.modules["__main__"]
    engine = sys.modules["prefect.engine"]
    context = prefect.context.FlowRunContext.get()
    services_class = services._QueueServiceBase
    return {
        "exceptions of the engine": [
            getattr(module, name, None) is getattr(prefect.exceptions, name)
            for module in (main, engine)
            for name in ("Abort", "Pause", "TerminationSignal")
        ],
        "the engine is imported beside being the program": engine is not main,
        "the flow": context is not None and isinstance(context.flow, prefect.Flow),
        "the run": context is not None and type(context.flow_run).__module__,
        "contexts": sorted(
            name
            for name in (
                "FlowRunContext",
                "TaskRunContext",
                "EngineContext",
                "AsyncClientContext",
                "SyncClientContext",
            )
            if getattr(prefect.context, name).get() is not None
        ),
        "blocks": sorted(get_registry_for_type(Block) or {}),
        "serializers": sorted(get_registry_for_type(Serializer) or {}),
        "services": sorted(type(service).__name__ for service in services_class._instances.values()),
        "version": prefect.__version__,
    }


def processes() -> dict[str, Any]:
    """What `multiprocessing` believes."""
    current = multiprocessing.current_process()
    return {
        "method": multiprocessing.get_start_method(allow_none=True),
        "directory": vars(multiprocessing.process)["ORIGINAL_DIR"],
        "name": current.name,
        "identity": list(current._identity),
        "daemon": current.daemon,
        "parent": multiprocessing.parent_process() is not None,
        "children": len(multiprocessing.active_children()),
        "program": os.fsdecode(multiprocessing.spawn.get_executable()),
        "key": len(current.authkey),
        "pid": current.pid == os.getpid(),
    }


def others() -> dict[str, Any]:
    """What other libraries keep."""
    import wsgiref.handlers

    import anyio
    import certifi
    import fsspec.config  # type: ignore[import-untyped]
    import pendulum
    import rich
    import rich.console
    import websockets.http11
    from prefect.types._datetime import now

    console = rich.get_console()
    context = ssl.create_default_context()
    # As the clients of Prefect ask for it.
    of_clients = ssl.create_default_context(cafile=str(certifi.where()))
    return {
        "temporary directory": tempfile.gettempdir(),
        "event loops": type(asyncio.get_event_loop_policy()).__qualname__,
        "event loop is running": _loop(),
        "anyio": anyio.get_all_backends(),
        "console": [console.width, str(console.color_system), console.is_terminal, console.legacy_windows],
        "console, plain": [rich.console.Console().width, str(rich.console.Console().color_system)],
        "directory at import": rich._IMPORT_CWD,
        "fsspec": {name: str(value) for name, value in sorted(fsspec.config.conf.items())},
        "fsspec, where": fsspec.config.conf_dir,
        "web servers": dict(wsgiref.handlers.BaseHandler.os_environ) == dict(os.environ),
        "certificates": [certifi.where(), str(ssl.get_default_verify_paths())],
        "TLS is": [
            ssl._create_default_https_context is ssl.create_default_context,
            ssl.create_default_context.__name__,
        ],
        "TLS": [
            str(context.protocol),
            str(context.verify_mode),
            context.check_hostname,
            int(context.options),
            str(context.minimum_version),
            len(context.get_ca_certs()),
            len(context.get_ciphers()),
            ssl.OPENSSL_VERSION,
        ],
        "TLS is noted in": [str(context.keylog_filename), str(of_clients.keylog_filename)],
        "websockets": websockets.http11.MAX_NUM_HEADERS,
        "proxies": urllib.request.getproxies(),
        "opener": vars(urllib.request)["_opener"] is None,
        "time zone": [pendulum.now().timezone_name, str(now("local").utcoffset())],
        "socket timeout": socket.getdefaulttimeout(),
        "host": [socket.gethostname(), platform.node()],
        "imports from here": _imports_from(Path.cwd()),
    }


def _loop() -> str:
    try:
        return type(asyncio.get_running_loop()).__qualname__
    except RuntimeError:
        return "no"


def _imports_from(directory: Path) -> bool:
    """Whether a module that is new in the working directory is found at once."""
    import importlib

    name = f"parity_new_{os.getpid()}"
    file = directory / f"{name}.py"
    file.write_text("")
    importlib.invalidate_caches()
    try:
        return bool(importlib.import_module(name))
    except ImportError:
        return False
    finally:
        file.unlink()
        sys.modules.pop(name, None)


def _logger(logger: Any) -> Any:
    if isinstance(logger, logging.PlaceHolder):
        return "waited for"
    own = [logger.level, logger.propagate, logger.disabled, type(logger).__qualname__]
    return [*own, *map(_handler, logger.handlers), *map(_filter, logger.filters)]


def _handler(handler: logging.Handler) -> dict[str, Any]:
    stream = getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", None)
    formatter = handler.formatter
    console = getattr(handler, "console", None)
    return {
        "class": f"{type(handler).__module__}.{type(handler).__qualname__}",
        "level": handler.level,
        "name": handler.name,
        "stream": getattr(stream, "name", None),
        "formatter": None
        if formatter is None
        else [type(formatter).__qualname__, formatter._fmt, formatter.datefmt],
        "filters": list(map(_filter, handler.filters)),
        "console": None
        if console is None
        else [console.width, str(console.color_system), console.is_terminal],
    }


def _filter(entry: Any) -> str:
    return type(entry).__qualname__


def _handler_name(reference: Any) -> str | None:
    handler = reference()
    return None if handler is None else type(handler).__qualname__


def _process_began() -> float:
    """When this process was started, in seconds since 1970."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _of_profile(context: Any) -> list[str]:
    return [str(setting.name) for setting in context.profile.settings]


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{above}{name}.")
        else:
            # What is a set to Prefect is in any order.
            flat[above + name] = sorted(value, key=str) if isinstance(value, list) else value
    return flat
