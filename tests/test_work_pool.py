"""Finding the work pool, making it, and keeping up with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from trioworker.api.errors import ObjectExistsError, ObjectNotFoundError
from trioworker.errors import WorkerRefusedError
from trioworker.notices import Notice
from trioworker.testing import FakePrefectAPI
from trioworker.work_pool import Discovery, WorkPoolKeeper, discover, notice_of_paused_queues

TEMPLATE: dict[str, Any] = {"job_configuration": {}, "variables": {"type": "object", "properties": {}}}
OTHER: dict[str, Any] = {
    "job_configuration": {"command": "other"},
    "variables": {"type": "object", "properties": {}},
}


async def discovered(api: FakePrefectAPI, *, worker_type: str | None = None) -> Discovery:
    return await discover(api, "pool", worker_type)


def messages(discovery: Discovery) -> list[str]:
    return [notice.message for notice in discovery.notices]


# discover


async def test_type_is_that_of_the_pool() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", pool_type="trio")
    discovery = await discovered(api)
    assert discovery.worker_type == "trio"
    assert messages(discovery) == ["Discovered type 'trio' for work pool 'pool'."]


async def test_type_that_was_given_is_kept() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", pool_type="trio")
    assert await discovered(api, worker_type="process") == Discovery(
        worker_type="process", pool=await api.read_work_pool("pool"), notices=[]
    )


async def test_pool_that_does_not_exist_gets_a_process_worker() -> None:
    discovery = await discovered(FakePrefectAPI())
    assert discovery.worker_type == "process"
    (notice,) = discovery.notices
    assert notice.warning
    assert "does not exist and no worker type was provided" in notice.message


async def test_type_for_a_pool_that_does_not_exist_is_taken_as_given() -> None:
    assert await discovered(FakePrefectAPI(), worker_type="trio") == Discovery(worker_type="trio")


async def test_paused_pool_is_announced() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", is_paused=True)
    notice = (await discovered(api)).notices[0]
    assert notice.warning
    assert notice.message.startswith("The work pool 'pool' is currently paused.")


@pytest.mark.parametrize(
    ("queues", "beginning"),
    [((), "All work queues in the work pool 'pool'"), (("default",), "Specified work queue(s)")],
)
async def test_paused_queues_are_announced(queues: Sequence[str], beginning: str) -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool")
    api.pause_work_queue("pool", "default")
    notice = await notice_of_paused_queues(api, "pool", queues)
    assert notice is not None
    assert notice.warning
    assert notice.message.startswith(beginning)


async def test_nothing_is_said_when_only_some_queues_are_paused() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool")
    api.add_work_queue("pool", "other", is_paused=True)
    assert await notice_of_paused_queues(api, "pool", ()) is None


@pytest.mark.parametrize("pool_type", ["modal:push", "prefect:managed"])
@pytest.mark.parametrize("worker_type", [None, "process"])
async def test_pool_that_needs_no_worker_is_refused(pool_type: str, worker_type: str | None) -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", pool_type=pool_type)
    with pytest.raises(WorkerRefusedError, match="Workers are not required"):
        await discovered(api, worker_type=worker_type)


async def test_agent_pool_is_refused() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", pool_type="prefect-agent")
    with pytest.raises(WorkerRefusedError, match="no longer has"):
        await discovered(api)


async def test_agent_type_for_a_pool_that_does_not_exist_is_refused() -> None:
    with pytest.raises(WorkerRefusedError, match="no longer has"):
        await discovered(FakePrefectAPI(), worker_type="prefect-agent")


# WorkPoolKeeper


class Kept:
    """A keeper, and what it has said."""

    def __init__(
        self, api: FakePrefectAPI, *, create: bool = True, base_job_template: dict[str, Any] | None = None
    ) -> None:
        self.notices: list[Notice] = []
        self.keeper = WorkPoolKeeper(
            api,
            "pool",
            worker_type="process",
            base_job_template=base_job_template,
            default_base_job_template=TEMPLATE,
            create=create,
            notify=self.notices.append,
        )

    @property
    def messages(self) -> list[str]:
        return [notice.message for notice in self.notices]

    def known(self) -> str | None:
        """The name of the pool, if it is known."""
        return None if self.keeper.pool is None else self.keeper.pool.name


async def test_pool_is_known_once_it_was_read() -> None:
    api = FakePrefectAPI()
    pool = api.add_work_pool("pool", base_job_template=OTHER)
    kept = Kept(api)
    assert kept.known() is None
    assert await kept.keeper.sync() == pool
    assert kept.known() == "pool"
    assert kept.notices == []


async def test_missing_pool_is_created_with_the_default_template() -> None:
    api = FakePrefectAPI()
    kept = Kept(api)
    await kept.keeper.sync()
    assert api.work_pool("pool").type == "process"
    assert api.work_pool("pool").base_job_template == TEMPLATE
    assert kept.notices == [Notice("Work pool 'pool' created.")]


async def test_missing_pool_is_created_with_the_template_that_was_given() -> None:
    api = FakePrefectAPI()
    await Kept(api, base_job_template=OTHER).keeper.sync()
    assert api.work_pool("pool").base_job_template == OTHER


async def test_pool_that_somebody_else_creates_meanwhile_is_read() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", base_job_template=OTHER)
    api.fail("read_work_pool", ObjectNotFoundError("GET /work_pools/pool", 404, "not found"))
    kept = Kept(api)
    pool = await kept.keeper.sync()
    assert pool is not None
    assert pool.base_job_template == OTHER
    assert kept.notices == []
    assert api.count("create_work_pool") == 1


async def test_other_troubles_of_creation_are_handed_on() -> None:
    api = FakePrefectAPI()
    exists = ObjectExistsError("POST /work_pools/", 409, "exists")
    api.fail("create_work_pool", exists)
    with pytest.raises(ObjectNotFoundError):
        await Kept(api).keeper.sync()


async def test_missing_pool_that_may_not_be_created_is_missed_once_aloud() -> None:
    api = FakePrefectAPI()
    kept = Kept(api, create=False)
    for _ in range(3):
        assert await kept.keeper.sync() is None
    assert kept.messages == [
        "Work pool 'pool' not found! Waiting for it, since this worker may not create it."
    ]
    assert kept.notices[0].warning


async def test_pool_that_is_gone_is_known_no_more_and_missed_anew() -> None:
    api = FakePrefectAPI()
    kept = Kept(api, create=False)
    await kept.keeper.sync()
    api.add_work_pool("pool")
    await kept.keeper.sync()
    assert kept.known() == "pool"
    api.delete_work_pool("pool")
    await kept.keeper.sync()
    assert kept.known() is None
    assert len(kept.messages) == 2


async def test_pool_without_template_gets_the_default_one() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool")
    kept = Kept(api, base_job_template=OTHER)
    pool = await kept.keeper.sync()
    assert pool is not None
    assert pool.base_job_template == TEMPLATE
    assert api.work_pool("pool").base_job_template == TEMPLATE


async def test_template_of_a_pool_is_not_touched() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", base_job_template=OTHER)
    await Kept(api, base_job_template=TEMPLATE).keeper.sync()
    assert api.count("update_work_pool_template") == 0


async def test_pool_of_another_type_is_complained_of_once() -> None:
    api = FakePrefectAPI()
    api.add_work_pool("pool", pool_type="docker", base_job_template=OTHER)
    kept = Kept(api)
    for _ in range(3):
        assert await kept.keeper.sync() is not None
    (notice,) = kept.notices
    assert notice.warning
    assert notice.message.startswith("Worker type mismatch! This worker is of type 'process'")
