"""Turn a work pool's base job template and job variables into a job configuration.

Both are concepts of Prefect: a *base job template* has a ``job_configuration`` full of ``{{ placeholders }}``
and a ``variables`` schema with their defaults; *job variables* come from the deployment and the flow run.

Everything here is pure: no I/O, no clock, no look at ``os.environ``, and no argument is ever changed.
Whatever is malformed raises `JobTemplateError` and nothing else.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import attrs

__all__ = ["JobTemplateError", "Reference", "find_references", "merge_job_variables", "render"]

# No real template comes near it, and the functions below call themselves once a level: the bound
# keeps them, even for a value inside a value inside a template, well below Python's recursion limit.
_MAX_DEPTH: Final = 100

_PLACEHOLDER: Final = re.compile(r"\{\{\s*(?P<name>[\w.\-\[\]$]+)\s*\}\}")
_BLOCK_PREFIX: Final = "prefect.blocks."
_VARIABLE_PREFIX: Final = "prefect.variables."
_ENVIRONMENT_PREFIX: Final = "$"

# In this order: a boolean is also an int.
_TYPE_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), "null"),
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    (Mapping, "a mapping"),
    ((list, tuple), "a list"),
)

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


@attrs.frozen
class Reference:
    """A value that a job configuration takes from Prefect's API.

    Attributes:
        name: Its key in the ``references`` given to `render`: the
            placeholder's name, such as ``prefect.blocks.secret.token``, or ``$ref:ID`` for a mapping
            that refers to a block document by its id.
        kind: ``block`` and ``variable`` are placeholders, ``block_document`` is the mapping.
        field: Dotted path of the field that holds it first.
    """

    name: str
    kind: Literal["block", "variable", "block_document"]
    field: str


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
        references: Values of blocks and Prefect variables by
            `Reference.name`. Prefect renders a variable that
            does not exist as an empty text: give it as ``""``.

    Returns:
        A new dictionary, not validated against any kind of infrastructure, except that ``env``, where
        present, is a mapping.

    Raises:
        JobTemplateError: Something is malformed, or a reference has no value in `references`.
    """
    populated = _populate(base_job_template, job_variables, environment)
    configuration, missing = _resolve_references(populated, references)
    if missing:
        raise _unsupported(missing[0])
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


def _populate(
    base_job_template: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """Fill in the template, up to its references."""
    template = _member_mapping(base_job_template, "job_configuration")
    defaults = _defaults(base_job_template)
    own = _nest_dotted_keys(_mapping(job_variables, "job_variables"))
    default_env = _env(defaults, "base_job_template.variables.properties.env.default")
    own_env = _env(own, "job_variables.env")

    if default_env:
        template_env = template.get("env")
        template["env"] = template_env | default_env if isinstance(template_env, dict) else default_env
    if isinstance(template.get("env"), dict):
        template["env"] = template["env"] | own_env

    return _fill(template, defaults | own, environment)


def _defaults(base_job_template: Mapping[str, Any]) -> dict[str, Any]:
    """Read the defaults out of the variables schema; a default of null is none, as in Prefect."""
    field = "base_job_template.variables"
    schema = _member(base_job_template, "variables")
    if not isinstance(schema, Mapping):
        raise _not_a_mapping(field, schema)
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise _not_a_mapping(f"{field}.properties", properties)
    defaults: dict[str, Any] = {}
    for name, attributes in properties.items():
        if not isinstance(attributes, Mapping):
            raise _not_a_mapping(f"{field}.properties.{name}", attributes)
        default = attributes.get("default")
        if default is not None:
            defaults[name] = _json_copy(default, f"{field}.properties.{name}.default")
    return defaults


def _env(variables: dict[str, Any], field: str) -> dict[str, Any]:
    """Return the ``env`` of some variables; absent and null are both empty."""
    env = variables.get("env")
    if env is None:
        return {}
    if not isinstance(env, dict):
        raise _not_a_mapping(field, env)
    return env


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
                f"sets a value inside {crossed}, which is {_type_name(mapping)}, not a mapping",
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
    """Follow a placeholder's path; a step that reads as a number is an index and never a key."""
    for step in _split_path(path):
        key: int | str
        try:
            key = int(step)
        except ValueError:
            key = step
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return values


def _fill(node: dict[str, Any], values: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Replace the placeholders for job variables and environment variables."""

    def value_of(placeholder: re.Match[str]) -> Any:
        name = placeholder["name"]
        if name.startswith(_ENVIRONMENT_PREFIX):
            return environment.get(name.lstrip(_ENVIRONMENT_PREFIX), "")
        return _look_up(values, name)

    def replace_text(text: str, field: str) -> Any:
        return _substitute(text, field, handles=_is_no_reference, value_of=value_of)

    filled: dict[str, Any] = _transform(node, "job_configuration", replace_text)
    return filled


def _is_no_reference(name: str) -> bool:
    return not name.startswith((_BLOCK_PREFIX, _VARIABLE_PREFIX))


def _resolve_references(
    populated: dict[str, Any], references: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Reference]]:
    """Replace references by their values; return also those that have none and so stay."""
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
        return take(Reference(f"$ref:{document_id}", "block_document", field))

    return _transform(node, "job_configuration", replace_text, replace_mapping)


def _resolve_variables(node: Any, take: Callable[[Reference], Any]) -> Any:
    def replace_text(text: str, field: str) -> Any:
        def value_of(placeholder: re.Match[str]) -> Any:
            value = take(Reference(placeholder["name"], "variable", field))
            return placeholder[0] if value is _ABSENT else value

        return _substitute(
            text,
            field,
            handles=lambda name: name.startswith(_VARIABLE_PREFIX),
            value_of=value_of,
        )

    return _transform(node, "job_configuration", replace_text)


def _block(name: str, field: str) -> Reference:
    type_slug, _, document_path = name.removeprefix(_BLOCK_PREFIX).partition(".")
    if not (type_slug and document_path):
        raise JobTemplateError(
            field,
            f"holds the placeholder {{{{ {name} }}}}, which names no block: "
            "it must be prefect.blocks.BLOCK-TYPE.BLOCK-NAME",
        )
    return Reference(name, "block", field)


def _block_document_id(mapping: dict[str, Any], field: str) -> str | None:
    """Return the id in a mapping such as ``{"$ref": {"block_document_id": "…"}}``."""
    target = mapping.get("$ref")
    document_id = target.get("block_document_id") if isinstance(target, dict) else None
    if not document_id:
        return None
    if not isinstance(document_id, str):
        raise JobTemplateError(
            f"{field}.$ref.block_document_id", f"must be a string, not {_type_name(document_id)}"
        )
    return document_id


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
            f"puts {_type_name(value)} from a block into a text: name a single value inside it",
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
    # Looked at as the object it may be: the template is whatever the API or a user gave.
    template: Any = base_job_template
    if not isinstance(template, Mapping):
        raise _not_a_mapping("base_job_template", template)
    if key not in template:
        raise JobTemplateError("base_job_template", f"has no {key!r}")
    return template[key]


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
                raise JobTemplateError(field, f"has a key that is {_type_name(key)}, not a string")
            mapping[key] = _json_copy(item, f"{field}.{key}", depth + 1)
        return mapping
    if isinstance(value, list | tuple):
        items: list[Any] = []
        for index, item in enumerate(value):
            items.append(_json_copy(item, f"{field}[{index}]", depth + 1))
        return items
    raise JobTemplateError(field, f"is {_type_name(value)}, which JSON has no form for")


def _not_a_mapping(field: str, value: Any) -> JobTemplateError:
    return JobTemplateError(field, f"must be a mapping, not {_type_name(value)}")


def _too_deep(field: str) -> JobTemplateError:
    # The path to a place that deep would bury the sentence.
    start = field if len(field) <= 80 else f"{field[:80]}…"
    return JobTemplateError(start, f"is nested more than {_MAX_DEPTH} levels deep")


def _unsupported(reference: Reference) -> JobTemplateError:
    placeholder = f"the placeholder {{{{ {reference.name} }}}}"
    if reference.kind == "block":
        problem = f"holds {placeholder}, but references to Prefect blocks are not supported yet"
    elif reference.kind == "variable":
        problem = f"holds {placeholder}, but references to Prefect variables are not supported yet"
    else:
        problem = (
            f"refers to the block document {reference.name.removeprefix('$ref:')}, "
            "but references to Prefect blocks are not supported yet"
        )
    return JobTemplateError(reference.field, problem)


def _type_name(value: Any) -> str:
    """Name a value's type in JSON's words, as they stand in a sentence."""
    for types, name in _TYPE_NAMES:
        if isinstance(value, types):
            return name
    return f"a Python {type(value).__name__}"
