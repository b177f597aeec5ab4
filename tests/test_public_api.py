"""The public names: what is promised is there, and says what it is."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator

import pytest

import trioworker
import trioworker.testing

PUBLIC = [trioworker, trioworker.testing]


def exported(module: types.ModuleType) -> set[str]:
    """The names that a module's source takes from the package's other modules, to be found in it."""
    imports = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trioworker")
    ]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def members(module: types.ModuleType) -> Iterator[tuple[str, object]]:
    for name in module.__all__:
        yield name, getattr(module, name)


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_is_what_is_exported(module: types.ModuleType) -> None:
    assert exported(module) == {name for name in module.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_is_sorted_and_without_repetitions(module: types.ModuleType) -> None:
    assert list(module.__all__) == sorted(set(module.__all__))


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: types.ModuleType) -> None:
    assert module.__doc__
    undocumented = [name for name, value in members(module) if callable(value) and not value.__doc__]
    assert undocumented == []


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_method_has_a_docstring(module: types.ModuleType) -> None:
    undocumented = [
        f"{name}.{attribute}"
        for name, value in members(module)
        if inspect.isclass(value)
        for attribute, member in vars(value).items()
        if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if not inspect.getdoc(member)
    ]
    assert undocumented == []


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_is_what_dir_shows(module: types.ModuleType) -> None:
    assert set(module.__all__) <= set(dir(module))


def test_name_that_does_not_exist_is_missed_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'trioworker' has no attribute 'Agent'"):
        getattr(trioworker, "Agent")  # noqa: B009 - a type checker would not let it pass otherwise


def test_version_is_that_of_the_distribution() -> None:
    assert trioworker.__version__.count(".") == 2
