"""What a template process does: it imports, says that it is ready, and forks a child whenever it is told to."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence

from .dependence import difference, require_unchanged
from .ending import end, status_of
from .messages import (
    FORK,
    GO,
    LARGEST_MESSAGE,
    Born,
    Job,
    Message,
    Ready,
    Refusal,
    decode_job,
    encode,
)
from .newborn import forget_template, set_directory, set_environment
from .preloading import SUPERVISOR, Preloaded, preload
from .siblings import sibling_maker
from .stages import become_engine, prepare, require_fit_directory, run_module
from .unfit import UnfitError


def main(arguments: Sequence[str]) -> int:
    """Serve until the worker is gone, in the template; execute a flow run, in a child.

    Args:
        arguments: the descriptor of the socket to the worker, and the modules to import besides Prefect.

    Returns:
        The exit status.
    """
    descriptor, *modules = arguments
    control = socket.socket(fileno=int(descriptor))
    control.set_inheritable(False)
    try:
        fork = sibling_maker()
        preloaded = preload(modules)
    except UnfitError as reason:
        control.send(encode(_refusal(reason)))
        return 0
    control.send(encode(Ready(preloaded.problems)))
    child = _serve(control, fork)
    status = 0
    if child is not None:
        try:
            _live(preloaded, *child)
        except SystemExit as ending:
            asked_for = status_of(ending)
            if asked_for is None:
                raise
            status = asked_for
        end(status, preloaded.modules)
    return status


def _serve(control: socket.socket, fork: Callable[[], int]) -> tuple[int, socket.socket] | None:
    """Fork children. Returns in each of them the descriptor of its job and its socket; None when it is over."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, len(FORK), 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return None
        if message != FORK or len(descriptors) != 2:
            return None
        job, connection = descriptors[0], socket.socket(fileno=descriptors[1])
        try:
            pid = fork()
            if pid == 0:
                control.close()
                return job, connection
            _tell(connection, Born(pid))
        except OSError as error:
            _tell(connection, Refusal(f"it cannot be forked: {error.strerror}"))
        os.close(job)
        connection.close()


def _live(preloaded: Preloaded, job_descriptor: int, worker: socket.socket) -> None:
    """Be the process of a flow run."""
    os.setsid()
    _tell(worker, Born(os.getpid()))
    with open(job_descriptor, "rb") as file:
        job = decode_job(file.read())
    try:
        _begin(preloaded, job)
    except UnfitError as reason:
        _tell(worker, _refusal(reason))
        os._exit(0)
    _tell(worker, Ready())
    if not _may_begin(worker):
        os._exit(0)
    if job.module == SUPERVISOR:
        try:
            prepared = prepare(lambda: _run_in_helper(preloaded, job, worker))
        except UnfitError as reason:
            _tell_at_last(worker, reason)
            command = [sys.executable, "-m", job.module, *job.arguments]
            os.execvpe(sys.executable, command, job.environment)  # noqa: S606
        if prepared is not None:
            become_engine(preloaded, prepared, lambda reason: _tell_at_last(worker, reason))
    else:
        _tell_at_last(worker, None)
        run_module(preloaded, job.module, job.arguments)


def _may_begin(worker: socket.socket) -> bool:
    try:
        return worker.recv(LARGEST_MESSAGE) == GO
    except ConnectionError:
        return False


def _begin(preloaded: Preloaded, job: Job) -> None:
    """Be in the environment and the directory of the job.

    Raises:
        UnfitError: a fresh process would not find the same there.
    """
    require_unchanged(preloaded.files)
    changed = difference(preloaded.given, job.environment)
    if changed:
        raise UnfitError(f"it was started with another {', '.join(changed)}")
    require_fit_directory(preloaded, job.directory, job.environment)
    forget_template()
    set_environment(preloaded.in_fresh_process(job.environment))
    try:
        set_directory(job.directory, preloaded.base_path)
    except OSError as error:
        raise UnfitError(f"its working directory cannot be entered: {error.strerror}") from error


def _run_in_helper(preloaded: Preloaded, job: Job, worker: socket.socket) -> None:
    worker.close()
    # Nor shall the two stages have secrets in common.
    forget_template()
    run_module(preloaded, job.module, job.arguments)


def _tell_at_last(worker: socket.socket, reason: UnfitError | None) -> None:
    _tell(worker, Ready() if reason is None else _refusal(reason))
    worker.close()


def _refusal(error: UnfitError) -> Refusal:
    return Refusal(error.reason, error.is_stale)


def _tell(worker: socket.socket, message: Message) -> None:
    try:
        worker.send(encode(message))
    except OSError:
        # A worker that is gone needs not know; a flow run that has begun goes on without it.
        return
