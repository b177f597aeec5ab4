"""How runs as processes are started, ended and judged, in virtual time: with a played kernel and control channel.

That the real ones do as these is in `test_infrastructure_process`, `test_process_control` and `test_process_hooks`.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import played_kernel
import pytest
import trio
from played_kernel import PlayedKernel, PlayedProcess, ending
from process_support import RUN_ID, assignment, infrastructure
from trio.testing import MockClock

from trioworker.api.models import State, StateType
from trioworker.infrastructure.process import infrastructure as module
from trioworker.infrastructure.process.attempt_protocol import Disposition
from trioworker.infrastructure.process.control_channel import Conclusion, Delivery, EngineReceipt
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure, ProcessJob
from trioworker.infrastructure.process.workspace import Workspace
from trioworker.infrastructure.protocol import (
    HookCall,
    InfrastructureError,
    InfrastructureFullError,
    Intent,
    Outcome,
)

kernel = played_kernel.kernel

KILL_GRACE: Final = 5.0
STUBBORN: Final = math.inf

REPORTED: Final = EngineReceipt(Disposition.STATE_REPORTED, RUN_ID, "COMPLETED", "Completed")

CALL: Final = HookCall(
    kind="crashed", flow_run={"name": "red-fox"}, state={"type": "CRASHED", "name": "Crashed"}
)


@attrs.define(eq=False)
class PlayedChannel:
    """A control channel whose engine says what a test wants.

    Attributes:
        answer: what becomes of an intent.
        conclusion: what the engine has said in the end.
        told: intents, and the signals that the process had had before.
        runs: how many runs have it open.
    """

    kernel: PlayedKernel
    answer: Delivery = Delivery.NOT_ACKNOWLEDGED
    conclusion: Conclusion | None = None
    environment: Mapping[str, str] = {"PREFECT__CONTROL_PORT": "1", "PREFECT__CONTROL_TOKEN": "token"}
    told: list[tuple[Intent, list[str]]] = attrs.field(factory=list)
    runs: int = 0

    async def deliver(self, intent: Intent) -> Delivery:
        assert self.runs > 0
        self.told.append((intent, [name for _, name in self.kernel.signals]))
        await trio.lowlevel.checkpoint()
        return self.answer

    async def final_conclusion(self) -> Conclusion | None:
        assert self.runs > 0
        await trio.lowlevel.checkpoint()
        return self.conclusion


@attrs.define(eq=False)
class Stage:
    """Infrastructure with a job, and all that it is played with."""

    where: ProcessInfrastructure
    job: ProcessJob
    kernel: PlayedKernel
    channel: PlayedChannel
    outcomes: list[Outcome] = attrs.field(factory=list)

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128
        self.outcomes.append(await self.where.run(self.job, task_status=task_status))

    async def started(self, nursery: trio.Nursery, **traits: Any) -> tuple[str, PlayedProcess]:
        """Start the run; its identifier, and its process with the traits that it shall have."""
        identifier: str = await nursery.start(self.run)
        process = self.kernel.started[-1]
        for name, trait in traits.items():
            setattr(process, name, trait)
        return identifier, process

    def left_of(self, process: PlayedProcess) -> bool:
        """Whether anything is left of a process in the infrastructure or in the kernel."""
        return bool(self.where._running or self.where._groups) or self.kernel.is_there(process)


@pytest.fixture
def stage(kernel: PlayedKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    channel = PlayedChannel(kernel)

    @asynccontextmanager
    async def open_channel() -> AsyncIterator[PlayedChannel]:
        channel.runs += 1
        try:
            yield channel
        finally:
            channel.runs -= 1

    monkeypatch.setattr(module, "open_control_channel", open_channel)
    where = infrastructure(tmp_path, kill_grace=KILL_GRACE)
    root, private = tmp_path / "root", tmp_path / "private"
    root.mkdir()
    private.mkdir()
    job = attrs.evolve(
        where.prepare(assignment({"command": "run it", "env": {"OF": "job"}})),
        workspace=Workspace(root=root, private=private),
    )
    return Stage(where, job, kernel, channel)


# The start


@pytest.mark.parametrize(("stream_output", "output"), [(True, None), (False, subprocess.DEVNULL)])
async def test_process_is_started_as_the_job_says_and_finds_the_control_channel(
    autojump_clock: MockClock, stage: Stage, stream_output: bool, output: int | None
) -> None:
    stage.kernel.program = ending(0)
    stage.job = attrs.evolve(stage.job, stream_output=stream_output)
    await stage.run()
    (process,) = stage.kernel.started
    assert process.argv == ("run", "it")
    assert process.arguments["cwd"] == stage.job.opened_workspace.root
    assert process.arguments["env"] == {**stage.job.environment, **stage.channel.environment}
    assert process.arguments["env"]["OF"] == "job"
    assert (process.arguments["stdout"], process.arguments["stderr"]) == (output, output)
    assert process.arguments["stdin"] == subprocess.DEVNULL


async def test_run_is_killed_by_its_process_id(autojump_clock: MockClock, stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery)
        assert identifier == str(process.pid)
        await stage.where.kill(identifier, 0)
        assert process.status is not None
    # Nothing of this number is in hand any more.
    await stage.where.kill(identifier, 0)
    assert not stage.left_of(process)


async def test_run_that_cannot_be_started_leaves_nothing(autojump_clock: MockClock, stage: Stage) -> None:
    stage.kernel.refusal = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(InfrastructureError, match="the program in command was not found"):
        await stage.run()
    assert not stage.where._running
    assert stage.channel.runs == 0


async def test_job_without_its_workspace_is_refused(autojump_clock: MockClock, stage: Stage) -> None:
    for job in (attrs.evolve(stage.job, workspace=None), attrs.evolve(stage.job, command=None)):
        with pytest.raises(ValueError, match="use the job that `open_workspace` yields"):
            await stage.where.run(job)
    assert stage.kernel.started == []


# How it ended


@pytest.mark.parametrize(
    ("conclusion", "outcome"),
    [
        (
            REPORTED,
            Outcome(
                status_code=0,
                message="Flow run reported how it ended.",
                state=State(id=RUN_ID, type=StateType.COMPLETED, name="Completed"),
            ),
        ),
        ("cancel", Outcome(status_code=0, message="Flow run ended, as it was told to (cancel).")),
        ("reschedule", Outcome(status_code=0, message="Flow run ended, as it was told to (reschedule).")),
    ],
)
async def test_status_tells_nothing_of_an_engine_that_said_what_it_made_of_its_run(
    autojump_clock: MockClock, stage: Stage, conclusion: Conclusion, outcome: Outcome
) -> None:
    stage.kernel.program = ending(3)
    stage.channel.conclusion = conclusion
    await stage.run()
    assert stage.outcomes == [outcome]


@pytest.mark.parametrize(
    ("receipt", "state_type"),
    [
        (REPORTED, StateType.COMPLETED),
        (EngineReceipt(Disposition.STATE_REPORTED, RUN_ID, "PAUSED", "Suspended"), None),
        (EngineReceipt(Disposition.STATE_REPORTED, RUN_ID, "SCHEDULED", "Scheduled"), None),
        (EngineReceipt(Disposition.STATE_REPORTED, RUN_ID, "NEVER HEARD OF", "Odd"), None),
        (EngineReceipt(Disposition.ORCHESTRATION_ABORTED), None),
    ],
)
async def test_final_state_that_an_engine_has_reported_is_known(
    autojump_clock: MockClock, stage: Stage, receipt: EngineReceipt, state_type: StateType | None
) -> None:
    stage.kernel.program = ending(0)
    stage.channel.conclusion = receipt
    await stage.run()
    (outcome,) = stage.outcomes
    assert (outcome.state and outcome.state.type) == state_type


@pytest.mark.parametrize("status", [0, 7, -signal.SIGKILL])
async def test_status_is_all_there_is_to_say_of_an_engine_that_said_nothing(
    autojump_clock: MockClock, stage: Stage, status: int
) -> None:
    stage.kernel.program = ending(status)
    await stage.run()
    (outcome,) = stage.outcomes
    assert outcome.status_code == status
    assert outcome.message.startswith(f"Process exited with status code: {status}.")
    assert outcome.hint


async def test_what_a_good_run_has_started_goes_on(autojump_clock: MockClock, stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        _, process = await stage.started(nursery)
        member = stage.kernel.member(process)
        process.end(0)
    assert stage.kernel.signals == []
    assert member.status is None
    assert not stage.left_of(process)


async def test_what_a_failed_run_has_started_is_ended_with_grace(
    autojump_clock: MockClock, stage: Stage
) -> None:
    """It may be run again soon, by whomever."""
    async with trio.open_nursery() as nursery:
        _, process = await stage.started(nursery)
        member = stage.kernel.member(process, tidies_up=STUBBORN)
        process.end(3)
    assert stage.kernel.signals == [(0, "SIGTERM"), (KILL_GRACE, "SIGKILL")]
    assert member.status == -signal.SIGKILL
    assert stage.outcomes[0].status_code == 3
    assert not stage.left_of(process)


# Killed


@pytest.mark.parametrize("answer", [Delivery.ACKNOWLEDGED, Delivery.NOT_ACKNOWLEDGED])
async def test_run_is_told_the_intent_before_it_is_terminated(
    autojump_clock: MockClock, stage: Stage, answer: Delivery
) -> None:
    """One that cannot be told is terminated all the same."""
    stage.channel.answer = answer
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery, tidies_up=3)
        await stage.where.kill(identifier, 30, intent="cancel")
        assert stage.kernel.now == 3
        assert process.status == -signal.SIGTERM
    assert stage.channel.told == [("cancel", [])]
    assert stage.kernel.signals[:1] == [(0, "SIGTERM")]
    assert not stage.left_of(process)


async def test_run_that_ignores_what_it_is_told_is_killed_after_the_grace(
    autojump_clock: MockClock, stage: Stage
) -> None:
    stage.channel.answer = Delivery.ACKNOWLEDGED
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery, tidies_up=STUBBORN)
        await stage.where.kill(identifier, 30, intent="reschedule")
    assert stage.kernel.signals == [(0, "SIGTERM"), (30, "SIGKILL")]
    assert process.status == -signal.SIGKILL


async def test_run_that_came_to_its_end_is_left_to_end_by_itself(
    autojump_clock: MockClock, stage: Stage
) -> None:
    stage.channel.answer, stage.channel.conclusion = Delivery.ALREADY_CONCLUDED, REPORTED
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery)

        async def end() -> None:
            await trio.sleep(20)
            process.end(0)

        nursery.start_soon(end)
        await stage.where.kill(identifier, 30, intent="cancel")
        assert stage.kernel.now == 20
    assert stage.kernel.signals == []
    assert stage.outcomes[0].message == "Flow run reported how it ended."


async def test_run_that_came_to_its_end_but_does_not_end_is_terminated_after_the_grace(
    autojump_clock: MockClock, stage: Stage
) -> None:
    stage.channel.answer = Delivery.ALREADY_CONCLUDED
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery, tidies_up=1)
        await stage.where.kill(identifier, 30, intent="cancel")
    assert stage.kernel.signals[:1] == [(30, "SIGTERM")]
    assert process.status == -signal.SIGTERM


async def test_run_without_an_intent_is_terminated_and_told_nothing(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async with trio.open_nursery() as nursery:
        identifier, _ = await stage.started(nursery)
        await stage.where.kill(identifier, 30)
    assert stage.channel.told == []
    assert stage.kernel.signals[:1] == [(0, "SIGTERM")]


async def test_killed_run_is_not_over_before_what_it_has_started_is_gone(
    autojump_clock: MockClock, stage: Stage
) -> None:
    """Even if the process itself comes to a good end: it must not be offered to others before."""
    over_at: list[float] = []

    async def run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
        await stage.run(task_status=task_status)
        over_at.append(stage.kernel.now)

    async with trio.open_nursery() as nursery:
        identifier = await nursery.start(run)
        (process,) = stage.kernel.started
        process.tidies_up = STUBBORN
        member = stage.kernel.member(process, tidies_up=STUBBORN)

        async def end_well() -> None:
            await trio.sleep(1)
            process.end(0)

        nursery.start_soon(end_well)
        await stage.where.kill(identifier, 10)
    assert over_at == [10]
    assert member.status == -signal.SIGKILL


async def test_cancelled_kill_gives_the_grace_nevertheless(autojump_clock: MockClock, stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery, tidies_up=8)
        with trio.move_on_after(2) as scope:
            await stage.where.kill(identifier, 10)
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert stage.kernel.now == 8
    assert process.status == -signal.SIGTERM


async def test_kill_of_what_is_not_there_does_nothing(autojump_clock: MockClock, stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        _, process = await stage.started(nursery)
        await stage.where.kill("1", 5, intent="cancel")
        assert (stage.kernel.signals, stage.channel.told) == ([], [])
        process.end(0)


# Cut off


async def test_cancelled_run_is_terminated_with_the_grace_of_the_worker(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async with trio.open_nursery() as nursery:
        _, process = await stage.started(nursery, tidies_up=STUBBORN)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert stage.kernel.signals == [(1, "SIGTERM"), (1 + KILL_GRACE, "SIGKILL")]
    assert stage.outcomes == []
    assert not stage.left_of(process)


async def test_kill_now_leaves_the_number_of_a_run_that_is_over_alone(
    autojump_clock: MockClock, stage: Stage
) -> None:
    """It may be a stranger's by then."""
    async with trio.open_nursery() as nursery:
        _, process = await stage.started(nursery)
        stranger = stage.kernel.member(process)
        process.end(0)
    stage.where.kill_now()
    assert stage.kernel.signals == []
    assert stranger.status is None


async def test_cancellation_cuts_the_grace_of_a_kill_under_way_to_that_of_the_worker(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async with trio.open_nursery() as nursery:
        identifier, process = await stage.started(nursery, tidies_up=STUBBORN)
        nursery.start_soon(stage.where.kill, identifier, 600)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert stage.kernel.now == 1 + KILL_GRACE
    assert not stage.left_of(process)


async def test_kill_now_kills_every_run_at_once_but_for_one_that_somebody_else_has_reaped(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async def stolen_run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
        with pytest.raises(InfrastructureError, match="reaped by somebody else"):
            await stage.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(stolen_run)
        (stolen,) = stage.kernel.started
        processes = [(await stage.started(nursery, tidies_up=STUBBORN))[1] for _ in range(2)]
        stolen.end(0)
        stage.kernel.forget(stolen)
        stage.where.kill_now()
        assert [process.status for process in processes] == [-signal.SIGKILL] * 2
    assert [outcome.status_code for outcome in stage.outcomes] == [-signal.SIGKILL] * 2
    assert stage.where._groups == set()


# What may go wrong with it


async def test_kill_of_a_process_that_somebody_else_has_reaped_is_no_bug(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async def stolen_run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
        with pytest.raises(InfrastructureError, match="reaped by somebody else"):
            await stage.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        identifier = await nursery.start(stolen_run)
        (stolen,) = stage.kernel.started
        stolen.end(0)
        stage.kernel.forget(stolen)
        with pytest.raises(InfrastructureError, match="reaped by somebody else") as caught:
            await stage.where.kill(identifier, 30)
    assert isinstance(caught.value.__cause__, ChildProcessError)


async def test_kill_of_a_process_that_hangs_in_the_kernel_is_no_bug(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async def hanging_run(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
        with pytest.raises(InfrastructureError, match="has not ended"):
            await stage.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        identifier = await nursery.start(hanging_run)
        (process,) = stage.kernel.started
        process.tidies_up, process.hangs = STUBBORN, True
        with pytest.raises(InfrastructureError, match="has not ended") as caught:
            await stage.where.kill(identifier, 30)
        assert isinstance(caught.value.__cause__, TimeoutError)
        nursery.cancel_scope.cancel()


# Hooks


@attrs.define
class Heard:
    """What the process found that calls hooks, and the status with which it ends."""

    status: int = 0
    documents: list[Any] = attrs.field(factory=list)
    modes: list[int] = attrs.field(factory=list)

    async def program(self, process: PlayedProcess) -> int:
        await trio.lowlevel.checkpoint()
        for argument in process.argv[-2:]:
            self._hear(Path(argument))
        return self.status

    def _hear(self, document: Path) -> None:
        self.documents.append(json.loads(document.read_text()))
        self.modes.append(document.stat().st_mode & 0o777)


@contextmanager
def manifest(stage: Stage, **changes: Any) -> Iterator[Path]:
    """Give the workspace a manifest, as Prefect's supervisor writes it."""
    path = stage.job.opened_workspace.private / "workspace.json"
    document = {
        "working_directory": "/of/manifest",
        "project_root": None,
        "runtime_entrypoint": "flow.py:flow",
        "hook_command": ["uv", "run", "caller"],
        "environment": {"OF": "manifest"},
    }
    path.write_text(json.dumps({**document, **changes}))
    stage.job = attrs.evolve(stage.job, workspace=attrs.evolve(stage.job.opened_workspace, manifest=path))
    yield path
    assert {left.name for left in path.parent.iterdir()} == {path.name}


async def test_hooks_of_a_flow_with_a_command_are_called_by_our_script_in_its_workspace(
    autojump_clock: MockClock, stage: Stage
) -> None:
    heard = Heard()
    stage.kernel.program = heard.program
    await stage.where.run_hooks(stage.job, CALL)
    (process,) = stage.kernel.started
    interpreter, script, kind, *documents = process.argv
    assert interpreter == stage.where._python
    assert Path(script).name == "call_hooks.py"
    assert Path(script).is_file()  # noqa: ASYNC240
    assert kind == "crashed"
    assert heard.documents == [dict(CALL.flow_run), dict(CALL.state)]
    assert heard.modes == [0o600, 0o600]
    assert process.arguments["cwd"] == stage.job.opened_workspace.root
    assert process.arguments["env"] == stage.job.environment
    assert not any(Path(document).exists() for document in documents)  # noqa: ASYNC240
    assert not stage.left_of(process)


async def test_hooks_of_a_prepared_flow_are_called_by_its_manifest(
    autojump_clock: MockClock, stage: Stage
) -> None:
    heard = Heard()
    stage.kernel.program = heard.program
    with manifest(stage) as path:
        await stage.where.run_hooks(stage.job, CALL)
    (process,) = stage.kernel.started
    assert process.argv[:5] == ("uv", "run", "caller", "crashed", str(path))
    assert heard.documents == [dict(CALL.flow_run), dict(CALL.state)]
    assert process.arguments["cwd"] == Path("/of/manifest")
    assert process.arguments["env"] == {"OF": "manifest"}


async def test_hooks_that_fail_are_told_by_their_status_and_leave_nothing(
    autojump_clock: MockClock, stage: Stage
) -> None:
    stage.kernel.program = Heard(status=3).program
    with manifest(stage), pytest.raises(InfrastructureError, match="ended with status 3; the output of"):
        await stage.where.run_hooks(stage.job, CALL)


async def test_hooks_whose_process_somebody_else_has_reaped_are_no_bug(
    autojump_clock: MockClock, stage: Stage
) -> None:
    async def stolen(process: PlayedProcess) -> int:
        await trio.lowlevel.checkpoint()
        process.end(0)
        stage.kernel.forget(process)
        return 0

    stage.kernel.program = stolen
    with manifest(stage), pytest.raises(InfrastructureError, match="reaped by somebody else") as caught:
        await stage.where.run_hooks(stage.job, CALL)
    assert isinstance(caught.value.__cause__, ChildProcessError)


async def test_documents_of_hooks_that_cannot_be_removed_are_no_trouble(
    autojump_clock: MockClock, stage: Stage
) -> None:
    """They go with the directory, with which the flow may have done anything."""

    async def replace(process: PlayedProcess) -> int:
        await trio.lowlevel.checkpoint()
        for document in map(Path, process.argv[-2:]):
            document.unlink()
            document.mkdir()
        return 0

    stage.kernel.program = replace
    await stage.where.run_hooks(stage.job, CALL)
    assert len(list(stage.job.opened_workspace.private.iterdir())) == 2


async def test_flow_that_is_not_run_by_python_has_nothing_to_call_its_hooks(
    autojump_clock: MockClock, stage: Stage
) -> None:
    with (
        manifest(stage, hook_command=None),
        pytest.raises(InfrastructureError, match="not a Python that could call its hooks"),
    ):
        await stage.where.run_hooks(stage.job, CALL)
    assert stage.kernel.started == []


async def test_hooks_that_cannot_be_told_are_not_called(
    autojump_clock: MockClock, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trioworker.infrastructure.process.hooks.write_private", full)
    with pytest.raises(InfrastructureError, match=r"what the hooks are told cannot be written: .*No space"):
        await stage.where.run_hooks(stage.job, CALL)
    assert stage.kernel.started == []


async def test_want_of_room_for_the_process_of_hooks_is_no_fault_of_theirs(
    autojump_clock: MockClock, stage: Stage
) -> None:
    stage.kernel.refusal = BlockingIOError(11, "Resource temporarily unavailable")
    with manifest(stage), pytest.raises(InfrastructureFullError, match="no process can be started just now"):
        await stage.where.run_hooks(stage.job, CALL)


async def test_cancelled_hooks_are_ended_with_the_grace_of_the_worker(
    autojump_clock: MockClock, stage: Stage
) -> None:
    with manifest(stage), trio.move_on_after(2) as scope:

        async def stubborn(process: PlayedProcess) -> int:
            process.tidies_up = STUBBORN
            await trio.sleep_forever()

        stage.kernel.program = stubborn
        await stage.where.run_hooks(stage.job, CALL)
    assert scope.cancelled_caught
    assert stage.kernel.signals == [(2, "SIGTERM"), (2 + KILL_GRACE, "SIGKILL")]
    assert not stage.left_of(stage.kernel.started[0])
