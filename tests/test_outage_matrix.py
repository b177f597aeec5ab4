"""Every kind of outage at every step of a run's life, in virtual time.

Whatever it is and whenever it begins: each run is executed once and gets the final state that is true of it, its slot
becomes free, heartbeats and polls go on afterwards, nothing that was to be told is lost, and meanwhile no more is
asked than the delays allow.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import pytest
import trio
from support import World
from trio.testing import MockClock as Clock

from trioworker.api.errors import (
    APIError,
    APINotFoundError,
    APIUnavailableError,
    MalformedAnswerError,
    NotAuthenticatedError,
    NotPermittedError,
)
from trioworker.testing import FakePrefectAPI, Script

T = TypeVar("T")

SHORT: Final = 300.0
LONG: Final = 3 * 3600.0

# Of a real client, with the patience that is its default.
RETRIES: Final = 5

# What an hour of an outage may cost: so much for the worker, and for each run in its hands.
REQUESTS_AN_HOUR: Final = 900
REQUESTS_AN_HOUR_FOR_A_RUN: Final = 600
# What an API gets that asks for more.
IMPATIENCE: Final = 1.5
# What comes before the delays have grown.
REQUESTS_AT_ONCE: Final = 200

# Seconds after an outage until all is as it should be: the longest delay is a minute, and up to a third more.
SOON: Final = 100.0

RETRY_AFTER: Final = 120.0


def unavailable(_: str) -> APIError:
    return APIUnavailableError("no connection: refused")


def busy(_: str) -> APIError:
    return APIUnavailableError("answered with 429", retry_after=RETRY_AFTER)


def hurried(_: str) -> APIError:
    return APIUnavailableError("answered with 429", retry_after=0)


def expired(request: str) -> APIError:
    return NotAuthenticatedError(request, 401, "Unauthorized")


def forbidden(request: str) -> APIError:
    return NotPermittedError(request, 403, "Forbidden")


def replaced(request: str) -> APIError:
    return APINotFoundError(request, 404, "Not Found")


def truncated(request: str) -> APIError:
    return MalformedAnswerError(request, ["not JSON but application/json, beginning '{'"])


class Trouble:
    """A kind of outage.

    Args:
        error: what a request gets.
        seconds: after how many.
        takes_effect: whether it does what it asks for, though nobody hears of it.
    """

    def __init__(
        self, error: Callable[[str], APIError], *, seconds: float = 0, takes_effect: bool = False
    ) -> None:
        self.error = error
        self.seconds = seconds
        self.takes_effect = takes_effect


TROUBLES: Final[Mapping[str, Trouble]] = {
    "down": Trouble(unavailable),
    "half-open": Trouble(unavailable, seconds=60),
    "answers get lost": Trouble(unavailable, seconds=1, takes_effect=True),
    "429, later": Trouble(busy),
    "429, now": Trouble(hurried),
    "401": Trouble(expired),
    "403": Trouble(forbidden),
    "another server": Trouble(replaced),
    "truncated": Trouble(truncated),
    "truncated after the effect": Trouble(truncated, takes_effect=True),
}

# Which call of a method an outage begins with.
STEPS: Final[Mapping[str, tuple[str, int]]] = {
    "poll": ("get_scheduled_flow_runs", 3),
    "heartbeat": ("send_worker_heartbeat", 2),
    "claim": ("set_flow_run_state", 1),
    "claim of the second": ("set_flow_run_state", 2),
    "read flow": ("read_flow", 1),
    "read deployment": ("read_deployment", 1),
    "submitting": ("set_flow_run_state", 3),
    "report of the place": ("set_infrastructure_pid", 1),
    "labels": ("update_flow_run_labels", 1),
    "events": ("send_events", 2),
    "log": ("send_logs", 1),
    "look at the end": ("read_flow_run", 1),
    "final state": ("set_flow_run_state", 5),
}


class TroubledAPI(FakePrefectAPI):
    """An API that is in trouble for some time from one call of one method on."""

    step: tuple[str, int] = ("", 0)
    trouble: Trouble = TROUBLES["down"]
    trouble_seconds: float = SHORT

    def __init__(self, **options: Any) -> None:
        super().__init__(max_retries=RETRIES, **options)
        self.began = trio.Event()
        self.until = 0.0
        self._asked: Counter[str] = Counter()

    @property
    def troubled(self) -> bool:
        return self.began.is_set() and self.seconds() < self.until

    def _answer(self, method: str, answer: Callable[[], T]) -> T:
        self._asked[method] += 1
        if not self.began.is_set() and (method, self._asked[method]) == self.step:
            self.until = self.seconds() + self.trouble_seconds
            self.latency = self.trouble.seconds
            self.began.set()
        if not self.troubled:
            self.latency = 0
            return super()._answer(method, answer)
        if self.trouble.takes_effect:
            super()._answer(method, answer)
        raise self.trouble.error(method)


async def see_it_through(world: World, *, step: str, trouble: str, seconds: float) -> None:
    """Have an outage and look at what comes of it."""
    api = cast("TroubledAPI", world.api)
    api.step, api.trouble, api.trouble_seconds = STEPS[step], TROUBLES[trouble], seconds
    slack = SOON + (RETRY_AFTER if trouble == "429, later" else 0) + 2 * api.trouble.seconds
    async with world.working(limit=2) as worker:
        await trio.sleep(15)
        fails = world.schedule(Script(ends=None, status=1, seconds=20))
        completes = world.schedule(Script(seconds=25))
        with trio.fail_after(200):
            await api.began.wait()
        calls_before = len(api.calls)
        await trio.sleep(seconds)
        calls = len(api.calls) - calls_before
        await api.wait_for_state(fails.id, "Crashed")
        await api.wait_for_state(completes.id, "Completed")
        assert api.seconds() <= api.until + slack
        while worker.runs_in_hand:  # noqa: ASYNC110 - in virtual time
            await trio.sleep(1)
        assert api.seconds() <= api.until + slack
        late = world.schedule(Script(seconds=1))
        await api.wait_for_state(late.id, "Completed")
        assert api.seconds() <= api.until + 2 * slack
        await trio.sleep(120)
        beats = [beat.at for beat in api.heartbeats if beat.at > api.until]
    hours = seconds / 3600
    often = IMPATIENCE if trouble == "429, now" else 1
    assert calls <= often * (hours * (REQUESTS_AN_HOUR + 2 * REQUESTS_AN_HOUR_FOR_A_RUN) + REQUESTS_AT_ONCE)
    runs = (fails, completes, late)
    for run in runs:
        assert world.states(run).count("Running") == 1
        assert world.infrastructure.execution(run.id).cancelled_at is None
        assert world.states(run)[-1] == ("Crashed" if run is fails else "Completed")
    assert beats[0] <= api.until + slack
    assert max(b - a for a, b in itertools.pairwise(beats)) <= 45
    assert len(world.notified_at("The Prefect API does not answer")) <= 1
    assert len(world.notified_at("The Prefect API at")) == len(
        world.notified_at("The Prefect API does not answer")
    )
    # Each is told, once if the server does not get it twice; and in order.
    for kind in ("submitted", "executed"):
        told = [about(event) for event in api.events if event.event == f"prefect.worker.{kind}-flow-run"]
        assert set(told) == {str(run.id) for run in runs}
        assert api.trouble.takes_effect or len(told) == len(runs)
    moments = list({event.id: event.occurred for event in api.events}.values())
    assert moments == sorted(moments)
    assert {line.flow_run_id for line in api.logs} == {run.id for run in runs}


def about(event: Any) -> str:
    """Which run an event is about."""
    (run,) = [each for each in event.related if each["prefect.resource.role"] == "flow-run"]
    return str(run["prefect.resource.id"]).removeprefix("prefect.flow-run.")


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("step", STEPS)
async def test_outage_of_minutes_harms_nothing(
    autojump_clock: Clock, tmp_path: Path, step: str, trouble: str
) -> None:
    await see_it_through(World(tmp_path, make_api=TroubledAPI), step=step, trouble=trouble, seconds=SHORT)


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("step", ["claim", "submitting", "final state"])
async def test_outage_of_hours_harms_nothing(
    autojump_clock: Clock, tmp_path: Path, step: str, trouble: str
) -> None:
    await see_it_through(World(tmp_path, make_api=TroubledAPI), step=step, trouble=trouble, seconds=LONG)
