"""Names: what the annotations of a function, and of the classes it takes, mean where they were written."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from trioworker.flows.parameters.errors import ParameterTypesError, UnservableError
from trioworker.flows.parameters.misfits import foreign_text

__all__ = ["Names"]


class Names:
    """What names mean at one function, and what it is called itself when it is to blame."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._written = _as_written(function)
        self._title = getattr(self._written, "__name__", type(function).__name__)
        self._globals: dict[str, Any] = getattr(self._written, "__globals__", {})

    @contextlib.contextmanager
    def blaming(self, what: str) -> Iterator[None]:
        """Say of which part of which function it is that something cannot be served.

        Raises:
            ParameterTypesError: for an `UnservableError` of the block.
        """
        try:
            yield
        except UnservableError as error:
            raise ParameterTypesError(f"flow function `{self._title}`, {what}: {error}") from error
        except RecursionError as error:
            raise ParameterTypesError(
                f"flow function `{self._title}`, {what}: its type contains itself; make it an attrs class"
            ) from error

    def signature(self, function: Callable[..., Any]) -> inspect.Signature:
        """How the function is called, its annotations unresolved.

        Raises:
            ParameterTypesError: that cannot be found out.
        """
        with self.blaming("signature"):
            try:
                return inspect.signature(function)
            except (NameError, TypeError, ValueError) as error:
                raise UnservableError(
                    f"it cannot be read ({foreign_text(error)}); wrap it in a plain function"
                ) from error

    def resolve(self, annotation: Any) -> Any:
        """The type that an annotation means; without one, anything.

        Raises:
            UnservableError: it means nothing here.
        """
        if annotation is inspect.Parameter.empty:
            return Any
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        return self._resolved(
            lambda around: typing.get_type_hints(holder, self._globals, around, include_extras=True)
        )["it"]

    def resolve_class(self, cls: Any) -> dict[str, Any]:
        """The types of a class's fields.

        Raises:
            UnservableError: one of their annotations means nothing here.
        """
        return self._resolved(
            lambda around: typing.get_type_hints(
                cls, localns=None if around is None else {**around, cls.__name__: cls}, include_extras=True
            )
        )

    def _resolved(self, hints: Callable[[dict[str, Any] | None], dict[str, Any]]) -> dict[str, Any]:
        try:
            try:
                return hints(None)
            except NameError:
                return hints(_names_around(self._written))
        # An annotation is an expression of the user's, and may raise whatever it likes.
        except Exception as error:
            raise UnservableError(
                f"its annotation cannot be resolved ({foreign_text(error)}); define or import what it names "
                "at the top of the module, and not for type checkers alone"
            ) from error


def _as_written(function: Any) -> Any:
    """The function of the source text, under its wrappers: annotations are resolved where it stands."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isfunction(type(function).__call__):
            function = type(function).__call__
        else:
            return function


def _names_around(function: Any) -> dict[str, Any]:
    """The names of a function's closure, and of the functions it is defined in while these are running."""
    if not inspect.isfunction(function):
        return {}
    names: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            names[name] = cell.cell_contents
    code = function.__code__
    frame = inspect.currentframe()
    while frame is not None:
        if code in frame.f_code.co_consts:
            names = {**frame.f_locals, **names}
            code = frame.f_code
        frame = frame.f_back
    return names
