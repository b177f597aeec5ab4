"""Bringing functions to the server: what is there afterwards, and what nobody has touched."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import support
import trio
import trio.testing
from conftest import PrefectServer
from support import NO_JITTER

from trioworker import Cron, Interval, RRule, Settings, Surroundings, TrioFlows, WorkerConfig
from trioworker.api.client import PrefectAPI, open_client
from trioworker.api.condition import Condition
from trioworker.api.errors import (
    APIError,
    APINotFoundError,
    APIUnavailableError,
    NotAuthenticatedError,
    NotPermittedError,
    ObjectNotFoundError,
)
from trioworker.api.models import Deployment, DeploymentSchedule, WorkPool
from trioworker.api.transport import TransportConfig
from trioworker.errors import ConfigurationError, WorkerRefusedError
from trioworker.flows.deployment import FlowDeployment
from trioworker.flows.registration import DeploymentChange
from trioworker.testing import FakePrefectAPI

NIGHTLY = Cron("0 3 * * *", timezone="Europe/Berlin")
HOURLY = Interval(3600)
MONDAYS = RRule("FREQ=WEEKLY;BYDAY=MO")


@attrs.frozen
class Place:
    """Where is deployed.

    Attributes:
        api: its API.
        settings: by which it is found.
        surroundings: in which it is.
        pool: the name of a work pool that is not there yet.
        suffix: of the names of flows, so that they are nobody else's.
    """

    api: PrefectAPI
    settings: Settings
    surroundings: Surroundings
    pool: str = attrs.field(factory=lambda: f"pool-{uuid4()}")
    suffix: str = attrs.field(factory=lambda: str(uuid4()))

    def name(self, of: str) -> str:
        return f"{of}-{self.suffix}"

    async def deploy(self, app: TrioFlows, **options: Any) -> list[FlowDeployment]:
        world = {"pool": self.pool, "settings": self.settings, "surroundings": self.surroundings}
        return await app.deploy(**{**world, **options})

    async def there(self, deployment: FlowDeployment) -> Deployment:
        return await self.api.read_deployment(deployment.id)

    async def schedules(self, deployment: FlowDeployment) -> list[str]:
        """What its schedules say, in order."""
        return sorted(map(in_short, (await self.there(deployment)).schedules))

    async def has(self, flow_name: str) -> bool:
        try:
            await self.api.read_deployment_by_name(flow_name, self.pool)
        except ObjectNotFoundError:
            return False
        return True


def in_short(schedule: DeploymentSchedule) -> str:
    said = schedule.schedule
    (kind,) = {"cron", "interval", "rrule"} & said.keys()
    return f"{kind} {str(said[kind]).splitlines()[-1]} {said['timezone']}"


def fake_place(api: FakePrefectAPI, directory: Path) -> Place:
    @asynccontextmanager
    async def open_api(_: WorkerConfig, __: Condition) -> AsyncIterator[PrefectAPI]:
        yield api

    surroundings = Surroundings(open_api=open_api, now=api.now, chance=lambda: NO_JITTER)
    return Place(api, support.settings({}, directory), surroundings)


@pytest.fixture
async def fake_api() -> FakePrefectAPI:
    return FakePrefectAPI()


@pytest.fixture
def fake(fake_api: FakePrefectAPI, tmp_path: Path) -> Place:
    return fake_place(fake_api, tmp_path)


def real_settings(server: PrefectServer, directory: Path) -> Settings:
    return Settings.load({"PREFECT_API_URL": server.url, "HOME": str(directory)}, directory)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.server)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "fake":
        yield fake_place(FakePrefectAPI(), tmp_path)
        return
    server: PrefectServer = request.getfixturevalue("prefect_server")
    async with open_client(TransportConfig(url=server.url)) as api:
        yield Place(api, real_settings(server, tmp_path), Surroundings())


def declare(place: Place, **options: Any) -> TrioFlows:
    """An app with one flow, `work`."""
    app = TrioFlows()

    @app.flow(name=place.name("work"), **options)
    async def work(path: str, width: int = 640) -> None:
        """Do some work."""

    return app


def declare_several(place: Place, names: Sequence[str] = ("a", "b", "c")) -> TrioFlows:
    app = TrioFlows()
    for name in names:

        @app.flow(name=place.name(name), schedules=[HOURLY])
        async def work() -> None: ...

    return app


class TestCreated:
    async def test_all_that_a_function_was_declared_with_is_on_the_server(self, place: Place) -> None:
        app = declare(
            place, tags=["x", "y"], version="7", concurrency_limit=3, schedules=[NIGHTLY, HOURLY, MONDAYS]
        )
        (deployment,) = await place.deploy(app)
        assert (deployment.flow_name, deployment.name) == (place.name("work"), place.pool)
        assert deployment.pool == place.pool
        there = await place.api.read_deployment_by_name(place.name("work"), place.pool)
        assert there.id == deployment.id
        assert (await place.api.read_flow(there.flow_id)).name == place.name("work")
        assert (there.work_pool_name, there.work_queue_name) == (place.pool, "default")
        assert there.description == "Do some work."
        assert sorted(there.tags) == ["x", "y"]
        assert (there.version, there.concurrency_limit) == ("7", 3)
        assert there.entrypoint == f"{__name__}:declare.<locals>.work"
        assert there.parameter_openapi_schema is not None
        assert set(there.parameter_openapi_schema["properties"]) == {"path", "width"}
        assert there.parameter_openapi_schema["required"] == ["path"]
        assert there.enforce_parameter_schema
        assert await place.schedules(deployment) == [
            "cron 0 3 * * * Europe/Berlin",
            "interval 3600.0 UTC",
            "rrule FREQ=WEEKLY;BYDAY=MO UTC",
        ]
        assert all(schedule.active for schedule in there.schedules)

    async def test_work_pool_that_is_not_there_is_created_with_its_type(self, place: Place) -> None:
        await place.deploy(declare(place))
        pool = await place.api.read_work_pool(place.pool)
        assert pool.type == "trio"
        assert pool.base_job_template["variables"] == {"type": "object", "properties": {}}

    async def test_work_pool_that_is_there_stays_as_it_is(self, place: Place) -> None:
        template = {"job_configuration": {"of": "somebody's"}, "variables": {"properties": {}}}
        await place.api.create_work_pool(place.pool, pool_type="trio", base_job_template=template)
        await place.deploy(declare(place))
        assert (await place.api.read_work_pool(place.pool)).base_job_template == template

    async def test_deployments_come_in_the_order_of_the_declarations(self, place: Place) -> None:
        deployments = await place.deploy(declare_several(place))
        assert [each.flow_name for each in deployments] == [place.name("a"), place.name("b"), place.name("c")]
        assert len({each.id for each in deployments}) == 3

    async def test_names_and_queue_can_be_chosen(self, place: Place) -> None:
        (deployment,) = await place.deploy(declare(place), name="by night", queue="urgent")
        assert deployment.name == "by night"
        there = await place.api.read_deployment_by_name(place.name("work"), "by night")
        assert there.work_queue_name == "urgent"
        (queue,) = await place.api.read_work_queues(place.pool, ["urgent"])
        assert queue.name == "urgent"

    async def test_only_the_flows_that_are_named_are_deployed_each_once(self, place: Place) -> None:
        names = [place.name("c"), place.name("a"), place.name("c")]
        deployments = await place.deploy(declare_several(place), flows=names)
        assert [each.flow_name for each in deployments] == [place.name("c"), place.name("a")]
        assert not await place.has(place.name("b"))

    async def test_second_pool_has_deployments_of_its_own(self, place: Place) -> None:
        app = declare(place, schedules=[HOURLY])
        (first,) = await place.deploy(app)
        before = await place.there(first)
        (second,) = await place.deploy(app, pool=f"{place.pool}-too")
        assert second.id != first.id
        assert second.name == f"{place.pool}-too"
        assert await place.there(first) == before
        assert (await place.there(second)).flow_id == before.flow_id

    async def test_deployment_of_one_name_can_be_moved_to_another_pool(self, place: Place) -> None:
        app = declare(place)
        (first,) = await place.deploy(app, name="d")
        (second,) = await place.deploy(app, name="d", pool=f"{place.pool}-too")
        assert second.id == first.id
        assert (await place.there(second)).work_pool_name == f"{place.pool}-too"


class TestAgain:
    async def test_the_same_again_changes_nothing(self, place: Place) -> None:
        def declared() -> TrioFlows:
            return declare(
                place, tags=["x", "y"], version="7", concurrency_limit=3, schedules=[NIGHTLY, HOURLY, MONDAYS]
            )

        (first,) = await place.deploy(declared())
        before = await place.there(first), await place.api.read_work_pool(place.pool)
        (second,) = await place.deploy(declared())
        assert second == attrs.evolve(first, change=DeploymentChange.UNCHANGED)
        assert (await place.there(first), await place.api.read_work_pool(place.pool)) == before

    async def test_no_more_is_asked_of_the_server_than_is_needed(
        self, fake: Place, fake_api: FakePrefectAPI
    ) -> None:
        app = declare(fake)
        await fake.deploy(app)
        first = [call.method for call in fake_api.calls]
        await fake.deploy(app)
        again = [call.method for call in fake_api.calls][len(first) :]
        assert first == [
            "read_work_pool",
            "create_work_pool",
            "create_flow",
            "read_deployment_by_name",
            "create_deployment",
        ]
        assert again == ["read_work_pool", "create_flow", "read_deployment_by_name"]

    @pytest.mark.server
    async def test_server_s_own_documents_and_the_runs_of_schedules_stay(
        self, prefect_server: PrefectServer, tmp_path: Path
    ) -> None:
        """Not even `updated` may change: it says that somebody has done something."""
        app, name, pool = TrioFlows(), f"flow-{uuid4()}", f"pool-{uuid4()}"
        settings = real_settings(prefect_server, tmp_path)

        @app.flow(name=name, concurrency_limit=2, schedules=[HOURLY, NIGHTLY], tags=["x"])
        async def work() -> None: ...

        async def documents(deployment_id: UUID) -> dict[str, Any]:
            where = {"deployments": {"id": {"any_": [str(deployment_id)]}}}
            found = await prefect_server.acall("POST", "flow_runs/filter", where)
            return {
                "deployment": await prefect_server.acall("GET", f"deployments/{deployment_id}"),
                "pool": without_state(await prefect_server.acall("GET", f"work_pools/{pool}")),
                "flow": await prefect_server.acall("GET", f"flows/name/{name}"),
                "runs": sorted((run["id"], run["expected_start_time"]) for run in found),
            }

        (deployment,) = await app.deploy(pool=pool, settings=settings)
        await prefect_server.acall("POST", f"deployments/{deployment.id}/schedule", {"min_runs": 4})
        before = await documents(deployment.id)
        assert len(before["runs"]) >= 4
        await app.deploy(pool=pool, settings=settings)
        assert await documents(deployment.id) == before

    async def test_schedule_that_a_person_has_paused_stays_paused(self, place: Place) -> None:
        app = declare(place, schedules=[NIGHTLY, HOURLY])
        (deployment,) = await place.deploy(app)
        nightly = next(each for each in (await place.there(deployment)).schedules if "cron" in each.schedule)
        await place.api.update_deployment_schedule(deployment.id, attrs.evolve(nightly, active=False))
        await place.deploy(app)
        after = {in_short(each): each.active for each in (await place.there(deployment)).schedules}
        assert after == {"cron 0 3 * * * Europe/Berlin": False, "interval 3600.0 UTC": True}

    async def test_only_schedules_that_differ_are_changed(self, place: Place) -> None:
        (deployment,) = await place.deploy(declare(place, schedules=[NIGHTLY, HOURLY]))
        before = {in_short(each): each.id for each in (await place.there(deployment)).schedules}
        await place.deploy(declare(place, schedules=[Interval(1800), NIGHTLY, MONDAYS]))
        after = {in_short(each): each.id for each in (await place.there(deployment)).schedules}
        assert set(after) == {
            "cron 0 3 * * * Europe/Berlin",
            "interval 1800.0 UTC",
            "rrule FREQ=WEEKLY;BYDAY=MO UTC",
        }
        assert after["cron 0 3 * * * Europe/Berlin"] == before["cron 0 3 * * * Europe/Berlin"]

    async def test_no_schedules_at_all_can_be_asked_for(self, place: Place) -> None:
        app = declare(place, schedules=[NIGHTLY, HOURLY])
        (deployment,) = await place.deploy(app)
        await place.deploy(app, schedules=[])
        assert await place.schedules(deployment) == []

    async def test_schedules_given_at_deploying_are_those_of_all(self, place: Place) -> None:
        deployments = await place.deploy(declare_several(place), schedules=[NIGHTLY])
        for deployment in deployments:
            assert await place.schedules(deployment) == ["cron 0 3 * * * Europe/Berlin"]

    async def test_changed_function_changes_its_deployment(self, place: Place) -> None:
        (first,) = await place.deploy(declare(place, tags=["x"], concurrency_limit=1, version="1"))
        app = TrioFlows()

        @app.flow(name=place.name("work"), tags=["z"], concurrency_limit=5, version="2")
        async def work(other: float) -> None: ...

        (second,) = await place.deploy(app)
        assert second.id == first.id
        there = await place.there(second)
        assert (there.tags, there.concurrency_limit, there.version) == (["z"], 5, "2")
        assert there.parameter_openapi_schema is not None
        assert set(there.parameter_openapi_schema["properties"]) == {"other"}

    async def test_flow_that_is_no_longer_named_stays(self, place: Place) -> None:
        await place.deploy(declare_several(place, ["a", "b"]))
        await place.deploy(declare_several(place, ["a"]))
        assert await place.has(place.name("b"))


class TestRefused:
    async def test_work_pool_of_another_type_is_refused_before_anything_is_changed(
        self, place: Place
    ) -> None:
        pool = await place.api.create_work_pool(place.pool, pool_type="process", base_job_template={})
        with pytest.raises(WorkerRefusedError, match=f"Work pool '{place.pool}' is of type 'process'"):
            await place.deploy(declare(place))
        assert await place.api.read_work_pool(place.pool) == pool
        assert not await place.has(place.name("work"))

    async def test_signature_that_cannot_be_served_is_found_before_the_server_is_asked(
        self, fake: Place
    ) -> None:
        app = declare(fake)

        @app.flow()
        async def bad(*rest: int) -> None: ...

        with pytest.raises(ConfigurationError, match="`rest`"):
            await fake.deploy(app, surroundings=NOWHERE)

    async def test_app_without_flows_has_nothing_to_deploy(self, fake: Place) -> None:
        with pytest.raises(ConfigurationError, match="There are no flows to serve"):
            await fake.deploy(TrioFlows(), surroundings=NOWHERE)

    async def test_flow_that_is_not_there_is_answered_with_those_that_are(self, fake: Place) -> None:
        with pytest.raises(ConfigurationError) as caught:
            await fake.deploy(declare_several(fake, ["a", "b"]), flows=["x"], surroundings=NOWHERE)
        assert str(caught.value) == f"There is no flow 'x'; there are: {fake.name('a')}, {fake.name('b')}."

    async def test_flows_are_a_list_of_names_and_not_one(self, fake: Place) -> None:
        with pytest.raises(ConfigurationError, match="a list of names, not 'work'"):
            await fake.deploy(declare(fake), flows="work", surroundings=NOWHERE)

    @pytest.mark.parametrize("field", ["name", "queue"])
    @pytest.mark.parametrize("name", ["a/b", "a%b", "a&b", "<a", "a>", "", " ", "\ud800"])
    async def test_name_that_no_server_takes_is_refused_here(
        self, fake: Place, field: str, name: str
    ) -> None:
        with pytest.raises(ConfigurationError, match="cannot be"):
            await fake.deploy(declare(fake), **{field: name}, surroundings=NOWHERE)

    async def test_pool_must_have_a_name(self, fake: Place) -> None:
        with pytest.raises(ConfigurationError, match="name of the work pool is empty"):
            await fake.deploy(declare(fake), pool="", surroundings=NOWHERE)

    async def test_there_must_be_an_api(self, fake: Place, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="PREFECT_API_URL is not set"):
            await fake.deploy(declare(fake), settings=Settings.load({}, tmp_path), surroundings=NOWHERE)

    @pytest.mark.parametrize("schedule", [Cron("61 * * * *"), RRule("FREQ=NEVER")])
    async def test_schedule_that_the_server_does_not_accept_is_an_error_of_the_user_s(
        self, place: Place, schedule: Cron | RRule
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            await place.deploy(declare(place, schedules=[schedule]))
        beginning = f"The server does not accept the deployment of flow '{place.name('work')}': "
        assert str(caught.value).startswith(beginning)
        assert not await place.has(place.name("work"))

    async def test_refused_schedule_leaves_those_that_work(self, place: Place) -> None:
        (deployment,) = await place.deploy(declare(place, schedules=[NIGHTLY, HOURLY]))
        before = await place.there(deployment)
        with pytest.raises(ConfigurationError, match="The server does not accept"):
            await place.deploy(declare(place, schedules=[MONDAYS, Cron("0 25 * * *")]))
        assert await place.there(deployment) == before

    @pytest.mark.server
    async def test_refused_schedule_leaves_the_runs_of_those_that_work(
        self, prefect_server: PrefectServer, tmp_path: Path
    ) -> None:
        app, pool, settings = TrioFlows(), f"pool-{uuid4()}", real_settings(prefect_server, tmp_path)

        @app.flow(name=f"flow-{uuid4()}", schedules=[HOURLY])
        async def work() -> None: ...

        (deployment,) = await app.deploy(pool=pool, settings=settings)
        path = f"deployments/{deployment.id}/schedule"
        past = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T02:00:00Z"}
        await prefect_server.acall("POST", path, past)
        await prefect_server.acall("POST", path, {"min_runs": 4})

        async def runs() -> list[str]:
            where = {"deployments": {"id": {"any_": [str(deployment.id)]}}}
            return sorted(run["id"] for run in await prefect_server.acall("POST", "flow_runs/filter", where))

        before = await runs()
        assert len(before) >= 4 + 2
        with pytest.raises(ConfigurationError, match="Invalid cron string"):
            await app.deploy(pool=pool, schedules=[Cron("0 25 * * *")], settings=settings)
        assert await runs() == before

    async def test_flows_that_were_deployed_before_the_refused_one_are_named(self, place: Place) -> None:
        app = declare_several(place, ["a", "b"])

        @app.flow(name=place.name("c"), schedules=[Cron("0 25 * * *")])
        async def work() -> None: ...

        with pytest.raises(ConfigurationError) as caught:
            await place.deploy(app)
        assert f"(deployed before it: '{place.name('a')}', '{place.name('b')}'): " in str(caught.value)
        assert await place.has(place.name("b"))
        assert not await place.has(place.name("c"))

    @pytest.mark.parametrize("schedules", [NIGHTLY, "0 3 * * *", "", ["0 3 * * *"], [NIGHTLY, None]])
    async def test_schedules_are_a_list_of_schedules(self, fake: Place, schedules: Any) -> None:
        words = "schedules must be a list of Cron, Interval and RRule, not "
        with pytest.raises(ConfigurationError) as caught:
            await fake.deploy(declare(fake), schedules=schedules, surroundings=NOWHERE)
        assert str(caught.value) == f"{words}{schedules!r}."

    @pytest.mark.server
    @pytest.mark.parametrize(
        ("schedule", "words"),
        [
            (Cron("61 * * * *"), 'schedules.0.schedule.cron: Invalid cron string: "61 * * * *"'),
            (
                RRule("FREQ=NEVER"),
                "schedules.0.schedule.rrule: Invalid RRule string \"FREQ=NEVER\": invalid 'FREQ': NEVER",
            ),
            (
                RRule("nonsense"),
                'schedules.0.schedule.rrule: Invalid RRule string "nonsense": not enough values',
            ),
        ],
    )
    async def test_server_s_words_about_a_schedule_are_those_about_the_mistake_alone(
        self, prefect_server: PrefectServer, tmp_path: Path, schedule: Cron | RRule, words: str
    ) -> None:
        app, name = TrioFlows(), f"flow-{uuid4()}"

        @app.flow(name=name)
        async def work() -> None: ...

        settings = real_settings(prefect_server, tmp_path)
        with pytest.raises(ConfigurationError) as caught:
            await app.deploy(pool=f"pool-{uuid4()}", schedules=[schedule], settings=settings)
        complaint = f"The server does not accept the deployment of flow {name!r}: {words}"
        assert str(caught.value).startswith(complaint)
        assert "Field required" not in str(caught.value)


def _not_wanted(config: WorkerConfig, condition: Condition) -> AbstractAsyncContextManager[PrefectAPI]:
    pytest.fail("the API was opened")


NOWHERE = Surroundings(open_api=_not_wanted)


class _Overtaken(FakePrefectAPI):
    """Somebody else is always quicker to create a work pool."""

    other_type = "trio"

    async def create_work_pool(self, name: str, **options: Any) -> WorkPool:
        self.add_work_pool(name, pool_type=self.other_type)
        return await super().create_work_pool(name, **options)


class TestOthers:
    async def test_pool_that_somebody_else_creates_meanwhile_is_taken(self, tmp_path: Path) -> None:
        place = fake_place(_Overtaken(), tmp_path)
        (deployment,) = await place.deploy(declare(place))
        assert (await place.there(deployment)).work_pool_name == place.pool

    async def test_pool_that_somebody_else_creates_with_another_type_is_refused(self, tmp_path: Path) -> None:
        api = _Overtaken()
        api.other_type = "process"
        place = fake_place(api, tmp_path)
        with pytest.raises(WorkerRefusedError):
            await place.deploy(declare(place))
        assert api.count("create_flow") == 0


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (NotAuthenticatedError("GET /x", 401, "who?"), "wants to know who you are: set PREFECT_API_KEY"),
            (APINotFoundError("GET /x", 404, "Not Found"), "There is no Prefect API at http://fake/api"),
        ],
    )
    async def test_wrong_url_and_missing_key_are_told_as_by_a_worker(
        self, fake: Place, fake_api: FakePrefectAPI, error: APIError, words: str
    ) -> None:
        fake_api.fail("read_work_pool", error)
        with pytest.raises(ConfigurationError, match=words):
            await fake.deploy(declare(fake))

    @pytest.mark.parametrize(
        "error",
        [APIUnavailableError("no connection"), NotPermittedError("POST /deployments/", 403, "not yours")],
    )
    @pytest.mark.parametrize("method", ["read_work_pool", "create_flow", "create_deployment"])
    async def test_other_errors_of_the_api_are_passed_on(
        self, fake: Place, fake_api: FakePrefectAPI, method: str, error: APIError
    ) -> None:
        fake_api.fail(method, error)
        with pytest.raises(type(error)) as caught:
            await fake.deploy(declare(fake))
        assert caught.value is error

    async def test_deploying_that_was_interrupted_can_be_done_once_more(
        self, fake: Place, fake_api: FakePrefectAPI
    ) -> None:
        app = declare_several(fake)
        fake_api.fail("create_deployment", APIUnavailableError("no connection"))
        with pytest.raises(APIUnavailableError):
            await fake.deploy(app)
        assert len(await fake.deploy(app)) == 3

    async def test_api_that_does_not_answer_is_told_in_the_log_and_given_up(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        values = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "1"}
        app = TrioFlows()

        @app.flow()
        async def work() -> None: ...

        with caplog.at_level(logging.INFO, "trioworker"), pytest.raises(APIUnavailableError):
            await app.deploy(pool="p", settings=Settings.load(values, tmp_path))
        told = [record for record in caplog.records if record.name == "trioworker"]
        assert [record.levelname for record in told] == ["WARNING"]
        assert told[0].getMessage().startswith("The Prefect API does not answer: no connection")

    @pytest.mark.parametrize(
        ("patience", "words"), [(math.inf, "Trying again."), (60, "Trying again, for 60 s at most.")]
    )
    async def test_api_that_does_not_answer_is_waited_for_as_long_as_the_caller_lets_it(
        self,
        autojump_clock: trio.testing.MockClock,
        fake: Place,
        caplog: pytest.LogCaptureFixture,
        patience: float,
        words: str,
    ) -> None:
        @asynccontextmanager
        async def open_api(_: WorkerConfig, condition: Condition) -> AsyncIterator[PrefectAPI]:
            condition.failed("no connection")
            yield fake.api

        with caplog.at_level(logging.INFO, "trioworker"), trio.move_on_after(patience):
            await fake.deploy(declare(fake), surroundings=Surroundings(open_api=open_api))
        assert [record.getMessage() for record in caplog.records if record.name == "trioworker"] == [
            f"The Prefect API does not answer: no connection. {words}"
        ]


def without_state(document: dict[str, Any]) -> dict[str, Any]:
    """A work pool but for what it tells of workers that come and go."""
    return {key: value for key, value in document.items() if key != "status"}
