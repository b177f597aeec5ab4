"""Render a job configuration with all that it refers to: blocks and variables are fetched over the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import trio

from trioworker.api.errors import APIError, ObjectNotFoundError
from trioworker.errors import sole_errors_bare
from trioworker.job.template import (
    Block,
    BlockById,
    JobTemplateError,
    Reference,
    Source,
    Variable,
    block_value,
    find_references,
    render,
)
from trioworker.lean_attrs import frozen

# The first finds all blocks, the second the variables that are named in them. Nothing is found in those.
_ROUNDS: Final = 2


class References(Protocol):
    """Fetches what a job configuration may refer to.

    Each method raises `ObjectNotFoundError` for what does not exist, and other errors of the API as they are.
    """

    async def block(self, type_slug: str, name: str, /) -> Mapping[str, Any]:
        """The data of a block document, secrets included."""
        ...

    async def block_by_id(self, document_id: str, /) -> Mapping[str, Any]:
        """The data of a block document, secrets included; the id may be any text."""
        ...

    async def variable(self, name: str, /) -> Any:
        """The value of a Prefect variable."""
        ...


async def resolve_job_configuration(
    requests: References,
    base_job_template: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """Build the job configuration of one flow run, as `trioworker.job.template.render` does.

    Each block document and each variable is fetched once, side by side with the others. A variable that does not
    exist is an empty text, as in Prefect.

    Args:
        requests: fetches them.
        base_job_template: the work pool's template.
        job_variables: what `merge_job_variables` returned.
        environment: where ``{{ $NAME }}`` is looked up.

    Raises:
        JobTemplateError: something is malformed, or refers to a block that does not exist.
        APIError: something could not be fetched; the first such error.
    """
    values: dict[str, Any] = {}
    for _ in range(_ROUNDS):
        missing = find_references(
            base_job_template, job_variables, environment=environment, references=values
        )
        if not missing:
            break
        answers = await _fetch(requests, {reference.source for reference in missing})
        values |= {reference.name: _value(reference, answers[reference.source]) for reference in missing}
    return render(base_job_template, job_variables, environment=environment, references=values)


@frozen
class _NotFound:
    error: ObjectNotFoundError


async def _fetch(requests: References, sources: set[Source]) -> dict[Source, Any]:
    """Fetch all at once; what does not exist is `_NotFound`, so that the blame does not go to who was quickest."""
    answers: dict[Source, Any] = {}
    failures: list[APIError] = []

    async def fetch(source: Source) -> None:
        try:
            answers[source] = await _ask(requests, source)
        except ObjectNotFoundError as error:
            answers[source] = _NotFound(error)
        except APIError as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    with sole_errors_bare():
        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(fetch, source)
    if failures:
        raise failures[0]
    return answers


async def _ask(requests: References, source: Source) -> Any:
    match source:
        case Block(type_slug, name):
            return await requests.block(type_slug, name)
        case BlockById(document_id):
            return await requests.block_by_id(document_id)
        case Variable(name):
            return await requests.variable(name)


def _value(reference: Reference, answer: Any) -> Any:
    """What an answer has for a reference."""
    is_variable = isinstance(reference.source, Variable)
    if not isinstance(answer, _NotFound):
        return answer if is_variable else block_value(reference, answer)
    if is_variable:
        return ""
    raise JobTemplateError(
        reference.field,
        f"refers to {reference.source}, which does not exist: "
        "create it, or correct the deployment or the work pool that refers to it",
    ) from answer.error
