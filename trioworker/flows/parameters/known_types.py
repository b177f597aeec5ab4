"""The types of one signature: learnt once, before the first run, so that what cannot be served is refused early."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from cattrs import BaseConverter

from trioworker.flows.parameters.errors import UnservableError
from trioworker.flows.parameters.hints import bare, type_text
from trioworker.flows.parameters.misfits import MisfitError
from trioworker.flows.parameters.names import Names
from trioworker.flows.parameters.writing import Writer

__all__ = ["Kind", "KnownTypes", "Reader", "Schema"]

Schema = dict[str, Any]
# Turns a JSON value into what a type wants; told whether the value must fit as it stands.
Reader = Callable[[Any, bool], Any]
# A kind of types: whether a type (of a generic one, the origin) is of it, and how such a type is learnt.
Kind = tuple[Callable[[Any], bool], Callable[["KnownTypes", Any], Schema]]

# For these and their subclasses cattrs has hooks by class, which it finds before any that is chosen by a predicate.
_CLASSES_WITH_HOOKS: Final = (str, bytes, int, float, Path)


class KnownTypes:
    """How each type is read, and what is published of it.

    Of the two converters one takes exact fits alone, for the first attempt at the members of a union.

    Attributes:
        names: what the annotations mean.
        definitions: what is published by name, and referred to.
    """

    def __init__(self, names: Names, kinds: Iterable[Kind]) -> None:
        self.names = names
        self.definitions: dict[str, Schema] = {}
        self._kinds = tuple(kinds)
        self._schemas: dict[Any, Schema] = {}
        self._exact = BaseConverter()
        self._lenient = BaseConverter()
        self._writer = Writer()

    def learn(self, hint: Any) -> Schema:
        """Prepare to read a type, and say what is published of it.

        Raises:
            UnservableError: it cannot be read from JSON.
        """
        hint = bare(hint)
        if hint in self._schemas:
            return self._schemas[hint]
        origin = typing.get_origin(hint) or hint
        for applies, learn in self._kinds:
            if applies(origin):
                return learn(self, hint)
        raise UnservableError(
            f"{type_text(hint)} cannot be read from JSON; take a type that can, such as an attrs class, "
            "or leave out the annotation and convert the value in the function"
        )

    def know(self, hint: Any, read: Reader, schema: Schema) -> Schema:
        """Enter a type: its reader and what is published of it."""
        self._schemas[hint] = schema
        is_by_class = isinstance(hint, type) and issubclass(hint, _CLASSES_WITH_HOOKS)
        for converter, exact in ((self._exact, True), (self._lenient, False)):
            hook = _hook(read, exact=exact)
            if is_by_class:
                converter.register_structure_hook(hint, hook)
            else:
                converter.register_structure_hook_func(lambda other: bool(other == hint), hook)
        return schema

    def define(self, hint: Any, read: Reader, definition: Schema) -> Schema:
        """Enter a type that is published by name; its definition may be filled in later."""
        name = re.sub(r"[^\w.-]", "_", type_text(hint))
        if name in self.definitions:
            name = re.sub(r"[^\w.-]", "_", f"{hint.__module__}.{name}.{len(self.definitions)}")
        self.definitions[name] = definition
        return self.know(hint, read, {"$ref": f"#/definitions/{name}"})

    def structure(self, value: Any, hint: Any, *, exact: bool) -> Any:
        """Turn a JSON value into a type that was learnt.

        Raises:
            MisfitError: it does not fit.
        """
        return (self._exact if exact else self._lenient).structure(value, bare(hint))

    def as_json(self, value: Any) -> Any:
        """A value in the form that its type would be read from.

        Raises:
            UnservableError: JSON has none for it.
        """
        return self._writer.as_json(value)


def _hook(read: Reader, *, exact: bool) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        try:
            return read(value, exact)
        except (MisfitError, RecursionError):
            raise
        # A class of the user's may raise whatever it likes, even on being hashed.
        except Exception as error:
            raise MisfitError.foreign(error) from error

    return structure
