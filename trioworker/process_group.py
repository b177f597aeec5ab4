"""A child process with all its descendants, owned as one thing.

The child leads a session of its own, and with it a process group whose number is the child's pid. The
kernel keeps that number from being reused for as long as the leader has not been reaped. So everything
here goes by one rule: **the group is killed before its leader is reaped**. Learning that the leader ended
must therefore not reap it, which rules out `subprocess.Popen.poll`, `trio.Process` and their like.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import IO, Final, Self

import trio

from trioworker import process_table

__all__ = ["ProcessGroup"]

_AFTER_KILL: Final = 10.0
"""Seconds that the kernel has to take down what was sent SIGKILL; normally it needs milliseconds."""

_LOOK_AGAIN: Final = 1.0
"""Seconds after which the group is listed anew: a member may have left it for a session of its own."""

_POLL: Final = 0.05
"""Seconds between two looks where the kernel cannot wake us."""


class ProcessGroup:
    """A process started as leader of its own session and group, and whatever it starts in turn.

    The owner ends every group with `terminate`, or with `release` one whose leader has ended by itself and
    whose other members may go on. Until then a leader that has ended stays a zombie, and its number is nobody
    else's.

    Any number of tasks may `wait` and `terminate` at the same time.
    """

    __slots__ = ("_pid", "_status")

    def __init__(self, pid: int) -> None:
        """Own the unreaped child `pid`, leader of a group; `start` makes one."""
        self._pid = pid
        self._status: int | None = None

    @classmethod
    async def start(
        cls,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start a program in a session of its own, out of reach of the terminal's Ctrl-C.

        When it is cancelled, either the program was not started or its group is returned nevertheless: a
        started process is never lost.

        Args:
            argv: The program and its arguments; no shell is involved.
            env: The whole environment of the process; None for ours.
            cwd: The working directory; None for ours.
            stdin: A file, a descriptor or `subprocess.DEVNULL`. A pipe is made and kept by the caller.
            stdout: As `stdin`; None for ours.
            stderr: As `stdin`, or `subprocess.STDOUT`; None for ours.
            pass_fds: Descriptors above 2 that the process inherits under the same numbers.

        Raises:
            OSError: The program or the directory is missing or may not be used.
            ValueError: `subprocess.PIPE` was asked for.
        """
        if subprocess.PIPE in (stdin, stdout, stderr):
            raise ValueError("ProcessGroup makes no pipes: pass a descriptor of os.pipe() instead")

        def start() -> int:
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=pass_fds,
                start_new_session=True,
            )
            # Left alone, Popen would reap the leader some time after being garbage-collected.
            process.returncode = 0
            return process.pid

        # In a thread, because loading a program can wait for a disk or a file server.
        return cls(await trio.to_thread.run_sync(start))

    @property
    def pid(self) -> int:
        """The leader's process id, which is the group's and the session's number too."""
        return self._pid

    @property
    def reaped(self) -> bool:
        """Whether the leader is reaped; from then on its number may be a stranger's."""
        return self._status is not None

    async def wait(self) -> int:
        """Wait until the leader has ended; other members of the group may live on.

        Does not reap, so it can be cancelled, repeated and called from several tasks. (On macOS before
        Python 3.13 a status cannot be read without reaping: there what is left of the group is killed.)

        Returns:
            The exit status, or the negative number of the signal that ended it.

        Raises:
            ChildProcessError: Somebody else reaped the leader; its status is lost.
        """
        await self._leader_ended()
        status = self._peek()
        if status is not None:
            return status
        self.kill()
        return self._reap()

    async def terminate(self, grace: float) -> int:
        """End the whole group: SIGTERM, time to comply, SIGKILL for whoever is left, then reap the leader.

        It returns early when the last member is gone, not already when the leader is. On return no member
        is left, but for one that the kernel holds in an uninterruptible sleep with SIGKILL pending. What
        moved to a session of its own is no member any more. Calling it again is harmless, and a call with
        a smaller grace cuts one under way short.

        Cancelled, it gives up the rest of the grace, not the killing: milliseconds later the group is gone.
        A caller that wants the grace under cancellation shields the call.

        Args:
            grace: Seconds between SIGTERM and SIGKILL; 0 for SIGKILL at once.

        Returns:
            The leader's exit status, as `wait` does.

        Raises:
            ChildProcessError: Somebody else reaped the leader. Nothing was signalled after that, since the
                number may have been a stranger's.
            TimeoutError: The leader did not end for 10 s after SIGKILL (it hangs in the kernel).
        """
        try:
            if grace > 0:
                self._signal(signal.SIGTERM)
                with trio.move_on_after(grace):
                    await self._group_gone()
        finally:
            self.kill()
            with trio.move_on_after(_AFTER_KILL, shield=True):
                await self._group_gone()
            status = self._reap()
        await trio.lowlevel.checkpoint_if_cancelled()
        return status

    def release(self) -> int:
        """Reap a leader that has ended, and let what is left of its group go on.

        Returns:
            The exit status, as `wait` does.

        Raises:
            TimeoutError: The leader has not ended.
            ChildProcessError: Somebody else reaped the leader.
        """
        return self._reap()

    def kill(self) -> None:
        """Send SIGKILL to every member; returns at once and reaps nothing.

        Raises:
            ChildProcessError: Somebody else reaped the leader; nothing was signalled.
        """
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.reaped:
            return
        self._peek()  # raises if the number may be a stranger's by now
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS says so of a group in which nothing but zombies is left.
            return

    def _peek(self) -> int | None:
        """The leader's exit status, None while it runs (or cannot be told); does not reap it."""
        if self._status is not None:
            return self._status
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return None
        try:
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError as error:
            raise _stolen(self._pid, error) from None
        if ended is None:
            return None
        status: int = ended.si_status
        return status if ended.si_code == os.CLD_EXITED else -status

    def _reap(self) -> int:
        """Reap the leader, which has ended."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError as error:
                raise _stolen(self._pid, error) from None
            if pid == 0:
                raise TimeoutError(f"process {self._pid} has not ended")
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    async def _leader_ended(self) -> None:
        while self._peek() is None:
            if await kernel_tells_end(self._pid):
                return
            await trio.sleep(_POLL)
        await trio.lowlevel.checkpoint()

    async def _group_gone(self) -> None:
        """Wait until no member lives, the leader included, which stays unreaped.

        To the kernel an unreaped leader counts as a member, so `killpg(group, 0)` goes on succeeding for as
        long as we keep it: on Linux the living ones are looked up in /proc instead.
        """
        await self._leader_ended()
        if not process_table.is_there():
            while not self.reaped and _group_answers(self._pid):  # noqa: ASYNC110  (nothing tells us)
                await trio.sleep(_POLL)
            return
        while not self.reaped and (member := _living_member(self._pid)) is not None:
            with trio.move_on_after(_LOOK_AGAIN):
                if not await kernel_tells_end(member):
                    await trio.sleep(_POLL)


def _stolen(pid: int, error: ChildProcessError) -> ChildProcessError:
    return ChildProcessError(
        error.errno,
        f"process {pid} was reaped by somebody else, its exit status is lost: either SIGCHLD is ignored in"
        " this program, or something in it waits for any child",
    )


if sys.platform == "linux":

    async def kernel_tells_end(pid: int) -> bool:
        """Wait until a process has ended; False at once where the kernel offers no such service."""
        try:
            # One descriptor a waiter: Trio lets a single task wait for each.
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            await trio.lowlevel.checkpoint()
            return True
        except OSError:  # a sandbox without the call, an old kernel, or no descriptor left
            return False
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return True

else:

    async def kernel_tells_end(pid: int) -> bool:
        """Wait until a process has ended; False at once where the kernel offers no such service."""
        if not hasattr(select, "kqueue"):
            return False
        with closing(select.kqueue()) as queue:
            end = select.kevent(
                pid,
                filter=select.KQ_FILTER_PROC,
                flags=select.KQ_EV_ADD,
                fflags=select.KQ_NOTE_EXIT,
            )
            try:
                queue.control([end], 0)
            except ProcessLookupError:
                await trio.lowlevel.checkpoint()
                return True
            await trio.lowlevel.wait_readable(queue.fileno())
        return True


def _living_member(group: int) -> int | None:
    """Some process of the group that lives, other than its leader, which has ended; None if none does."""
    for pid in process_table.process_ids():
        try:
            if pid != group and os.getpgid(pid) == group and process_table.lives(pid):
                return pid
        except ProcessLookupError:
            continue
    return None


def _group_answers(group: int) -> bool:
    """Whether a signal would reach anybody in the group. On Linux an unreaped zombie counts, on macOS not."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
