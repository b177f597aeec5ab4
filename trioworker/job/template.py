"""Turn a work pool's base job template and job variables into a job configuration.

Both are concepts of Prefect: a *base job template* has a ``job_configuration`` full of ``{{ placeholders }}``
and a ``variables`` schema with their defaults; *job variables* come from the deployment and the flow run.

Everything here is pure: no I/O, no clock, no look at ``os.environ``, and no argument is ever changed.
Whatever is malformed raises `JobTemplateError` and nothing else. Who wants the blocks and variables that a
template refers to fetched, too, takes `trioworker.job.configuration`.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from trioworker.job.json_types import type_name
from trioworker.lean_attrs import frozen

__all__ = [
    "Block",
    "BlockById",
    "JobTemplateError",
    "Reference",
    "Source",
    "Variable",
    "block_value",
    "find_references",
    "merge_job_variables",
    "render",
    "render_text",
    "require_mapping",
    "require_text",
]

# No real template comes near it, and the functions below call themselves once a level: the bound
# keeps them, even for a value inside a value inside a template, well below Python's recursion limit.
_MAX_DEPTH: Final = 100

_PLACEHOLDER: Final = re.compile(r"\{\{\s*(?P<name>[\w.\-\[\]$]+)\s*\}\}")
_BLOCK_PREFIX: Final = "prefect.blocks."
_VARIABLE_PREFIX: Final = "prefect.variables."
_ENVIRONMENT_PREFIX: Final = "$"
_FIRST_STEP_IS_VALUE: Final = re.compile(r"value(?=[.\[]|\Z)")

_ABSENT: Final = object()
_NO_REFERENCES: Final[Mapping[str, Any]] = MappingProxyType({})


class JobTemplateError(Exception):
    """A job configuration cannot be built from this template and these variables.

    Attributes:
        field: Dotted path of the field at fault, such as ``job_variables.env``.
        problem: What is wrong with it, as the rest of a sentence that starts with the field.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"The job configuration cannot be built: {self.field} {self.problem}."


@frozen
class Block:
    """A Prefect block, known by the slug of its type and its name."""

    type_slug: str
    name: str

    def __str__(self) -> str:
        return f"the block {self.name!r} of type {self.type_slug!r}"


@frozen
class BlockById:
    """A Prefect block, known by the id of its document."""

    document_id: str

    def __str__(self) -> str:
        return f"the block document {self.document_id!r}"


@frozen
class Variable:
    """A Prefect variable, known by its name."""

    name: str

    def __str__(self) -> str:
        return f"the variable {self.name!r}"


Source: TypeAlias = Block | BlockById | Variable


@frozen
class Reference:
    """A value that a job configuration takes from Prefect's API.

    Attributes:
        name: Its key in the ``references`` given to `render`: the
            placeholder's name, such as ``prefect.blocks.secret.token``, or ``$ref:ID`` for a mapping
            that refers to a block document by its id.
        source: Where the value is. Several references may share one.
        field: Dotted path of the field that holds it first.
        path: The way to the value inside the block, as far as the placeholder names one.
    """

    name: str
    source: Source
    field: str
    path: str | None = None


def merge_job_variables(
    deployment: Mapping[str, Any] | None, flow_run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Lay a flow run's job variables over its deployment's.

    ``env`` is merged key by key where the deployment's is a mapping; any other variable of the flow
    run replaces the deployment's. A dotted key (``env.FOO``) is a variable of its own here.

    Returns:
        A new dictionary that shares nothing with the arguments.

    Raises:
        JobTemplateError: The variables are not mappings of JSON values, or the flow run's ``env``
            cannot be merged.
    """
    deployment_field = "deployment.job_variables"
    flow_run_field = "flow_run.job_variables"
    merged = _mapping({} if deployment is None else deployment, deployment_field)
    overrides = _mapping({} if flow_run is None else flow_run, flow_run_field)
    if isinstance(merged.get("env"), dict) and "env" in overrides:
        env = overrides["env"]
        if not isinstance(env, dict):
            raise _not_a_mapping(f"{flow_run_field}.env", env)
        overrides["env"] = merged["env"] | env
    return merged | overrides


def render(
    base_job_template: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    references: Mapping[str, Any] = _NO_REFERENCES,
) -> dict[str, Any]:
    """Build the job configuration of one flow run, by Prefect's rules.

    A text that is one placeholder becomes the variable's value, of whatever type; without a value
    its key (or list item) is dropped. Inside a longer text a placeholder becomes the value's text,
    or nothing. ``{{ $NAME }}`` is always text, from `environment`. Placeholders inside a value stay
    as they are, except in an ``env`` that is merged into the template's own, and except references.

    Args:
        base_job_template: The work pool's template.
        job_variables: What `merge_job_variables` returned; keys may be dotted (``env.FOO``).
        environment: Where ``{{ $NAME }}`` is looked up: the worker's environment variables.
        references: Values by `Reference.name`: of blocks what `block_value` takes out of them, of Prefect
            variables the value. Prefect renders a variable that does not exist as an empty text: give it as
            ``""``.

    Returns:
        A new dictionary, not validated against any kind of infrastructure, except that ``env``, where
        present, is a mapping.

    Raises:
        JobTemplateError: Something is malformed, or a reference has no value in `references`.
    """
    populated = _populate(base_job_template, job_variables, environment)
    configuration, missing = _resolve_references(populated, references)
    if missing:
        raise _without_value(missing[0])
    if not isinstance(configuration.get("env", {}), dict):
        raise _not_a_mapping("job_configuration.env", configuration["env"])
    return configuration


def find_references(
    base_job_template: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    references: Mapping[str, Any] = _NO_REFERENCES,
) -> tuple[Reference, ...]:
    """List what `render` would miss in `references`, each name once.

    The value of a block may itself name Prefect variables: after adding values, ask again, until
    nothing is missing (two rounds at most).

    Raises:
        JobTemplateError: Something is malformed.
    """
    populated = _populate(base_job_template, job_variables, environment)
    _, missing = _resolve_references(populated, references)
    first_by_name: dict[str, Reference] = {}
    for reference in missing:
        first_by_name.setdefault(reference.name, reference)
    return tuple(first_by_name.values())


def block_value(reference: Reference, data: Mapping[str, Any]) -> Any:
    """Take what a reference to a block asks for out of the data of the block's document.

    Without a path that is all of the data. Where they are nothing but a ``value``, as in Prefect's own types
    of block (``secret``, ``json``), that is meant, and a path starts inside it unless it begins with ``value``.

    Raises:
        JobTemplateError: There is nothing at the path; or `data` is no mapping.
    """
    content: Any = data
    if not isinstance(content, Mapping):
        raise JobTemplateError(
            reference.field,
            f"refers to {reference.source}, whose data must be a mapping, not {type_name(content)}",
        )
    if isinstance(reference.source, BlockById):
        return content
    path = reference.path
    if set(content) == {"value"} and not (path is not None and _FIRST_STEP_IS_VALUE.match(path)):
        content = content["value"]
    value = content if path is None else _look_up(content, path)
    if value is _ABSENT:
        raise JobTemplateError(
            reference.field,
            f"holds the placeholder {{{{ {reference.name} }}}}, but {reference.source} has nothing at {path!r}: "
            "correct the path, or add the value to the block",
        )
    return value


def render_text(
    text: str,
    values: Mapping[str, Any],
    *,
    field: str,
    environment: Mapping[str, str],
    default: Any = None,
) -> Any:
    """Render a single text by the rules of `render`, leaving references as they are.

    Args:
        text: What may hold placeholders.
        values: Where they are looked up.
        field: Dotted path of the text, for errors.
        environment: Where ``{{ $NAME }}`` is looked up.
        default: Returned where the text is one placeholder, and that has no value.

    Raises:
        JobTemplateError: A value cannot be put into the text.
    """
    rendered = _fill_text(text, field, values, environment)
    return default if rendered is _ABSENT else rendered


def require_text(value: Any, field: str) -> str:
    """Return a value that must be a string; `JobTemplateError` if it is none."""
    if not isinstance(value, str):
        raise JobTemplateError(field, f"must be a string, not {type_name(value)}")
    return value


def require_mapping(value: Any, field: str) -> Mapping[str, Any]:
    """Return a value that must be a mapping; `JobTemplateError` if it is none."""
    if not isinstance(value, Mapping):
        raise _not_a_mapping(field, value)
    return value


def _populate(
    base_job_template: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """Fill in the template, up to its references."""
    require_mapping(environment, "environment")
    template = _member_mapping(base_job_template, "job_configuration")
    defaults = _defaults(base_job_template)
    own = _nest_dotted_keys(_mapping(job_variables, "job_variables"))
    _merge_env(template, defaults.get("env"), own.get("env"))
    return _fill(template, defaults | own, environment)


def _merge_env(template: dict[str, Any], default: Any, own: Any) -> None:
    """Lay the default over the template's ``env``, then the job's own; what is empty changes nothing.

    A template's ``env`` that is no mapping, such as a placeholder, makes room for the default, but not for the
    job's own, which gets to its place by the placeholder.
    """
    if default and isinstance(template.get("env"), dict):
        field = "base_job_template.variables.properties.env.default"
        template["env"] = {**template["env"], **require_mapping(default, field)}
    elif default:
        template["env"] = default
    if own and isinstance(template.get("env"), dict):
        template["env"] = {**template["env"], **require_mapping(own, "job_variables.env")}


def _defaults(base_job_template: Mapping[str, Any]) -> dict[str, Any]:
    """Read the defaults out of the variables schema; a default of null is none, as in Prefect."""
    field = "base_job_template.variables"
    schema = require_mapping(_member(base_job_template, "variables"), field)
    properties = require_mapping(schema.get("properties", {}), f"{field}.properties")
    defaults: dict[str, Any] = {}
    for name, attributes in properties.items():
        default = require_mapping(attributes, f"{field}.properties.{name}").get("default")
        if default is not None:
            defaults[name] = _json_copy(default, f"{field}.properties.{name}.default")
    return defaults


def _nest_dotted_keys(variables: dict[str, Any]) -> dict[str, Any]:
    """Turn ``{"env.FOO": 1}`` into ``{"env": {"FOO": 1}}``; what is given nested wins."""
    nested: dict[str, Any] = {}
    for key, value in variables.items():
        if "." in key:
            _set_by_path(nested, key, value)
    for key, value in variables.items():
        if "." not in key:
            dotted = nested.get(key)
            both_are_mappings = isinstance(dotted, dict) and isinstance(value, dict)
            nested[key] = _deep_merge(dotted, value) if both_are_mappings else value
    return nested


def _set_by_path(target: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = _split_path(path)
    if len(parents) >= _MAX_DEPTH:
        raise _too_deep(f"job_variables.{path}")
    mapping: Any = target
    for depth, parent in enumerate(parents, start=1):
        mapping = mapping.setdefault(parent, {})
        if not isinstance(mapping, dict):
            crossed = ".".join(parents[:depth])
            raise JobTemplateError(
                f"job_variables.{path}",
                f"sets a value inside {crossed}, which is {type_name(mapping)}, not a mapping",
            )
    mapping[last] = value


def _deep_merge(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _deep_merge(merged[key], value) if key in merged else value
    return merged


def _split_path(path: str) -> list[str]:
    """Split ``a.b[0]`` into its steps."""
    return path.replace("[", ".").replace("]", "").split(".")


def _look_up(values: Any, path: str) -> Any:
    """Follow a placeholder's path; a step that reads as a number is an index and never a key of JSON."""
    for step in _split_path(path):
        key = _index_or_key(step)
        if isinstance(values, Mapping):
            values = values.get(key, _ABSENT)
        elif isinstance(values, list | tuple | str) and isinstance(key, int):
            try:
                values = values[key]
            except IndexError:
                return _ABSENT
        else:
            return _ABSENT
    return values


def _index_or_key(step: str) -> int | str:
    try:
        return int(step)
    except ValueError:
        return step


def _fill(node: dict[str, Any], values: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Replace the placeholders for job variables and environment variables."""

    def replace_text(text: str, field: str) -> Any:
        return _fill_text(text, field, values, environment)

    filled: dict[str, Any] = _transform(node, "job_configuration", replace_text)
    return filled


def _fill_text(text: str, field: str, values: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    def value_of(placeholder: re.Match[str]) -> Any:
        name = placeholder["name"]
        if name.startswith(_ENVIRONMENT_PREFIX):
            name = name.lstrip(_ENVIRONMENT_PREFIX)
            return require_text(environment.get(name, ""), f"environment.{name}")
        return _look_up(values, name)

    return _substitute(text, field, handles=_is_no_reference, value_of=value_of)


def _is_no_reference(name: str) -> bool:
    return not name.startswith((_BLOCK_PREFIX, _VARIABLE_PREFIX))


def _resolve_references(
    populated: dict[str, Any], references: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Reference]]:
    """Replace references by their values; return also those that have none and so stay."""
    require_mapping(references, "references")
    missing: list[Reference] = []

    def take(reference: Reference) -> Any:
        if reference.name in references:
            return _json_copy(references[reference.name], f"references.{reference.name}")
        missing.append(reference)
        return _ABSENT

    # In this order because a block's value may hold a placeholder for a variable.
    resolved = _resolve_variables(_resolve_blocks(populated, take), take)
    if not isinstance(resolved, dict):
        raise _not_a_mapping("job_configuration", resolved)
    return resolved, missing


def _resolve_blocks(node: Any, take: Callable[[Reference], Any]) -> Any:
    def replace_text(text: str, field: str) -> Any:
        def value_of(placeholder: re.Match[str]) -> Any:
            value = take(_block(placeholder["name"], field))
            return placeholder[0] if value is _ABSENT else value

        return _substitute(
            text,
            field,
            handles=lambda name: name.startswith(_BLOCK_PREFIX),
            value_of=value_of,
            as_text=_scalar_as_text,
        )

    def replace_mapping(mapping: dict[str, Any], field: str) -> Any:
        document_id = _block_document_id(mapping, field)
        if document_id is None:
            return _ABSENT
        return take(Reference(f"$ref:{document_id}", BlockById(document_id), field))

    return _transform(node, "job_configuration", replace_text, replace_mapping)


def _resolve_variables(node: Any, take: Callable[[Reference], Any]) -> Any:
    def replace_text(text: str, field: str) -> Any:
        def value_of(placeholder: re.Match[str]) -> Any:
            name = placeholder["name"]
            value = take(Reference(name, Variable(name.removeprefix(_VARIABLE_PREFIX)), field))
            return placeholder[0] if value is _ABSENT else value

        return _substitute(
            text,
            field,
            handles=lambda name: name.startswith(_VARIABLE_PREFIX),
            value_of=value_of,
        )

    return _transform(node, "job_configuration", replace_text)


def _block(name: str, field: str) -> Reference:
    type_slug, _, rest = name.removeprefix(_BLOCK_PREFIX).partition(".")
    block_name, dot, path = rest.partition(".")
    if not (type_slug and block_name):
        raise JobTemplateError(
            field,
            f"holds the placeholder {{{{ {name} }}}}, which names no block: "
            "it must be prefect.blocks.BLOCK-TYPE.BLOCK-NAME",
        )
    return Reference(name, Block(type_slug, block_name), field, path if dot else None)


def _block_document_id(mapping: dict[str, Any], field: str) -> str | None:
    """Return the id in a mapping such as ``{"$ref": {"block_document_id": "…"}}``."""
    target = mapping.get("$ref")
    document_id = target.get("block_document_id") if isinstance(target, dict) else None
    if not document_id:
        return None
    return require_text(document_id, f"{field}.$ref.block_document_id")


def _transform(
    node: Any,
    field: str,
    replace_text: Callable[[str, str], Any],
    replace_mapping: Callable[[dict[str, Any], str], Any] | None = None,
) -> Any:
    """Copy nested JSON with each text replaced; an entry replaced by `_ABSENT` is dropped.

    A mapping is replaced as a whole where `replace_mapping` has a value for it. What is put in is
    not looked into again.
    """
    if isinstance(node, str):
        return replace_text(node, field)
    if isinstance(node, dict):
        if replace_mapping is not None:
            replacement = replace_mapping(node, field)
            if replacement is not _ABSENT:
                return replacement
        mapping: dict[str, Any] = {}
        for key, value in node.items():
            new = _transform(value, f"{field}.{key}", replace_text, replace_mapping)
            if new is not _ABSENT:
                mapping[key] = new
        return mapping
    if isinstance(node, list):
        items: list[Any] = []
        for index, value in enumerate(node):
            new = _transform(value, f"{field}[{index}]", replace_text, replace_mapping)
            if new is not _ABSENT:
                items.append(new)
        return items
    return node


def _as_text(value: Any, field: str) -> str:
    try:
        return str(value)
    except ValueError:
        # Python refuses to write out integers of thousands of digits.
        raise JobTemplateError(field, "holds a number too long to be put into a text") from None


def _scalar_as_text(value: Any, field: str) -> str:
    if isinstance(value, dict | list):
        raise JobTemplateError(
            field,
            f"puts {type_name(value)} from a block into a text: name a single value inside it",
        )
    return _as_text(value, field)


def _substitute(
    text: str,
    field: str,
    *,
    handles: Callable[[str], bool],
    value_of: Callable[[re.Match[str]], Any],
    as_text: Callable[[Any, str], str] = _as_text,
) -> Any:
    """Replace the placeholders whose name `handles` accepts, each once.

    Prefect replaces one placeholder after the other, in an order that changes from run to run, so
    that a value may be searched for the placeholders not yet done. Here a value never is.
    """
    whole = _PLACEHOLDER.fullmatch(text)
    if whole is not None and handles(whole["name"]):
        return value_of(whole)

    def replace_one(placeholder: re.Match[str]) -> str:
        if not handles(placeholder["name"]):
            return placeholder[0]
        value = value_of(placeholder)
        return "" if value is _ABSENT else as_text(value, field)

    return _PLACEHOLDER.sub(replace_one, text)


def _member(base_job_template: Mapping[str, Any], key: str) -> Any:
    require_mapping(base_job_template, "base_job_template")
    if key not in base_job_template:
        raise JobTemplateError("base_job_template", f"has no {key!r}")
    return base_job_template[key]


def _member_mapping(base_job_template: Mapping[str, Any], key: str) -> dict[str, Any]:
    return _mapping(_member(base_job_template, key), f"base_job_template.{key}")


def _mapping(value: Any, field: str) -> dict[str, Any]:
    """Copy what must be a mapping of JSON values."""
    copy = _json_copy(value, field)
    if not isinstance(copy, dict):
        raise _not_a_mapping(field, value)
    return copy


def _json_copy(value: Any, field: str, depth: int = 0) -> Any:
    """Copy a JSON value into plain dictionaries and lists, and refuse anything else."""
    if value is None or isinstance(value, str | int | float):
        return value
    if depth >= _MAX_DEPTH:
        raise _too_deep(field)
    if isinstance(value, Mapping):
        mapping: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise JobTemplateError(field, f"has a key that is {type_name(key)}, not a string")
            mapping[key] = _json_copy(item, f"{field}.{key}", depth + 1)
        return mapping
    if isinstance(value, list | tuple):
        items: list[Any] = []
        for index, item in enumerate(value):
            items.append(_json_copy(item, f"{field}[{index}]", depth + 1))
        return items
    raise JobTemplateError(field, f"is {type_name(value)}, which JSON has no form for")


def _not_a_mapping(field: str, value: Any) -> JobTemplateError:
    return JobTemplateError(field, f"must be a mapping, not {type_name(value)}")


def _too_deep(field: str) -> JobTemplateError:
    # The path to a place that deep would bury the sentence.
    start = field if len(field) <= 80 else f"{field[:80]}…"
    return JobTemplateError(start, f"is nested more than {_MAX_DEPTH} levels deep")


def _without_value(reference: Reference) -> JobTemplateError:
    if isinstance(reference.source, BlockById):
        return JobTemplateError(reference.field, f"refers to {reference.source}, which has no value")
    return JobTemplateError(
        reference.field, f"holds the placeholder {{{{ {reference.name} }}}}, which has no value"
    )
