"""What the public names are, and what their docstrings say of whom."""

from __future__ import annotations

import ast
import builtins
import enum
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs

import trioworker
import trioworker.testing

PUBLIC = [trioworker, trioworker.testing]

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n     .*)*)", re.MULTILINE)
_REFERENCE = re.compile(r"See `(\w+)\.(\w+)`")


@attrs.frozen
class Docstring:
    """A docstring in Google's style, taken apart.

    Attributes:
        text: all of it.
        sections: the entries of each section by name.
    """

    text: str
    sections: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, thing: object) -> Docstring:
        text = inspect.getdoc(thing) or ""
        _, *parts = _SECTION.split(text)
        sections = {
            title: dict(_ENTRY.findall(body)) for title, body in zip(parts[::2], parts[1::2], strict=True)
        }
        return cls(text, sections)

    def entries(self, section: str) -> Mapping[str, str]:
        return self.sections.get(section, {})

    @property
    def reference(self) -> tuple[str, str] | None:
        """The class and the method that explain this one."""
        found = _REFERENCE.match(self.text)
        return (found[1], found[2]) if found else None


@attrs.frozen(eq=False)
class Documented:
    """A public class, function, method or property.

    Attributes:
        path: how a user writes it, without the package.
        owner: the class that it is defined in; None for functions.
        thing: itself.
    """

    path: str
    owner: type | None
    thing: Any

    @cached_property
    def docstring(self) -> Docstring:
        return Docstring.of(self.thing)

    @property
    def function(self) -> Callable[..., Any] | None:
        """What is executed when it is called or looked at; None where that is not written down as a function."""
        thing = self.thing
        if inspect.isclass(thing):
            return initializer(thing)
        if isinstance(thing, property):
            return thing.fget
        unwrapped: Callable[..., Any] = inspect.unwrap(thing)
        return unwrapped

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """What it is called with, other than fields of attrs classes."""
        if isinstance(self.thing, property) or self.function is None or attrs.has(self.thing):
            return []
        parameters = list(inspect.signature(self.function, eval_str=False).parameters.values())
        return [each for each in parameters if each.name not in {"self", "cls", "task_status"}]


def classes() -> list[tuple[str, type]]:
    """Every public class with its name."""
    return [(name, value) for module in PUBLIC for name, value in members(module) if inspect.isclass(value)]


def members(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    for name in module.__all__:
        yield name, getattr(module, name)


def documented() -> list[Documented]:
    """Every public class, function, method and property, those that a class has from another of ours included."""
    found: dict[object, Documented] = {}
    for module in PUBLIC:
        for name, value in members(module):
            if callable(value):
                found.setdefault(value, Documented(name, None, value))
            if inspect.isclass(value):
                for method in _methods(name, value):
                    found.setdefault(method.thing, method)
    return list(found.values())


def _methods(name: str, of: type) -> Iterator[Documented]:
    for owner in of.__mro__:
        if not owner.__module__.startswith("trioworker"):
            continue
        for attribute, member in vars(owner).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not attribute.startswith("_") and (
                inspect.isfunction(function) or isinstance(function, property)
            ):
                yield Documented(f"{name}.{attribute}", owner, function)


def own_attributes(of: type) -> list[str]:
    """The public attributes that a class itself gives its instances, or its members if it is an enumeration."""
    if issubclass(of, enum.Enum):
        return list(of.__members__)
    if attrs.has(of):
        return [
            field.name for field in attrs.fields(of) if not field.inherited and not field.name.startswith("_")
        ]
    of_class = [name for name in inspect.get_annotations(of) if not name.startswith("_")]
    if not inspect.isfunction(vars(of).get("__init__")):
        return of_class
    return of_class + [
        node.attr
        for node in ast.walk(syntax_of(of.__init__))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and not node.attr.startswith("_")
    ]


def syntax_of(function: Callable[..., Any]) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def errors_raised(function: Callable[..., Any], owner: type | None) -> set[type[Exception]]:
    """The errors that a function raises, itself or in those of ours that it calls by a plain name or on `self`.

    What a `try` around a call makes of its errors is not seen.
    """
    return set(_errors_raised(function, owner, set()))


def _errors_raised(
    function: Callable[..., Any], owner: type | None, seen: set[object]
) -> Iterator[type[Exception]]:
    if function in seen:
        return
    seen.add(function)
    names = vars(builtins) | inspect.unwrap(function).__globals__
    for node in ast.walk(syntax_of(function)):
        if (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
        ):
            error = names.get(node.exc.func.id)
            if inspect.isclass(error) and issubclass(error, Exception) and not error.__name__.startswith("_"):
                yield error
        if isinstance(node, ast.Call):
            yield from _errors_of_call(node.func, owner, names, seen)


def _errors_of_call(
    called: ast.expr, owner: type | None, names: Mapping[str, Any], seen: set[object]
) -> Iterator[type[Exception]]:
    function: object = None
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "self":
        function = getattr(owner, called.attr, None)
    elif isinstance(called, ast.Name):
        function, owner = names.get(called.id), None
    if inspect.isclass(function) and _is_of_package(function):
        owner, function = function, initializer(function)
    if inspect.isfunction(function) and _is_of_package(function):
        yield from _errors_raised(inspect.unwrap(function), owner, seen)


def _is_of_package(thing: type | Callable[..., Any]) -> bool:
    return thing.__module__.startswith("trioworker.")


def initializer(of: type) -> Callable[..., Any] | None:
    """What is written down as a function of what is done to make an instance."""
    for name in ("__attrs_post_init__", "__init__"):
        function = vars(of).get(name)
        # Those that attrs makes have no file.
        if inspect.isfunction(function) and function.__code__.co_filename.endswith(".py"):
            return function
    return None
