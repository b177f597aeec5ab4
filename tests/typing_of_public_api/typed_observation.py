"""What a host sees of its worker, as a type checker sees it. Checked, never run."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type
from uuid import UUID

import trioworker
from trioworker import (
    APILost,
    APIRegained,
    Happening,
    RunClaimed,
    RunEnd,
    RunFinished,
    RunHappening,
    RunStarted,
    RunStatus,
    StateType,
    Watch,
    WatchOverflow,
    Worker,
    WorkerPhase,
    WorkerStatus,
)


async def what_happens(worker: Worker) -> None:
    with worker.watch(capacity=16) as happenings:
        assert_type(happenings, Watch)
        async for happening in happenings:
            assert_type(happening, Happening)
            assert_type(happening.at, datetime)
            match happening:
                case RunClaimed(flow_run_id=flow_run_id, flow_name=flow_name):
                    assert_type(flow_run_id, UUID)
                    assert_type(flow_name, str | None)
                case RunStarted(identifier=identifier, pid=pid):
                    assert_type(identifier, str)
                    assert_type(pid, int | None)
                case RunFinished(end=RunEnd.EXECUTED, seconds=seconds):
                    assert_type(happening, RunFinished)
                    assert_type(seconds, float)
                case RunFinished(end=end, message=message, status_code=status_code, state_type=state_type):
                    assert_type(end, RunEnd)
                    assert_type(message, str)
                    assert_type(status_code, int | None)
                    assert_type(state_type, StateType | None)
                case RunHappening(flow_run_name=flow_run_name):
                    assert_type(flow_run_name, str)
                case APILost(reason=reason):
                    assert_type(reason, str)
                case APIRegained(seconds=seconds):
                    assert_type(seconds, float)
                case WatchOverflow(missed=missed):
                    assert_type(missed, int)
                case _:
                    # Later versions may tell of more.
                    assert_type(happening, Happening)
    assert_type(await anext(worker.watch()), Happening)
    happenings.close()


def happenings_that_are_used_wrongly(worker: Worker, finished: RunFinished) -> None:
    worker.watch(capacity="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for _ in worker.watch():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    finished.pid  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    finished.seconds = 0.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    APILost(reason="none")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def what_it_is_doing(worker: Worker) -> None:
    status = worker.status()
    assert_type(status, WorkerStatus)
    assert_type(status.name, str)
    assert_type(status.pool, str)
    assert_type(status.type, str | None)
    assert_type(status.phase, WorkerPhase)
    assert_type(status.limit, int | None)
    assert_type(status.free, int | None)
    assert_type(status.api_reachable, bool)
    assert_type(status.runs, tuple[RunStatus, ...])
    for run in status.runs:
        assert_type(run.age, float)
        assert_type(run.pid, int | None)
        assert_type(run.claimed, bool)
        assert_type(run.identifier, str | None)
        assert_type(run.cancelling, bool)

    status.slots  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def every_phase_and_every_end(phase: WorkerPhase, end: RunEnd) -> tuple[str, bool]:
    """A `match` over all members needs no last case, so that a member that comes later is noticed."""
    match phase:
        case WorkerPhase.STARTING | WorkerPhase.WORKING:
            word = "up"
        case WorkerPhase.DRAINING | WorkerPhase.STOPPED:
            word = "down"
    match end:
        case RunEnd.EXECUTED | RunEnd.NOT_STARTED | RunEnd.GIVEN_BACK:
            return word, True
        case RunEnd.LOST | RunEnd.CUT_OFF | RunEnd.LEFT | RunEnd.UNSETTLED:
            return word, False


def states(state: StateType) -> None:
    assert_type(state.is_final, bool)
    text: str = trioworker.StateType.COMPLETED
    assert_type(trioworker.StateType(text), StateType)
