"""How a run is told why it is ended, and how an engine that has come to its end is left to itself.

The engines are played by small programs that speak Prefect's protocol on the control channel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from process_support import assignment, executed, infrastructure, python, run_in_workspace

from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.protocol import Intent, Outcome, ShutdownPolicy

pytestmark = pytest.mark.process

# What an engine has to do with the channel; it notes in a file what it is told, and says by a pipe that it is ready.
ENGINE = """
import json, os, signal, socket, sys, time
pipe, notes = sys.argv[1:]

def note(word):
    with open(notes, "a") as file:
        file.write(word + "\\n")

def ready():
    os.write(os.open(pipe, os.O_WRONLY), b"r")

def terminated(*_):
    note("TERM")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)

def connect():
    channel = socket.create_connection(("127.0.0.1", int(os.environ["PREFECT__CONTROL_PORT"])))
    channel.sendall(os.environ["PREFECT__CONTROL_TOKEN"].encode() + b"\\n")
    channel.sendall(b"\\0PF\\x02\\x01")
    assert channel.recv(5, socket.MSG_WAITALL) == b"\\0PF\\x02\\x01"
    return channel

def report(channel):
    receipt = json.dumps({"disposition": "ORCHESTRATION_ABORTED"}).encode()
    channel.sendall(b"\\x01" + len(receipt).to_bytes(4, "big") + receipt)
    assert channel.recv(1) == b"\\x02"

signal.signal(signal.SIGTERM, terminated)
"""

OBEDIENT = f"""{ENGINE}
channel = connect()
ready()
note(channel.recv(1).decode())
channel.sendall(b"a")
time.sleep(600)
"""

# Ends when it is told to by the test, by another pipe.
CONCLUDED = f"""{ENGINE}
report(connect())
ready()
os.read(os.open(pipe + "-back", os.O_RDONLY), 1)
note("end")
sys.exit(3)
"""

STUCK = f"""{ENGINE}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
report(connect())
ready()
time.sleep(600)
"""

UNCONNECTED = f"""{ENGINE}
ready()
time.sleep(600)
"""


class Play:
    """A run of an engine, and its outcome."""

    def __init__(self, directory: Path, engine: str, policy: ShutdownPolicy = "crash") -> None:
        self.pipe = directory / "pipe"
        self.notes_file = directory / "notes"
        self.pipe_back = directory / "pipe-back"
        os.mkfifo(self.pipe)
        os.mkfifo(self.pipe_back)
        self.where = infrastructure(directory)
        configuration = {"command": python(engine, self.pipe, self.notes_file)}
        self.assignment = attrs.evolve(assignment(configuration), shutdown_policy=lambda: policy)
        self.identifier = ""
        self.outcome: Outcome | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def known(*, task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128
            self.outcome = await run_in_workspace(self.where, self.assignment, task_status=task_status)

        reader = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            async with trio.open_nursery() as nursery:
                self.identifier = await nursery.start(known)
                await trio.lowlevel.wait_readable(reader)
                assert os.read(reader, 1) == b"r"
                task_status.started()
        finally:
            os.close(reader)

    @property
    def notes(self) -> list[str]:
        return self.notes_file.read_text().split() if self.notes_file.exists() else []


@pytest.fixture
def played(tmp_path: Path) -> Callable[..., Play]:
    return lambda *arguments: Play(tmp_path, *arguments)


@pytest.mark.parametrize(("intent", "byte"), [("cancel", "c"), ("reschedule", "r"), ("relinquish", "q")])
async def test_engine_is_told_the_intent_before_it_is_terminated(
    played: Callable[..., Play], intent: Intent, byte: str
) -> None:
    play = played(OBEDIENT)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(play.run)
            await play.where.kill(play.identifier, 30, intent=intent)
    assert play.notes == [byte, "TERM"]
    assert play.outcome is not None
    assert play.outcome.status_code == 0
    assert intent in play.outcome.message


async def test_engine_that_is_not_connected_is_terminated_all_the_same(
    played: Callable[..., Play],
) -> None:
    play = played(UNCONNECTED)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(play.run)
            await play.where.kill(play.identifier, 30, intent="cancel")
    assert play.notes == ["TERM"]
    assert play.outcome is not None
    assert play.outcome.status_code == -15


async def test_kill_without_an_intent_tells_nothing(played: Callable[..., Play]) -> None:
    play = played(OBEDIENT)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(play.run)
            await play.where.kill(play.identifier, 30)
    assert play.notes == ["TERM"]


@pytest.mark.parametrize(("policy", "notes"), [("reschedule", ["r", "TERM"]), ("crash", ["TERM"])])
async def test_engine_that_the_workers_end_cuts_off_is_told_if_it_will_be_run_again(
    played: Callable[..., Play], policy: ShutdownPolicy, notes: list[str]
) -> None:
    """Before it is terminated, though everything around it is cancelled: a scope outside of it, too."""
    play = played(OBEDIENT, policy)
    with trio.fail_after(30):
        with trio.CancelScope() as outside:
            async with trio.open_nursery() as nursery:
                await nursery.start(play.run)
                outside.cancel()
                nursery.cancel_scope.cancel()
    assert outside.cancelled_caught or nursery.cancel_scope.cancelled_caught
    assert play.notes == notes
    assert play.outcome is None


async def test_engine_that_cannot_be_told_is_ended_all_the_same(played: Callable[..., Play]) -> None:
    play = played(UNCONNECTED, "reschedule")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(play.run)
            nursery.cancel_scope.cancel()
    assert play.notes == ["TERM"]


async def test_run_that_has_concluded_is_left_to_end_by_itself(played: Callable[..., Play]) -> None:
    play = played(CONCLUDED)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(play.run)
            async with trio.open_nursery() as killing:
                killing.start_soon(partial(play.where.kill, play.identifier, 30, intent="cancel"))
                await trio.testing.wait_all_tasks_blocked()
                assert play.notes == []
                await trio.to_thread.run_sync(play.pipe_back.write_bytes, b"x")
    assert play.notes == ["end"]
    assert play.outcome is not None
    assert play.outcome.message == "Flow run reported how it ended."
    assert play.outcome.status_code == 0


async def test_run_that_has_concluded_but_does_not_end_is_killed_after_the_grace(
    played: Callable[..., Play],
) -> None:
    play = played(STUCK)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(play.run)
            await play.where.kill(play.identifier, 0.2, intent="cancel")
    assert play.outcome is not None
    assert play.outcome.message == "Flow run reported how it ended."


async def test_status_of_an_engine_that_has_reported_tells_nothing(tmp_path: Path) -> None:
    program = f"{ENGINE}report(connect())\nsys.exit(1)"
    outcome = await executed(infrastructure(tmp_path), {"command": python(program, "-", "-")})
    assert outcome == Outcome(status_code=0, message="Flow run reported how it ended.")


async def test_each_run_has_a_channel_of_its_own(tmp_path: Path) -> None:
    program = "import os, sys; open(sys.argv[1], 'w').write(os.environ['PREFECT__CONTROL_TOKEN'])"
    where: ProcessInfrastructure = infrastructure(
        tmp_path, {"PREFECT__CONTROL_PORT": "1", "PREFECT__CONTROL_TOKEN": "inherited"}
    )
    files = [tmp_path / "first", tmp_path / "second"]
    for file in files:
        await executed(where, {"command": python(program, file)})
    tokens = {file.read_text() for file in files}
    assert len(tokens | {"inherited"}) == 3
