"""Runs that are about to be started at the same moment are told of in one request, and nothing is lost by that."""

from __future__ import annotations

import logging
from pathlib import Path
from uuid import UUID

import pytest
import trio
import trio.testing
from support import NO_JITTER, World

from trioworker.api.errors import (
    APIError,
    APINotFoundError,
    APIUnavailableError,
    MalformedAnswerError,
    NotAuthenticatedError,
    RequestRefusedError,
)
from trioworker.api.models import (
    FlowRun,
    OrchestrationResult,
    ProposedState,
    SetStateDetails,
    SetStateStatus,
)
from trioworker.runs.active import ActiveRun
from trioworker.runs.log import RunLog
from trioworker.runs.requests import RunRequests
from trioworker.runs.submissions import Submissions
from trioworker.service import Rhythm
from trioworker.testing import Script

Clock = trio.testing.MockClock

TOGETHER, ALONE = "bulk_set_flow_run_state", "set_flow_run_state"


class Stage:
    """Claimed runs that are about to be started, on an API each of whose answers takes a second."""

    def __init__(self, directory: Path) -> None:
        self.world: World = World(directory)
        self.api = self.world.api
        self.api.latency = 1
        self.submissions: Submissions = Submissions(self.api)
        self.answers: dict[UUID, tuple[OrchestrationResult, float]] = {}

    def claimed(self, number: int = 1, *, limit: int | None = None) -> list[FlowRun]:
        deployment = self.api.add_deployment("flow", "pool", name=f"limit {limit}", concurrency_limit=limit)
        runs = [self.api.schedule(deployment) for _ in range(number)]
        for run in runs:
            assert self.api.set_state(run.id, "Pending").status is SetStateStatus.ACCEPT
        return [self.api.flow_run(run.id) for run in runs]

    async def submit(self, run: FlowRun) -> None:
        """Submit a run; the answer, and when it came."""
        active = ActiveRun(run)
        rhythm = Rhythm(interval=1, chance=lambda: NO_JITTER)
        requests = RunRequests(self.api, active, rhythm, RunLog(run, None, self.api.now))
        answer = await self.submissions.propose(requests)
        assert answer.state is None or answer.state == active.state
        assert answer.status is not SetStateStatus.ACCEPT or active.has_proposed(answer.state)
        self.answers[run.id] = (answer, self.world.now)

    def statuses(self, *runs: FlowRun) -> list[SetStateStatus]:
        return [self.answers[run.id][0].status for run in runs]

    def answered_at(self, *runs: FlowRun) -> list[float]:
        return [self.answers[run.id][1] for run in runs]

    def names(self, *runs: FlowRun) -> set[str]:
        return {self.world.states(run)[-1] for run in runs}

    def together(self) -> list[int]:
        """How many runs there were in each request for several."""
        return [len(call.arguments["flow_run_ids"]) for call in self.api.calls if call.method == TOGETHER]


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def test_run_that_comes_alone_is_told_of_at_once_by_a_plain_request(
    autojump_clock: Clock, stage: Stage
) -> None:
    for run in stage.claimed(3):
        await stage.submit(run)
    assert (stage.together(), stage.api.count(ALONE)) == ([], 3)
    assert stage.world.now == 3


async def test_runs_that_come_while_a_request_is_on_its_way_share_the_next(
    autojump_clock: Clock, stage: Stage
) -> None:
    runs = stage.claimed(8)
    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(stage.submit, run)
    assert (stage.api.count(ALONE), stage.together()) == (1, [7])
    assert sorted(stage.answered_at(*runs)) == [1, *[2] * 7]
    assert stage.statuses(*runs) == [SetStateStatus.ACCEPT] * 8
    assert stage.names(*runs) == {"Submitting"}


async def test_no_more_than_ten_share_a_request(autojump_clock: Clock, stage: Stage) -> None:
    runs = stage.claimed(21)
    stage.api.latency = 0.5
    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(stage.submit, run)
    assert (stage.api.count(ALONE), stage.together()) == (1, [10, 10])
    assert stage.names(*runs) == {"Submitting"}


async def test_run_with_a_slot_of_its_deployment_goes_alone(autojump_clock: Clock, stage: Stage) -> None:
    """The server might mix up the leases."""
    limited, free = stage.claimed(3, limit=5), stage.claimed(3)
    leases = [run.state and run.state.state_details for run in limited]
    async with trio.open_nursery() as nursery:
        for run in (*limited, *free):
            nursery.start_soon(stage.submit, run)
    assert (stage.api.count(ALONE), stage.together()) == (4, [2])
    kept = [stage.api.flow_run(run.id).state for run in limited]
    assert None not in leases
    assert [state and state.state_details.deployment_concurrency_lease_id for state in kept] == [
        details and details.deployment_concurrency_lease_id for details in leases
    ]


async def test_each_gets_the_answer_to_its_own_run(autojump_clock: Clock, stage: Stage) -> None:
    first, deleted, cancelled, taken, good = stage.claimed(5)
    stage.api.set_state(cancelled.id, "Cancelling")
    stage.api.set_state(taken.id, "Running")
    stage.api.delete_flow_run(deleted.id)
    gone: list[FlowRun] = []

    async def submit_deleted() -> None:
        with pytest.raises(APIError, match="not found"):
            await stage.submit(deleted)
        gone.append(deleted)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.submit, first)
        await trio.testing.wait_all_tasks_blocked()
        for run in (cancelled, taken, good):
            nursery.start_soon(stage.submit, run)
        nursery.start_soon(submit_deleted)
    assert stage.together() == [4]
    assert stage.statuses(cancelled, taken, good) == ["REJECT", "ABORT", "ACCEPT"]
    assert gone == [deleted]


class FailingForOne(Stage):
    """A server whose database is locked when it comes to a certain run."""

    async def submit_all(self, failed: FlowRun, *others: FlowRun) -> None:
        real = self.api.bulk_set_flow_run_state
        reason = "(sqlite3.OperationalError) database is locked"
        locked = OrchestrationResult(
            status=SetStateStatus.ABORT, details=SetStateDetails(reason=reason), state=None
        )

        async def failing(flow_run_ids: list[UUID], state: ProposedState) -> dict[UUID, OrchestrationResult]:
            made = await real([each for each in flow_run_ids if each != failed.id], state)
            return made | {failed.id: locked}

        self.api.bulk_set_flow_run_state = failing  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            for run in (*others, failed):
                nursery.start_soon(self.submit, run)
                await trio.testing.wait_all_tasks_blocked()


async def test_run_that_the_server_failed_at_is_told_of_alone(autojump_clock: Clock, tmp_path: Path) -> None:
    stage = FailingForOne(tmp_path)
    first, other, failed = stage.claimed(3)
    await stage.submit_all(failed, first, other)
    assert stage.statuses(first, other, failed) == ["ACCEPT"] * 3
    assert stage.answered_at(first, other, failed) == [1, 2, 3]
    assert stage.names(first, other, failed) == {"Submitting"}


@pytest.mark.parametrize("lost", [False, True])
async def test_request_for_several_that_fails_is_made_for_each_alone(
    autojump_clock: Clock, stage: Stage, lost: bool
) -> None:
    runs = stage.claimed(4)
    if lost:
        stage.api.lose_answer(TOGETHER)
    else:
        stage.api.fail(TOGETHER, APIUnavailableError("503"))
    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(stage.submit, run)
    assert (stage.api.count(ALONE), stage.together()) == (4, [3])
    assert sorted(stage.answered_at(*runs)) == [1, 3, 3, 3]
    # Of those whose answer got lost, the server knows the repetition by the transition id.
    assert sorted(str(status) for status in stage.statuses(*runs)) == (
        ["ACCEPT", "REJECT", "REJECT", "REJECT"] if lost else ["ACCEPT"] * 4
    )
    assert stage.names(*runs) == {"Submitting"}


@pytest.mark.parametrize(
    ("refusal", "asked_again"),
    [
        (APINotFoundError("POST /flow_runs/bulk_set_state", 404, "Not Found"), False),
        (RequestRefusedError("POST /flow_runs/bulk_set_state", 405, "Method Not Allowed"), False),
        (MalformedAnswerError("POST /flow_runs/bulk_set_state", ["odd"]), False),
        (NotAuthenticatedError("POST /flow_runs/bulk_set_state", 401, "expired"), True),
        (APIUnavailableError("503"), True),
    ],
    ids=["no such path", "no such method", "odd answer", "expired key", "not now"],
)
async def test_server_without_the_request_is_asked_for_it_once(
    autojump_clock: Clock, stage: Stage, refusal: APIError, asked_again: bool
) -> None:
    stage.api.latency = 0.2
    stage.api.fail(TOGETHER, refusal)
    runs = stage.claimed(25)
    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(stage.submit, run)
    assert (len(stage.together()) > 1) is asked_again
    assert stage.names(*runs) == {"Submitting"}
    assert max(stage.answered_at(*runs)) <= 2


async def test_nobody_waits_for_long_for_the_request_of_others(autojump_clock: Clock, stage: Stage) -> None:
    stuck, other = stage.claimed(2)
    stage.api.latencies[ALONE] = 60
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.submit, stuck)
        await trio.testing.wait_all_tasks_blocked()
        stage.api.latencies[ALONE] = 1
        nursery.start_soon(stage.submit, other)
    assert stage.answered_at(stuck, other) == [60, 3]


async def test_nobody_waits_for_long_for_an_answer_to_several(autojump_clock: Clock, stage: Stage) -> None:
    runs = stage.claimed(3)
    stage.api.latencies[TOGETHER] = 60
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(stage.submit, run)
    assert sorted(stage.answered_at(*runs)) == [1, 12, 61]
    assert stage.names(*runs) == {"Submitting"}


@pytest.mark.parametrize("moment", [0.5, 1.5])
async def test_who_is_cancelled_takes_nobody_along(
    autojump_clock: Clock, stage: Stage, moment: float
) -> None:
    runs = stage.claimed(6)
    async with trio.open_nursery() as staying, trio.open_nursery() as leaving:
        for run in runs[:3]:
            leaving.start_soon(stage.submit, run)
            await trio.testing.wait_all_tasks_blocked()
        for run in runs[3:]:
            staying.start_soon(stage.submit, run)
        await trio.sleep(moment)
        leaving.cancel_scope.cancel()
    assert stage.statuses(*runs[3:]) == [SetStateStatus.ACCEPT] * 3
    assert max(stage.answered_at(*runs[3:])) <= 4


async def test_burst_of_runs_costs_few_requests(
    autojump_clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    world = World(tmp_path)
    world.api.latency = 0.02
    runs = [world.schedule(Script(seconds=5, reports=True)) for _ in range(20)]
    async with world.working():
        for run in runs:
            await world.api.wait_for_state(run.id, "Completed")
    about_others = {"send_events", "send_logs"}
    made = [call.method for call in world.api.calls if call.method not in about_others]
    assert len(made) / 20 <= 4
    assert {tuple(world.states(run)) for run in runs} == {
        ("Scheduled", "Pending", "Submitting", "Running", "Completed")
    }
    for run in runs:
        assert world.api.labels(run.id)["prefect.worker.name"] == "worker"
        assert world.api.flow_run(run.id).infrastructure_pid is not None
        assert world.api.flow_run(run.id).state is not None
    assert caplog.messages == []


async def test_run_that_is_cancelled_while_several_are_submitted_is_not_started(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.api.latencies[TOGETHER] = 5
    world.api.latencies[ALONE] = 1
    runs = [world.schedule() for _ in range(3)]
    async with world.working():
        await trio.sleep(3)
        for run in runs:
            world.api.cancel(run.id)
        for run in runs:
            await world.api.wait_for_state(run.id, "Cancelled", "Completed")
    # The one that went first was started by then.
    assert sorted(world.states(run)[2] for run in runs) == ["Cancelling", "Cancelling", "Submitting"]
    assert len(world.infrastructure.executions) == 1
