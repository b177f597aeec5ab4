"""Import everything that a flow run needs in any case, and see whether children may be forked then."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import runpy
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from .dependence import Fingerprint, fingerprint, imported_files
from .ready_contexts import ReadyContexts
from .unfit import UnfitError

SUPERVISOR = "prefect.runner._workspace_supervisor"
ENGINE = "prefect.engine"

# The versions whose processes have been compared, forked and fresh.
_PREFECT_VERSIONS = ("3.8.",)

# What Prefect imports only when it is needed, though it always is.
_NEEDED_LATER = (
    "prefect.flow_engine",
    "prefect._internal.metrics",
    "anyio._backends._asyncio",
    "encodings.idna",
    "pydantic.v1",
    "rich._emoji_codes",
    "prefect.deployments.steps.pull",
    "prefect.deployments.steps.utility",
    "prefect.runner._workspace_hook_runner",
    "prefect.runner._workspace_resolver",
    "prefect.runner._workspace_runtime",
    "prefect.runner._workspace_starter",
)

# Models whose validators are made when they are needed first, which every run would do for itself.
_MODELS = {
    "prefect.client.schemas.actions": ("FlowRunUpdate", "LogCreate"),
    "prefect.client.schemas.objects": ("FlowRun", "ServerDefaultResultStorage", "WorkPool", "WorkQueue"),
    "prefect.client.schemas.responses": ("DeploymentResponse",),
    "prefect.events.filters": ("EventFilter", "EventIDFilter", "EventNameFilter", "EventOccurredFilter"),
    "prefect.events.schemas.events": ("Event",),
}

# Objects; for as long as everything is imported.
_LOOK_FOR_GARBAGE_AFTER = 50_000


class Program(NamedTuple):
    """A module that can be run as `python -m` would.

    Attributes:
        spec: of the module.
        code: of the module.
    """

    spec: Any
    code: CodeType


class Preloaded(NamedTuple):
    """What children start from.

    Attributes:
        programs: the modules that can be run, by name.
        given: the environment that the process was given.
        environment: that, with what Python has set at its start.
        own: what is set in the end otherwise than it was given, by Python or a module that was imported.
        base_path: where modules are looked for after the directories that environment or program add.
        modules: what was imported.
        names: the same, without what is in packages.
        files: how everything that was imported, and Prefect's own configuration, looked.
        problems: what of all that was wished for is not there.
    """

    programs: dict[str, Program]
    given: dict[str, str]
    environment: dict[str, str]
    own: dict[str, str]
    base_path: list[str]
    modules: dict[str, ModuleType]
    names: frozenset[str]
    files: Fingerprint
    problems: list[str]

    def in_fresh_process(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process that is given this one, and has imported the same."""
        own = {name: value for name, value in self.own.items() if given.get(name) == self.given.get(name)}
        return {**given, **own}


def preload(modules: Sequence[str]) -> Preloaded:
    """Import Prefect, and other modules besides.

    Raises:
        UnfitError: children of this process would not be the same as fresh processes.
    """
    given = _given_environment()
    environment = dict(os.environ)
    base_path = _base_path(environment)
    usual_thresholds = gc.get_threshold()
    # Importing leaves 2 MB of garbage. Looking for it as often as by default takes a fifth of the time.
    gc.set_threshold(_LOOK_FOR_GARBAGE_AFTER, *usual_thresholds[1:])
    contexts = ReadyContexts()
    programs = _import_prefect()
    problems = [problem for problem in map(_import_for_user, modules) if problem]
    settings = _require_known_prefect()
    _complete_models()
    contexts.make_ready()
    files = fingerprint([*imported_files(), *settings, *filter(None, [contexts.authorities])])
    gc.collect()
    # From here on, no collection touches the memory that children share.
    gc.freeze()
    gc.set_threshold(*usual_thresholds)
    _give_memory_back()
    _require_single_thread()
    if sys.gettrace() is not None or sys.getprofile() is not None:
        raise UnfitError("this interpreter traces what it executes")
    own = {name: value for name, value in os.environ.items() if given.get(name) != value}
    names = frozenset(name.partition(".")[0] for name in sys.modules)
    return Preloaded(programs, given, environment, own, base_path, dict(sys.modules), names, files, problems)


def _given_environment() -> dict[str, str]:
    """As it was before Python started, which sets LC_CTYPE if there is no other locale than C."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - as all here, without what is not needed
        lines = os.fsdecode(file.read()).split("\0")
    return {name: value for name, _, value in (line.partition("=") for line in lines if line)}


def _import_prefect() -> dict[str, Program]:
    try:
        programs = {name: program_of(name) for name in (ENGINE, SUPERVISOR)}
        for name in _NEEDED_LATER:
            importlib.import_module(name)
    except ImportError as error:
        raise UnfitError(f"this is not the Prefect that was expected ({error})") from error
    return programs


def _complete_models() -> None:
    for module, names in _MODELS.items():
        for name in names:
            # One that another version of Prefect has not, nobody needs.
            model = getattr(sys.modules.get(module), name, None)
            if model is not None:
                model.model_rebuild()


def program_of(name: str) -> Program:
    """A module that is to be run.

    Raises:
        ImportError: there is none.
    """
    # As `python -m` does it, and as early: it warns of modules that were imported before they are run.
    _, spec, code = runpy._get_module_details(name)  # type: ignore[attr-defined]  # noqa: SLF001
    return Program(spec, code)


def _import_for_user(name: str) -> str | None:
    """Import a module that somebody wants to be imported; what has become of that, if it did not work."""
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the module does on import
        reason = f"{type(error).__name__}: {error}"
        return f"Module {name!r} is not preloaded: it cannot be imported in {sys.executable} ({reason})"
    return None


def _require_known_prefect() -> list[str]:
    """See to it that Prefect is a version that was tried, and returns the files that it has its settings from."""
    import prefect  # noqa: PLC0415
    from prefect.settings import get_current_settings  # noqa: PLC0415

    if not prefect.__version__.startswith(_PREFECT_VERSIONS):
        raise UnfitError(f"Prefect {prefect.__version__} was not tried with it")
    settings = get_current_settings()
    if settings.plugins.enabled:
        raise UnfitError("plugins of Prefect are enabled, which have to be started in each process")
    return [str(settings.profiles_path), str(settings.logging.config_path)]


def _base_path(environment: dict[str, str]) -> list[str]:
    """Where modules are looked for, without what stands before that: the directory of this program, PYTHONPATH."""
    before = entries_of(environment.get("PYTHONPATH", ""))
    if not set(before).isdisjoint(sysconfig.get_paths().values()):
        raise UnfitError("PYTHONPATH has a directory of the interpreter in it")
    own = 0 if getattr(sys.flags, "safe_path", False) else 1
    if sys.path[own : own + len(before)] != before:
        raise UnfitError("sys.path does not begin with the entries of PYTHONPATH")
    base = sys.path[own + len(before) :]
    sys.path[:] = [*before, *base]
    return base


def entries_of(python_path: str) -> list[str]:
    """The directories of a PYTHONPATH, as Python puts them into `sys.path`."""
    entries = python_path.split(os.pathsep) if python_path else []
    return list(dict.fromkeys(os.path.abspath(entry) for entry in entries))  # noqa: PTH100 - may be no Unicode


def _require_single_thread() -> None:
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:
        raise UnfitError(f"there are {threads} threads once everything is imported")


def _give_memory_back() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not this C library
        return
