"""What can be wrong: a function that cannot be served as a flow, and a run whose parameters do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trioworker.errors import ConfigurationError

__all__ = ["ParameterError", "ParameterTypesError", "UnservableError"]

_PROBLEMS_SHOWN: Final = 10


class ParameterTypesError(ConfigurationError):
    """A function cannot be served as a flow: the message names the parameter and says what to do."""


class UnservableError(Exception):
    """Why a type or a parameter cannot be served, and what to do; `Names.blaming` adds whose it is."""


class ParameterError(Exception):
    """The parameters of a flow run do not fit the function.

    Attributes:
        problems: one line for each, which begins with the path of the field, such as `crop.left` or `tags[2]`.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: list[str] = list(problems)
        more = len(self.problems) - _PROBLEMS_SHOWN
        shown = "; ".join(self.problems[:_PROBLEMS_SHOWN])
        super().__init__(
            f"the parameters do not fit the flow: {shown}" + (f"; and {more} more" if more > 0 else "")
        )
