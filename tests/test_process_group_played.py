"""Which signals a process group gets and when, and when its leader is reaped; with a played kernel."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import played_kernel
import pytest
import trio
from played_kernel import PlayedKernel, PlayedProcess, ending
from trio.testing import MockClock

from trioworker import process_group, process_table
from trioworker.process_group import ProcessGroup

kernel = played_kernel.kernel

STUBBORN = math.inf


async def end_later(process: PlayedProcess, seconds: float, status: int = 0) -> None:
    await trio.sleep(seconds)
    process.end(status)


# How it ended


@pytest.mark.parametrize("status", [0, 7, -signal.SIGKILL])
async def test_end_is_told_without_being_reaped_and_the_same_once_reaped(
    autojump_clock: MockClock, kernel: PlayedKernel, nursery: trio.Nursery, status: int
) -> None:
    leader = kernel.leader()
    group = ProcessGroup(leader.pid)
    nursery.start_soon(end_later, leader, 5, status)
    assert await group.wait() == status
    assert kernel.now == 5
    assert kernel.is_there(leader)
    assert group.release() == status
    assert not kernel.is_there(leader)
    assert group.reaped
    assert await group.wait() == group.release() == status
    assert kernel.signals == []


async def test_release_refuses_a_leader_that_runs(autojump_clock: MockClock, kernel: PlayedKernel) -> None:
    group = ProcessGroup(kernel.leader().pid)
    with pytest.raises(TimeoutError, match=f"process {group.pid} has not ended"):
        group.release()
    assert not group.reaped


async def test_release_lets_the_others_go_on(autojump_clock: MockClock, kernel: PlayedKernel) -> None:
    leader = kernel.leader()
    member = kernel.member(leader)
    leader.end(0)
    ProcessGroup(leader.pid).release()
    assert member.status is None


# Termination


async def test_one_that_obeys_is_not_waited_for_any_longer(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    leader = kernel.leader(tidies_up=3)
    assert await ProcessGroup(leader.pid).terminate(10) == -signal.SIGTERM
    assert kernel.now == 3
    assert not kernel.is_there(leader)
    assert kernel.signals[0] == (0, "SIGTERM")


async def test_one_that_ignores_sigterm_is_killed_after_the_grace_and_not_before(
    autojump_clock: MockClock,
    kernel: PlayedKernel,
) -> None:
    leader = kernel.leader(tidies_up=STUBBORN)
    assert await ProcessGroup(leader.pid).terminate(10) == -signal.SIGKILL
    assert kernel.signals == [(0, "SIGTERM"), (10, "SIGKILL")]
    assert kernel.now == 10


async def test_without_grace_there_is_no_sigterm(autojump_clock: MockClock, kernel: PlayedKernel) -> None:
    leader = kernel.leader(tidies_up=3)
    assert await ProcessGroup(leader.pid).terminate(0) == -signal.SIGKILL
    assert kernel.signals == [(0, "SIGKILL")]


async def test_grace_is_for_every_member_and_the_leader_stays_unreaped_for_so_long(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    """Its number is that of the group, which would go to a stranger."""
    leader = kernel.leader()
    quick, slow = kernel.member(leader, tidies_up=2), kernel.member(leader, tidies_up=4)
    assert await ProcessGroup(leader.pid).terminate(10) == -signal.SIGTERM
    assert kernel.now == leader.reaped_at == 4
    assert (quick.status, slow.status) == (-signal.SIGTERM, -signal.SIGTERM)


async def test_members_left_by_a_leader_that_ended_by_itself_are_killed_after_the_grace(
    autojump_clock: MockClock,
    kernel: PlayedKernel,
) -> None:
    leader = kernel.leader()
    member = kernel.member(leader, tidies_up=STUBBORN)
    leader.end(3)
    assert await ProcessGroup(leader.pid).terminate(10) == 3
    assert kernel.signals == [(0, "SIGTERM"), (10, "SIGKILL")]
    assert member.status == -signal.SIGKILL


async def test_member_that_leaves_the_group_is_not_waited_for_much_longer(
    autojump_clock: MockClock, kernel: PlayedKernel, nursery: trio.Nursery
) -> None:
    """It lives on in a session of its own, so that its end would tell nothing."""
    leader = kernel.leader()
    member = kernel.member(leader, tidies_up=STUBBORN)

    async def leave() -> None:
        await trio.sleep(2.5)
        member.group = member.pid + 1

    nursery.start_soon(leave)
    await ProcessGroup(leader.pid).terminate(10)
    assert kernel.now == 3
    assert member.status is None


async def test_cancelled_it_gives_up_the_grace_and_not_the_killing(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    leader = kernel.leader(tidies_up=STUBBORN)
    with trio.move_on_after(2) as scope:
        await ProcessGroup(leader.pid).terminate(600)
    assert scope.cancelled_caught
    assert kernel.signals == [(0, "SIGTERM"), (2, "SIGKILL")]
    assert not kernel.is_there(leader)


async def test_cancelled_while_it_waits_for_what_it_has_killed_it_is_cancelled_when_that_is_gone(
    autojump_clock: MockClock, kernel: PlayedKernel, nursery: trio.Nursery
) -> None:
    leader = kernel.leader(hangs=True)
    nursery.start_soon(end_later, leader, 3, -signal.SIGKILL)
    with trio.move_on_after(1) as scope:
        await ProcessGroup(leader.pid).terminate(0)
    assert scope.cancelled_caught
    assert leader.reaped_at == kernel.now == 3


async def test_smaller_grace_cuts_one_under_way_short(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    group = ProcessGroup(kernel.leader(tidies_up=STUBBORN).pid)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.terminate, 600)
        await trio.sleep(1)
        assert await group.terminate(2) == -signal.SIGKILL
    assert kernel.now == 3


async def test_leader_that_hangs_in_the_kernel_is_given_up_and_left_unreaped(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    leader = kernel.leader(tidies_up=STUBBORN, hangs=True)
    group = ProcessGroup(leader.pid)
    with pytest.raises(TimeoutError, match="has not ended"):
        await group.terminate(5)
    assert kernel.now == 15
    assert not group.reaped
    leader.end(-signal.SIGKILL)
    assert group.release() == -signal.SIGKILL


async def test_nothing_is_signalled_once_the_leader_is_reaped(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    leader = kernel.leader()
    leader.end(0)
    group = ProcessGroup(leader.pid)
    group.release()
    group.kill()
    assert await group.terminate(5) == 0
    assert kernel.signals == []


async def test_number_of_a_leader_that_somebody_else_reaped_is_left_alone(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    leader = kernel.leader()
    leader.end(0)
    kernel.forget(leader)
    group = ProcessGroup(leader.pid)
    for call in (group.kill, group.release):
        with pytest.raises(ChildProcessError, match="reaped by somebody else, its exit status is lost"):
            call()
    for wait in (group.wait, lambda: group.terminate(5)):
        with pytest.raises(ChildProcessError, match="reaped by somebody else"):
            await wait()
    assert kernel.signals == []


async def test_group_of_which_nothing_but_zombies_is_left_may_refuse_a_signal(
    autojump_clock: MockClock, kernel: PlayedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""

    def refuse(_: int, __: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    leader = kernel.leader()
    leader.end(7)
    monkeypatch.setattr(os, "killpg", refuse)
    assert await ProcessGroup(leader.pid).terminate(5) == 7
    assert kernel.now == 0


# Kernels that offer less


async def test_without_pidfds_an_end_is_found_soon(
    autojump_clock: MockClock, kernel: PlayedKernel, nursery: trio.Nursery
) -> None:
    kernel.has_pidfds = False
    leader = kernel.leader()
    member = kernel.member(leader, tidies_up=4)
    nursery.start_soon(end_later, leader, 2, 7)
    group = ProcessGroup(leader.pid)
    assert await group.wait() == 7
    assert 2 <= kernel.now < 2.1
    assert await group.terminate(10) == 7
    assert 6 <= kernel.now < 6.2
    assert member.status == -signal.SIGTERM


async def test_without_proc_the_group_is_gone_when_nobody_answers_for_it(
    autojump_clock: MockClock, kernel: PlayedKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS, where a zombie does not answer."""
    monkeypatch.setattr(process_table, "_PROC", tmp_path / "missing")
    leader = kernel.leader()
    member = kernel.member(leader, tidies_up=4)

    def killpg(group: int, number: int) -> None:
        if number == 0 and member.status is not None:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        kernel.killpg(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    assert await ProcessGroup(leader.pid).terminate(10) == -signal.SIGTERM
    assert 4 <= kernel.now < 4.1


async def test_where_a_status_cannot_be_read_without_reaping_what_is_left_is_killed_first(
    autojump_clock: MockClock, kernel: PlayedKernel, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS before Python 3.13."""
    monkeypatch.delattr(os, "waitid")
    leader = kernel.leader()
    member = kernel.member(leader, tidies_up=STUBBORN)
    nursery.start_soon(end_later, leader, 2, 7)
    group = ProcessGroup(leader.pid)
    assert await group.wait() == 7
    assert group.reaped
    assert member.status == -signal.SIGKILL


# What /proc says


@pytest.mark.parametrize(
    ("state", "threads", "lives"),
    [
        ("S", 1, True),
        ("R", 5, True),
        ("D", 1, True),
        ("Z", 1, False),
        ("X", 1, False),
        # The main thread has ended before the others.
        ("Z", 2, True),
    ],
)
async def test_zombie_does_not_live_unless_it_has_threads_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, threads: int, lives: bool
) -> None:
    (tmp_path / "17").mkdir()
    # As proc(5) has it: pid, name, state, 16 fields, threads; a name may be anything.
    stat = f"17 (a) Z 1 (b)) {state} {'0 ' * 16}{threads} 0 0\n"
    (tmp_path / "17" / "stat").write_text(stat)
    monkeypatch.setattr(process_table, "_PROC", tmp_path)
    assert process_table.lives(17) is lives
    assert not process_table.lives(18)


async def test_member_that_ends_while_it_is_looked_for_is_passed_over(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    leader = kernel.leader()
    leader.end(0)
    ghost = kernel.member(leader)
    assert process_group._living_member(leader.pid) == ghost.pid
    # Listed, but gone.
    del kernel._processes[ghost.pid]
    assert process_group._living_member(leader.pid) is None
    assert await process_group.kernel_tells_end(ghost.pid)
    kernel._processes[ghost.pid] = ghost


# The start


async def test_start_gives_the_program_what_it_was_given_and_keeps_its_end_to_itself(
    autojump_clock: MockClock, kernel: PlayedKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `Popen` that believes its process to run would reap it some time."""
    opened: list[SimpleNamespace] = []

    def popen(argv: Sequence[str], **how: Any) -> SimpleNamespace:
        opened.append(kernel.popen(argv, **how))
        return opened[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    kernel.program = ending(4)
    group = await ProcessGroup.start(
        ["program", "argument"], env={"A": "1"}, cwd=tmp_path, stderr=subprocess.STDOUT
    )
    (process,) = kernel.started
    assert group.pid == process.pid
    assert process.argv == ("program", "argument")
    assert process.arguments == {
        "env": {"A": "1"},
        "cwd": tmp_path,
        "stdin": subprocess.DEVNULL,
        "stdout": None,
        "stderr": subprocess.STDOUT,
        "pass_fds": (),
    }
    assert opened[0].returncode is not None
    assert await group.wait() == 4


async def test_it_makes_no_pipes(autojump_clock: MockClock, kernel: PlayedKernel) -> None:
    with pytest.raises(ValueError, match=r"os\.pipe"):
        await ProcessGroup.start(["program"], stdout=subprocess.PIPE)
    assert kernel.started == []


async def test_start_that_was_cancelled_before_starts_nothing(
    autojump_clock: MockClock, kernel: PlayedKernel
) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await ProcessGroup.start(["program"])
    assert scope.cancelled_caught
    assert kernel.started == []
