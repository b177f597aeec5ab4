"""Writing: values, such as defaults, in the JSON that they would be read from."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

import attrs
from cattrs import BaseConverter

from trioworker.flows.parameters.durations import duration_text
from trioworker.flows.parameters.errors import UnservableError
from trioworker.flows.parameters.members import given_name, is_record

__all__ = ["Writer"]


class Writer:
    """Writes values as JSON."""

    def __init__(self) -> None:
        self._converter = BaseConverter()
        _register_hooks(self._converter)

    def as_json(self, value: Any) -> Any:
        """A value in the form that its type would be read from.

        Raises:
            UnservableError: JSON has none for it.
        """
        try:
            return json.loads(json.dumps(self._converter.unstructure(value), allow_nan=False))
        # What a class of the user's does when it is looked at is not known.
        except Exception as error:
            raise UnservableError(f"{type(value).__name__} cannot be written in JSON") from error


def _register_hooks(converter: BaseConverter) -> None:
    converter.register_unstructure_hook(datetime, _moment_text)
    converter.register_unstructure_hook(time, _moment_text)
    converter.register_unstructure_hook(date, date.isoformat)
    converter.register_unstructure_hook(timedelta, duration_text)
    converter.register_unstructure_hook(bytes, bytes.decode)
    for cls in (UUID, PurePath, Decimal):
        converter.register_unstructure_hook(cls, str)
    # The order of a set differs from process to process, but what is published shall not.
    converter.register_unstructure_hook_func(
        lambda cls: issubclass(cls, collections.abc.Set),
        lambda items: sorted(map(converter.unstructure, items), key=json.dumps),
    )
    converter.register_unstructure_hook_func(
        lambda cls: issubclass(cls, tuple), lambda items: [converter.unstructure(item) for item in items]
    )
    converter.register_unstructure_hook_func(
        is_record,
        lambda value: {
            key: converter.unstructure(getattr(value, name)) for name, key in _field_names(type(value))
        },
    )


def _moment_text(moment: datetime | time) -> str:
    return re.sub(r"\+00:00$", "Z", moment.isoformat())


def _field_names(cls: Any) -> Iterator[tuple[str, str]]:
    """Of each field that is given: the name of the attribute, and the one it is given by."""
    if attrs.has(cls):
        return ((field.name, given_name(field)) for field in attrs.fields(cls) if field.init)
    return ((field.name, field.name) for field in dataclasses.fields(cls) if field.init)
