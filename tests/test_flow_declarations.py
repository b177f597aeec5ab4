"""How a program declares functions as flows, and when they are to run."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trioworker import ConfigurationError, TrioFlow, TrioFlows
from trioworker.flows.schedules import Cron, Interval, RRule
from trioworker.testing.schedules import check_schedule


@pytest.fixture
def app() -> TrioFlows:
    return TrioFlows()


async def resize(path: str, width: int = 640) -> None:
    """Make a picture smaller."""


# Functions


def test_function_stays_as_it_is(app: TrioFlows) -> None:
    assert app.flow(name="resize")(resize) is resize


def test_function_can_be_declared_without_parentheses(app: TrioFlows) -> None:
    @app.flow
    def _make_smaller(path: str) -> str:
        """Make a picture smaller."""
        return path

    [flow] = app
    assert flow.function is _make_smaller
    assert (flow.name, flow.description) == ("make-smaller", "Make a picture smaller.")
    assert _make_smaller("cat.jpg") == "cat.jpg"


def test_name_in_place_of_a_function_is_refused(app: TrioFlows) -> None:
    flow: Any = app.flow
    with pytest.raises(ConfigurationError, match=r"'resize' .* @app\.flow\(name=\.\.\.\)"):
        flow("resize")


def test_flow_is_what_was_said_of_it(app: TrioFlows) -> None:
    app.flow(
        name="resize",
        retries=2,
        retry_delay=9.5,
        timeout=60,
        tags=["blue"],
        version="1",
        concurrency_limit=3,
        schedules=[Cron("@daily")],
        description="smaller",
    )(resize)
    flow = app.get("resize")
    assert flow is not None
    assert (flow.retries, flow.retry_delay, flow.timeout) == (2, 10, 60)
    assert (flow.tags, flow.version, flow.concurrency_limit) == (("blue",), "1", 3)
    assert flow.schedules == (Cron("@daily"),)
    assert flow.description == "smaller"
    assert flow.entrypoint == f"{__name__}:resize"
    assert flow.is_async


def test_function_itself_says_what_is_not_said_of_it(app: TrioFlows) -> None:
    @app.flow()
    def _make_smaller_(path: str) -> None:
        """Make a picture smaller."""

    [flow] = app
    assert flow.name == "make-smaller"
    assert flow.description == "Make a picture smaller."
    assert (flow.retries, flow.retry_delay, flow.timeout) == (0, 0, None)
    assert not flow.is_async


def test_flows_are_in_the_order_of_their_declaration(app: TrioFlows) -> None:
    for name in "cab":
        app.flow(name=name)(resize)
    assert [flow.name for flow in app] == ["c", "a", "b"]
    assert len(app) == 3
    assert app.get("d") is None


def test_second_flow_of_a_name_is_refused(app: TrioFlows) -> None:
    app.flow(name="a")(resize)
    with pytest.raises(ConfigurationError, match=r"two flows 'a': .*:resize and .*:resize"):
        app.flow(name="a")(resize)


@pytest.mark.parametrize("name", ["", "a/b", "50%", "a&b", "<a>"])
def test_name_that_no_flow_can_have_is_refused(app: TrioFlows, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a flow"):
        app.flow(name=name)(resize)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"retries": -1}, "-1 retries"),
        ({"retries": 1.5}, "1.5 retries"),
        ({"retries": 10**9}, "1000000000 retries"),
        ({"retry_delay": -1}, "retry_delay"),
        ({"retry_delay": math.nan}, "retry_delay"),
        ({"retry_delay": math.inf}, "retry_delay"),
        ({"retry_delay": 10**12}, "retry_delay"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"concurrency_limit": 0}, "concurrency limit"),
        ({"tags": "blue"}, "tags must be a list"),
    ],
)
def test_value_that_cannot_be_right_is_refused(app: TrioFlows, options: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        app.flow(name="a", **options)(resize)


SCHEDULES = "schedules must be a list of Cron, Interval and RRule"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"retries": "2"}, "retries must be a whole number, not '2'"),
        ({"retries": None}, "retries must be a whole number, not None"),
        ({"retry_delay": "2"}, "retry_delay must be a number of seconds, not '2'"),
        ({"retry_delay": timedelta(0)}, "retry_delay must be a number of seconds, not datetime.timedelta(0)"),
        ({"timeout": "3"}, "timeout must be a number of seconds, or None, not '3'"),
        ({"description": 1}, "description must be text, or None, not 1"),
        ({"tags": "slow"}, "tags must be a list of text, not 'slow'"),
        ({"tags": 5}, "tags must be a list of text, not 5"),
        ({"tags": [5]}, "tags must be a list of text, not (5,)"),
        ({"tags": None}, "tags must be a list of text, not None"),
        ({"version": 2}, "version must be text, or None, not 2"),
        ({"concurrency_limit": "3"}, "concurrency_limit must be a whole number, or None, not '3'"),
        ({"concurrency_limit": 2.5}, "concurrency_limit must be a whole number, or None, not 2.5"),
        ({"schedules": ["0 0 * * *"]}, f"{SCHEDULES}, not ('0 0 * * *',)"),
        ({"schedules": "0 0 * * *"}, f"{SCHEDULES}, not '0 0 * * *'"),
        ({"schedules": Cron("@daily")}, f"{SCHEDULES}, not {Cron('@daily')!r}"),
        ({"schedules": None}, f"{SCHEDULES}, not None"),
    ],
)
def test_argument_of_a_wrong_type_is_named(app: TrioFlows, options: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        app.flow(name="a", **options)(resize)
    assert str(caught.value) == f"Flow 'a': {complaint}."
    assert len(app) == 0


def test_name_must_be_text(app: TrioFlows) -> None:
    name: Any = 5
    with pytest.raises(ConfigurationError, match="The name of a flow must be text, not 5"):
        app.flow(name=name)(resize)


def test_tags_and_schedules_may_come_from_any_iterable(app: TrioFlows) -> None:
    several: Any = {"tags": {"blue"}, "schedules": (Cron(cron) for cron in ("@daily", "@weekly"))}
    app.flow(name="a", **several)(resize)
    [flow] = app
    assert flow.tags == ("blue",)
    assert flow.schedules == (Cron("@daily"), Cron("@weekly"))


class Resizer:
    """Makes pictures smaller."""

    async def __call__(self, path: str) -> None: ...

    def sync(self, path: str) -> None:
        """Make one smaller."""


def test_object_that_can_be_called_is_known_by_its_class(app: TrioFlows) -> None:
    app.flow(name="a")(Resizer())
    [flow] = app
    assert flow.is_async
    assert flow.entrypoint == f"{__name__}:Resizer"
    assert flow.description == "Makes pictures smaller."


def test_object_without_a_name_has_to_be_given_one(app: TrioFlows) -> None:
    with pytest.raises(ConfigurationError, match=r"has no name: give the flow one"):
        app.flow()(Resizer())


def test_method_is_known_by_its_name(app: TrioFlows) -> None:
    app.flow()(Resizer().sync)
    [flow] = app
    assert (flow.name, flow.is_async) == ("sync", False)
    assert flow.entrypoint == f"{__name__}:Resizer.sync"


def test_partial_is_known_by_its_function(app: TrioFlows) -> None:
    app.flow()(functools.partial(functools.partial(resize), width=320))
    [flow] = app
    assert (flow.name, flow.is_async) == ("resize", True)
    assert flow.description == "Make a picture smaller."
    assert flow.entrypoint == f"{__name__}:resize"


def test_decorated_function_is_known_by_its_own_name(app: TrioFlows) -> None:
    @app.flow()
    @functools.wraps(resize)
    async def wrapper(*args: Any, **kwargs: Any) -> None: ...

    [flow] = app
    assert flow.name == "resize"
    assert set(flow.parameters.schema["properties"]) == {"path", "width"}


def _items() -> Iterator[int]:
    yield 1


async def _async_items() -> AsyncIterator[int]:
    yield 1


class Generator:
    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("function", [_items, _async_items, Generator(), functools.partial(_items)])
def test_generator_is_refused(app: TrioFlows, function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"it is a generator \(it has a `yield`\)"):
        app.flow(name="a")(function)


@pytest.mark.parametrize("function", [Resizer, 7])
def test_what_is_no_function_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="it is no function"):
        TrioFlow(function=function, name="a")


def test_check_tells_the_schema_of_each_flow(app: TrioFlows) -> None:
    app.flow()(resize)
    assert set(app.check()["resize"]["properties"]) == {"path", "width"}


def test_check_finds_what_cannot_be_served(app: TrioFlows) -> None:
    with pytest.raises(ConfigurationError, match="There are no flows"):
        app.check()

    @app.flow()
    async def work(lock: threading.Event) -> None: ...

    with pytest.raises(ConfigurationError, match="lock"):
        app.check()


# Schedules


def _any(value: Any) -> Any:
    """A value of a type that a type checker would not let through."""
    return value


def test_cron_in_the_form_of_the_api() -> None:
    assert Cron("0 4 * * *").document() == {"cron": "0 4 * * *", "timezone": "UTC", "day_or": True}
    assert Cron("0 4 1 * 1", timezone="Europe/Berlin", day_or=False).document() == {
        "cron": "0 4 1 * 1",
        "timezone": "Europe/Berlin",
        "day_or": False,
    }


def test_interval_in_the_form_of_the_api() -> None:
    assert Interval(90).document() == Interval(timedelta(seconds=90)).document()
    assert Interval(90).document() == {
        "interval": 90,
        "anchor_date": "2020-01-01T00:00:00+00:00",
        "timezone": "UTC",
    }
    anchor = datetime(2026, 2, 3, tzinfo=UTC)
    assert Interval(1, anchor=anchor).document()["anchor_date"] == "2026-02-03T00:00:00+00:00"


@pytest.mark.parametrize(
    "cron",
    [
        "0 3 * * *",
        "  0\t3 * *   mon-fri ",
        "0 3 * * * 30",
        "0 3 * * * 30 2027",
        "*/5 8-17 1,L jan *",
        "0 0 * * sat#2",
        "@DAILY",
        "@midnight",
    ],
)
def test_cron_expression_that_a_server_takes_is_taken(cron: str) -> None:
    check_schedule({"cron": cron})
    assert Cron(cron).document()["cron"] == cron


def test_rrule_in_the_form_of_the_api() -> None:
    rule = RRule("FREQ=WEEKLY;BYDAY=MO", timezone="Europe/Berlin")
    assert rule.document() == {"rrule": "FREQ=WEEKLY;BYDAY=MO", "timezone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Cron(" "), "The cron of a schedule is empty"),
        (lambda: RRule(""), "The rrule of a schedule is empty"),
        (lambda: Cron("@daily", timezone="Mars/Base"), "'Mars/Base' is no time zone"),
        (lambda: Interval(1, timezone="../etc/passwd"), "is no time zone"),
        (lambda: RRule("FREQ=DAILY", timezone=""), "is no time zone"),
        (lambda: Interval(0), "must be positive"),
        (lambda: Interval(timedelta(seconds=-1)), "must be positive"),
        (lambda: Interval(math.nan), "is no interval"),
        (lambda: Interval(math.inf), "is no interval"),
        (lambda: Interval(1, anchor=datetime(2026, 1, 1)), "needs a time zone"),  # noqa: DTZ001
        (lambda: Cron("bogus"), "'bogus' is no cron expression: it has five fields"),
        (lambda: Cron("0 3 * *"), "'0 3 . .' is no cron expression"),
        (lambda: Cron("0 3 * * * * * *"), "is no cron expression"),
        (lambda: Cron(_any(5)), "The cron of a schedule must be text, not 5"),
        (lambda: RRule(_any(None)), "The rrule of a schedule must be text, not None"),
        (lambda: Cron("@daily", timezone=_any(None)), "None is no time zone"),
        (lambda: Interval(_any("60")), "must be seconds or a timedelta, not '60'"),
        (lambda: Interval(1, anchor=_any("2026-01-01")), "must be a datetime, not '2026-01-01'"),
    ],
)
def test_schedule_that_cannot_be_right_is_refused(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()
