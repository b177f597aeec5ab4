"""When a worker takes up what others have left, and what that means to everything else it does, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing
from ledger_support import SILENT, Estate
from support import settle

from trioworker.api.errors import APIUnavailableError, NotPermittedError, RequestRefusedError
from trioworker.infrastructure.protocol import Trace
from trioworker.ledger.entry import Stage
from trioworker.testing import Script

Clock = trio.testing.MockClock

# Seconds between two looks for what others have left, and between two attempts at a run that cannot be seen to.
LOOK = 60
PAUSE = 600


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Estate]:
    estate = Estate(tmp_path, machine=nursery)
    yield estate
    estate.lasting.switch_off()


class TestSlots:
    async def test_adopted_run_takes_one(self, autojump_clock: Clock, world: Estate) -> None:
        adopted, waiting = await world.begun(script=SILENT), world.schedule()
        async with world.working(limit=1) as worker:
            await trio.sleep(100)
            assert worker.status().free == 0
            assert world.states(waiting) == ["Scheduled"]
            world.lasting.end(adopted.id)
            await world.api.wait_for_state(waiting.id, "Completed")

    async def test_more_runs_than_the_limit_are_adopted_and_none_is_claimed(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        adopted, waiting = [await world.begun(script=SILENT) for _ in range(5)], world.schedule()
        async with world.working(limit=2) as worker:
            await trio.sleep(100)
            assert worker.runs_in_hand == 5
            assert worker.status().free == 0
            for run in adopted[:3]:
                world.lasting.end(run.id)
            await trio.sleep(100)
            assert (worker.runs_in_hand, worker.status().free) == (2, 0)
            assert world.states(waiting) == ["Scheduled"]
            world.lasting.end(adopted[3].id)
            await world.api.wait_for_state(waiting.id, "Completed")
            world.lasting.end(adopted[4].id)

    async def test_runs_that_have_ended_wait_for_none(self, autojump_clock: Clock, world: Estate) -> None:
        running, ended = await world.begun(script=SILENT), await world.begun()
        async with world.working(limit=1):
            await world.api.wait_for_state(ended.id, "Crashed")
            assert world.now < 5
            world.lasting.end(running.id)

    async def test_run_once_sees_to_runs_of_others_too(self, autojump_clock: Clock, world: Estate) -> None:
        running, ended, new = await world.begun(script=SILENT), await world.begun(), world.schedule()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.worker(run_once=True).run)
            await world.api.wait_for_state(new.id, "Completed")
            assert world.states(ended)[-1] == "Crashed"
            await trio.sleep(100)
            world.lasting.end(running.id)
        assert world.now < 110


class TestGivenBack:
    async def test_run_that_is_given_back_is_taken_by_the_same_worker_without_waiting_for_a_poll(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.claimed()
        # By then the first poll has found nothing.
        world.api.latencies["read_flow_run_states"] = 3
        async with world.working(values={"PREFECT_WORKER_QUERY_SECONDS": "1000"}):
            await world.api.wait_for_state(run.id, "Completed")
            given_back = dict(world.api.history(run.id))["Pending"]
            assert world.states(run)[2:] == ["Scheduled", "Pending", "Submitting", "Running", "Completed"]
            assert given_back < world.now < 20

    async def test_run_that_is_given_back_for_a_later_time_is_not_polled_for_again_and_again(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        await world.claimed(at=10_000.0)
        async with world.working():
            await trio.sleep(1000)
        # Every 10 s, and a few times for the one that was given back.
        assert world.api.count("get_scheduled_flow_runs") < 115


class TestSecondLook:
    async def test_claim_that_takes_effect_after_the_first_look_is_given_back(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """Its request was on its way when the earlier worker was killed."""
        run, attempt = world.schedule(), uuid4()
        world.shelf.put(world.entry(run, attempt))
        await world.claim(run, attempt=attempt)
        history = world.api._run(run.id, "")
        # As if it had not arrived yet.
        late, history.states[:], history.state = list(history.states), history.states[:1], history.states[0]
        world.api.pause_work_pool("pool")
        async with world.working():
            await trio.sleep(10)
            history.states[:], history.state = late, late[-1]
            await trio.sleep(LOOK - 20)
            assert history.state.name == "Pending"
            await world.api.wait_for_state(run.id, "Scheduled")
            assert LOOK <= world.now <= 2 * LOOK + 1
            await trio.sleep(LOOK)
        assert world.shelf.entries == []

    async def test_run_that_goes_on_by_then_is_not_touched(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """It was given back, and taken by the same worker."""
        run = await world.claimed()
        world.infrastructure.script = Script(seconds=1000)
        async with world.working():
            await world.api.wait_for_state(run.id, "Running")
            await trio.sleep(5 * LOOK)
            assert world.states(run)[-1] == "Running"
            assert len(world.shelf.entries) == 2
            await world.api.wait_for_state(run.id, "Completed")
            await trio.sleep(2 * LOOK)
        assert len(world.infrastructure.executions) == 1
        assert world.shelf.entries == []

    async def test_each_run_is_looked_at_no_more_than_twice(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        await world.begun("Completed")
        async with world.working():
            await trio.sleep(100 * LOOK)
        assert world.api.count("read_flow_run_states") == 2

    async def test_worker_that_stops_before_leaves_it_to_the_next(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        await world.begun("Completed")
        async with world.working():
            await trio.sleep(LOOK / 2)
        assert len(world.shelf.entries) == 1
        async with world.working():
            await trio.sleep(3 * LOOK)
        assert world.shelf.entries == []


class TestOthers:
    async def test_run_that_somebody_else_has_claimed_meanwhile_is_left_alone(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.claimed()
        world.api.set_state(run.id, "Scheduled")
        await world.claim(run)
        async with world.working():
            await trio.sleep(3 * LOOK)
        assert world.states(run) == ["Scheduled", "Pending", "Scheduled", "Pending"]
        assert world.shelf.entries == []

    async def test_what_a_worker_of_the_same_name_leaves_is_taken_up_within_a_minute_or_so(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.begun(script=SILENT)
        storage = world.shelf.own()
        async with world.working() as worker:
            await trio.sleep(3 * LOOK)
            assert worker.runs_in_hand == 0
            storage.owned = False
            await trio.sleep(1.3 * LOOK)
            assert worker.runs_in_hand == 1
            world.lasting.end(run.id)

    async def test_two_workers_of_one_name_adopt_no_run_both(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        runs = [await world.begun(script=SILENT) for _ in range(3)]
        async with world.working() as first, world.working() as second:
            await trio.sleep(3 * LOOK)
            assert (first.runs_in_hand, second.runs_in_hand) == (3, 0)
            for run in runs:
                world.lasting.end(run.id)


class TestSeveralAttempts:
    async def test_at_one_run_are_looked_at_one_after_the_other(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """The run was given back, and taken once more by a worker that was killed before the second look."""
        run = await world.claimed()
        world.api.set_state(run.id, "Scheduled")
        attempt = await world.claim(run)
        trace = Trace(world.lasting.leave_behind(run))
        world.api.set_state(run.id, "Running")
        world.shelf.put(world.entry(run, attempt, stage=Stage.LAUNCHED, trace=trace))
        async with world.working(limit=1) as worker:
            # The last one first, since it may go on.
            await settle()
            assert worker.runs_in_hand == 1
            await trio.sleep(3 * LOOK)
            assert run.id in world.lasting.adoptions
            world.lasting.end(run.id)
            await trio.sleep(3 * LOOK)
            assert world.shelf.entries == []
        assert world.states(run)[-1] == "Completed"

    async def test_first_one_is_seen_to_at_once_if_the_last_never_reached_the_server(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = await world.claimed()
        world.shelf.put(world.entry(run, uuid4()))
        async with world.working():
            await world.api.wait_for_state(run.id, "Completed")
            assert world.now < 30

    async def test_none_of_which_has_reached_the_server(self, autojump_clock: Clock, world: Estate) -> None:
        run = world.schedule()
        world.shelf.put(*[world.entry(run, uuid4()) for _ in range(5)])
        async with world.working():
            await world.api.wait_for_state(run.id, "Completed")
            await trio.sleep(5 * LOOK)
        assert world.shelf.entries == []


class TestOutages:
    async def test_api_that_is_away_at_the_start_is_waited_for(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        ended, adopted = await world.begun(), await world.begun(script=SILENT)
        world.api.start_outage()
        worker = world.worker()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            await trio.sleep(1000)
            world.api.end_outage()
            await world.api.wait_for_state(ended.id, "Crashed")
            await settle()
            assert worker.runs_in_hand == 1
            world.lasting.end(adopted.id)
            worker.shutdown()

    async def test_api_that_goes_away_while_runs_are_taken_up(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        runs = [await world.begun() for _ in range(3)]
        world.api.latencies["read_flow_run"] = 5
        async with world.working():
            await trio.sleep(2)
            with world.api.outage():
                await trio.sleep(1000)
            for run in runs:
                await world.api.wait_for_state(run.id, "Crashed")
            await trio.sleep(3 * LOOK)
        assert world.shelf.entries == []

    @pytest.mark.parametrize(
        "error",
        [
            RequestRefusedError("GET /flow_runs", 422, "no"),
            RequestRefusedError("GET /flow_runs", 400, "no"),
        ],
        ids=["422", "400"],
    )
    async def test_run_that_the_api_refuses_holds_up_nothing_and_is_tried_again_when_the_api_is_back(
        self, autojump_clock: Clock, world: Estate, error: Exception
    ) -> None:
        refused, other, new = await world.begun(), await world.begun(), world.schedule()
        real = world.api.read_flow_run
        refusing = True

        async def read(flow_run_id: object) -> object:
            if flow_run_id == refused.id and refusing:
                await trio.lowlevel.checkpoint()
                raise error
            return await real(flow_run_id)  # type: ignore[arg-type]

        world.api.read_flow_run = read  # type: ignore[method-assign, assignment]
        async with world.working():
            await world.api.wait_for_state(other.id, "Crashed")
            await world.api.wait_for_state(new.id, "Completed")
            await trio.sleep(3 * LOOK)
            assert world.states(refused)[-1] == "Running"
            refusing = False
            with world.api.outage():
                await trio.sleep(LOOK)
            back = world.now
            await world.api.wait_for_state(refused.id, "Crashed")
            assert world.now < back + 30 < PAUSE

    @pytest.mark.parametrize(
        "error",
        [NotPermittedError("GET", 403, "no"), APIUnavailableError("the API answered 500")],
        ids=["403", "500"],
    )
    async def test_run_that_the_api_fails_at_for_hours_holds_up_nothing(
        self, autojump_clock: Clock, world: Estate, error: Exception
    ) -> None:
        failing, other, new = await world.begun(), await world.begun(), world.schedule()
        real = world.api.read_flow_run
        until = 20_000

        async def read(flow_run_id: object) -> object:
            if flow_run_id == failing.id and world.now < until:
                await trio.lowlevel.checkpoint()
                raise error
            return await real(flow_run_id)  # type: ignore[arg-type]

        world.api.read_flow_run = read  # type: ignore[method-assign, assignment]
        async with world.working():
            await world.api.wait_for_state(other.id, "Crashed")
            await world.api.wait_for_state(new.id, "Completed")
            assert world.now < 60
            await world.api.wait_for_state(failing.id, "Crashed")
            assert until <= world.now < until + PAUSE + 2 * LOOK


class TestWhatNobodyCanTell:
    async def test_run_of_another_machine_is_left_alone_and_not_spoken_of_every_minute(
        self, autojump_clock: Clock, world: Estate, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = await world.begun()
        world.lasting.elsewhere[run.id] = "it was started on another machine"
        async with world.working():
            await trio.sleep(3600)
            said = [record.message for record in caplog.records if run.name in record.message]
            assert 1 <= len(said) <= 1 + 3600 / PAUSE
            assert said[0] == (
                f"Flow run '{run.name}' is left as it is: whether it still runs cannot be told, because it was"
                " started on another machine"
            )
            assert world.states(run)[-1] == "Running"
            assert len(world.shelf.entries) == 1
            # The volume is back on that machine.
            world.lasting.elsewhere.clear()
            await world.api.wait_for_state(run.id, "Crashed")

    async def test_it_takes_no_slot(self, autojump_clock: Clock, world: Estate) -> None:
        run, new = await world.begun(), world.schedule()
        world.lasting.elsewhere[run.id] = "it was started on another machine"
        async with world.working(limit=1):
            await world.api.wait_for_state(new.id, "Completed")


class TestOwnRuns:
    async def test_run_whose_end_the_api_refused_is_settled_later(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule(Script(ends=None, status=-9))
        async with world.working():
            await world.api.wait_for_state(run.id, "Running")
            world.api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))
            await trio.sleep(5)
            assert world.states(run)[-1] == "Running"
            await world.api.wait_for_state(run.id, "Crashed")
            assert world.now < 2 * LOOK
            # It has been seen, so the end is no secret.
            assert "SIGKILL" in (world.message(run) or "")
            await settle()
            assert world.shelf.entries == []

    async def test_runs_in_hand_are_not_touched(self, autojump_clock: Clock, world: Estate) -> None:
        runs = [world.schedule(Script(seconds=1000)) for _ in range(3)]
        async with world.working():
            await trio.sleep(900)
            assert len(world.shelf.entries) == 3
            assert world.api.count("read_flow_run") == 0
            assert world.lasting.adoptions == {}
            for run in runs:
                await world.api.wait_for_state(run.id, "Completed")
        assert world.shelf.entries == []

    async def test_claims_that_are_refused_again_and_again_bring_nothing_down(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        """Each one is an attempt of its own, until it is known that it came to nothing."""
        refused, fine = world.schedule(), world.schedule()
        real = world.api.set_flow_run_state

        async def set_state(flow_run_id: object, *arguments: object, **more: object) -> object:
            if flow_run_id == refused.id and world.now < 1000:
                await trio.lowlevel.checkpoint()
                raise RequestRefusedError("POST", 422, "no")
            return await real(flow_run_id, *arguments, **more)  # type: ignore[arg-type]

        world.api.set_flow_run_state = set_state  # type: ignore[method-assign, assignment]
        async with world.working():
            await world.api.wait_for_state(fine.id, "Completed")
            await trio.sleep(900)
            assert len(world.shelf.entries) < 30
            await world.api.wait_for_state(refused.id, "Completed")
            await trio.sleep(3 * LOOK)
        assert world.shelf.entries == []

    async def test_worker_without_a_lasting_ledger_settles_them_as_well(
        self, autojump_clock: Clock, world: Estate
    ) -> None:
        run = world.schedule(Script(ends=None, status=-9))
        async with world.working(ledger=False):
            await world.api.wait_for_state(run.id, "Running")
            world.api.fail("set_flow_run_state", RequestRefusedError("POST", 422, "no"))
            await world.api.wait_for_state(run.id, "Crashed")


async def test_what_is_taken_up_is_said_once(autojump_clock: Clock, world: Estate) -> None:
    await world.begun()
    await world.begun("Completed")
    async with world.working():
        await trio.sleep(5 * LOOK)
    said = [message for message in world.messages if message.startswith("Taking up")]
    assert said == ["Taking up 2 flow runs whose end is not settled."]


async def test_nothing_is_said_where_nothing_was_left(autojump_clock: Clock, world: Estate) -> None:
    world.schedule()
    async with world.working():
        await trio.sleep(5 * LOOK)
    assert not any("Taking up" in message for message in world.messages)


async def test_stop_in_the_moment_in_which_runs_are_taken_up_settles_each(
    autojump_clock: Clock, world: Estate
) -> None:
    lives, ended, claimed = await world.begun(script=SILENT), await world.begun(), await world.claimed()
    worker = world.worker()
    world.lasting.find_seconds = 1
    world.api.latencies["read_flow_run"] = 0.5
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        worker.stop()
    assert [world.states(run)[-1] for run in (lives, ended, claimed)] == ["Crashed", "Crashed", "Scheduled"]
    assert not world.lasting.lives(lives.id)
