"""Real processes. What a test waits for, it reads from a pipe that they write to, or hold open."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trioworker import process_group, process_table
from trioworker.process_group import ProcessGroup

pytestmark = pytest.mark.process

OBEDIENT = "print('ready', flush=True); import time; time.sleep(600)"

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(600)
"""

# Starts a child, says its pid once the child is ready, then goes on as told.
PARENT = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
{rest}
"""


class Started:
    """A group, and the end of the pipe that all its members hold open."""

    def __init__(self, group: ProcessGroup, output: trio.lowlevel.FdStream) -> None:
        self.group = group
        self._output = output

    async def line(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            chunk = await self._output.receive_some(1)
            assert chunk, f"the program ended instead of being ready, having written {text!r}"
            text += chunk
        return text.decode().strip()

    async def silence(self) -> None:
        """Returns when the last process that holds the pipe is gone."""
        async for _ in self._output:
            pass


Start = Callable[[str], Awaitable[Started]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    with trio.fail_after(30):
        started: list[Started] = []

        async def start(program: str) -> Started:
            reader, writer = os.pipe()
            stream = trio.lowlevel.FdStream(reader)
            try:
                group = await ProcessGroup.start([sys.executable, "-c", program], stdout=writer)
            finally:
                os.close(writer)
            started.append(Started(group, stream))
            return started[-1]

        try:
            yield start
        finally:
            for one in started:
                with trio.CancelScope(shield=True):
                    await one.group.terminate(0)
                    await one._output.aclose()


def is_there(pid: int) -> bool:
    """Whether the pid is in use, be it by a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def without_pidfd(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async def nothing_tells(pid: int) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(process_group, "kernel_tells_end", nothing_tells)
        yield


async def test_leads_a_session_of_its_own(start: Start) -> None:
    one = await start(f"print('ready', flush=True); {OBEDIENT}")
    await one.line()
    pid = one.group.pid
    assert os.getsid(pid) == os.getpgid(pid) == pid != os.getpgrp()


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
async def test_wait_and_terminate_give_the_exit_status(start: Start, program: str, status: int) -> None:
    one = await start(program)
    assert await one.group.wait() == status
    assert await one.group.wait() == status
    assert await one.group.terminate(5) == status
    assert await one.group.terminate(5) == status
    assert await one.group.wait() == status


async def test_waiting_does_not_reap_and_terminate_does(start: Start) -> None:
    one = await start("pass")
    await one.group.wait()
    assert is_there(one.group.pid)
    await one.group.terminate(0)
    assert not is_there(one.group.pid)


async def test_a_cancelled_wait_loses_nothing(start: Start) -> None:
    one = await start(OBEDIENT)
    await one.line()
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.group.wait()
    assert scope.cancelled_caught
    assert await one.group.terminate(20) == -signal.SIGTERM


async def test_several_tasks_may_wait_while_another_terminates(start: Start) -> None:
    one = await start(OBEDIENT)
    await one.line()
    statuses: list[int] = []

    async def watch() -> None:
        statuses.append(await one.group.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert await one.group.terminate(20) == -signal.SIGTERM
    assert statuses == [-signal.SIGTERM] * 2


async def test_terminate_waits_for_grandchildren_that_tidy_up_after_their_parent(
    start: Start,
) -> None:
    """The leader is gone at once; the grandchild does its last work within the grace, and is not killed."""
    tidy = """
import os, signal, sys, time
parent = os.getppid()
def tidy_up(*_):
    while os.getppid() == parent:
        time.sleep(0.01)
    os.write(%d, b'tidied up\\n')
    sys.exit()
signal.signal(signal.SIGTERM, tidy_up)
print('ready', flush=True)
time.sleep(600)
"""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    child = tidy % writer
    program = PARENT.replace("stdout=subprocess.PIPE", "stdout=subprocess.PIPE, close_fds=False")
    group = await ProcessGroup.start(
        [sys.executable, "-c", program.format(child=child, rest="time.sleep(600)")],
        stdout=writer,
        pass_fds=[writer],
    )
    os.close(writer)
    async with trio.lowlevel.FdStream(reader) as output:
        one = Started(group, output)
        await one.line()
        assert await group.terminate(20) == -signal.SIGTERM
        assert await one.line() == "tidied up"
        await one.silence()


async def test_a_grandchild_that_ignores_sigterm_is_killed_after_the_grace(start: Start) -> None:
    one = await start(PARENT.format(child=STUBBORN, rest="time.sleep(600)"))
    grandchild = int(await one.line())
    before = time.monotonic()
    assert await one.group.terminate(0.3) == -signal.SIGTERM
    assert time.monotonic() - before >= 0.3
    assert process_group._living_member(one.group.pid) is None
    assert not is_there(grandchild) or not process_table.lives(grandchild)


async def test_members_left_by_a_leader_that_ended_by_itself_are_ended_too(start: Start) -> None:
    one = await start(PARENT.format(child=STUBBORN, rest="sys.exit(3)"))
    grandchild = int(await one.line())
    assert await one.group.wait() == 3
    assert process_group._living_member(one.group.pid) == grandchild
    assert await one.group.terminate(0.05) == 3
    assert not is_there(grandchild) or not process_table.lives(grandchild)


async def test_release_reaps_the_leader_and_lets_the_others_go_on(start: Start) -> None:
    one = await start(PARENT.format(child=OBEDIENT, rest="sys.exit(3)"))
    grandchild = int(await one.line())
    try:
        await one.group.wait()
        assert one.group.release() == 3
        assert not is_there(one.group.pid)
        assert process_table.lives(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)


async def test_release_refuses_a_leader_that_runs(start: Start) -> None:
    one = await start(OBEDIENT)
    await one.line()
    with pytest.raises(TimeoutError, match=f"process {one.group.pid} has not ended"):
        one.group.release()
    assert not one.group.reaped


async def test_a_cancelled_terminate_gives_up_the_grace_and_not_the_killing(start: Start) -> None:
    one = await start(PARENT.format(child=STUBBORN, rest="time.sleep(600)"))
    grandchild = int(await one.line())
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.group.terminate(600)
    assert scope.cancelled_caught
    assert one.group.reaped
    assert not is_there(grandchild) or not process_table.lives(grandchild)


async def test_a_smaller_grace_cuts_a_terminate_under_way_short(start: Start) -> None:
    one = await start(STUBBORN)
    await one.line()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.group.terminate, 600)
        await trio.testing.wait_all_tasks_blocked()
        assert await one.group.terminate(0) == -signal.SIGKILL


async def test_kill_reaches_every_member_and_reaps_nothing(start: Start) -> None:
    one = await start(PARENT.format(child=STUBBORN, rest="time.sleep(600)"))
    await one.line()
    one.group.kill()
    await one.silence()
    assert await one.group.wait() == -signal.SIGKILL
    assert not one.group.reaped


async def test_nothing_is_signalled_once_the_leader_is_reaped(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start("pass")
    await one.group.wait()
    await one.group.terminate(0)
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *arguments: signalled.append(arguments))
    one.group.kill()
    await one.group.terminate(1)
    assert signalled == []


async def test_a_leader_reaped_by_somebody_else_is_reported_and_its_number_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = await ProcessGroup.start([sys.executable, "-c", "pass"])
    await group.wait()
    os.waitid(os.P_PID, group.pid, os.WEXITED)  # noqa: ASYNC222  (it has ended)
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *arguments: signalled.append(arguments))
    with pytest.raises(ChildProcessError, match="reaped by somebody else"):
        await group.wait()
    with pytest.raises(ChildProcessError, match="reaped by somebody else"):
        await group.terminate(1)
    assert signalled == []


async def test_works_without_pidfds(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with without_pidfd(monkeypatch):
        one = await start("raise SystemExit(4)")
        assert await one.group.wait() == 4
        other = await start(PARENT.format(child=STUBBORN, rest="time.sleep(600)"))
        grandchild = int(await other.line())
        assert await other.group.terminate(0.05) == -signal.SIGTERM
        assert not is_there(grandchild) or not process_table.lives(grandchild)


async def test_gets_its_environment_directory_input_and_descriptors(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    program = (
        "import os, sys; "
        f"os.write({writer}, repr((os.environ['WHO'], os.getcwd(), sys.stdin.read())).encode())"
    )
    group = await ProcessGroup.start(
        [sys.executable, "-c", program], env={"WHO": "me"}, cwd=tmp_path, pass_fds=[writer]
    )
    os.close(writer)
    async with trio.lowlevel.FdStream(reader) as output:
        said = b"".join([chunk async for chunk in output]).decode()
    assert await group.terminate(5) in {0, -signal.SIGTERM}
    assert said == repr(("me", str(tmp_path), ""))


async def test_a_missing_program_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await ProcessGroup.start(["/no-such-program"])
