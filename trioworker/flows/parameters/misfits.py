"""Misfits: what of a value does not fit, where in it, and how that is said without showing too much of it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any, Final

import attrs

from trioworker.job.json_types import type_name
from trioworker.lean_attrs import frozen

__all__ = ["MisfitError", "Problem", "foreign_text", "problems_at", "shown"]

_VALUE_WIDTH: Final = 60
_TEXT_WIDTH: Final = 160


@frozen
class Problem:
    """One misfit: a text of its own, or what was expected and what came instead.

    Attributes:
        path: the names and positions that lead from the whole to the part that does not fit.
        text: what is wrong, where nothing particular was expected.
        expected: what was expected, as it stands in a sentence.
        got: what came instead, if that says more.
        is_foreign: the text came from the user's classes, and may quote the value.
    """

    path: tuple[str | int, ...] = ()
    text: str = ""
    expected: str = ""
    got: str = ""
    is_foreign: bool = False

    def __str__(self) -> str:
        text = f"expected {self.expected}" if self.expected else self.text
        if self.got:
            text = f"{text}, got {self.got}"
        return f"{_path_text(self.path)}: {text}"

    def without_value(self) -> Problem:
        """The same, for a value that must not be shown."""
        text = "the value is not accepted" if self.is_foreign else self.text
        return attrs.evolve(self, text=text, got="")


class MisfitError(Exception):
    """A value does not fit its type.

    Attributes:
        problems: all that is wrong with it, by paths within the value.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    @classmethod
    def expected(cls, expected: str, value: Any) -> MisfitError:
        """The value as a whole is something else."""
        return cls(Problem(expected=expected, got=shown(value)))

    @classmethod
    def foreign(cls, error: Exception) -> MisfitError:
        """The user's own classes do not take the value."""
        return cls(_foreign_problem(error))

    def is_of_another_kind(self) -> bool:
        """Whether the value as a whole is something else, rather than wrong in a part of it."""
        return all(problem.expected and not problem.path for problem in self.problems)


def problems_at(step: str | int, error: Exception) -> list[Problem]:
    """The problems of the part that one step leads to, seen from the whole."""
    problems = error.problems if isinstance(error, MisfitError) else (_foreign_problem(error),)
    return [attrs.evolve(problem, path=(step, *problem.path)) for problem in problems]


def shown(value: Any) -> str:
    """A value for a message: never a whole document, which might hold secrets or be long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        shortener = reprlib.Repr()
        shortener.maxstring = shortener.maxlong = _VALUE_WIDTH
        return shortener.repr(value)
    return type_name(value)


def foreign_text(error: Exception) -> str:
    """What an error of the user's own code says, in one line."""
    # Validators of attrs give the attribute and the value as further arguments.
    said = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    line = " ".join(said.split())
    if not isinstance(error, ValueError | TypeError | AssertionError) or not line:
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return _capped(line)


def _foreign_problem(error: Exception) -> Problem:
    return Problem(text=foreign_text(error), is_foreign=True)


def _path_text(path: Iterable[str | int]) -> str:
    text = "".join(
        f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{shown(step)}]" for step in path
    )
    return _capped(text.removeprefix("."))


def _capped(text: str) -> str:
    return text if len(text) <= _TEXT_WIDTH else f"{text[: _TEXT_WIDTH - 1]}…"
