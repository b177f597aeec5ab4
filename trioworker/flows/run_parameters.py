"""The parameters of a run that a program has created, in the JSON that flows read them from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def run_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as Prefect's API takes them, and the functions of `TrioFlows` read them.

    Raises:
        ValueError: JSON has no form for one; the message says which.
    """
    # Here, since few programs create runs: what is known of types takes a while to import.
    from trioworker.flows.parameters.errors import UnservableError  # noqa: PLC0415
    from trioworker.flows.parameters.writing import Writer  # noqa: PLC0415

    writer = Writer()
    written: dict[str, Any] = {}
    for name, value in values.items():
        try:
            written[name] = writer.as_json(value)
        except UnservableError as error:
            raise ValueError(
                f"The parameter {name!r} of a flow run cannot be sent: {error} ({error.__cause__})."
                " Give what JSON has, dates and times, UUIDs, paths, enumerations, or attrs classes and dataclasses"
                " of such."
            ) from error
    return written
