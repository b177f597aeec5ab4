"""Job templates: each rule by example, what always holds by property, and Prefect itself as the judge."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioworker.job_template import (
    JobTemplateError,
    Reference,
    find_references,
    merge_job_variables,
    render,
)


def template(configuration: Any, **defaults: Any) -> dict[str, Any]:
    """A base job template whose variables have these defaults."""
    properties = {name: {"title": name, "default": value} for name, value in defaults.items()}
    return {"job_configuration": configuration, "variables": {"type": "object", "properties": properties}}


def rendered(
    base_job_template: Any, job_variables: Any = MappingProxyType({}), **environment: str
) -> dict[str, Any]:
    return render(base_job_template, job_variables, environment=environment)


# ---------------------------------------------------------------------------------------------------------
# Job variables of deployment and flow run


def test_flow_run_variables_replace_those_of_the_deployment() -> None:
    merged = merge_job_variables(
        {"image": "a", "labels": {"x": "1"}, "command": "c"}, {"image": "b", "labels": {"y": "2"}}
    )
    assert merged == {"image": "b", "labels": {"y": "2"}, "command": "c"}


def test_env_is_merged_key_by_key() -> None:
    merged = merge_job_variables({"env": {"A": "1", "B": "1"}}, {"env": {"B": "2", "C": None}})
    assert merged == {"env": {"A": "1", "B": "2", "C": None}}


@pytest.mark.parametrize("deployment", [None, {}, {"env": None}, {"env": "text"}])
def test_flow_run_env_replaces_a_deployment_env_that_is_no_mapping(deployment: Any) -> None:
    assert merge_job_variables(deployment, {"env": {"A": "1"}}) == {"env": {"A": "1"}}


def test_absent_job_variables_are_empty() -> None:
    assert merge_job_variables(None, None) == {}


def test_merged_variables_share_nothing_with_what_was_given() -> None:
    deployment = {"env": {"A": "1"}, "volumes": [{"a": 1}]}
    flow_run = {"labels": {"x": ["1"]}}
    merged = merge_job_variables(deployment, flow_run)
    merged["env"]["B"] = "2"
    merged["volumes"][0]["a"] = 2
    merged["labels"]["x"].append("2")
    assert deployment == {"env": {"A": "1"}, "volumes": [{"a": 1}]}
    assert flow_run == {"labels": {"x": ["1"]}}


@pytest.mark.parametrize(
    ("deployment", "flow_run", "message"),
    [
        ([], None, "deployment.job_variables must be a mapping, not a list"),
        (None, "text", "flow_run.job_variables must be a mapping, not a string"),
        ({"env": {}}, {"env": None}, "flow_run.job_variables.env must be a mapping, not null"),
        ({"env": {}}, {"env": ["A=1"]}, "flow_run.job_variables.env must be a mapping, not a list"),
        ({1: 2}, None, "deployment.job_variables has a key that is a number, not a string"),
    ],
)
def test_malformed_job_variables_are_refused_by_name(deployment: Any, flow_run: Any, message: str) -> None:
    with pytest.raises(JobTemplateError) as caught:
        merge_job_variables(deployment, flow_run)
    assert str(caught.value) == f"The job configuration cannot be built: {message}."


# ---------------------------------------------------------------------------------------------------------
# Placeholders


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "", "text", [], [1, "a"], {}, {"a": {"b": None}}])
def test_text_that_is_one_placeholder_becomes_the_value_itself(value: Any) -> None:
    result = rendered(template({"field": "{{ it }}"}), {"it": value})
    assert result == {"field": value}
    assert type(result["field"]) is type(value)


@pytest.mark.parametrize("text", ["{{it}}", "{{  it }}", "{{\tit\n}}"])
def test_spaces_inside_the_braces_do_not_matter(text: str) -> None:
    assert rendered(template({"field": text}), {"it": 1}) == {"field": 1}


@pytest.mark.parametrize("text", ["{it}", "{{ }}", "{{ a b }}", "{{ it", "{{ it | upper }}", "{{ it() }}"])
def test_what_is_no_placeholder_stays(text: str) -> None:
    assert rendered(template({"field": text}), {"it": 1, "a": 2}) == {"field": text}


def test_placeholder_without_value_drops_its_key_and_its_list_item() -> None:
    configuration = {"gone": "{{ x }}", "list": [1, "{{ x }}", 2], "deep": {"gone": "{{ x }}"}}
    assert rendered(template(configuration)) == {"list": [1, 2], "deep": {}}


def test_null_given_is_a_value_but_null_as_default_is_none() -> None:
    base = template({"given": "{{ given }}", "default": "{{ default }}"}, given="x", default=None)
    assert rendered(base, {"given": None}) == {"given": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ a }}-{{ b }}", "1-True"),
        ("{{ a }}{{ a }}", "11"),
        (" {{ a }}", " 1"),
        ("{{ a }}\n", "1\n"),
        ("<{{ missing }}>", "<>"),
        ("{{ missing }}{{ missing }}", ""),
        ("is {{ none }}", "is None"),
        ("is {{ map }}", "is {'k': [1]}"),
    ],
)
def test_placeholders_inside_a_text_become_text(text: str, expected: str) -> None:
    values = {"a": 1, "b": True, "none": None, "map": {"k": [1]}}
    assert rendered(template({"field": text}), values) == {"field": expected}


def test_number_too_long_for_text_is_refused() -> None:
    with pytest.raises(JobTemplateError, match=r"job_configuration\.field holds a number too long"):
        rendered(template({"field": "n={{ n }}"}), {"n": 10**5000})


def test_nested_structures_are_rendered_and_keys_are_not() -> None:
    configuration = {"a": [{"{{ x }}": ["{{ x }}", {"b": "{{ x }}!"}]}], "n": 1, "none": None}
    assert rendered(template(configuration), {"x": 5}) == {
        "a": [{"{{ x }}": [5, {"b": "5!"}]}],
        "n": 1,
        "none": None,
    }


def test_placeholders_inside_a_value_are_not_rendered_again() -> None:
    base = template({"a": "{{ x }}", "b": "<{{ x }}{{ y }}>"}, y="no")
    assert rendered(base, {"x": "{{ y }}"}) == {"a": "{{ y }}", "b": "<{{ y }}no>"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("m.k", "v"),
        ("l[1]", "two"),
        ("l.0", {"deep": 1}),
        ("l[0].deep", 1),
        ("l[-1]", "two"),
        ("l[1][0]", "t"),
    ],
)
def test_placeholder_path_reaches_into_a_value(path: str, expected: Any) -> None:
    values = {"m": {"k": "v"}, "l": [{"deep": 1}, "two"]}
    assert rendered(template({"field": f"{{{{ {path} }}}}"}), values) == {"field": expected}


@pytest.mark.parametrize("path", ["m.x", "m.1", "l[7]", "l.x", "n.x", "none.x", "m.", ".m", "m..k", "0"])
def test_placeholder_path_that_leads_nowhere_is_a_missing_value(path: str) -> None:
    values = {"m": {"k": "v", "1": "numbers are never keys"}, "l": [0], "n": 5, "none": None, "0": 0}
    assert rendered(template({"field": f"{{{{ {path} }}}}"}), values) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ $TOKEN }}", "secret"),
        ("{{ $$TOKEN }}", "secret"),
        ("Bearer {{ $TOKEN }}", "Bearer secret"),
        ("{{ $UNSET }}", ""),
        ("a{{ $UNSET }}b", "ab"),
        ("{{ TOKEN }}!", "!"),
    ],
)
def test_dollar_placeholder_is_text_from_the_environment(text: str, expected: str) -> None:
    base = template({"field": text})
    assert rendered(base, {"UNSET": "job variables do not count"}, TOKEN="secret") == {"field": expected}


# ---------------------------------------------------------------------------------------------------------
# Defaults, dotted keys and env


def test_job_variables_win_over_defaults() -> None:
    base = template({"a": "{{ a }}", "b": "{{ b }}"}, a=1, b={"x": 1})
    assert rendered(base, {"b": {"y": 2}}) == {"a": 1, "b": {"y": 2}}


def test_dotted_key_sets_a_nested_value_and_replaces_the_default() -> None:
    base = template({"labels": "{{ labels }}"}, labels={"a": "1"})
    assert rendered(base, {"labels.b.c": "2"}) == {"labels": {"b": {"c": "2"}}}


def test_nested_value_wins_over_dotted_key_in_either_order() -> None:
    base = template({"m": "{{ m }}"})
    expected = {"m": {"a": {"x": "nested", "y": 2}, "b": 3}}
    nested = {"a": {"x": "nested"}, "b": 3}
    assert rendered(base, {"m": nested, "m.a.x": "dotted", "m.a.y": 2}) == expected
    assert rendered(base, {"m.a.x": "dotted", "m.a.y": 2, "m": nested}) == expected


def test_plain_scalar_replaces_what_dotted_keys_set() -> None:
    assert rendered(template({"m": "{{ m }}"}), {"m.a": 1, "m": 5}) == {"m": 5}


def test_dotted_key_that_crosses_a_scalar_is_refused() -> None:
    with pytest.raises(JobTemplateError) as caught:
        rendered(template({}), {"m.a": 1, "m.a.b": 2})
    assert caught.value.field == "job_variables.m.a.b"
    assert caught.value.problem == "sets a value inside m.a, which is a number, not a mapping"


def test_env_of_template_default_and_job_are_merged() -> None:
    base = template({"env": {"T": "t", "D": "t", "J": "t"}}, env={"D": "d", "J": "d"})
    assert rendered(base, {"env": {"J": "j"}, "env.DOT": "dot"}) == {
        "env": {"T": "t", "D": "d", "J": "j", "DOT": "dot"}
    }


def test_env_placeholder_keeps_the_defaults_that_the_job_does_not_override() -> None:
    base = template({"env": "{{ env }}"}, env={"D": "d", "J": "d"})
    assert rendered(base, {"env.J": "j"}) == {"env": {"D": "d", "J": "j"}}


def test_default_env_is_added_to_a_template_without_env() -> None:
    assert rendered(template({}, env={"D": "d"})) == {"env": {"D": "d"}}


def test_job_env_is_not_added_to_a_template_without_env() -> None:
    assert rendered(template({}), {"env": {"J": "j"}}) == {}


def test_null_env_leaves_the_env_of_the_template() -> None:
    assert rendered(template({"env": {"T": "t"}}), {"env": None}) == {"env": {"T": "t"}}


def test_job_env_is_rendered_only_where_it_is_merged_into_the_template() -> None:
    job_variables = {"env": {"PATH_COPY": "{{ $HOME }}", "POOL": "{{ pool }}"}, "pool": "p"}
    assert rendered(template({"env": {}}), job_variables, HOME="/h") == {
        "env": {"PATH_COPY": "/h", "POOL": "p"}
    }
    assert rendered(template({"env": "{{ env }}"}), job_variables, HOME="/h") == {
        "env": {"PATH_COPY": "{{ $HOME }}", "POOL": "{{ pool }}"}
    }


# ---------------------------------------------------------------------------------------------------------
# References to blocks and variables


BLOCK = "prefect.blocks.secret.token"
VARIABLE = "prefect.variables.region"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{{ prefect.blocks.secret.token }}",
            (
                "holds the placeholder {{ prefect.blocks.secret.token }}, "
                "but references to Prefect blocks are not supported yet"
            ),
        ),
        (
            "in {{ prefect.variables.region }}",
            (
                "holds the placeholder {{ prefect.variables.region }}, "
                "but references to Prefect variables are not supported yet"
            ),
        ),
        (
            {"$ref": {"block_document_id": "abc"}},
            "refers to the block document abc, but references to Prefect blocks are not supported yet",
        ),
    ],
)
def test_reference_without_value_is_refused_by_name(text: Any, problem: str) -> None:
    with pytest.raises(JobTemplateError) as caught:
        rendered(template({"env": "{{ env }}"}), {"env": {"A": text}})
    assert caught.value.field == "job_configuration.env.A"
    assert caught.value.problem == problem


def test_references_are_found_where_they_come_to_stand() -> None:
    base = template(
        {"env": "{{ env }}", "unused": "{{ nothing }}", "list": ["{{ prefect.variables.region }}"]},
        unused="{{ prefect.variables.unused }}",
    )
    env = {"A": f"x {{{{ {BLOCK} }}}} {{{{ {BLOCK} }}}}", "B": {"$ref": {"block_document_id": "7"}}}
    assert find_references(base, {"env": env}, environment={}) == (
        Reference(BLOCK, "block", "job_configuration.env.A"),
        Reference("$ref:7", "block_document", "job_configuration.env.B"),
        Reference(VARIABLE, "variable", "job_configuration.list[0]"),
    )


def test_no_reference_is_found_where_none_is() -> None:
    assert find_references(template({"a": "{{ a }}"}), {"a": "{{ b }}"}, environment={}) == ()


def test_references_take_their_values() -> None:
    base = template(
        {
            "whole": f"{{{{ {BLOCK} }}}}",
            "inside": f"{{{{ {BLOCK} }}}}@{{{{ {VARIABLE} }}}}/{{{{ x }}}}",
            "variable": f"{{{{ {VARIABLE} }}}}",
            "document": {"$ref": {"block_document_id": "7"}, "ignored": 1},
        }
    )
    references = {BLOCK: 12, VARIABLE: "eu", "$ref:7": {"image": ["i"]}}
    assert render(base, {"x": "y"}, environment={}, references=references) == {
        "whole": 12,
        "inside": "12@eu/y",
        "variable": "eu",
        "document": {"image": ["i"]},
    }


def test_variables_named_in_a_block_are_found_in_a_second_round() -> None:
    base = template({"field": f"{{{{ {BLOCK} }}}}"})
    references: dict[str, Any] = {BLOCK: {"where": f"{{{{ {VARIABLE} }}}}"}}
    assert find_references(base, {}, environment={}, references=references) == (
        Reference(VARIABLE, "variable", "job_configuration.field.where"),
    )
    references[VARIABLE] = {"zone": 1}
    assert find_references(base, {}, environment={}, references=references) == ()
    assert render(base, {}, environment={}, references=references) == {"field": {"where": {"zone": 1}}}


def test_rendered_references_share_nothing_with_what_was_given() -> None:
    references: dict[str, Any] = {VARIABLE: {"list": [1]}}
    base = template({"a": f"{{{{ {VARIABLE} }}}}", "b": f"{{{{ {VARIABLE} }}}}"})
    result = render(base, {}, environment={}, references=references)
    result["a"]["list"].append(2)
    assert result["b"] == {"list": [1]}
    assert references == {VARIABLE: {"list": [1]}}


def test_configuration_that_is_no_mapping_after_its_reference_is_refused() -> None:
    base = template({"$ref": {"block_document_id": "7"}})
    assert render(base, {}, environment={}, references={"$ref:7": {"a": 1}}) == {"a": 1}
    with pytest.raises(JobTemplateError, match="job_configuration must be a mapping, not a list"):
        render(base, {}, environment={}, references={"$ref:7": []})


def test_block_value_with_parts_is_refused_inside_a_text_and_a_variable_is_not() -> None:
    with pytest.raises(JobTemplateError, match="puts a mapping from a block into a text"):
        render(template({"a": f"x{{{{ {BLOCK} }}}}"}), {}, environment={}, references={BLOCK: {}})
    base = template({"a": f"x{{{{ {VARIABLE} }}}}"})
    assert render(base, {}, environment={}, references={VARIABLE: {}}) == {"a": "x{}"}


@pytest.mark.parametrize("name", ["prefect.blocks.secret", "prefect.blocks.", "prefect.blocks..token"])
def test_block_placeholder_without_type_or_name_is_refused(name: str) -> None:
    base = template({"a": f"{{{{ {name} }}}}"})
    with pytest.raises(JobTemplateError, match=r"job_configuration\.a .* names no block"):
        render(base, {}, environment={}, references={name: "x"})


@pytest.mark.parametrize("ref", ["#/definitions/Job", {}, {"block_document_id": None}, ["x"]])
def test_ref_that_names_no_block_document_is_an_ordinary_mapping(ref: Any) -> None:
    assert rendered(template({"a": {"$ref": ref}})) == {"a": {"$ref": ref}}


# ---------------------------------------------------------------------------------------------------------
# What is malformed


TOO_DEEP: list[Any] = []
TOO_DEEP.append(TOO_DEEP)


@pytest.mark.parametrize(
    ("base_job_template", "job_variables", "field", "problem"),
    [
        (None, {}, "base_job_template", "must be a mapping, not null"),
        ([], {}, "base_job_template", "must be a mapping, not a list"),
        ({}, {}, "base_job_template", "has no 'job_configuration'"),
        ({"job_configuration": {}}, {}, "base_job_template", "has no 'variables'"),
        (template([]), {}, "base_job_template.job_configuration", "must be a mapping, not a list"),
        (
            {"job_configuration": {}, "variables": "x"},
            {},
            "base_job_template.variables",
            "must be a mapping, not a string",
        ),
        (
            {"job_configuration": {}, "variables": {"properties": None}},
            {},
            "base_job_template.variables.properties",
            "must be a mapping, not null",
        ),
        (
            {"job_configuration": {}, "variables": {"properties": {"a": True}}},
            {},
            "base_job_template.variables.properties.a",
            "must be a mapping, not a boolean",
        ),
        (
            template({"env": {}}, env=[1]),
            {},
            "base_job_template.variables.properties.env.default",
            "must be a mapping, not a list",
        ),
        (template({}), 1.5, "job_variables", "must be a mapping, not a number"),
        (template({"env": {}}), {"env": ["A=1"]}, "job_variables.env", "must be a mapping, not a list"),
        (template({"env": "A=1"}), {}, "job_configuration.env", "must be a mapping, not a string"),
        (template({"env": "{{ env }}"}), {"env": None}, "job_configuration.env",
         "must be a mapping, not null"),
        (template({}), {"a": {"b": {1}}}, "job_variables.a.b", "is a Python set, which JSON has no form for"),
        (template({"a": b""}), {}, "base_job_template.job_configuration.a",
         "is a Python bytes, which JSON has no form for"),
        (template({"a": [{None: 1}]}), {}, "base_job_template.job_configuration.a[0]",
         "has a key that is null, not a string"),
        (template({"a": {"$ref": {"block_document_id": 7}}}), {},
         "job_configuration.a.$ref.block_document_id", "must be a string, not a number"),
        (template({}), {"a": TOO_DEEP}, "job_variables.a" + "[0]" * 21 + "[0…",
         "is nested more than 100 levels deep"),
        (template({}), {"a." * 5000: 1}, "job_variables." + "a." * 33 + "…",
         "is nested more than 100 levels deep"),
    ],
)  # fmt: skip
def test_malformed_input_is_refused_by_field(
    base_job_template: Any, job_variables: Any, field: str, problem: str
) -> None:
    with pytest.raises(JobTemplateError) as caught:
        rendered(base_job_template, job_variables)
    assert (caught.value.field, caught.value.problem) == (field, problem)
    assert str(caught.value) == f"The job configuration cannot be built: {field} {problem}."


def nested(depth: int, innermost: Any) -> Any:
    for _ in range(depth):
        innermost = {"a": innermost}
    return innermost


def test_deepest_input_of_every_kind_together_still_renders() -> None:
    base = template(nested(100, "{{ v }}"))
    variables = {"v" + ".a" * 99: nested(99, f"{{{{ {BLOCK} }}}}")}
    references = {BLOCK: nested(100, f"{{{{ {VARIABLE} }}}}"), VARIABLE: nested(100, 1)}
    result: Any = render(base, variables, environment={}, references=references)
    depth = 0
    while isinstance(result, dict):
        result = result["a"]
        depth += 1
    assert (depth, result) == (498, 1)


# ---------------------------------------------------------------------------------------------------------
# What always holds


names = st.sampled_from(
    ["env", "name", "labels", "command", "a", "b", "$ref", "block_document_id", "default"]
)
paths = st.lists(
    st.sampled_from(["env", "a", "b", "0", "-1", "", "$A", "[0]", "prefect.blocks", "prefect.variables"]),
    min_size=1, max_size=4,
).map(".".join)  # fmt: skip
placeholders = st.builds("{{{{{1}{0}{1}}}}}".format, paths, st.sampled_from(["", " "]))
texts = st.lists(placeholders | st.text(max_size=5), max_size=3).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts


def json_values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(children, max_size=3) | st.dictionaries(
            names | st.text(max_size=5), children, max_size=4
        )

    return st.recursive(leaves, extend, max_leaves=12)


anything = json_values(scalars)
plain = json_values(scalars.filter(lambda leaf: not isinstance(leaf, str) or "{{" not in leaf))
mappings = st.dictionaries(names, anything, max_size=5)
schemas = st.fixed_dictionaries(
    {"properties": st.dictionaries(names, st.fixed_dictionaries({"default": anything}), max_size=5)}
)
templates = st.fixed_dictionaries({"job_configuration": mappings, "variables": schemas})
job_variables_strategy = st.dictionaries(names | paths, anything, max_size=5)
reference_values = st.dictionaries(paths, anything, max_size=3)
environments = st.dictionaries(st.sampled_from(["A", "B", ""]), st.text(max_size=5), max_size=2)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returned, or the one error it may raise."""
    try:
        return call()
    except JobTemplateError as error:
        return str(error)


@given(templates | anything, job_variables_strategy | anything, environments, reference_values)
def test_nothing_but_a_job_template_error_is_ever_raised(
    base: Any, job_variables: Any, environment: dict[str, str], references: dict[str, Any]
) -> None:
    result = outcome(lambda: render(base, job_variables, environment=environment, references=references))
    if isinstance(result, str):
        assert result.startswith("The job configuration cannot be built: ")
    else:
        assert isinstance(result.get("env", {}), dict)
        missing = find_references(base, job_variables, environment=environment, references=references)
        assert missing == ()


@given(job_variables_strategy | anything, job_variables_strategy | anything)
def test_merging_returns_all_names_or_raises_a_job_template_error(deployment: Any, flow_run: Any) -> None:
    merged = outcome(lambda: merge_job_variables(deployment, flow_run))
    if not isinstance(merged, str):
        assert set(merged) == {*(deployment or {}), *(flow_run or {})}


@given(templates, job_variables_strategy, job_variables_strategy, reference_values)
def test_arguments_are_never_changed_and_equal_ones_give_equal_results(
    base: Any, deployment: Any, flow_run: Any, references: Any
) -> None:
    given_values = (base, deployment, flow_run, references)
    before = copy.deepcopy(given_values)

    def run() -> dict[str, Any]:
        variables = merge_job_variables(deployment, flow_run)
        find_references(base, variables, environment={}, references=references)
        return render(base, variables, environment={}, references=references)

    first = outcome(run)
    assert given_values == before
    assert outcome(run) == first


@given(st.dictionaries(names, plain, max_size=5), st.dictionaries(names, plain, max_size=3))
def test_template_without_placeholders_renders_to_itself(configuration: Any, job_variables: Any) -> None:
    configuration.pop("env", None)
    configuration.pop("$ref", None)
    configuration = without_block_documents(configuration)
    job_variables.pop("env", None)
    assert rendered(template(configuration), job_variables) == configuration


def without_block_documents(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_block_documents(item) for key, item in value.items() if key != "$ref"}
    return [without_block_documents(item) for item in value] if isinstance(value, list) else value


@given(plain)
def test_whole_value_placeholder_keeps_type_and_value(value: Any) -> None:
    value = without_block_documents(value)
    result = rendered(template({"field": ["{{ it }}"]}), {"it": value})
    assert result == {"field": [value]}
    assert type(result["field"][0]) is type(value)


# ---------------------------------------------------------------------------------------------------------
# Prefect as the judge


@attrs.frozen
class Case:
    """What both sides get. `refused` is true where both must refuse."""

    title: str
    base_job_template: Any
    deployment: Any = attrs.field(factory=dict)
    flow_run: Any = attrs.field(factory=dict)
    refused: bool = False


VALUES_OF_VARIABLES = {"region": "eu", "limits": {"cpu": 2}, "absent": None}
VALUES_OF_BLOCKS = {
    "token": {"value": "s3cret"},
    "where": {"value": {"zone": "{{ prefect.variables.region }}"}},
}
REFERENCES = {
    "prefect.variables.region": "eu",
    "prefect.variables.limits": {"cpu": 2},
    "prefect.variables.absent": "",
    "prefect.blocks.secret.token": "s3cret",
    "prefect.blocks.json.where": {"zone": "{{ prefect.variables.region }}"},
    "prefect.blocks.json.where.zone": "{{ prefect.variables.region }}",
    "$ref:7": {"value": "s3cret"},
}
PROCESS = {
    "job_configuration": {
        "command": "{{ command }}", "env": "{{ env }}", "labels": "{{ labels }}", "name": "{{ name }}",
        "stream_output": "{{ stream_output }}", "working_dir": "{{ working_dir }}",
    },
    "variables": {
        "type": "object",
        "properties": {
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "env": {"type": "object", "title": "Environment Variables"},
            "labels": {"type": "object"},
            "command": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "stream_output": {"type": "boolean", "default": True},
            "working_dir": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
    },
}  # fmt: skip
MANIFEST = {
    "env": {"POOL": "kept", "BOTH": "template"},
    "manifest": {
        "metadata": {"name": "{{ name }}-", "labels": "{{ labels }}"},
        "spec": {"containers": [{"image": "{{ image }}:{{ tag }}", "args": "{{ args }}", "port": 80}]},
        "tolerations": ["{{ toleration }}", {"key": "{{ args[1] }}"}],
    },
}
CASES = (
    Case("process: nothing given", PROCESS),
    Case("process: env and directory", PROCESS,
         {"env": {"A": "1", "B": "1"}, "working_dir": "/w"}, {"env": {"B": "2"}}),
    Case("process: null command and false", PROCESS, {"command": None, "stream_output": False}),
    Case("process: dotted env", PROCESS, {"env.A": "dotted", "env": {"B": "nested"}}),
    Case("process: dotted env of the run loses to nested env", PROCESS,
         {"env": {"A": "d"}}, {"env.A": "run"}),
    Case("process: placeholders in job env stay", PROCESS,
         {"env": {"A": "{{ $TRIOWORKER_SEEN }}{{ name }}"}}),
    Case("process: references in job env", PROCESS, {"env": {
        "A": "{{ prefect.blocks.secret.token }}", "B": "<{{ prefect.blocks.secret.token }}>",
        "C": "{{prefect.variables.region}}", "D": "{{ prefect.variables.absent }}.", "E": "{{ $X }}",
        "F": "{{ prefect.variables.absent }}",
        "G": "{{ prefect.variables.region }}{{ prefect.blocks.secret.token }}",
    }}),
    Case("variables inside blocks", template({
        "a": "{{ prefect.blocks.json.where }}", "b": "at {{ prefect.blocks.json.where.zone }}",
        "c": "{{ prefect.variables.limits }}", "d": "{{ prefect.variables.limits }}!",
    })),
    Case("block document by id", template({"a": {"$ref": {"block_document_id": "7"}}, "b": "{{ b }}"}),
         {"b": [{"$ref": {"block_document_id": "7"}}]}),
    Case("manifest with defaults", template(MANIFEST, image="i", tag=3, args=["x", "y"], labels={"a": "b"})),
    Case("manifest with nothing", template(MANIFEST)),
    Case("manifest with all", template(MANIFEST, env={"BOTH": "default", "D": "{{ image }}"}, tag="t"),
         {"image": "j", "env": {"E": "{{ tag }}", "F": "{{ $TRIOWORKER_SEEN }}"}, "toleration": {"key": 1}},
         {"args": ["only"], "env": {"BOTH": "run", "G": None}}),
    Case("env default into env placeholder", template({"env": "{{ env }}"}, env={"A": "1"}), {"env.B": "2"}),
    Case("env default into no env", template({"x": 1}, env={"A": "1"}), {"env": {"B": "2"}}),
    Case("env of the job into no env", template({"x": 1}), {"env": {"B": "2"}}),
    Case("env default over another placeholder", template({"env": "{{ x }}"}, env={"A": "1"}), {"x": {}}),
    Case("empty env default", template({"env": "{{ env }}"}, env={})),
    Case("null env beside template env", template({"env": {"A": "1"}}), {"env": None}),
    Case("null env of the deployment", PROCESS, {"env": None}, {"env": {"A": "1"}}),
    Case("environment", template({"a": "{{ $TRIOWORKER_SEEN }}", "b": "{{ $TRIOWORKER_UNSEEN }}",
                                  "c": "-{{ $$TRIOWORKER_SEEN }}-{{$TRIOWORKER_UNSEEN}}", "d": "{{ $ }}"})),
    Case("texts", template({"a": "{{ a }}{{ a }}", "b": " {{ a }}", "c": "{{ a }} {{ b }} {{ c }} {{ d }}",
                            "d": "{{a}}\n", "e": "{{\ta\n}}", "f": "{{ a b }} {{}} { a }", "g": "{{{ a }}}"}),
         {"a": 1, "b": None, "c": {"k": [True, 1.5]}}),
    Case("paths", template({"list": [f"{{{{ {path} }}}}" for path in (
             "m.k", "m.1", "l[0]", "l.1", "l[-1]", "l[1][0]", "l[2]", "l[\u0660]", "l.x", "m.", ".m", "n.x",
             "0", "1_0", "m[k]")]}),
         {"m": {"k": "v", "1": "w"}, "l": [{"x": 0}, "text"], "n": 5, "0": "zero"}),
    Case("dotted paths of every form",
         template({"m": "{{ m }}", "k": "{{ k[0] }}", "n": "{{ n }}"}, m={"z": 0}),
         {"m.a[b].c": 1, "m.a": {"b": {"d": 2}}, "k[0]": 1, ".n": 1, "n": {"deep": [1]}, "n.deep.er": 2}),
    Case("later dotted key replaces a deeper one", template({"m": "{{ m }}"}), {"m.a.b": 1, "m.a": 2}),
    Case("scalar replaces dotted", template({"m": "{{ m }}"}), {"m.a": 1}, {"m": "s"}),
    Case("nested and dotted merge deeply", template({"m": "{{ m }}"}),
         {"m.a.b": 1, "m.a.c": 1, "m.l": [1]}, {"m": {"a": {"b": 2, "d": 3}, "l": [2]}}),
    Case("values are not rendered again", template({"a": "{{ x }}", "b": "{{ l }}"}),
         {"x": "{{ y }}", "l": ["{{ y }}"], "y": "no"}),
    Case("no placeholders", template({"a": [1, None, {"b": False}], "c": "", "d": {}, "e": []})),
    Case("unhelpful names", template({"a": "{{ prefect.blocked }}", "b": "{{ prefect }}!", "c": "{{ x-y }}"}),
         {"prefect": {"blocked": 1}, "x-y": 2}),
    Case("template without variables", {"job_configuration": {}}, refused=True),
    Case("template without configuration", {"variables": {}}, refused=True),
    Case("boolean schema", {"job_configuration": {}, "variables": {"properties": {"a": True}}}, refused=True),
    Case("env of the run is a list", PROCESS, {"env": {"A": "1"}}, {"env": ["A=1"]}, refused=True),
    Case("env of the run is null beside one", PROCESS, {"env": {"A": "1"}}, {"env": None}, refused=True),
    Case("env is a list", PROCESS, {"env": ["A=1"]}, refused=True),
    Case("env is null", PROCESS, {"env": None}, refused=True),
    Case("list env beside template env", template({"env": {"A": "1"}}), {"env": ["A=1"]}, refused=True),
    Case("dotted key crosses a scalar", PROCESS, {"env.A": "1", "env.A.B": "2"}, refused=True),
    Case("half a block name", PROCESS, {"command": "{{ prefect.blocks.secret }}"}, refused=True),
    Case("mapping of a block in a text", PROCESS,
         {"command": "x {{ prefect.blocks.json.where }}"}, refused=True),
)  # fmt: skip

# Prefect's own functions, up to the arguments of the configuration class. Its validation is run, but what it
# makes of them is not compared: that is the affair of each infrastructure.
ASK_PREFECT = """
import asyncio, copy, json, sys
from types import SimpleNamespace
from prefect.workers.base import BaseJobConfiguration

asked = json.load(sys.stdin)


class Unvalidated:
    _get_base_config_defaults = BaseJobConfiguration._get_base_config_defaults

    def __init__(self, **fields):
        self.fields = copy.deepcopy(fields)
        BaseJobConfiguration(**fields)

    def prepare_for_flow_run(self, **kwargs):
        pass

    @classmethod
    async def from_template_and_values(cls, **kwargs):
        return await BaseJobConfiguration.from_template_and_values.__func__(cls, **kwargs)


class Api:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        pass

    async def read_flow(self, flow_id):
        pass

    async def read_variable_by_name(self, name):
        value = asked["variables"][name]
        return None if value is None else SimpleNamespace(value=value)

    async def read_block_document_by_name(self, name, block_type_slug):
        return SimpleNamespace(data=asked["blocks"][name])

    async def read_block_document(self, block_document_id):
        return SimpleNamespace(data=asked["blocks"]["token"])


async def configuration(case):
    try:
        built = await BaseJobConfiguration.resolve_for_flow_run.__func__(
            Unvalidated,
            flow_run=SimpleNamespace(job_variables=case["flow_run"], deployment_id=None, flow_id=None),
            client=Api(),
            work_pool=SimpleNamespace(base_job_template=case["base_job_template"]),
            worker_name="judge",
            deployment=SimpleNamespace(job_variables=case["deployment"]),
        )
    except Exception as error:
        return {"refused": repr(error)}
    return {"configuration": built.fields}


async def main():
    json.dump([await configuration(case) for case in asked["cases"]], sys.stdout)


asyncio.run(main())
"""


@pytest.mark.process
def test_results_equal_those_of_prefect(tmp_path: Path) -> None:
    environment = {"TRIOWORKER_SEEN": "seen"}
    asked = {
        "cases": [attrs.asdict(case, recurse=False) for case in CASES],
        "variables": VALUES_OF_VARIABLES,
        "blocks": VALUES_OF_BLOCKS,
    }
    prefect = subprocess.run(
        [sys.executable, "-c", ASK_PREFECT],
        input=json.dumps(asked),
        env={**os.environ, **environment, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert prefect.returncode == 0, prefect.stderr
    ours = [outcome_as_prefect_tells_it(case, environment) for case in CASES]
    theirs = json.loads(prefect.stdout)
    for case, our, their in zip(CASES, ours, theirs, strict=True):
        assert set(their) == {"refused" if case.refused else "configuration"}, (case.title, their)
        if case.refused:
            assert set(our) == {"refused"}, (case.title, our)
        else:
            assert our == their, case.title


def outcome_as_prefect_tells_it(case: Case, environment: dict[str, str]) -> dict[str, Any]:
    try:
        variables = merge_job_variables(case.deployment, case.flow_run)
        configuration = render(
            case.base_job_template, variables, environment=environment, references=REFERENCES
        )
    except JobTemplateError as error:
        return {"refused": str(error)}
    return {"configuration": configuration}
