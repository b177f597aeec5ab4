"""A process group that an earlier worker has started, and left when it went.

Its leader is not our child. So it is reaped by somebody else, nobody tells us how it ended, and its number may become
a stranger's when nobody is left of the group. Everything here therefore goes by descriptors of processes, which mean
the same process for ever, and by the moments of their starts.

While the leader is there, whoever is in its session and group is a member. When it is gone, the number may have been
given away, and be that of another session now, whose leader is gone too. But the kernel does not give it away while
anybody is left, and nobody comes into a session but by birth. So one process by which the session is known to be ours
vouches for all of it: one that was seen in it while the leader was there, or whose environment says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import trio

from trioworker import process_table
from trioworker.process_table import ProcessStatus

__all__ = ["OrphanGroup"]

_AFTER_KILL: Final = 10.0
"""Seconds that the kernel has to take down what was sent SIGKILL; normally it needs milliseconds."""

_LOOK_AGAIN: Final = 1.0
"""Seconds after which the group is listed anew: a member may have left it for a session of its own."""

_POLL: Final = 0.05
"""Seconds between two looks where the kernel cannot wake us."""


class OrphanGroup:
    """A process that leads a session and a group of its own, and what it has started. Linux only.

    Args:
        pid: the number of the leader, and of the group.
        started: the moment of the leader's start, as in `ProcessStatus.started`.
        mark: what no other group has in the environment of its processes, as `NAME=value`.
    """

    __slots__ = ("_mark", "_pid", "_seen", "_started")

    def __init__(self, pid: int, started: int, mark: str) -> None:
        self._pid = pid
        self._started = started
        self._mark = mark.encode()
        # Members, by their numbers and starts, as they were when the leader was there.
        self._seen: set[tuple[int, int]] = set()

    @property
    def pid(self) -> int:
        """The number of the leader, which is the group's too."""
        return self._pid

    @property
    def leader_lives(self) -> bool:
        """Whether the leader has not ended."""
        leader = process_table.look_up(self._pid)
        return leader is not None and leader.lives and leader.started == self._started

    async def wait(self) -> None:
        """Wait until the leader has ended; other members of the group may live on. How it ended cannot be known."""
        # Those by whom the group is known when the leader is gone.
        self._members()
        while (leader := process_table.look_up(self._pid)) is not None and self._is_leader(leader):
            await _ended(leader)
        await trio.lowlevel.checkpoint()

    async def terminate(self, grace: float) -> None:
        """End the whole group: SIGTERM, time to comply, SIGKILL for whoever is left.

        It returns when the last member is gone. Cancelled, it gives up the rest of the grace, not the killing.

        Args:
            grace: seconds between SIGTERM and SIGKILL; 0 for SIGKILL at once.

        Raises:
            TimeoutError: a member did not end for 10 s after SIGKILL (it hangs in the kernel, or is another user's).
        """
        try:
            if grace > 0:
                self._signal(signal.SIGTERM)
                with trio.move_on_after(grace):
                    while members := self._members():
                        await _ended_or_left(members[0])
        finally:
            with trio.move_on_after(_AFTER_KILL, shield=True) as waiting:
                # Again and again: who is killed may have had a child after the group was listed.
                while members := self._signal(signal.SIGKILL):
                    await _ended_or_left(members[0])
        if waiting.cancelled_caught:
            raise TimeoutError(f"a process of group {self._pid} has not ended")
        await trio.lowlevel.checkpoint_if_cancelled()

    def kill(self) -> None:
        """Send SIGKILL to every member; returns at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> Sequence[ProcessStatus]:
        """Send a signal to every member; to whom."""
        members = self._members()
        for member in members:
            # Another user's is told by its not ending, and must not keep the others from it.
            with suppress(ProcessLookupError, PermissionError):
                _send(member, number)
        return members

    def _members(self) -> Sequence[ProcessStatus]:
        """Who lives of the group."""
        while True:
            leader = process_table.look_up(self._pid)
            if leader is not None and leader.started != self._started:
                # The number is a stranger's, so that nobody is left.
                return ()
            members = [process for process in _processes() if self._may_be_member(process)]
            witness = leader or next(filter(self._is_known, members), None)
            if witness is None:
                return ()
            # As long as it is there, the number has not been given away while the others were listed.
            if _is_same(process_table.look_up(witness.pid), witness):
                self._seen = {(member.pid, member.started) for member in members}
                return members

    def _may_be_member(self, process: ProcessStatus) -> bool:
        in_group = process.group == process.session == self._pid
        return in_group and process.lives and process.started >= self._started

    def _is_leader(self, process: ProcessStatus) -> bool:
        return process.lives and process.started == self._started

    def _is_known(self, process: ProcessStatus) -> bool:
        known = (process.pid, process.started) in self._seen
        return known or self._mark in process_table.environment_of(process.pid)


def _processes() -> Iterator[ProcessStatus]:
    for pid in process_table.process_ids():
        process = process_table.look_up(pid)
        if process is not None:
            yield process


def _is_same(process: ProcessStatus | None, earlier: ProcessStatus) -> bool:
    return process is not None and process.started == earlier.started


async def _ended(process: ProcessStatus) -> None:
    """Wait until a process has ended, or a moment where the kernel cannot wake us."""
    with _descriptor(process) as descriptor:
        if descriptor is not None:
            await trio.lowlevel.wait_readable(descriptor)
        elif _is_same(process_table.look_up(process.pid), process):
            await trio.sleep(_POLL)
        else:
            await trio.lowlevel.checkpoint()


async def _ended_or_left(process: ProcessStatus) -> None:
    """Wait until a member has ended, or for as long as it may take to leave the group unnoticed."""
    with trio.move_on_after(_LOOK_AGAIN):
        await _ended(process)


def _send(process: ProcessStatus, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has ended.

    Raises:
        ProcessLookupError: it ends just now.
        PermissionError: it is another user's.
    """
    with _descriptor(process) as descriptor:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
        elif _is_same(process_table.look_up(process.pid), process):
            # Without a descriptor nothing is nearer to being certain.
            os.kill(process.pid, number)


@contextmanager
def _descriptor(process: ProcessStatus) -> Iterator[int | None]:
    """A descriptor of a process; None if it has ended, or there is none to be had."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # it has ended; or a sandbox without the call, an old kernel, or no descriptor left
        yield None
        return
    try:
        # What has this number now is what the descriptor means: is it what we have looked up?
        yield descriptor if _is_same(process_table.look_up(process.pid), process) else None
    finally:
        os.close(descriptor)
