"""Functions that flows of the matrix have executed in other processes, which import them from here."""

import os
import sys
from pathlib import Path


def look(number: int) -> list[object]:
    """What a process says of itself."""
    here = [os.environ.get("PREFECT__FLOW_RUN_ID") is not None, Path(sys.executable).name]
    return [number * number, *here, sys.modules["__main__"].__name__]
