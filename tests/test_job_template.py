"""Job templates: each rule by example. What always holds, and what Prefect says, has a file of its own."""

from types import MappingProxyType
from typing import Any

import pytest

from trioworker.job.template import (
    Block,
    BlockById,
    JobTemplateError,
    Reference,
    Variable,
    block_value,
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


@pytest.mark.parametrize("empty", [None, {}, [], ""])
def test_empty_env_leaves_the_env_of_the_template(empty: Any) -> None:
    assert rendered(template({"env": {"T": "t"}}), {"env": empty}) == {"env": {"T": "t"}}


def test_env_that_goes_nowhere_may_be_anything() -> None:
    assert rendered(template({"x": 1}), {"env": ["A=1"]}) == {"x": 1}


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
            "holds the placeholder {{ prefect.blocks.secret.token }}, which has no value",
        ),
        (
            "in {{ prefect.variables.region }}",
            "holds the placeholder {{ prefect.variables.region }}, which has no value",
        ),
        (
            {"$ref": {"block_document_id": "abc"}},
            "refers to the block document 'abc', which has no value",
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
        Reference(BLOCK, Block("secret", "token"), "job_configuration.env.A"),
        Reference("$ref:7", BlockById("7"), "job_configuration.env.B"),
        Reference(VARIABLE, Variable("region"), "job_configuration.list[0]"),
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
        Reference(VARIABLE, Variable("region"), "job_configuration.field.where"),
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


@pytest.mark.parametrize(
    "name", ["prefect.blocks.secret", "prefect.blocks.", "prefect.blocks..token", "prefect.blocks.secret..a"]
)
def test_block_placeholder_without_type_or_name_is_refused(name: str) -> None:
    base = template({"a": f"{{{{ {name} }}}}"})
    with pytest.raises(JobTemplateError, match=r"job_configuration\.a .* names no block"):
        render(base, {}, environment={}, references={name: "x"})


def only_reference(placeholder: str) -> Reference:
    base = template({"field": f"{{{{ {placeholder} }}}}"})
    (reference,) = find_references(base, {}, environment={})
    return reference


@pytest.mark.parametrize(
    ("placeholder", "source", "path"),
    [
        ("prefect.blocks.json.limits", Block("json", "limits"), None),
        ("prefect.blocks.json.limits.cpu", Block("json", "limits"), "cpu"),
        ("prefect.blocks.json.limits.a.b[0]", Block("json", "limits"), "a.b[0]"),
        ("prefect.blocks.json.limits.", Block("json", "limits"), ""),
        ("prefect.blocks.json.limits[0]", Block("json", "limits[0]"), None),
        ("prefect.variables.region", Variable("region"), None),
        ("prefect.variables.region.zone", Variable("region.zone"), None),
        ("prefect.variables.", Variable(""), None),
    ],
)
def test_placeholder_is_split_into_its_source_and_a_path(
    placeholder: str, source: Block | Variable, path: str | None
) -> None:
    expected = Reference(placeholder, source, "job_configuration.field", path)
    assert only_reference(placeholder) == expected


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        # Blocks of Prefect's own types.
        ("", {"value": "s3cret"}, "s3cret"),
        (".value", {"value": "s3cret"}, "s3cret"),
        ("", {"value": {"cpu": [1, {"x": 2}]}}, {"cpu": [1, {"x": 2}]}),
        (".cpu", {"value": {"cpu": [1, {"x": 2}]}}, [1, {"x": 2}]),
        (".cpu[1].x", {"value": {"cpu": [1, {"x": 2}]}}, 2),
        (".value.cpu[0]", {"value": {"cpu": [1, {"x": 2}]}}, 1),
        (".value[1]", {"value": ["a", "b"]}, "b"),
        (".0", {"value": ["a", "b"]}, "a"),
        (".values", {"value": {"values": 3}}, 3),
        (".value", {"value": {"value": 3}}, {"value": 3}),
        (".value.value", {"value": {"value": 3}}, 3),
        ("", {"value": None}, None),
        # Blocks of any other type.
        ("", {"user": "u", "value": 1}, {"user": "u", "value": 1}),
        (".value", {"user": "u", "value": 1}, 1),
        (".user", {"user": "u", "value": 1}, "u"),
        (".nothing", {"nothing": None, "value": 1}, None),
        ("", {}, {}),
    ],
)
def test_value_of_a_block_is_where_the_path_leads(path: str, data: dict[str, Any], expected: Any) -> None:
    assert block_value(only_reference(f"prefect.blocks.json.limits{path}"), data) == expected


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("cpu", {"value": "text"}),
        ("cpu", {"value": {"memory": 1}}),
        ("values", {"value": 1}),
        ("value[0]", {"value": []}),
        ("", {"value": {"cpu": 1}}),
        ("a.b", {"a": None, "c": 1}),
        ("x", {}),
    ],
)
def test_path_that_leads_nowhere_in_a_block_is_refused_by_field(path: str, data: dict[str, Any]) -> None:
    placeholder = f"prefect.blocks.json.limits.{path}"
    with pytest.raises(JobTemplateError) as caught:
        block_value(only_reference(placeholder), data)
    assert caught.value.field == "job_configuration.field"
    assert caught.value.problem == (
        f"holds the placeholder {{{{ {placeholder} }}}}, but the block 'limits' of type 'json' has nothing "
        f"at {path!r}: correct the path, or add the value to the block"
    )


def test_block_known_by_its_id_gives_all_its_data() -> None:
    base = template({"field": {"$ref": {"block_document_id": "7"}}})
    (reference,) = find_references(base, {}, environment={})
    assert block_value(reference, {"value": "s3cret"}) == {"value": "s3cret"}


def test_block_whose_data_are_no_mapping_is_refused_by_field() -> None:
    data: Any = ["s3cret"]
    with pytest.raises(JobTemplateError) as caught:
        block_value(only_reference("prefect.blocks.secret.token"), data)
    assert caught.value.field == "job_configuration.field"
    assert caught.value.problem == (
        "refers to the block 'token' of type 'secret', whose data must be a mapping, not a list"
    )


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


@pytest.mark.parametrize("argument", ["environment", "references"])
def test_environment_or_references_that_are_no_mapping_are_refused(argument: str) -> None:
    arguments: dict[str, Any] = {"environment": {}, argument: ["A=1"]}
    with pytest.raises(JobTemplateError, match=f"{argument} must be a mapping, not a list"):
        render(template({}), {}, **arguments)


def test_environment_variable_that_is_no_string_is_refused_where_it_is_used() -> None:
    environment: Any = {"PORT": 80}
    assert render(template({}), {}, environment=environment) == {}
    with pytest.raises(JobTemplateError, match=r"environment\.PORT must be a string, not a number"):
        render(template({"port": "{{ $PORT }}"}), {}, environment=environment)


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
