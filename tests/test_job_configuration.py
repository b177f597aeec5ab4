"""Job configurations with blocks and variables: what is fetched, when, and who is told if it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trioworker.api.errors import APIError, APIUnavailableError, NotPermittedError, ObjectNotFoundError
from trioworker.job.configuration import resolve_job_configuration
from trioworker.job.template import JobTemplateError

DOCUMENT = "3fd2bd5e-5b5f-4d7c-9f0c-1d6bb1b0a001"


@attrs.define(eq=False)
class FakeReferences:
    """Blocks by type and name or by id, and variables; each answer takes a second, or as long as it says.

    An exception in place of a value is raised.
    """

    values: dict[str, Any] = attrs.field(factory=dict)
    seconds: dict[str, float] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)

    async def block(self, type_slug: str, name: str, /) -> Mapping[str, Any]:
        return await self._answer(f"{type_slug}/{name}")  # type: ignore[no-any-return]

    async def block_by_id(self, document_id: str, /) -> Mapping[str, Any]:
        return await self._answer(document_id)  # type: ignore[no-any-return]

    async def variable(self, name: str, /) -> Any:
        return await self._answer(name)

    async def _answer(self, key: str) -> Any:
        self.asked.append(key)
        await trio.sleep(self.seconds.get(key, 1))
        value = self.values.get(key, ObjectNotFoundError(f"GET /{key}", 404, "not found"))
        if isinstance(value, Exception):
            raise value
        return value


async def resolve(requests: FakeReferences, configuration: Any, **job_variables: Any) -> dict[str, Any]:
    template = {"job_configuration": configuration, "variables": {}}
    return await resolve_job_configuration(requests, template, job_variables, environment={"HOME": "/h"})


async def test_nothing_is_fetched_for_a_template_without_references(autojump_clock: MockClock) -> None:
    requests = FakeReferences()
    configuration = {"image": "{{ image }}", "home": "{{ $HOME }}"}
    assert await resolve(requests, configuration, image="i") == {"image": "i", "home": "/h"}
    assert requests.asked == []


async def test_blocks_and_variables_come_to_stand_where_they_are_named(autojump_clock: MockClock) -> None:
    requests = FakeReferences(
        {"secret/token": {"value": "s3cret"}, DOCUMENT: {"a": 1, "b": [2]}, "region": {"zone": "eu"}}
    )
    configuration = {
        "env": "{{ env }}",
        "header": "Bearer {{ prefect.blocks.secret.token }} for {{ user }}",
        "region": "{{ prefect.variables.region }}",
        "document": {"$ref": {"block_document_id": DOCUMENT}},
    }
    env = {"TOKEN": "{{ prefect.blocks.secret.token }}", "HOME": "{{ $HOME }}"}
    assert await resolve(requests, configuration, env=env, user="me") == {
        "env": {"TOKEN": "s3cret", "HOME": "{{ $HOME }}"},
        "header": "Bearer s3cret for me",
        "region": {"zone": "eu"},
        "document": {"a": 1, "b": [2]},
    }


async def test_each_block_and_variable_is_fetched_once_and_all_side_by_side(
    autojump_clock: MockClock,
) -> None:
    requests = FakeReferences(
        {"json/limits": {"value": {"cpu": 2, "gpu": [0]}}, "secret/limits": {"value": "x"},
         "limits": "v", DOCUMENT: {}}
    )  # fmt: skip
    configuration = {
        "whole": "{{ prefect.blocks.json.limits }}",
        "parts": ["{{ prefect.blocks.json.limits.cpu }}", "{{ prefect.blocks.json.limits.gpu[0] }}"],
        "text": "{{ prefect.blocks.json.limits.cpu }} {{prefect.blocks.json.limits.cpu}}",
        "secret": "{{ prefect.blocks.secret.limits }}",
        "variables": ["{{ prefect.variables.limits }}", "{{ prefect.variables.limits }}!"],
        "documents": [{"$ref": {"block_document_id": DOCUMENT}}] * 2,
    }
    started = trio.current_time()
    assert await resolve(requests, configuration) == {
        "whole": {"cpu": 2, "gpu": [0]},
        "parts": [2, 0],
        "text": "2 2",
        "secret": "x",
        "variables": ["v", "v!"],
        "documents": [{}, {}],
    }
    assert trio.current_time() - started == 1
    assert sorted(requests.asked) == sorted(["json/limits", "secret/limits", "limits", DOCUMENT])


async def test_variables_named_in_a_block_are_fetched_in_a_second_round_unless_known(
    autojump_clock: MockClock,
) -> None:
    requests = FakeReferences(
        {
            "json/where": {"value": ["{{ prefect.variables.region }}", "{{ prefect.variables.zone }}"]},
            "region": "{{ prefect.variables.never }}",
            "zone": "z",
        }
    )
    configuration = {"where": "{{ prefect.blocks.json.where }}", "region": "{{ prefect.variables.region }}"}
    started = trio.current_time()
    never = "{{ prefect.variables.never }}"
    assert await resolve(requests, configuration) == {"where": [never, "z"], "region": never}
    assert trio.current_time() - started == 2
    assert sorted(requests.asked) == ["json/where", "region", "zone"]


async def test_variable_that_does_not_exist_is_an_empty_text(autojump_clock: MockClock) -> None:
    configuration = {"whole": "{{ prefect.variables.none }}", "inside": "<{{ prefect.variables.none }}>"}
    assert await resolve(FakeReferences(), configuration) == {"whole": "", "inside": "<>"}


async def test_variable_whose_value_is_null_is_null(autojump_clock: MockClock) -> None:
    configuration = {"whole": "{{ prefect.variables.null }}"}
    assert await resolve(FakeReferences({"null": None}), configuration) == {"whole": None}


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("{{ prefect.blocks.secret.token }}", "the block 'token' of type 'secret'"),
        ("Bearer {{ prefect.blocks.json.keys.first }}", "the block 'keys' of type 'json'"),
        ({"$ref": {"block_document_id": DOCUMENT}}, f"the block document '{DOCUMENT}'"),
        ({"$ref": {"block_document_id": "no id"}}, "the block document 'no id'"),
    ],
)
async def test_block_that_does_not_exist_is_refused_by_field(
    autojump_clock: MockClock, reference: Any, what: str
) -> None:
    with pytest.raises(JobTemplateError) as caught:
        await resolve(FakeReferences(), {"env": "{{ env }}"}, env={"TOKEN": reference})
    assert str(caught.value) == (
        f"The job configuration cannot be built: job_configuration.env.TOKEN refers to {what}, which does not "
        "exist: create it, or correct the deployment or the work pool that refers to it."
    )


async def test_of_several_missing_blocks_the_first_in_the_configuration_is_named(
    autojump_clock: MockClock,
) -> None:
    requests = FakeReferences(seconds={"secret/slow": 5})
    configuration = {"a": "{{ prefect.blocks.secret.slow }}", "b": "{{ prefect.blocks.secret.quick }}"}
    with pytest.raises(JobTemplateError, match=r"job_configuration\.a refers to the block 'slow'"):
        await resolve(requests, configuration)


async def test_path_that_leads_nowhere_in_a_block_is_refused_by_field(autojump_clock: MockClock) -> None:
    requests = FakeReferences({"json/limits": {"value": {"cpu": 1}}})
    with pytest.raises(JobTemplateError, match=r"job_configuration\.a holds .* has nothing at 'memory'"):
        await resolve(requests, {"a": "{{ prefect.blocks.json.limits.memory }}"})


async def test_nothing_is_fetched_for_a_malformed_template(autojump_clock: MockClock) -> None:
    requests = FakeReferences()
    with pytest.raises(JobTemplateError, match="names no block"):
        await resolve(requests, {"a": "{{ prefect.variables.x }}", "b": "{{ prefect.blocks.secret }}"})
    assert requests.asked == []


@pytest.mark.parametrize(
    "error", [APIUnavailableError("no answer"), NotPermittedError("GET /x", 403, "not for you")]
)
async def test_other_errors_of_the_api_leave_bare_and_at_once(
    autojump_clock: MockClock, error: APIError
) -> None:
    requests = FakeReferences({"a": error, "b": error, "secret/c": error}, seconds={"slow": 60})
    configuration = {
        "list": ["{{ prefect.variables.slow }}", "{{ prefect.variables.a }}", "{{ prefect.variables.b }}"],
        "c": "{{ prefect.blocks.secret.c }}",
    }
    started = trio.current_time()
    with pytest.raises(type(error)) as caught:
        await resolve(requests, configuration)
    assert caught.value is error
    assert trio.current_time() - started == 1


async def test_bug_in_what_fetches_leaves_bare(autojump_clock: MockClock) -> None:
    requests = FakeReferences({"a": ZeroDivisionError("a bug")}, seconds={"slow": 60})
    configuration = {"a": "{{ prefect.variables.a }}", "b": "{{ prefect.variables.slow }}"}
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await resolve(requests, configuration)


async def test_fetching_is_ended_by_a_cancellation_from_outside(autojump_clock: MockClock) -> None:
    requests = FakeReferences(seconds={"slow": 60})
    started = trio.current_time()
    with trio.move_on_after(3) as scope:
        await resolve(requests, {"a": "{{ prefect.variables.slow }}", "b": "{{ prefect.variables.b }}"})
    assert scope.cancelled_caught
    assert trio.current_time() - started == 3
