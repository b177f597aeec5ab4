"""What an event about a worker says."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slugify import slugify

from trioworker.api.converter import unstructure
from trioworker.api.models import Deployment, Flow, FlowRun, VersionInfo, WorkPool
from trioworker.events import (
    RunFacts,
    WorkerIdentity,
    flow_run_cancelled,
    flow_run_executed,
    flow_run_submitted,
    worker_started,
    worker_stopped,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKER = WorkerIdentity(name="My Worker", type="process", prefect_version="3.8.8")
POOL = WorkPool(id=uuid4(), name="pool", type="process")


FLOW = Flow(id=uuid4(), name="flow", tags=["c"])
DEPLOYMENT = Deployment(id=uuid4(), name="deployment", flow_id=FLOW.id, tags=["a", "b"])
RUN = FlowRun(id=uuid4(), name="run", flow_id=FLOW.id, deployment_id=DEPLOYMENT.id, tags=["b"])
FACTS = RunFacts(flow_run=RUN, flow=FLOW, deployment=DEPLOYMENT)


def related(kind: str, of: Flow | Deployment | FlowRun | WorkPool) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.{kind}.{of.id}",
        "prefect.resource.role": kind,
        "prefect.resource.name": of.name,
    }


def tag(name: str) -> dict[str, str]:
    return {"prefect.resource.id": f"prefect.tag.{name}", "prefect.resource.role": "tag"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ProcessWorker 5d1f", "processworker-5d1f"),
        ("Zürich & Genève", "zurich-geneve"),
        ("Größe", "grosse"),
        ("--a__b--", "a-b"),
        ("工人", "gong-ren"),
    ],
)
def test_resource_id_holds_the_name_as_prefect_would_write_it(name: str, expected: str) -> None:
    resource = WorkerIdentity(name=name, type="process").as_resource()
    assert resource["prefect.resource.id"] == f"prefect.worker.process.{expected}"


def test_worker_is_the_resource() -> None:
    assert worker_started(WORKER, POOL, NOW).resource == {
        "prefect.resource.id": "prefect.worker.process.my-worker",
        "prefect.resource.name": "My Worker",
        "prefect.worker-type": "process",
        "prefect.version": "3.8.8",
    }


def test_version_is_left_out_where_prefect_is_not_installed() -> None:
    identity = WorkerIdentity(name="worker", type="process")
    assert "prefect.version" not in identity.as_resource()


def test_pool_is_a_related_resource() -> None:
    assert worker_started(WORKER, POOL, NOW).related == [
        {
            "prefect.resource.id": f"prefect.work-pool.{POOL.id}",
            "prefect.resource.role": "work-pool",
            "prefect.resource.name": "pool",
        }
    ]


def test_pool_that_is_gone_is_left_out() -> None:
    assert worker_stopped(WORKER, None, NOW, follows=None).related == []


def test_stopped_follows_started() -> None:
    started = worker_started(WORKER, POOL, NOW)
    stopped = worker_stopped(WORKER, POOL, NOW, follows=started)
    assert (started.event, stopped.event) == ("prefect.worker.started", "prefect.worker.stopped")
    assert started.follows is None
    assert stopped.follows == started.id
    assert started.id != stopped.id


def test_event_is_sent_as_the_api_wants_it() -> None:
    sent = unstructure(worker_started(WORKER, POOL, NOW))
    assert sent["occurred"] == "2026-01-01T00:00:00+00:00"
    assert UUID(sent["id"])
    assert sent["payload"] == {}


@pytest.mark.parametrize(
    ("minutes", "linked"), [(4.9, True), (5, False), (-4.9, True), (-5, False), (600, False)]
)
def test_event_is_linked_to_one_of_the_last_five_minutes(minutes: float, linked: bool) -> None:
    started = worker_started(WORKER, POOL, NOW)
    stopped = worker_stopped(WORKER, POOL, NOW + timedelta(minutes=minutes), follows=started)
    assert stopped.follows == (started.id if linked else None)


def test_submitted_run_is_related_to_all_that_belongs_to_it() -> None:
    event = flow_run_submitted(WORKER, POOL, FACTS, NOW)
    assert event.event == "prefect.worker.submitted-flow-run"
    assert event.resource == WORKER.as_resource()
    assert event.related == [
        related("deployment", DEPLOYMENT),
        related("flow", FLOW),
        related("flow-run", RUN),
        tag("a"),
        tag("b"),
        tag("c"),
        related("work-pool", POOL),
    ]


def test_run_without_deployment_is_related_to_the_rest() -> None:
    event = flow_run_submitted(WORKER, None, RunFacts(flow_run=RUN, flow=FLOW, deployment=None), NOW)
    assert event.related == [related("flow", FLOW), related("flow-run", RUN), tag("b"), tag("c")]


def test_executed_run_tells_where_it_ran_and_how_that_ended() -> None:
    submitted = flow_run_submitted(WORKER, POOL, FACTS, NOW)
    event = flow_run_executed(WORKER, POOL, FACTS, NOW, identifier="4711", status_code=-9, follows=submitted)
    assert event.event == "prefect.worker.executed-flow-run"
    assert event.follows == submitted.id
    assert (
        related("flow-run", RUN)
        | {
            "prefect.infrastructure.identifier": "4711",
            "prefect.infrastructure.status-code": "-9",
        }
        in event.related
    )
    assert len(event.related) == len(submitted.related)


def test_cancelled_run_is_told_by_the_runner() -> None:
    event = flow_run_cancelled(WORKER, FACTS, NOW)
    assert event.event == "prefect.runner.cancelled-flow-run"
    assert event.resource == {
        "prefect.resource.id": "prefect.runner.standalone",
        "prefect.resource.name": "standalone",
        "prefect.version": "3.8.8",
    }
    assert event.related == [
        related("deployment", DEPLOYMENT),
        related("flow", FLOW),
        related("flow-run", RUN),
        tag("a"),
        tag("b"),
        tag("c"),
    ]


def test_deployment_on_prefect_cloud_is_shown_with_its_version() -> None:
    root, base, version = uuid4(), uuid4(), uuid4()
    deployment = Deployment(
        id=uuid4(),
        name="deployment",
        flow_id=FLOW.id,
        branch="main",
        base=base,
        root=root,
        version_id=version,
        version_info=VersionInfo(type="git", version="1.2"),
    )
    event = flow_run_cancelled(WORKER, RunFacts(flow_run=RUN, flow=FLOW, deployment=deployment), NOW)
    assert event.related[0] == related("deployment", deployment) | {
        "prefect.deployment.branch": "main",
        "prefect.deployment.base": f"prefect.deployment.{base}",
        "prefect.deployment.root": f"prefect.deployment.{root}",
        "prefect.deployment.version-id": str(version),
        "prefect.deployment.version-type": "git",
        "prefect.deployment.version": "1.2",
    }


@given(st.text(alphabet=st.sampled_from("aZ09 ._-'&;#,/é\u00df\u4e2d"), max_size=12))
def test_worker_is_known_by_the_slug_that_prefect_makes_of_its_name(name: str) -> None:
    resource = WorkerIdentity(name=name, type="process").as_resource()
    assert resource["prefect.resource.id"] == f"prefect.worker.process.{slugify(name)}"


@pytest.mark.process
def test_simple_name_needs_no_transliteration() -> None:
    program = """
import sys
from trioworker.events import WorkerIdentity
print(WorkerIdentity(name="My Worker", type="process").as_resource()["prefect.resource.id"])
print("slugify" in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["prefect.worker.process.my-worker", "False"]
