"""A call of somebody's function, as a task or in a thread, and how it ended."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import trio

from trioworker.infrastructure.trio_flows.current import RunInContext, run_in_context
from trioworker.lean_attrs import frozen

ErrorT = TypeVar("ErrorT", bound=BaseException)


@frozen
class Returned:
    """The function came to its end."""


@frozen
class Raised:
    """The function failed."""

    error: Exception


@frozen
class Broken:
    """The function raised what is no `Exception`, such as `SystemExit`: it ends this call and nothing else."""

    error: BaseException


@frozen
class TimedOut:
    """The time that the function was given was over; `error` is what its clean-up raised, if it did."""

    error: BaseException | None = None


@frozen
class Cancelled:
    """The call was cancelled; `error` is what its clean-up raised, if it did."""

    error: BaseException | None = None


CallResult = Returned | Raised | Broken | TimedOut | Cancelled


class FunctionCall:
    """One call.

    A function that is async runs as a task, and is cancelled at its next checkpoint. Any other runs in a thread,
    which nothing can cancel: it has ended when it has returned. If it returns a coroutine, as a decorated async
    function may, that runs as a task from then on.

    Args:
        function: what is called.
        arguments: by name.
        timeout: seconds that the call may take; None for any time.
        is_async: whether the function is.
        context: what the code of the call can know.
        threads: how many threads there may be.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        *,
        timeout: float | None,
        is_async: bool,
        context: RunInContext,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._call = partial(function, **arguments)
        self._timeout = timeout
        self._in_thread = not is_async
        self._context = context
        self._threads = threads
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._result: CallResult | None = None

    @property
    def interruptible(self) -> bool:
        """Whether cancelling it has an effect before its function returns."""
        return not self._in_thread

    @property
    def result(self) -> CallResult | None:
        """How it ended; None before, and if that was the doing of its surroundings."""
        return self._result

    def cancel(self) -> None:
        """Cancel it; its clean-up code is still executed."""
        self._scope.cancel()

    @property
    def goes_on(self) -> bool:
        """Whether code of it may yet be executed."""
        return not self._ended.is_set()

    async def wait(self) -> CallResult | None:
        """Wait until no code of it is being executed any more; returns its `result`."""
        await self._ended.wait()
        return self._result

    async def run(self) -> None:
        """Do it.

        Raises:
            KeyboardInterrupt: somebody wants the program to end.
        """
        run_in_context.set(self._context)
        try:
            self._result = await self._outcome()
        finally:
            self._ended.set()

    async def _outcome(self) -> CallResult:
        limit = trio.CancelScope(deadline=trio.current_time() + (self._timeout or math.inf))
        error: BaseException | None = None
        try:
            with self._scope, limit:
                await self._execute()
        except BaseExceptionGroup as group:
            for_host, error = group.split(_concerns_host)
            if for_host is not None:
                self._result = Cancelled(None if error is None else _from_function_on(error))
                raise for_host from None
        except BaseException as raised:  # noqa: ASYNC103 - what is meant for others is passed on
            if _concerns_host(raised):
                raise
            error = raised
        return self._judge(limit, None if error is None else _from_function_on(error))

    def _judge(self, limit: trio.CancelScope, error: BaseException | None) -> CallResult:
        if self._scope.cancelled_caught or (error is not None and self._scope.cancel_called):
            return Cancelled(error)
        # A thread may know nothing of its time, so that its return is the first that counts.
        late = error is not None or self._in_thread
        if limit.cancelled_caught or (late and limit.cancel_called):
            return TimedOut(error)
        if error is None:
            return Returned()
        return Raised(error) if isinstance(error, Exception) else Broken(error)

    async def _execute(self) -> None:
        # A function need not have a checkpoint.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._in_thread:
            [returned] = await trio.to_thread.run_sync(self._call_in_thread, limiter=self._threads)
            if inspect.iscoroutine(returned):
                self._in_thread = False
                returned = await returned
        else:
            returned = await self._call()
        _refuse_undone(returned)

    def _call_in_thread(self) -> tuple[Any]:
        # In a tuple, since Trio takes a bare coroutine for a mistake.
        return (self._call(),)


def _refuse_undone(returned: Any) -> None:
    """Fail for a function that has returned work instead of doing it."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError(
            "the function returned a coroutine that nobody has awaited: an `await` is missing in it"
        )
    if inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        raise TypeError(
            "the function returned a generator, of which nothing has been executed: iterate over it"
        )


def _concerns_host(error: BaseException) -> bool:
    """Whether an error means more than the call: Ctrl-C, and a cancellation from without.

    One that a function has kept and raised again when nothing was being cancelled any more means nothing.
    """
    if isinstance(error, trio.Cancelled):
        return trio.current_effective_deadline() == -math.inf
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


def _from_function_on(error: ErrorT) -> ErrorT:
    """The error with a traceback that begins in the function: what is before that tells nobody anything."""
    frames = beginning = error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code.co_filename == __file__:
            beginning = frames.tb_next
        frames = frames.tb_next
    return error.with_traceback(beginning)
