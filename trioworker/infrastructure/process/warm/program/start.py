"""Where all of it starts: gives the package that this file is in a name of its own, and enters it.

    start.py template CONTROL_DESCRIPTOR MODULE...
    start.py alone MODULE ARGUMENT...

Imported by its path, the package needs no entry in `sys.path`, where a flow's own modules might find its files.
"""

import importlib.util
import sys
from pathlib import Path

_NAME = "_trioworker_template"


def _enter() -> int:
    directory = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        _NAME, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None  # noqa: S101 - only a file without a name of a module has none
    assert spec.loader is not None  # noqa: S101
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)
    kind, *arguments = sys.argv[1:]
    program = {"template": "service", "alone": "alone"}[kind]
    status: int = importlib.import_module(f"{_NAME}.{program}").main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(_enter())
