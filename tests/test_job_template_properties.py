"""Job configurations: what always holds, and Prefect itself as the judge of what they should be.

Prefect runs in a process of its own, which is asked about one case after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import attrs
import pytest
import trio
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from trioworker.api.errors import ObjectNotFoundError
from trioworker.api.models import Deployment, Flow, FlowRun, WorkPool
from trioworker.job.attribution import job_labels, render_name
from trioworker.job.configuration import resolve_job_configuration
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

# A machine that is busy with other tests is slow, but not wrong.
patient = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

Json = dict[str, Any]


def template(configuration: Any, defaults: Mapping[str, Any] = MappingProxyType({})) -> Json:
    """A base job template whose variables have these defaults."""
    properties = {name: {"title": name, "default": value} for name, value in defaults.items()}
    return {"job_configuration": configuration, "variables": {"type": "object", "properties": properties}}


@attrs.frozen
class Refused:
    message: str


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call returned, or `Refused` for the one error that it may raise."""
    try:
        return call(*arguments, **options)
    except JobTemplateError as error:
        return Refused(str(error))


# ---------------------------------------------------------------------------------------------------------
# Whatever is given

keys = st.sampled_from(
    ["env", "name", "labels", "command", "a", "b", "$ref", "block_document_id", "default", "value"]
)
paths = st.lists(
    st.sampled_from(["env", "a", "b", "0", "-1", "", "$A", "[0]", "prefect.blocks", "prefect.variables"]),
    min_size=1, max_size=4,
).map(".".join)  # fmt: skip
placeholders = st.builds("{{{{{1}{0}{1}}}}}".format, paths, st.sampled_from(["", " "]))
any_text = st.text(st.characters(), max_size=5)
texts = st.lists(placeholders | any_text, max_size=3).map("".join)
json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
other_scalars = (
    st.binary(max_size=3)
    | st.complex_numbers()
    | st.sampled_from([Decimal(1), datetime(2024, 1, 1, tzinfo=UTC), UUID(int=1), Ellipsis, object])
)


def json_values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(children, max_size=3) | st.dictionaries(keys | any_text, children, max_size=4)

    return st.recursive(leaves, extend, max_leaves=12)


def python_values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        mappings = st.dictionaries(keys | st.none() | st.integers(), children, max_size=4)
        return (
            st.lists(children, max_size=3)
            | st.lists(children, max_size=3).map(tuple)
            | mappings
            | mappings.map(MappingProxyType)
            | st.frozensets(st.integers(), max_size=2)
        )

    return st.recursive(leaves, extend, max_leaves=8)


anything = json_values(json_scalars) | python_values(json_scalars | other_scalars)
mappings = st.dictionaries(keys, anything, max_size=5)
schemas = st.fixed_dictionaries(
    {"properties": st.dictionaries(keys, st.fixed_dictionaries({"default": anything}), max_size=5)}
)
templates = st.fixed_dictionaries({"job_configuration": mappings, "variables": schemas})
variables = st.dictionaries(keys | paths, anything, max_size=5)
references = st.dictionaries(paths, anything, max_size=3)
environments = st.dictionaries(st.sampled_from(["A", "B", ""]), any_text | anything, max_size=2)
sources = (
    st.builds(Block, any_text, any_text) | st.builds(BlockById, any_text) | st.builds(Variable, any_text)
)


@settings(patient, max_examples=200)
@given(templates | anything, variables | anything, environments | anything, references | anything)
def test_nothing_but_a_job_template_error_is_ever_raised(
    base: Any, job_variables: Any, environment: Any, values: Any
) -> None:
    arguments = {"environment": environment, "references": values}
    result = outcome(render, base, job_variables, **arguments)
    missing = outcome(find_references, base, job_variables, **arguments)
    if not isinstance(result, Refused):
        assert isinstance(result.get("env", {}), dict)
        assert missing == ()


@patient
@given(variables | anything, variables | anything)
def test_merging_returns_all_names_or_raises_a_job_template_error(deployment: Any, flow_run: Any) -> None:
    merged = outcome(merge_job_variables, deployment, flow_run)
    if not isinstance(merged, Refused):
        assert set(merged) == {*(deployment or {}), *(flow_run or {})}


@patient
@given(sources, st.none() | paths, anything)
def test_value_of_a_block_is_in_its_data_or_a_job_template_error_is_raised(
    source: Any, path: str | None, data: Any
) -> None:
    reference = Reference("prefect.blocks.a.b", source, "job_configuration.a", path)
    before = repr(data)
    value = outcome(block_value, reference, data)
    assert repr(data) == before
    if path is None and not isinstance(value, Refused):
        assert value is data or value is data["value"]


@patient
@given(anything, anything, texts)
def test_wrong_labels_and_names_raise_nothing_but_a_job_template_error(
    own: Any, name: Any, another: str
) -> None:
    assert outcome(labels_of, {"labels": own})
    for text in (name, another):
        rendered = outcome(render_name, text, {}, {}, "run", environment={})
        assert isinstance(rendered, Refused) or (isinstance(rendered, str) and rendered)


@patient
@given(templates, variables, variables, references, environments)
def test_no_argument_is_ever_changed_and_equal_ones_give_equal_results(
    base: Any, deployment: Any, flow_run: Any, values: Any, environment: Any
) -> None:
    given_values = (base, deployment, flow_run, values, environment)
    before = repr(given_values)

    def run() -> tuple[Any, Any]:
        merged = merge_job_variables(deployment, flow_run)
        found = find_references(base, merged, environment=environment, references=values)
        return found, render(base, merged, environment=environment, references=values)

    first = outcome(run)
    assert repr(given_values) == before
    assert repr(outcome(run)) == repr(first)


# ---------------------------------------------------------------------------------------------------------
# The rules

PLAIN_NAMES = ["a", "b", "c"]


def has_no_placeholder(text: str) -> bool:
    return "{{" not in text or "}}" not in text


plain_text = st.text("{}$. \nab", max_size=6).filter(has_no_placeholder) | any_text.filter(has_no_placeholder)
plain_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | plain_text


def plain_values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON without placeholders and without references to block documents."""

    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        names = any_text.filter(lambda name: name not in {"$ref", "env"})
        return st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3)

    return st.recursive(leaves, extend, max_leaves=8)


plain = plain_values(plain_scalars)
plain_mappings = st.dictionaries(st.sampled_from(PLAIN_NAMES), plain, max_size=3)
env = st.dictionaries(st.sampled_from(["A", "B", "C", "D"]), st.none() | plain_text, max_size=4)


@patient
@given(plain_mappings, plain_mappings)
def test_template_without_placeholders_renders_to_itself(configuration: Json, job_variables: Json) -> None:
    assert render(template(configuration), job_variables, environment={}) == configuration


@patient
@given(plain, st.booleans(), st.sampled_from(["{{it}}", "{{ it }}", "{{\tit\n}}"]))
def test_whole_value_placeholder_keeps_type_and_value(value: Any, by_default: bool, text: str) -> None:
    assume(not (by_default and value is None))
    base = template({"field": [text]}, {"it": value} if by_default else {})
    result = render(base, {} if by_default else {"it": value}, environment={})
    assert as_json(result) == as_json({"field": [value]})


GONE = "{{ nowhere }}"


def without(value: Any, gone: str) -> Any:
    if isinstance(value, dict):
        return {key: without(item, gone) for key, item in value.items() if item != gone}
    return [without(item, gone) for item in value if item != gone] if isinstance(value, list) else value


@patient
@given(
    st.dictionaries(st.sampled_from(PLAIN_NAMES), plain_values(plain_scalars | st.just(GONE)), max_size=3),
    plain_mappings,
)
def test_placeholder_without_value_drops_its_entry_and_nothing_else(
    configuration: Json, job_variables: Json
) -> None:
    result = render(template(configuration), job_variables, environment={})
    assert result == without(configuration, GONE)


@patient
@given(plain_text, plain_text, plain_scalars)
def test_placeholder_inside_a_text_becomes_the_text_of_its_value(before: str, after: str, value: Any) -> None:
    text = f"{before}{{{{ it }}}}{after}"
    # What stands around it must not make another placeholder of it, nor nothing at all.
    assume(before or after)
    assume("{" not in before)
    assert render(template({"a": text}), {"it": value}, environment={}) == {"a": f"{before}{value}{after}"}


@patient
@given(env, env, env, env, st.dictionaries(st.sampled_from(["env.A", "env.D"]), plain_text))
def test_env_is_merged_from_template_default_deployment_and_flow_run_in_this_order(
    own: Json, default: Json, deployment: Json, flow_run: Json, dotted: Json
) -> None:
    by_path = {key.removeprefix("env."): value for key, value in dotted.items()}
    job = by_path | deployment | flow_run
    merged = merge_job_variables({"env": deployment} | dotted, {"env": flow_run})
    defaults = {"env": default}
    assert render(template({"env": own}, defaults), merged, environment={})["env"] == own | default | job
    by_placeholder = render(template({"env": "{{ env }}"}, defaults), merged, environment={})["env"]
    assert by_placeholder == default | job


@patient
@given(
    templates,
    variables,
    st.dictionaries(paths, anything).map(lambda values: {f"prefect.{k}": v for k, v in values.items()}),
)
def test_two_rounds_find_all_references(base: Any, job_variables: Any, values: Json) -> None:
    known: Json = {}

    def find() -> tuple[Reference, ...]:
        return find_references(base, job_variables, environment={}, references=known)

    for _ in range(2):
        found = outcome(find)
        if isinstance(found, Refused):
            return
        for reference in found:
            known[reference.name] = values.get(reference.name, f"{{{{ {reference.name} }}}}")
    assert outcome(find) == ()


# ---------------------------------------------------------------------------------------------------------
# Prefect as the judge

ENVIRONMENT = {"TRIOWORKER_SEEN": "seen"}
DOCUMENT = "3fd2bd5e-5b5f-4d7c-9f0c-1d6bb1b0a001"

# Prefect's own functions, up to the arguments of the configuration class. Of its validation only that of `env` is
# run, and what it makes of the arguments is not compared: that is the affair of each infrastructure.
ASK_PREFECT = """
import asyncio, copy, json, sys
from types import SimpleNamespace
from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.workers.base import BaseJobConfiguration


class Unvalidated:
    _get_base_config_defaults = BaseJobConfiguration._get_base_config_defaults

    def __init__(self, **fields):
        self.fields = copy.deepcopy(fields)
        BaseJobConfiguration(env=fields.get("env", {}))

    def prepare_for_flow_run(self, **kwargs):
        pass

    @classmethod
    async def from_template_and_values(cls, **kwargs):
        return await BaseJobConfiguration.from_template_and_values.__func__(cls, **kwargs)


class Api:
    def __init__(self, values):
        self.values = values

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        pass

    async def read_flow(self, flow_id):
        pass

    async def read_variable_by_name(self, name):
        return SimpleNamespace(value=self.values[name]) if name in self.values else None

    async def read_block_document_by_name(self, name, block_type_slug):
        return await self.read_block_document(block_type_slug + "/" + name)

    async def read_block_document(self, key):
        if key not in self.values:
            raise ObjectNotFound(Exception(key))
        return SimpleNamespace(data=self.values[key])


async def configuration(case):
    built = await BaseJobConfiguration.resolve_for_flow_run.__func__(
        Unvalidated,
        flow_run=SimpleNamespace(job_variables=case["flow_run"], deployment_id=None, flow_id=None),
        client=Api(case["values"]),
        work_pool=SimpleNamespace(base_job_template=case["base_job_template"]),
        worker_name="judge",
        deployment=SimpleNamespace(job_variables=case["deployment"]),
    )
    return built.fields


async def attribution(case):
    built = BaseJobConfiguration(**case["configuration"])
    flow, flow_run = Flow.model_validate(case["flow"]), FlowRun.model_validate(case["flow_run"])
    built.prepare_for_flow_run(
        flow_run=flow_run,
        deployment=case["deployment"] and DeploymentResponse.model_validate(case["deployment"]),
        flow=flow,
        work_pool=WorkPool.model_validate(case["work_pool"]),
        worker_name=case["worker_name"],
    )
    seen = {"flow": flow.model_dump(mode="json"), "flow_run": flow_run.model_dump(mode="json")}
    return {"name": str(built.name), "labels": built.labels, "seen": seen}


async def main():
    print("ready", flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        try:
            answer = {"built": await globals()[case["question"]](case)}
        except Exception as error:
            answer = {"refused": repr(error)}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
"""


@attrs.frozen
class Judge:
    process: subprocess.Popen[str]

    def ask(self, question: str, **case: Any) -> Json:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"question": question, **case}) + "\n")
        self.process.stdin.flush()
        answer: Json = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    environment = {**os.environ, **ENVIRONMENT, "PREFECT_HOME": str(tmp_path_factory.mktemp("judge"))}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", ASK_PREFECT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Judge(process)
        # Leaving closes what it reads from, which is its end.


@attrs.frozen
class Values:
    """What both sides find in the API: blocks by type and name or by id, and variables."""

    values: Mapping[str, Any]

    async def block(self, type_slug: str, name: str, /) -> Mapping[str, Any]:
        return self._read(f"{type_slug}/{name}")  # type: ignore[no-any-return]

    async def block_by_id(self, document_id: str, /) -> Mapping[str, Any]:
        return self._read(document_id)  # type: ignore[no-any-return]

    async def variable(self, name: str, /) -> Any:
        return self._read(name)

    def _read(self, key: str) -> Any:
        if key not in self.values:
            raise ObjectNotFoundError(f"GET /{key}", 404, "not found")
        return self.values[key]


def as_json(value: Any) -> str:
    """As text, because 1, 1.0 and True are equal."""
    return json.dumps(value, sort_keys=True)


def our_configuration(base: Any, deployment: Any, flow_run: Any, values: Json) -> Json:
    async def resolve() -> Json:
        merged = merge_job_variables(deployment, flow_run)
        return await resolve_job_configuration(Values(values), base, merged, environment=ENVIRONMENT)

    try:
        return {"built": trio.run(resolve)}
    except JobTemplateError as error:
        return {"refused": str(error)}


def assert_judged_alike(judge: Judge, base: Any, deployment: Any, flow_run: Any, values: Json) -> Json:
    """Both sides refuse, or build the same; returns what we did."""
    theirs = judge.ask(
        "configuration", base_job_template=base, deployment=deployment, flow_run=flow_run, values=values
    )
    ours = our_configuration(base, deployment, flow_run, values)
    assert set(ours) == set(theirs), (ours, theirs)
    if "built" in ours:
        assert as_json(ours) == as_json(theirs)
    return ours


@attrs.frozen
class Case:
    """What both sides get. `refused` is true where both must refuse."""

    title: str
    base_job_template: Any
    deployment: Any = attrs.field(factory=dict)
    flow_run: Any = attrs.field(factory=dict)
    refused: bool = False


REF = {"$ref": {"block_document_id": DOCUMENT}}
VALUES: Json = {
    "region": "eu",
    "limits": {"cpu": 2},
    "null": None,
    DOCUMENT: {"value": "s3cret"},
    "secret/token": {"value": "s3cret"},
    "json/where": {"value": {"zone": "{{ prefect.variables.region }}"}},
    "json/list": {"value": ["a", {"x": 1}]},
    "json/values": {"value": {"values": 3}},
    "json/null": {"value": None},
    "aws/keys": {"user": "u", "value": "v"},
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
    Case("block document by id", template({"a": REF, "b": "{{ b }}"}), {"b": [REF]}),
    Case("paths into blocks", template({"list": [f"{{{{ prefect.blocks.{path} }}}}" for path in (
             "secret.token", "secret.token.value", "json.where.zone", "json.where.value.zone", "json.where",
             "json.list.0", "json.list.value[1].x", "json.list.1.x", "aws.keys", "aws.keys.value", "aws.keys.user",
             "json.values.values", "json.null")]})),
    Case("null and missing variables", template({
        "a": "{{ prefect.variables.null }}", "b": "<{{ prefect.variables.null }}>",
        "c": "{{ prefect.variables.absent }}", "d": "<{{ prefect.variables.absent }}>",
        "e": "{{ prefect.variables. }}", "f": "{{ prefect.variables.region.x }}",
    })),
    Case("null of a block in a text", template({"a": "<{{ prefect.blocks.json.null }}>"})),
    Case("manifest with defaults", template(MANIFEST,
         {"image": "i", "tag": 3, "args": ["x", "y"], "labels": {"a": "b"}})),
    Case("manifest with nothing", template(MANIFEST)),
    Case("manifest with all", template(MANIFEST, {"env": {"BOTH": "default", "D": "{{ image }}"}, "tag": "t"}),
         {"image": "j", "env": {"E": "{{ tag }}", "F": "{{ $TRIOWORKER_SEEN }}"}, "toleration": {"key": 1}},
         {"args": ["only"], "env": {"BOTH": "run", "G": None}}),
    Case("env default into env placeholder", template({"env": "{{ env }}"}, {"env": {"A": "1"}}), {"env.B": "2"}),
    Case("env default into no env", template({"x": 1}, {"env": {"A": "1"}}), {"env": {"B": "2"}}),
    Case("env of the job into no env", template({"x": 1}), {"env": {"B": "2"}}),
    Case("env default over another placeholder", template({"env": "{{ x }}"}, {"env": {"A": "1"}}), {"x": {}}),
    Case("empty env default", template({"env": "{{ env }}"}, {"env": {}})),
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
         template({"m": "{{ m }}", "k": "{{ k[0] }}", "n": "{{ n }}"}, {"m": {"z": 0}}),
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
    Case("no such block", PROCESS, {"command": "{{ prefect.blocks.secret.none }}"}, refused=True),
    Case("no such block document", template({"a": {"$ref": {"block_document_id": "7"}}}), refused=True),
    Case("index right after a name", PROCESS, {"command": "{{ prefect.blocks.json.list[0] }}"}, refused=True),
    Case("no such path", PROCESS, {"command": "{{ prefect.blocks.json.where.x }}"}, refused=True),
    Case("path that begins as value does", PROCESS, {"command": "{{ prefect.blocks.json.where.values }}"},
         refused=True),
    Case("path that ends in a dot", PROCESS, {"command": "{{ prefect.blocks.json.where. }}"}, refused=True),
    Case("half a block name", PROCESS, {"command": "{{ prefect.blocks.secret }}"}, refused=True),
    Case("mapping of a block in a text", PROCESS,
         {"command": "x {{ prefect.blocks.json.where }}"}, refused=True),
)  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_result_equals_that_of_prefect(judge: Judge, case: Case) -> None:
    ours = assert_judged_alike(judge, case.base_job_template, case.deployment, case.flow_run, VALUES)
    assert ("refused" in ours) == case.refused


# Prefect replaces one placeholder of a text after the other, in no certain order, and finds those of a value that it
# has just put in. So what may stand beside others in a text gets values without braces; `loaded`, `env` and blocks
# may have values with placeholders, and none but themselves to stand beside, or none of their kind.
def without_braces(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(children, max_size=2) | st.dictionaries(
            st.sampled_from(["a", "k", "0", "value"]), children, max_size=2
        )

    return st.recursive(leaves, extend, max_leaves=4)


words = st.text("ab .$[]\né", max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
harmless = without_braces(scalars)
spaced = st.sampled_from(["{{{{{}}}}}", "{{{{ {} }}}}", "{{{{\t{}\n}}}}"])


def naming(*names: str) -> st.SearchStrategy[str]:
    return st.builds(lambda form, name: form.format(name), spaced, st.sampled_from(names))


harmless_placeholders = naming(
    "a", "b", "c", "a.k", "a[0]", "a[-1].k", "m", "m.a", "m.a.b", "m.0", "l[0]", "l.k", "k[0]", "none", "a.", ".a",
    "$TRIOWORKER_SEEN", "$$TRIOWORKER_SEEN", "$TRIOWORKER_UNSEEN", "$",
)  # fmt: skip
reference_placeholders = naming(
    "prefect.variables.region", "prefect.variables.limits", "prefect.variables.absent",
    "prefect.blocks.secret.token", "prefect.blocks.secret.token.value", "prefect.blocks.json.where",
    "prefect.blocks.json.where.k", "prefect.blocks.json.where.value[0].k", "prefect.blocks.json.where[0]",
    "prefect.blocks.aws.keys", "prefect.blocks.aws.keys.value", "prefect.blocks.aws.keys.user",
)  # fmt: skip
loaded_placeholders = naming("loaded")
odd_texts = st.sampled_from(["{ a }", "{{ a b }}", "{{}}", "{{{ a }}}", "{{ a }", "}}{{", "{{ a | upper }}"])


def joined(pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(pieces, min_size=2, max_size=4).map("".join)


template_texts = (
    words
    | odd_texts
    | harmless_placeholders
    | reference_placeholders
    | naming("loaded", "env", "env.A", "loaded.k")
    | joined(words | harmless_placeholders | reference_placeholders)
    # One name only, in one form only: another form would be another placeholder to Prefect.
    | joined(words | st.just("{{ loaded }}") | reference_placeholders)
)
template_scalars = template_texts | st.none() | st.booleans() | st.integers()
block_documents = st.just(REF)


def nested_templates() -> st.SearchStrategy[Any]:
    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(children, max_size=3) | st.dictionaries(
            st.sampled_from(["x", "y", "{{ a }}"]), children, max_size=3
        )

    return st.recursive(template_scalars | block_documents, extend, max_leaves=8)


template_envs = st.dictionaries(st.sampled_from(["A", "B", "C"]), template_scalars, max_size=3)
# Mostly such that there is something to compare.
maybe_envs: st.SearchStrategy[Any] = st.one_of(*[template_envs] * 8, st.sampled_from([None, [], "text"]))
plain_variables = {
    "a": harmless,
    "b": harmless,
    "m": harmless,
    "l": harmless,
    "loaded": nested_templates(),
    "env": maybe_envs,
}
judged_variables = st.fixed_dictionaries(
    {},
    optional={
        **plain_variables,
        "m.k": harmless,
        "m.a.b": harmless,
        "l[0]": harmless,
        "k[0]": scalars,
        "env.A": template_texts,
        "env.D": template_texts,
    },
)
judged_templates = st.builds(
    template,
    st.fixed_dictionaries(
        {"x": nested_templates(), "y": template_texts},
        optional={"z": nested_templates(), "env": maybe_envs | naming("env", "loaded", "none")},
    ),
    st.fixed_dictionaries({}, optional=plain_variables),
)
block_contents = without_braces(scalars | st.just("{{ prefect.variables.region }}"))
judged_values = st.fixed_dictionaries(
    {
        "secret/token": st.builds(lambda value: {"value": value}, scalars | block_contents),
        "aws/keys": st.fixed_dictionaries({"value": block_contents}, optional={"user": words}),
        DOCUMENT: st.dictionaries(st.sampled_from(["value", "x"]), block_contents),
    },
    optional={
        "region": harmless,
        "limits": harmless,
        "json/where": st.builds(lambda value: {"value": value}, block_contents),
    },
)


@pytest.mark.process
@settings(patient, max_examples=300)
@given(judged_templates, judged_variables, judged_variables, judged_values)
def test_any_result_equals_that_of_prefect(
    judge: Judge, base: Any, deployment: Any, flow_run: Any, values: Json
) -> None:
    # Prefect takes an empty list for an empty mapping where it lays the run's `env` over the deployment's.
    assume(flow_run.get("env") != [])
    assert_judged_alike(judge, base, deployment, flow_run, values)


FLOW = Flow(id=UUID(int=1), name="etl")
RUN = FlowRun(id=UUID(int=2), name="brave-owl", flow_id=FLOW.id)
POOL = WorkPool(id=UUID(int=4), name="pool", type="process")


def labels_of(configuration: Any, updated: datetime | None = None) -> dict[str, str]:
    return job_labels(
        configuration,
        flow_run=RUN,
        flow=FLOW,
        deployment=Deployment(id=UUID(int=3), name="nightly", flow_id=FLOW.id, updated=updated),
        work_pool=POOL,
        worker_name="worker",
        prefect_version="3.8.8",
    )


def judged_attribution(judge: Judge, configuration: Json, updated: str | None = None) -> Json:
    return judge.ask(
        "attribution",
        configuration=configuration,
        flow={"id": str(FLOW.id), "name": FLOW.name, "labels": {"team": "data", "n": 1}},
        flow_run={
            "id": str(RUN.id),
            "name": RUN.name,
            "flow_id": str(FLOW.id),
            "run_count": 3,
            "parameters": {"days": ["mon", "tue"], "none": None, "": 0},
        },
        deployment={"id": str(UUID(int=3)), "name": "nightly", "flow_id": str(FLOW.id), "updated": updated},
        work_pool={"id": str(POOL.id), "name": POOL.name, "type": POOL.type},
        worker_name="worker",
    )


@pytest.mark.process
@pytest.mark.parametrize(
    "updated", [None, "2024-05-01T12:00:00Z", "2024-05-01T12:00:00.000120Z", "2024-05-01T12:00:00+02:00"]
)
@pytest.mark.parametrize(
    "own",
    [{}, {"team": "data", "prefect.io/flow-name": "mine"}, {"": ""}, None, [], "x", {"n": 1}, {"n": None}],
)
def test_labels_equal_those_of_prefect(judge: Judge, own: Any, updated: str | None) -> None:
    theirs = judged_attribution(judge, {"labels": own}, updated)
    when = None if updated is None else datetime.fromisoformat(updated)
    ours = outcome(labels_of, {"labels": own}, when)
    assert ("refused" in theirs) == isinstance(ours, Refused)
    if "built" in theirs:
        assert ours == theirs["built"]["labels"]


names = (
    st.none()
    | words
    | odd_texts
    | st.integers()
    | joined(
        words
        | naming(
            "ctx.flow.name", "ctx.flow.labels.team", "ctx.flow.labels.n", "ctx.flow.created", "ctx.flow.none",
            "ctx.flow_run.name", "ctx.flow_run.run_count", "ctx.flow_run.deployment_id", "ctx.flow_run.tags",
            "ctx.flow_run.auto_scheduled", "ctx.flow_run.parameters.days[1]", "ctx.flow_run.none", "image",
            "ctx.flow_run.parameters.", "ctx.flow_run.empirical_policy.retries", "prefect.variables.region",
            "$TRIOWORKER_SEEN", "$TRIOWORKER_UNSEEN",
        )
    )
    | naming("ctx", "ctx.flow", "ctx.flow.none", "ctx.flow_run.parameters", "ctx.flow_run.tags", "ctx.flow_run.name")
)  # fmt: skip


@pytest.fixture(scope="module")
def seen(judge: Judge) -> Json:
    """Flow and flow run as Prefect shows them to the name."""
    shown: Json = judged_attribution(judge, {})["built"]["seen"]
    return shown


@pytest.mark.process
@patient
@given(names)
def test_name_equals_that_of_prefect(judge: Judge, seen: Json, name: Any) -> None:
    theirs = judged_attribution(judge, {"name": name})
    ours = outcome(render_name, name, seen["flow"], seen["flow_run"], RUN.name, environment=ENVIRONMENT)
    assert ("refused" in theirs) == isinstance(ours, Refused)
    if "built" in theirs:
        assert ours == theirs["built"]["name"]
