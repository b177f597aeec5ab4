"""One call of a function, as a task or in a thread: how it ends, whatever the function does."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
import trio.testing
from flow_support import Stage
from support import World

from trioworker import TrioFlow
from trioworker.infrastructure.trio_flows.call import (
    Broken,
    CallResult,
    Cancelled,
    FunctionCall,
    Raised,
    Returned,
    TimedOut,
)
from trioworker.infrastructure.trio_flows.current import CurrentFlowRun, RunInContext

Clock = trio.testing.MockClock

CONTEXT = RunInContext(
    flow_run=CurrentFlowRun(id=uuid4(), name="run", flow_name="flow", deployment_id=None, tags=(), attempt=1),
    owner=None,
    send=None,
)


def call_of(function: Callable[..., Any], *, seconds: float | None = None, **arguments: Any) -> FunctionCall:
    return FunctionCall(
        function,
        arguments,
        timeout=seconds,
        is_async=TrioFlow(function=function, name="flow").is_async,
        context=CONTEXT,
        threads=trio.CapacityLimiter(10),
    )


async def result_of(
    function: Callable[..., Any], *, seconds: float | None = None, **arguments: Any
) -> CallResult | None:
    call = call_of(function, seconds=seconds, **arguments)
    await call.run()
    return await call.wait()


def error_of(result: CallResult | None) -> BaseException:
    assert isinstance(result, Raised | Broken | TimedOut | Cancelled)
    assert result.error is not None
    return result.error


async def test_async_function_is_called_by_name(autojump_clock: Clock) -> None:
    got: list[tuple[int, int]] = []

    async def function(a: int, *, b: int) -> None:
        got.append((a, b))

    assert await result_of(function, b=2, a=1) == Returned()
    assert got == [(1, 2)]


async def test_result_is_not_known_before_the_end() -> None:
    call = call_of(trio.lowlevel.checkpoint)
    assert call.result is None
    await call.run()
    assert call.result == Returned()


async def test_traceback_begins_in_the_async_function(autojump_clock: Clock) -> None:
    async def inner() -> None:
        raise ValueError("x")

    async def function() -> None:
        await inner()

    error = error_of(await result_of(function))
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["function", "inner"]


async def test_traceback_begins_in_the_sync_function() -> None:
    def function() -> None:
        raise ValueError("x")

    error = error_of(await result_of(function))
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["function"]


async def test_call_that_is_cancelled_before_it_begins_executes_nothing(autojump_clock: Clock) -> None:
    calls: list[None] = []

    async def function() -> None:
        calls.append(None)

    call = call_of(function)
    call.cancel()
    await call.run()
    assert call.result == Cancelled()
    assert calls == []


async def test_function_that_ends_before_it_notices_its_cancellation_has_returned(
    autojump_clock: Clock,
) -> None:
    async def function() -> None:
        call.cancel()

    call = call_of(function)
    await call.run()
    assert call.result == Returned()


async def test_error_after_the_cancellation_is_one_of_the_clean_up(autojump_clock: Clock) -> None:
    async def function() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("x")

    call = call_of(function)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        await trio.sleep(1)
        call.cancel()
    assert isinstance(call.result, Cancelled)
    assert repr(call.result.error) == "ValueError('x')"


async def test_timeout_of_its_own_is_an_error_like_any_other(autojump_clock: Clock) -> None:
    async def function() -> None:
        with trio.fail_after(1):
            await trio.sleep(2)

    assert isinstance(error_of(await result_of(function, seconds=10)), trio.TooSlowError)


async def test_function_that_ends_before_it_notices_that_its_time_is_over_has_returned(
    autojump_clock: Clock,
) -> None:
    async def function() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)

    assert await result_of(function, seconds=1) == Returned()


async def test_thread_that_takes_too_long_is_timed_out_when_it_returns() -> None:
    released = threading.Event()

    def function() -> None:
        released.wait(60)

    call = call_of(function, seconds=0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        await trio.sleep(0.1)
        assert call.result is None
        released.set()
    assert call.result == TimedOut()


async def test_thread_can_ask_whether_its_time_is_over() -> None:
    pause = threading.Event()

    def function() -> None:
        while True:
            pause.wait(0.001)
            trio.from_thread.check_cancelled()

    assert await result_of(function, seconds=0.01) == TimedOut()


async def test_thread_that_returns_in_spite_of_its_cancellation_has_returned() -> None:
    released, running = threading.Event(), trio.Event()

    def function() -> None:
        trio.from_thread.run_sync(running.set)
        released.wait(60)

    call = call_of(function)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        await running.wait()
        assert not call.interruptible
        call.cancel()
        await trio.testing.wait_all_tasks_blocked()
        released.set()
    assert call.result == Returned()


async def test_stop_iteration_of_a_thread_is_an_error(autojump_clock: Clock) -> None:
    async def function() -> None:
        raise StopIteration

    assert isinstance(error_of(await result_of(function)), RuntimeError)


# What cannot be awaited, and what must be


async def test_coroutine_that_a_sync_wrapper_returns_is_executed() -> None:
    calls: list[int] = []

    async def function(n: int) -> None:
        await trio.lowlevel.checkpoint()
        calls.append(n)

    @functools.wraps(function)
    def wrapper(**arguments: Any) -> Any:
        return function(**arguments)

    call = call_of(wrapper, n=1)
    await call.run()
    assert call.result == Returned()
    assert calls == [1]
    assert call.interruptible


async def test_coroutine_that_nobody_has_awaited_is_an_error(autojump_clock: Clock) -> None:
    async def forgotten() -> None: ...

    async def function() -> Any:
        return forgotten()

    assert "an `await` is missing" in str(error_of(await result_of(function)))


async def _async_items() -> AsyncIterator[int]:
    yield 1


def _items() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("items", [_items, _async_items])
async def test_generator_that_nobody_iterates_over_is_an_error(
    autojump_clock: Clock, items: Callable[[], Any]
) -> None:
    async def function() -> Any:
        return items()

    error = error_of(await result_of(function))
    assert "returned a generator" in str(error)
    assert error.__traceback__ is None


class Callee:
    """Counts its calls, in each way in which it can be called."""

    def __init__(self) -> None:
        self.calls = 0

    async def method(self, n: int = 1) -> None:
        await trio.lowlevel.checkpoint()
        self.calls += n

    __call__ = method

    @classmethod
    async def of_class(cls) -> None:
        await trio.lowlevel.checkpoint()

    @staticmethod
    async def of_nobody() -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "made",
    [
        lambda callee: callee.method,
        lambda callee: functools.partial(callee.method, n=1),
        lambda callee: functools.partial(functools.partial(callee), n=1),
        lambda callee: callee,
    ],
)
async def test_whatever_can_be_called_is_a_task_if_it_is_async(
    autojump_clock: Clock, made: Callable[[Callee], Callable[..., Any]]
) -> None:
    callee = Callee()
    function = made(callee)
    assert call_of(function).interruptible
    assert await result_of(function) == Returned()
    assert callee.calls == 1


@pytest.mark.parametrize("function", [Callee.of_class, Callee.of_nobody])
async def test_methods_of_classes_are_tasks_if_they_are_async(
    autojump_clock: Clock, function: Callable[..., Any]
) -> None:
    assert call_of(function).interruptible
    assert await result_of(function) == Returned()


# What is for the host


async def test_cancellation_from_without_is_passed_on(autojump_clock: Clock) -> None:
    call = call_of(trio.sleep_forever)
    with trio.move_on_after(1) as scope:
        await call.run()
    assert scope.cancelled_caught
    assert await call.wait() is None


async def test_error_in_the_company_of_a_cancellation_from_without_stays_with_the_call(
    autojump_clock: Clock,
) -> None:
    async def function() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            raise BaseExceptionGroup("both", [error, ValueError("x")]) from None  # noqa: ASYNC104

    call = call_of(function)
    with trio.move_on_after(1) as scope:
        await call.run()
    assert scope.cancelled_caught
    assert isinstance(error_of(call.result), ExceptionGroup)


async def test_group_of_cancellations_from_without_is_passed_on(autojump_clock: Clock) -> None:
    async def function() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            raise BaseExceptionGroup("alone", [error]) from None  # noqa: ASYNC104

    call = call_of(function)
    with trio.move_on_after(1) as scope:
        await call.run()
    assert scope.cancelled_caught
    assert call.result == Cancelled()


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
async def test_what_ends_the_program_is_passed_on(autojump_clock: Clock, error: type[BaseException]) -> None:
    async def function() -> None:
        raise error

    call = call_of(function)
    with pytest.raises(error):
        await call.run()
    assert await call.wait() is None


async def test_exit_is_the_end_of_the_call_alone(autojump_clock: Clock) -> None:
    async def function() -> None:
        raise SystemExit(1)

    assert isinstance(await result_of(function), Broken)


async def test_group_without_anything_but_errors_is_an_error(autojump_clock: Clock) -> None:
    async def function() -> None:
        raise ExceptionGroup("all", [ValueError("x")])

    assert isinstance(await result_of(function), Raised)


# Who waits for its end


async def _cancellation() -> trio.Cancelled:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:  # noqa: ASYNC103 - it is wanted for itself
            return error  # noqa: ASYNC104
    raise AssertionError


async def _seconds_until_left(tmp_path: Path, error: BaseException) -> float:
    """When a workspace is left that an error ends after 15 seconds, while its call goes on until 100."""
    stage = Stage(World(tmp_path))

    @stage.app.flow()
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    infrastructure, job = stage.claimed(stage.schedule())

    async def fail() -> None:
        async with infrastructure.open_workspace(job) as opened:
            with trio.move_on_after(10):
                await infrastructure.run(opened)
            raise error

    async with infrastructure.open():
        with pytest.raises(type(error)) as caught:
            await fail()
        assert caught.value is error
        return stage.world.now


@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("all", [ValueError("x")])])
async def test_whoever_fails_waits_for_the_end(
    autojump_clock: Clock, tmp_path: Path, error: Exception
) -> None:
    assert await _seconds_until_left(tmp_path, error) == 100


async def test_whoever_is_cancelled_does_not_wait(autojump_clock: Clock, tmp_path: Path) -> None:
    assert await _seconds_until_left(tmp_path, await _cancellation()) == 15


async def test_whoever_fails_in_the_company_of_a_cancellation_does_not_wait(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    both = BaseExceptionGroup("both", [ValueError("x"), await _cancellation()])
    assert await _seconds_until_left(tmp_path, both) == 15


async def test_interrupt_does_not_wait(autojump_clock: Clock, tmp_path: Path) -> None:
    assert await _seconds_until_left(tmp_path, KeyboardInterrupt()) == 15
