"""The errors of a worker, and their way out of nested nurseries."""

from __future__ import annotations

import pytest
import trio

from trioworker.errors import (
    ConfigurationError,
    GaveUpError,
    HealthServerError,
    WorkerError,
    WorkerRefusedError,
    sole_errors_bare,
)
from trioworker.settings import SettingsError


@pytest.mark.parametrize(
    "kind", [ConfigurationError, GaveUpError, HealthServerError, SettingsError, WorkerRefusedError]
)
def test_every_error_is_a_worker_error(kind: type[Exception]) -> None:
    assert issubclass(kind, WorkerError)


async def test_error_alone_in_nested_nurseries_leaves_bare() -> None:
    with pytest.raises(GaveUpError) as caught, sole_errors_bare():
        async with trio.open_nursery(), trio.open_nursery():
            raise GaveUpError("enough")
    assert caught.value.__cause__ is None


async def test_cause_of_a_bare_error_is_kept() -> None:
    with pytest.raises(GaveUpError) as caught, sole_errors_bare():
        async with trio.open_nursery():
            raise GaveUpError("enough") from OSError("the reason")
    assert isinstance(caught.value.__cause__, OSError)


def test_several_errors_stay_together() -> None:
    errors = [GaveUpError("one"), WorkerRefusedError("two")]
    inner = pytest.RaisesGroup(GaveUpError, WorkerRefusedError)
    with pytest.RaisesGroup(inner), sole_errors_bare():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", errors)])


def test_error_without_a_group_is_none_of_its_business() -> None:
    with pytest.raises(GaveUpError, match="enough"), sole_errors_bare():
        raise GaveUpError("enough")


async def test_cancellation_goes_through() -> None:
    with trio.move_on_after(0) as scope, sole_errors_bare():
        async with trio.open_nursery():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_interrupt_leaves_bare_too() -> None:
    with pytest.raises(KeyboardInterrupt), sole_errors_bare():
        async with trio.open_nursery():
            raise KeyboardInterrupt
