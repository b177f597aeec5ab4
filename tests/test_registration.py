"""What Prefect Cloud is told of a worker, and answers."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing
from support import POOL, World

from trioworker.api.models import Integration, WorkerMetadata
from trioworker.events import WorkerIdentity
from trioworker.registration import Registration, installed_integrations

Clock = trio.testing.MockClock

WORKER = WorkerIdentity(name="worker", type="process")
CLOUD = {"PREFECT_CLOUD_API_URL": "http://fake", "PREFECT_UI_URL": "http://ui"}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_integrations_are_the_packages_that_announce_themselves_to_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = tmp_path / "prefect_stars-1.2.dist-info"
    distribution.mkdir()
    distribution.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: prefect-stars\nVersion: 1.2\n")
    distribution.joinpath("entry_points.txt").write_text("[prefect.collections]\nprefect_stars = stars\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_integrations() == WorkerMetadata(
        integrations=[Integration(name="prefect-stars", version="1.2")]
    )


def test_no_integrations_are_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_integrations() is None


def test_run_is_told_the_id_of_its_worker_once_there_is_one() -> None:
    registration = Registration(worker=WORKER, pool_name=POOL, on_cloud=True, ui_url="http://ui")
    assert registration.environment == {"PREFECT__WORKER_NAME": "worker"}
    assert registration.introduction is None
    worker_id = uuid4()
    registration.given(worker_id)
    assert not registration.wanted
    assert registration.environment == {
        "PREFECT__WORKER_NAME": "worker",
        "PREFECT__WORKER_ID": str(worker_id),
    }
    assert registration.introduction == (
        f"Running on worker id: {worker_id}. See worker logs here:"
        f" http://ui/work-pools/work-pool/{POOL}/worker/{worker_id}"
    )


def asked_for_id(world: World) -> list[bool]:
    """Of each heartbeat, whether it asked for the worker's id."""
    return [call.arguments["wants_id"] for call in world.api.calls if call.method == "send_worker_heartbeat"]


async def test_cloud_is_asked_for_an_id_until_it_gives_one(autojump_clock: Clock, world: World) -> None:
    async with world.working(CLOUD):
        await trio.sleep(100)
        assert len(asked_for_id(world)) > 1
        assert all(asked_for_id(world))
        world.api.worker_id = worker_id = uuid4()
        await trio.sleep(100)
        assert not asked_for_id(world)[-1]
        run = world.schedule()
        await world.api.wait_for_state(run.id, "Completed")
    environment = world.infrastructure.execution(run.id).assignment.environment
    assert environment["PREFECT__WORKER_ID"] == str(worker_id)
    assert any(line.startswith(f"Running on worker id: {worker_id}.") for line in world.log(run))


async def test_server_of_ones_own_is_not_asked_for_an_id(autojump_clock: Clock, world: World) -> None:
    async with world.working():
        await trio.sleep(100)
    assert asked_for_id(world)
    assert not any(asked_for_id(world))
