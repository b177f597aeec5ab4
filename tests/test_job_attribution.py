"""Name and labels of a run's infrastructure. `test_job_template_properties` has what Prefect says to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import attrs
import pytest

from trioworker.api.models import Deployment, Flow, FlowRun, WorkPool
from trioworker.job.attribution import job_labels, render_name
from trioworker.job.template import JobTemplateError

FLOW = Flow(id=UUID(int=1), name="etl")
RUN = FlowRun(id=UUID(int=2), name="brave-owl", flow_id=FLOW.id)
DEPLOYMENT = Deployment(
    id=UUID(int=3),
    name="nightly",
    flow_id=FLOW.id,
    updated=datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2))),
)
POOL = WorkPool(id=UUID(int=4), name="pool", type="process")

FLOW_DOCUMENT = {"name": "etl", "labels": {"team": "data"}}
RUN_DOCUMENT = {
    "name": "brave-owl",
    "run_count": 3,
    "auto_scheduled": False,
    "deployment_id": None,
    "parameters": {"days": ["mon", "tue"]},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "fallback"),
        ("", "fallback"),
        ("plain", "plain"),
        ("{{ ctx.flow_run.name }}", "brave-owl"),
        ("{{ ctx.flow.name }}-{{ ctx.flow_run.name }}!", "etl-brave-owl!"),
        ("{{ ctx.flow.labels.team }}", "data"),
        ("{{ ctx.flow_run.parameters.days[1] }}", "tue"),
        ("{{ ctx.flow_run.run_count }}", "3"),
        ("run {{ ctx.flow_run.deployment_id }}", "run None"),
        ("{{ $USER }}'s", "me's"),
        # What has no value goes, unless it is the whole name.
        ("x-{{ ctx.flow.nothing }}", "x-"),
        ("{{ image }}-x", "-x"),
        ("{{ ctx.flow.nothing }}", "{{ ctx.flow.nothing }}"),
        # Nothing is left of these.
        ("{{ ctx.flow.nothing }}{{ ctx.flow.nothing }}", "fallback"),
        ("{{ ctx.flow_run.deployment_id }}", "fallback"),
        ("{{ ctx.flow_run.auto_scheduled }}", "fallback"),
        ("{{ $UNSET }}", "fallback"),
        # References have had their turn.
        ("{{ prefect.variables.region }}", "{{ prefect.variables.region }}"),
    ],
)
def test_name_is_rendered_from_flow_and_flow_run(name: str | None, expected: str) -> None:
    rendered = render_name(name, FLOW_DOCUMENT, RUN_DOCUMENT, "fallback", environment={"USER": "me"})
    assert rendered == expected


@pytest.mark.parametrize(("name", "kind"), [(5, "a number"), (["a"], "a list"), (False, "a boolean")])
def test_name_that_is_no_string_is_refused_by_field(name: Any, kind: str) -> None:
    with pytest.raises(JobTemplateError) as caught:
        render_name(name, FLOW_DOCUMENT, RUN_DOCUMENT, "fallback", environment={})
    assert caught.value.field == "job_configuration.name"
    assert caught.value.problem == f"must be a string, not {kind}"


def labels(configuration: Any, deployment: Deployment | None = DEPLOYMENT) -> dict[str, str]:
    return job_labels(
        configuration,
        flow_run=RUN,
        flow=FLOW,
        deployment=deployment,
        work_pool=POOL,
        worker_name="worker",
        prefect_version="3.8.8",
    )


def test_labels_say_whose_the_infrastructure_is() -> None:
    assert labels({}) == {
        "prefect.io/flow-run-id": "00000000-0000-0000-0000-000000000002",
        "prefect.io/flow-run-name": "brave-owl",
        "prefect.io/version": "3.8.8",
        "prefect.io/work-pool-name": "pool",
        "prefect.io/work-pool-id": "00000000-0000-0000-0000-000000000004",
        "prefect.io/worker-name": "worker",
        "prefect.io/flow-id": "00000000-0000-0000-0000-000000000001",
        "prefect.io/flow-name": "etl",
        "prefect.io/deployment-id": "00000000-0000-0000-0000-000000000003",
        "prefect.io/deployment-name": "nightly",
        "prefect.io/deployment-updated": "2024-05-01T10:00:00+00:00",
    }


def test_run_without_deployment_has_no_labels_of_one() -> None:
    assert not [key for key in labels({}, deployment=None) if "deployment" in key]


def test_deployment_that_was_never_updated_has_no_label_for_that() -> None:
    never = attrs.evolve(DEPLOYMENT, updated=None)
    assert labels({}).keys() - labels({}, never).keys() == {"prefect.io/deployment-updated"}


def test_fractions_of_a_second_of_the_update_are_kept() -> None:
    precise = attrs.evolve(DEPLOYMENT, updated=datetime(2024, 5, 1, 12, 0, 0, 120, tzinfo=UTC))
    assert labels({}, precise)["prefect.io/deployment-updated"] == "2024-05-01T12:00:00.000120+00:00"


def test_own_labels_of_the_configuration_win() -> None:
    own = {"team": "data", "prefect.io/flow-name": "mine"}
    assert labels({"labels": own}) == labels({}) | own


@pytest.mark.parametrize(
    ("own", "field", "problem"),
    [
        (None, "job_configuration.labels", "must be a mapping, not null"),
        (["a=b"], "job_configuration.labels", "must be a mapping, not a list"),
        ({"a": "b", "n": 1}, "job_configuration.labels.n", "must be a string, not a number"),
        ({"n": None}, "job_configuration.labels.n", "must be a string, not null"),
    ],
)
def test_malformed_labels_are_refused_by_field(own: Any, field: str, problem: str) -> None:
    with pytest.raises(JobTemplateError) as caught:
        labels({"labels": own})
    assert (caught.value.field, caught.value.problem) == (field, problem)
