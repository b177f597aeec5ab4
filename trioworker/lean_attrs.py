"""attrs classes that are quicker to make: a start of the worker makes a hundred of them.

attrs writes and compiles `__repr__`, `__eq__` and `__hash__` anew for each class, which is more than half of what a
class costs: 0.3 of 0.5 ms, and a tenth of the CPU time of a start. Here all classes have the same three.
"""

from __future__ import annotations

from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

import attrs

__all__ = ["frozen"]

if TYPE_CHECKING:
    # Type checkers know this one, and there is nothing else to know.
    from attrs import frozen
else:

    def frozen(maybe_class: type | None = None, *, kw_only: bool = False) -> Any:
        """Make a class that behaves as one of `attrs.frozen`, of whose options it has only what is needed here.

        Raises:
            TypeError: the class, or a field, asks for an equality that attrs has and this has not.
        """

        def make(bare: type) -> type:
            own = frozenset(vars(bare))
            made = attrs.frozen(kw_only=kw_only, eq=False, repr=False)(bare)
            if "__repr__" not in own:
                made.__shown__ = tuple(field for field in attrs.fields(made) if field.repr)
                made.__repr__ = _text
            if "__eq__" not in own:
                _refuse_what_is_not_here(made, own)
                made.__counted__ = tuple(field.name for field in attrs.fields(made) if field.eq)
                made.__eq__ = _equals
                made.__hash__ = _hash
            return made

        return make if maybe_class is None else make(maybe_class)


def _refuse_what_is_not_here(made: type, own: frozenset[str]) -> None:
    special = any(field.eq_key or field.hash is not None for field in attrs.fields(made))
    # attrs compares exceptions by identity.
    if special or own & {"__ne__", "__hash__"} or issubclass(made, BaseException):
        raise TypeError(f"{made.__qualname__} has an equality of its own kind: use attrs.frozen for it")


@recursive_repr()
def _text(self: Any) -> str:
    """The class and its fields, but for those that are not to be shown."""
    shown = ", ".join(
        f"{field.name}={(repr if field.repr is True else field.repr)(getattr(self, field.name, attrs.NOTHING))}"
        for field in self.__shown__
    )
    return f"{type(self).__qualname__.rsplit('>.', 1)[-1]}({shown})"


def _equals(self: Any, other: Any) -> Any:
    """Whether two are of one class, and all fields are equal that count."""
    if type(self) is not type(other):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self.__counted__)


# By the name of the file pytest knows that it may tell which fields of two differ.
_equals.__code__ = _equals.__code__.replace(co_filename="<attrs generated equality, one for all>")


def _hash(self: Any) -> int:
    return hash((type(self), *(getattr(self, name) for name in self.__counted__)))
