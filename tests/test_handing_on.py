"""A run that is left to other workers is left to them once, whatever becomes of the answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio.testing
from support import World

from trioworker.api.errors import APIUnavailableError
from trioworker.api.handing_on import HandingOn
from trioworker.api.models import FlowRun, ProposedState, SetStateStatus, StateType

Clock = trio.testing.MockClock


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def handing_on(world: World) -> HandingOn:
    """Of a run that was claimed."""
    api, run = world.api, world.schedule()
    claim = ProposedState(type=StateType.PENDING, name="Pending")
    await api.set_flow_run_state(run.id, claim)

    def is_ours(current: FlowRun) -> bool:
        assert current.state is not None
        return current.state.state_details.transition_id == claim.transition_id

    state = ProposedState(type=StateType.SCHEDULED, name="Scheduled", scheduled_time=api.now())
    return HandingOn(api, run.id, state, is_ours)


def proposals(world: World) -> int:
    """How often something was proposed, the claim included."""
    return len(world.api.times("set_flow_run_state"))


async def test_attempt_that_failed_is_repeated_by_nobody_else(autojump_clock: Clock, world: World) -> None:
    leaving = await handing_on(world)
    world.api.fail("set_flow_run_state", APIUnavailableError("503"))
    with pytest.raises(APIUnavailableError):
        await leaving.attempt()
    assert proposals(world) == 2
    assert (await leaving.attempt()).status is SetStateStatus.ACCEPT
    assert proposals(world) == 3
    assert [name for name, _ in world.api.history(leaving.flow_run_id)] == [
        "Scheduled",
        "Pending",
        "Scheduled",
    ]


@pytest.mark.parametrize("taken", [(), ("Pending",), ("Pending", "Running", "Completed")])
async def test_attempt_whose_answer_was_lost_is_not_repeated(
    autojump_clock: Clock, world: World, taken: tuple[str, ...]
) -> None:
    leaving = await handing_on(world)
    world.api.lose_answer("set_flow_run_state")
    with pytest.raises(APIUnavailableError):
        await leaving.attempt()
    for name in taken:
        world.api.set_state(leaving.flow_run_id, name)
    answer = await leaving.attempt()
    assert (answer.status, answer.state is not None and answer.state.name) == ("ACCEPT", "Scheduled")
    assert proposals(world) == 2
    assert [name for name, _ in world.api.history(leaving.flow_run_id)][3:] == list(taken)


async def test_run_that_is_to_be_cancelled_is_not_taken_for_handed_on(
    autojump_clock: Clock, world: World
) -> None:
    leaving = await handing_on(world)
    world.api.fail("set_flow_run_state", APIUnavailableError("503"))
    with pytest.raises(APIUnavailableError):
        await leaving.attempt()
    world.api.set_state(leaving.flow_run_id, "Cancelling", force=True)
    answer = await leaving.attempt()
    assert (answer.status, answer.state is not None and answer.state.name) == ("REJECT", "Cancelling")
