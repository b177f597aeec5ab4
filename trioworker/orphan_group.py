"""A process group that an earlier worker has started, and left when it went.

Its leader is not our child. So it is reaped by somebody else, nobody tells us how it ended, and its number may become
a stranger's at any moment. Everything here therefore goes by descriptors of processes, which mean the same process
for ever, and by the moment of the leader's start.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from trioworker import process_table
from trioworker.process_group import kernel_tells_end
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
    """

    __slots__ = ("_pid", "_started")

    def __init__(self, pid: int, started: int) -> None:
        self._pid = pid
        self._started = started

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
        while self.leader_lives:
            if not await kernel_tells_end(self._pid):
                await trio.sleep(_POLL)
        await trio.lowlevel.checkpoint()

    async def terminate(self, grace: float) -> None:
        """End the whole group: SIGTERM, time to comply, SIGKILL for whoever is left.

        It returns when the last member is gone. Cancelled, it gives up the rest of the grace, not the killing.

        Args:
            grace: seconds between SIGTERM and SIGKILL; 0 for SIGKILL at once.

        Raises:
            TimeoutError: a member did not end for 10 s after SIGKILL (it hangs in the kernel).
        """
        try:
            if grace > 0:
                self._signal(signal.SIGTERM)
                with trio.move_on_after(grace):
                    await self._gone()
        finally:
            self.kill()
            with trio.move_on_after(_AFTER_KILL, shield=True) as waiting:
                await self._gone()
        if waiting.cancelled_caught:
            raise TimeoutError(f"a process of group {self._pid} has not ended")
        await trio.lowlevel.checkpoint_if_cancelled()

    def kill(self) -> None:
        """Send SIGKILL to every member; returns at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for member in self._members():
            with _descriptor(member) as descriptor, suppress(ProcessLookupError):
                if descriptor is not None:
                    signal.pidfd_send_signal(descriptor, number)

    async def _gone(self) -> None:
        while (member := next(self._members(), None)) is not None:
            with trio.move_on_after(_LOOK_AGAIN):
                if not await kernel_tells_end(member.pid):
                    await trio.sleep(_POLL)
        await trio.lowlevel.checkpoint()

    def _members(self) -> Iterator[ProcessStatus]:
        """Who lives of the group."""
        leader = process_table.look_up(self._pid)
        if leader is not None and leader.started != self._started:
            # The number is a stranger's, which the kernel gives away only when nobody is left of a group.
            return
        for pid in process_table.process_ids():
            process = process_table.look_up(pid)
            if process is not None and process.lives and self._is_member(process):
                yield process

    def _is_member(self, process: ProcessStatus) -> bool:
        return process.group == process.session == self._pid and process.started >= self._started


@contextmanager
def _descriptor(process: ProcessStatus) -> Iterator[int | None]:
    """A descriptor of a process; None if it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # What has this number now is what the descriptor means: is it what we have looked up?
        now = process_table.look_up(process.pid)
        yield descriptor if now is not None and now.started == process.started else None
    finally:
        os.close(descriptor)
