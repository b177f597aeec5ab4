"""Type hints: what of them matters to values, how a generic's variables are filled in, and how they are named."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Final

from trioworker.flows.parameters.errors import UnservableError

__all__ = ["bare", "filled_in", "type_text"]

_WRAPPERS: Final = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final)
_SPELLINGS: Final[Mapping[Any, Any]] = {object: Any, None: type(None)}


def bare(hint: Any) -> Any:
    """A type without what does not matter to its values.

    Raises:
        UnservableError: it is no type at all.
    """
    while True:
        if typing.get_origin(hint) in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # Python 3.12
            hint = hint.__value__
        elif isinstance(hint, typing.TypeVar):
            # A TypedDict, say, may be generic: the variable's bound is all that is known.
            hint = typing.Union[hint.__constraints__] if hint.__constraints__ else hint.__bound__ or Any  # noqa: UP007
        else:
            _refuse_unhashable(hint)
            return _SPELLINGS.get(hint, hint)


def filled_in(hint: Any, given: Mapping[Any, Any]) -> Any:
    """The type of a generic class's field, its variables replaced where a type for them is given."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    # A class of the user's has the variables that it was declared with, but is not to be filled in itself.
    variables = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(variable, variable) for variable in variables)] if variables else hint


def type_text(hint: Any) -> str:
    """A type as it is written, without the modules."""
    origin = typing.get_origin(hint)
    if origin is not None and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join(map(type_text, typing.get_args(hint)))}]"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _refuse_unhashable(hint: Any) -> None:
    try:
        hash(hint)
    except TypeError as error:
        raise UnservableError(f"{hint!r} is not a type; write it as one, such as list[int]") from error
