"""One template process, as its worker sees it."""

from __future__ import annotations

import array
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import trio

from trioworker.infrastructure.process.warm.program import start
from trioworker.infrastructure.process.warm.program.messages import (
    FORK,
    GO,
    LARGEST_MESSAGE,
    Born,
    Job,
    Message,
    Ready,
    Refusal,
    decode,
    encode_job,
)
from trioworker.lean_attrs import frozen
from trioworker.process_group import ProcessGroup

__all__ = ["Forked", "RefusedError", "Template", "command_without_template", "nothing_before"]

_PROGRAM: Final = Path(start.__file__)

_START_TIME: Final = 60.0
"""Seconds within which Prefect is imported on any machine that can run it."""

_FORK_TIME: Final = 10.0
"""Seconds that a child may take to be ready; it needs a few milliseconds, and waits for those before it."""


def command_without_template(python: str, module: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The command that executes a module of Prefect faster than `python -m` does, where nothing can be forked."""
    return (python, str(_PROGRAM), "alone", module, *arguments)


async def nothing_before(pid: int) -> None:  # noqa: ARG001 - see `Template.fork`
    """Let a child begin at once."""
    await trio.lowlevel.checkpoint()


class RefusedError(Exception):
    """A flow run has to be started otherwise; nothing of it has begun.

    Attributes:
        reason: why, as the part of a sentence after "because".
        template_is_gone: whether another template might do it.
        no_template: whether there can be none, because nothing can be forked here.
    """

    def __init__(
        self,
        reason: str,
        *,
        template_is_gone: bool = False,
        no_template: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.template_is_gone = template_is_gone
        self.no_template = no_template


@frozen
class Forked:
    """A child that has begun.

    Attributes:
        group: the process group that it leads.
        connection: on which it tells how it goes on to the engine; to be closed by whoever has this, but not before
            that: a child that loses its worker in the very moment of being let begin does not.
    """

    group: ProcessGroup
    connection: trio.socket.SocketType

    async def engine(self) -> Ready | Refusal | None:
        """How it has gone on to the engine: by itself, or in a program of its own. None if it has ended before."""
        with suppress(RefusedError):
            return await _receive_from_born(self.connection)
        return None


class Template:
    """A template process; `start` makes one. It ends by itself when its socket is closed."""

    def __init__(self, group: ProcessGroup, control: trio.socket.SocketType) -> None:
        self._group = group
        self._control = control

    @classmethod
    async def start(
        cls, python: str, modules: Sequence[str], environment: Mapping[str, str], *, stream_output: bool
    ) -> Self:
        """Start a template; it is not ready yet.

        Args:
            python: the interpreter.
            modules: what it imports besides Prefect.
            environment: its whole environment.
            stream_output: whether its children write to the worker's standard output and error, or nowhere.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = None if stream_output else subprocess.DEVNULL
        try:
            with theirs:
                group = await ProcessGroup.start(
                    [python, str(_PROGRAM), "template", str(theirs.fileno()), *modules],
                    env=environment,
                    # No settings of Prefect are found there, and no modules.
                    cwd=_PROGRAM.parent,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                )
        except BaseException:
            ours.close()
            raise
        return cls(group, trio.socket.from_stdlib_socket(ours))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._group.pid

    async def wait_ready(self) -> Sequence[str]:
        """Wait until everything is imported.

        Returns:
            What somebody should hear of: what was to be preloaded and could not be.

        Raises:
            RefusedError: it cannot be a template.
        """
        message: Message | None = None
        with trio.move_on_after(_START_TIME):
            message = await _receive(self._control)
            if message is None:
                raise RefusedError("its template has ended before it was ready", template_is_gone=True)
        if isinstance(message, Refusal):
            raise RefusedError(message.reason, no_template=True)
        if not isinstance(message, Ready):
            raise RefusedError(f"its template was not ready within {_START_TIME:g} s", template_is_gone=True)
        return message.problems

    async def fork(
        self, job: Job, before_beginning: Callable[[int], Awaitable[None]] = nothing_before
    ) -> Forked:
        """Fork a child, and let it begin.

        When it is cancelled, either nothing has begun or the child is returned nevertheless.

        Args:
            job: what it is to do.
            before_beginning: awaited with its process id right before it begins.

        Raises:
            RefusedError: it has not begun, and will not.
        """
        try:
            return await self._fork(job, before_beginning)
        except OSError as error:
            raise RefusedError(f"it cannot be asked for ({error.strerror})") from error

    async def _fork(self, job: Job, before_beginning: Callable[[int], Awaitable[None]]) -> Forked:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection = trio.socket.from_stdlib_socket(ours)
        group: ProcessGroup | None = None
        try:
            # A child that nobody knows of could not be reaped.
            with trio.move_on_after(_FORK_TIME, shield=True), theirs:
                await self._ask_for_child(job, theirs)
                theirs.close()
                group = await _born(connection)
                await _wait_until_ready(connection)
                await before_beginning(group.pid)
                await connection.send(GO)
                return Forked(group, connection)
            was_born = group is not None
            group = group or await self._born_in_the_end(connection)
            reason = f"it was not ready within {_FORK_TIME:g} s"
            raise RefusedError(reason, template_is_gone=not was_born)  # noqa: TRY301
        except BaseException:
            # A child that leads no group yet cannot be killed as one, but ends by itself when nobody is there.
            connection.close()
            if group is not None:
                with suppress(ChildProcessError, TimeoutError):
                    await group.terminate(0)  # noqa: ASYNC102 - it kills at once, and shields itself
            raise

    async def _born_in_the_end(self, connection: trio.socket.SocketType) -> ProcessGroup | None:
        """The child that may have come of it after all, which is certain once the template is killed."""
        with trio.move_on_after(_FORK_TIME, shield=True), suppress(ChildProcessError, RefusedError):
            self._group.kill()
            return await _born(connection)
        return None

    async def _ask_for_child(self, job: Job, theirs: socket.socket) -> None:
        # In a file, since a message has no room for a large environment.
        document = _in_memory(encode_job(job))
        try:
            descriptors = array.array("i", [document, theirs.fileno()])
            await self._control.sendmsg([FORK], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        except (OSError, trio.ClosedResourceError) as error:
            # The latter, when it was ended while others waited for their turn.
            raise RefusedError(f"its template cannot be reached ({error})", template_is_gone=True) from error
        finally:
            os.close(document)

    async def wait_ended(self) -> None:
        """Wait until it has ended, for whatever reason."""
        with suppress(ChildProcessError):
            await self._group.wait()

    async def end(self) -> None:
        """End it; its children go on."""
        self._control.close()
        with suppress(ChildProcessError, TimeoutError):
            await self._group.terminate(0)
            _reap_members(self.pid)


def _reap_members(group: int) -> None:
    """Reap children that were killed with a template's group, before they could leave it or say that they are there.

    Raises:
        ChildProcessError: no more of them are left.
    """
    while os.waitpid(-group, os.WNOHANG)[0]:
        continue


def _in_memory(data: bytes) -> int:
    """The descriptor of a file that is nowhere else, to be read from its beginning."""
    descriptor = os.memfd_create("flow-run", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


async def _born(connection: trio.socket.SocketType) -> ProcessGroup:
    """The child, as soon as there is one."""
    born = await _receive(connection)
    if isinstance(born, Refusal):
        raise RefusedError(born.reason)
    if not isinstance(born, Born):
        raise RefusedError("its template has ended", template_is_gone=True)
    return ProcessGroup(born.pid)


async def _wait_until_ready(connection: trio.socket.SocketType) -> None:
    """Wait until a child is ready to begin."""
    answer = await _receive_from_born(connection)
    if isinstance(answer, Refusal):
        raise RefusedError(answer.reason, template_is_gone=answer.is_stale)
    if not isinstance(answer, Ready):
        raise RefusedError("it has ended before it was ready")


async def _receive_from_born(connection: trio.socket.SocketType) -> Ready | Refusal | None:
    """The next message of a child whose birth may be told once more."""
    message = await _receive(connection)
    while isinstance(message, Born):
        message = await _receive(connection)
    return message


async def _receive(connection: trio.socket.SocketType) -> Message | None:
    """The next message; None if there is nobody who could send one."""
    try:
        data = await connection.recv(LARGEST_MESSAGE)
    except ConnectionError:
        return None
    try:
        return decode(data) if data else None
    except ValueError as error:
        raise RefusedError(f"it cannot be understood ({error})") from error
