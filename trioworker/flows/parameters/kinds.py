"""The kinds of types that can be served."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from trioworker.flows.parameters.alternatives import learn_enum, learn_literal, learn_union
from trioworker.flows.parameters.containers import (
    COLLECTIONS,
    MAPPINGS,
    learn_collection,
    learn_mapping,
    learn_tuple,
)
from trioworker.flows.parameters.known_types import Kind
from trioworker.flows.parameters.members import is_record
from trioworker.flows.parameters.records import learn_record
from trioworker.flows.parameters.scalars import SCALARS, learn_path, learn_scalar

__all__ = ["KINDS"]

# The first that a type is of is taken.
KINDS: Final[Sequence[Kind]] = (
    (lambda origin: origin in SCALARS, learn_scalar),
    (lambda origin: origin in (typing.Union, types.UnionType), learn_union),
    (lambda origin: origin is typing.Literal, learn_literal),
    (lambda origin: origin in COLLECTIONS, learn_collection),
    (lambda origin: origin in MAPPINGS, learn_mapping),
    (lambda origin: origin is tuple, learn_tuple),
    (is_record, learn_record),
    (lambda origin: isinstance(origin, type) and issubclass(origin, enum.Enum), learn_enum),
    (lambda origin: isinstance(origin, type) and issubclass(origin, PurePath), learn_path),
)
