"""A function's signature: the schema that is published of it, and the arguments that a run's JSON becomes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from trioworker.flows.parameters.descriptions import annotated_description, documented_parameters
from trioworker.flows.parameters.errors import ParameterError, UnservableError
from trioworker.flows.parameters.kinds import KINDS
from trioworker.flows.parameters.known_types import KnownTypes, Schema
from trioworker.flows.parameters.members import MISSING, Member, or_missing
from trioworker.flows.parameters.misfits import MisfitError
from trioworker.flows.parameters.names import Names
from trioworker.flows.parameters.objects import member_schema, read_members

__all__ = ["Parameters"]


@attrs.frozen(eq=False)
class Parameters:
    """What one function takes.

    Attributes:
        schema: the JSON Schema of the parameters, in the form that Prefect publishes as a deployment's
            `parameter_openapi_schema`.
    """

    schema: Mapping[str, Any]
    _members: tuple[Member, ...] = attrs.field(repr=False)
    # What `**kwargs` takes; without it, other names are refused.
    _extra: Any = attrs.field(repr=False)
    _types: KnownTypes = attrs.field(repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Parameters:
        """Read a function's signature.

        Raises:
            ParameterTypesError: it has parameters that cannot be given by name, an annotation that cannot be
                resolved, or a type that JSON cannot express.
        """
        names = Names(function)
        learnt = KnownTypes(names, KINDS)
        described = documented_parameters(inspect.getdoc(function))
        members: list[Member] = []
        properties: dict[str, Schema] = {}
        extra: Any = MISSING
        others: Schema = {}
        for position, parameter in enumerate(names.signature(function).parameters.values()):
            with names.blaming(f"parameter `{parameter.name}`"):
                _refuse_unnameable(parameter)
                hint = names.resolve(parameter.annotation)
                schema = learnt.learn(hint)
            if parameter.kind is parameter.VAR_KEYWORD:
                extra, others = hint, schema
                continue
            member = _member(parameter, hint)
            members.append(member)
            description = described.get(member.key) or annotated_description(hint)
            published = member_schema(learnt, member, schema, title=member.key, description=description)
            properties[member.key] = published | {"position": position}
        return cls(_schema(members, properties, others, learnt.definitions), tuple(members), extra, learnt)

    def structure(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the parameters of a run, decoded JSON, into keyword arguments.

        Parameters that are not given are left out: their defaults are the function's.

        Raises:
            ParameterError: they do not fit; each misfit is named.
        """
        try:
            return read_members(
                self._types, values, self._members, exact=False, kind="parameter", extra=self._extra
            )
        except MisfitError as misfit:
            raise ParameterError(map(str, misfit.problems)) from misfit
        except RecursionError as error:
            raise ParameterError(["the values are nested too deeply"]) from error


def _refuse_unnameable(parameter: inspect.Parameter) -> None:
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise UnservableError("it is positional-only, but parameters of a run have names; remove the `/`")
    if parameter.kind is parameter.VAR_POSITIONAL:
        raise UnservableError(
            f"parameters of a run have names; take a list instead of `*{parameter.name}`, "
            f"or put a bare `*` in its place"
        )


def _member(parameter: inspect.Parameter, hint: Any) -> Member:
    default = or_missing(parameter.default, parameter.empty)
    return Member(parameter.name, hint, default, is_required=default is MISSING)


def _schema(
    members: list[Member], properties: dict[str, Schema], others: Schema, definitions: dict[str, Schema]
) -> Schema:
    schema = {
        "title": "Parameters",
        "type": "object",
        "properties": properties,
        "required": [member.key for member in members if member.is_required],
        "definitions": definitions,
    }
    return schema | ({"additionalProperties": others} if others else {})
