"""The parameters of a flow: what a function's signature publishes, and how a run's JSON becomes its arguments.

What is accepted follows what Prefect's flows accept, with less guessing:

- A number may come as text (`"5"` for an `int`, `"2.5"` for a `float`), and `3.0` is an integer, since forms and
  templates send such; text never comes from a number, and `true` and `false` are booleans and nothing else.
- Dates, times, UUIDs, paths and bytes (UTF-8) come as text; a `timedelta` as an ISO 8601 duration (weeks to seconds,
  since a month has no fixed length) or as a number of seconds; an enumeration by value; sets and tuples as lists.
- A union takes the first member that the value fits as it stands, then the first that it can be turned into: `"5"`
  stays text for `int | str`. Text that is the value of an enumeration fits it as it stands, but not a date or a path.
- attrs classes, dataclasses and `TypedDict`s come as objects, by alias, and unknown names are refused.
- A `null` is taken for a parameter whose default is `None`, whatever its annotation says.
- Defaults are left to the function and the classes; a name without annotation takes anything.
"""

from __future__ import annotations

from trioworker.flows.parameters.errors import ParameterError, ParameterTypesError
from trioworker.flows.parameters.signature import Parameters

__all__ = ["ParameterError", "ParameterTypesError", "Parameters"]
