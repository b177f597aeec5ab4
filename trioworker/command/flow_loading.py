"""Finds the functions to serve by their name on the command line, `MODULE:ATTRIBUTE`."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from trioworker.errors import ConfigurationError
from trioworker.serving import TrioFlows

# Whence the lines come that execute an import; who looks for a mistake does not look there.
_IMPORT_SYSTEM = "<frozen importlib"
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def load_flows(reference: str, directory: Path) -> TrioFlows:
    """Import a module and take out of it what it has to serve.

    Args:
        reference: the module's name, a colon, and the name in it, such as `shop.flows:app`.
        directory: where modules are found besides the usual places: where the command was called.

    Raises:
        ConfigurationError: the name is malformed, or there is nothing to serve under it; says what to mend.
    """
    module_name, colon, attribute = reference.partition(":")
    _refuse_file(module_name)
    # An empty part would make it a relative name, and there is nothing that it could be relative to.
    if not (colon and attribute and all(module_name.split("."))):
        raise ConfigurationError(
            f"{reference!r} does not say where the functions are: give MODULE:ATTRIBUTE, such as shop.flows:app."
        )
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    module = _import(module_name, directory)
    try:
        flows = attrgetter(attribute)(module)
    except AttributeError:
        found = [name for name, value in vars(module).items() if isinstance(value, TrioFlows)]
        raise ConfigurationError(
            f"Module {module_name!r} has no {attribute!r}; TrioFlows objects in it: {', '.join(found) or 'none'}."
        ) from None
    if not isinstance(flows, TrioFlows):
        raise ConfigurationError(
            f"{reference!r} is of type {type(flows).__name__}; it has to be a trioworker.TrioFlows."
        )
    return flows


def _refuse_file(name: str) -> None:
    """Say the name of a module to whoever gave that of its file, as entrypoints of Prefect's flows have it."""
    if name.endswith(".py") or "/" in name:
        module = ".".join(part for part in name.removesuffix(".py").split("/") if part.strip("."))
        raise ConfigurationError(
            f"{name!r} is a file: give its module instead, as it is imported from here, such as {module}."
        )


def _import(name: str, directory: Path) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"There is no module {name!r}, neither in {directory} nor where Python looks (PYTHONPATH)."
            ) from error
        raise _broken(name, error, directory) from error
    except Exception as error:  # whatever the module does when it is imported is its author's
        raise _broken(name, error, directory) from error
    except SystemExit as error:
        raise ConfigurationError(
            f"Module {name!r} ends the program when it is imported: keep what it does as a script below"
            " `if __name__ == '__main__':`."
        ) from error


def _broken(name: str, error: Exception, directory: Path) -> ConfigurationError:
    """An error that names the line at which its author will want to look."""
    message, place = str(error), _place(error, directory)
    if isinstance(error, SyntaxError) and error.filename is not None:
        # Whose words name the file too, but not where that is.
        message, place = error.msg, (error.filename, error.lineno)
    described = type(error).__name__ if not message else f"{type(error).__name__}: {message}"
    where = "" if place is None else f" ({_shown(place[0], directory)}, line {place[1]})"
    return ConfigurationError(f"Module {name!r} cannot be imported: {described}{where}")


def _place(error: Exception, directory: Path) -> tuple[str, int | None] | None:
    """File and line that an error comes from: the last that is the user's own, since libraries only pass it on."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_IMPORT_SYSTEM)
        and frame.filename not in {__file__, import_module.__code__.co_filename}
    ]
    own = [frame for frame in frames if _is_own(Path(frame.filename), directory)]
    last = (own or frames)[-1:]
    return (last[0].filename, last[0].lineno) if last else None


def _is_own(file: Path, directory: Path) -> bool:
    return file.is_relative_to(directory) and not _INSTALLED.intersection(file.parts)


def _shown(file: str, directory: Path) -> str:
    path = Path(file)
    return str(path.relative_to(directory) if path.is_relative_to(directory) else path)
