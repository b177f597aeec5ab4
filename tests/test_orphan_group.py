"""Groups of processes that are not our children: real ones, whose parent is gone."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing
from orphans import OBEDIENT, STUBBORN, Orphan, child_with_number, is_gone, orphan, parent_of
from process_support import descriptors

from trioworker import orphan_group, process_table
from trioworker.orphan_group import OrphanGroup

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not process_table.is_there(), reason="only Linux tells of processes that are no children"
    ),
]

NAME = "PREFECT__FLOW_RUN_ID"


@pytest.fixture
def run_id() -> str:
    return str(uuid4())


def group_of(one: Orphan, run_id: str) -> OrphanGroup:
    return OrphanGroup(one.pid, one.started, f"{NAME}={run_id}")


def without_descriptors(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let no process be had by a descriptor, as on an old kernel, in a sandbox, or when there are too many."""

    def refuse(pid: int, flags: int = 0) -> int:
        if process_table.look_up(pid) is None:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)


@contextmanager
def nothing_signalled() -> Iterator[None]:
    """See to it that nothing at all is sent a signal within a block."""
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda *arguments: sent.append(f"kill {arguments}"))
        patch.setattr(os, "killpg", lambda *arguments: sent.append(f"killpg {arguments}"))
        patch.setattr(signal, "pidfd_send_signal", lambda *arguments: sent.append(f"pidfd {arguments}"))
        yield
    assert sent == []


# Waiting


async def test_wait_returns_when_a_process_ends_that_is_not_our_child(run_id: str) -> None:
    async with orphan(OBEDIENT) as one:
        await one.line()
        group = group_of(one, run_id)
        assert group.pid == one.pid
        assert group.leader_lives
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.wait)
            nursery.start_soon(group.wait)
            await trio.testing.wait_all_tasks_blocked()
            assert group.leader_lives
            os.kill(one.pid, signal.SIGTERM)
        assert is_gone(one.pid)
        await group.wait()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EMFILE, errno.EPERM])
async def test_wait_returns_where_no_descriptor_tells(
    run_id: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with orphan(OBEDIENT) as one:
        await one.line()
        without_descriptors(monkeypatch, number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group_of(one, run_id).wait)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(one.pid, signal.SIGTERM)


async def test_wait_is_for_the_leader_alone(run_id: str) -> None:
    async with orphan(parent_of(OBEDIENT, rest="sys.exit(3)")) as one:
        member = int(await one.line())
        await group_of(one, run_id).wait()
        assert not is_gone(member)


async def test_cancelled_wait_harms_nothing(run_id: str) -> None:
    async with orphan(OBEDIENT) as one:
        await one.line()
        before = descriptors(os.getpid())
        with trio.move_on_after(0.1) as scope:
            await group_of(one, run_id).wait()
        assert scope.cancelled_caught
        assert not is_gone(one.pid)
        assert descriptors(os.getpid()) == before


async def test_zombie_counts_as_ended(run_id: str) -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.pause()
        os._exit(0)
    process = process_table.look_up(pid)
    assert process is not None
    group = OrphanGroup(pid, process.started, f"{NAME}={run_id}")
    os.kill(pid, signal.SIGKILL)
    try:
        with trio.fail_after(30):
            await group.wait()
            assert not group.leader_lives
            await group.terminate(600)
    finally:
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended


# Ending


async def test_terminate_ends_leader_and_grandchildren_within_the_grace(run_id: str) -> None:
    async with orphan(parent_of(parent_of(OBEDIENT))) as one:
        await one.line()
        before = descriptors(os.getpid())
        await group_of(one, run_id).terminate(600)
        await one.silence()
        assert is_gone(one.pid)
        assert descriptors(os.getpid()) == before


async def test_terminate_kills_the_stubborn_after_the_grace(run_id: str) -> None:
    async with orphan(parent_of(STUBBORN)) as one:
        member = int(await one.line())
        before = time.monotonic()
        await group_of(one, run_id).terminate(0.3)
        assert time.monotonic() - before >= 0.3
        assert is_gone(one.pid)
        assert is_gone(member)


async def test_without_a_grace_all_are_killed_at_once(run_id: str) -> None:
    async with orphan(parent_of(STUBBORN)) as one:
        member = int(await one.line())
        await group_of(one, run_id).terminate(0)
        assert is_gone(one.pid)
        assert is_gone(member)


async def test_kill_reaches_every_member_and_waits_for_nothing(run_id: str) -> None:
    async with orphan(parent_of(STUBBORN)) as one:
        await one.line()
        group_of(one, run_id).kill()
        await one.silence()


async def test_cancelled_terminate_gives_up_the_grace_and_not_the_killing(run_id: str) -> None:
    async with orphan(parent_of(STUBBORN)) as one:
        member = int(await one.line())
        with trio.CancelScope() as scope:
            scope.cancel()
            await group_of(one, run_id).terminate(600)
        assert scope.cancelled_caught
        assert is_gone(one.pid)
        assert is_gone(member)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EMFILE])
async def test_terminate_works_without_descriptors(
    run_id: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with orphan(parent_of(STUBBORN)) as one:
        await one.line()
        without_descriptors(monkeypatch, number)
        await group_of(one, run_id).terminate(0.1)
        await one.silence()


async def test_member_that_may_not_be_signalled_does_not_keep_the_others_alive(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that has become another user."""
    monkeypatch.setattr(orphan_group, "_AFTER_KILL", 0.5)
    send = signal.pidfd_send_signal
    async with orphan(parent_of(OBEDIENT)) as one:
        member = int(await one.line())

        def refuse(descriptor: int, number: int) -> None:
            if f"Pid:\t{one.pid}\n" in Path(f"/proc/self/fdinfo/{descriptor}").read_text():
                raise PermissionError(errno.EPERM, "Operation not permitted")
            send(descriptor, number)

        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
        with pytest.raises(TimeoutError, match=f"a process of group {one.pid} has not ended"):
            await group_of(one, run_id).terminate(0.1)
        assert is_gone(member)
        assert not is_gone(one.pid)


async def test_member_that_is_born_while_the_others_are_killed_is_killed_too(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orphan(parent_of(STUBBORN), {NAME: run_id}) as one:
        member = int(await one.line())
        listings = 0
        process_ids = process_table.process_ids

        def as_before_its_birth() -> Iterator[int]:
            nonlocal listings
            listings += 1
            return (pid for pid in process_ids() if listings > 1 or pid != member)

        monkeypatch.setattr(process_table, "process_ids", as_before_its_birth)
        await group_of(one, run_id).terminate(0)
        assert is_gone(member)


# Whose the members are, when the leader is gone


async def test_members_that_bear_the_mark_are_ended_when_the_leader_is_gone(run_id: str) -> None:
    async with orphan(parent_of(STUBBORN, rest="sys.exit(1)"), {NAME: run_id}) as one:
        member = int(await one.line())
        await one.reaped()
        await group_of(one, run_id).terminate(0.1)
        assert is_gone(member)


async def test_members_without_a_mark_are_ended_with_one_that_bears_it(run_id: str) -> None:
    """They are in one session, so that it is ours."""
    unmarked = parent_of(STUBBORN, environment="{}", rest=parent_of(STUBBORN, rest="sys.exit(1)"))
    async with orphan(unmarked, {NAME: run_id}) as one:
        members = [int(await one.line()), int(await one.line())]
        await one.reaped()
        assert f"{NAME}={run_id}".encode() not in process_table.environment_of(members[0])
        await group_of(one, run_id).terminate(0)
        await one.silence()
        assert all(map(is_gone, members))


async def test_members_that_were_seen_with_the_leader_are_ended_when_it_is_gone(run_id: str) -> None:
    async with orphan(parent_of(STUBBORN)) as one:
        member = int(await one.line())
        group = group_of(one, run_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.wait)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(one.pid, signal.SIGKILL)
        await one.reaped()
        assert not is_gone(member)
        await group.terminate(0.1)
        assert is_gone(member)


@pytest.mark.parametrize("environment", [{}, {NAME: str(uuid4())}, {f"X{NAME}": "1"}])
async def test_members_by_whom_nobody_can_tell_the_session_are_left_alone(
    run_id: str, environment: dict[str, str]
) -> None:
    """A stranger may have had the number, left them, and have gone."""
    async with orphan(parent_of(OBEDIENT, rest="sys.exit(1)"), environment) as one:
        member = int(await one.line())
        await one.reaped()
        group = OrphanGroup(one.pid, one.started - 1000, f"{NAME}={run_id}")
        with nothing_signalled():
            await group.terminate(600)
            group.kill()
            await group.wait()
        assert not is_gone(member)


async def test_stranger_with_the_number_is_left_alone(run_id: str) -> None:
    """However its environment looks."""
    async with orphan(parent_of(OBEDIENT), {NAME: run_id}) as one:
        await one.line()
        for started in (one.started - 1, one.started + 1):
            group = OrphanGroup(one.pid, started, f"{NAME}={run_id}")
            assert not group.leader_lives
            with nothing_signalled():
                await group.wait()
                await group.terminate(600)
                group.kill()


async def test_process_with_a_number_that_was_ours_is_left_alone(run_id: str) -> None:
    """The kernel gives the number away again, and we have waited for the end of the first all along."""
    async with orphan(OBEDIENT) as one:
        await one.line()
        group = group_of(one, run_id)
        os.kill(one.pid, signal.SIGKILL)
        await one.reaped()
        # Two starts within a hundredth of a second cannot be told apart.
        await trio.sleep(0.05)
        with child_with_number(one.pid) as stranger:
            assert stranger.pid == one.pid
            assert not group.leader_lives
            await group.wait()
            await group.terminate(600)
            group.kill()
            assert stranger.poll() is None


async def test_member_whose_number_is_given_away_before_it_is_signalled_is_left_alone(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and the descriptor of it."""
    async with orphan(OBEDIENT) as one:
        await one.line()
        group = group_of(one, run_id)
        open_descriptor = os.pidfd_open
        look_up = process_table.look_up
        taken = False

        def taken_over(pid: int, flags: int = 0) -> int:
            nonlocal taken
            taken = True
            return open_descriptor(pid, flags)

        def look_up_then(pid: int) -> process_table.ProcessStatus | None:
            found = look_up(pid)
            if found is None or pid != one.pid or not taken:
                return found
            return process_table.ProcessStatus(
                pid=pid, lives=True, group=pid, session=pid, started=found.started + 5
            )

        with monkeypatch.context() as patch, nothing_signalled():
            patch.setattr(os, "pidfd_open", taken_over)
            patch.setattr(process_table, "look_up", look_up_then)
            await group.terminate(600)
        assert taken
        assert not is_gone(one.pid)
