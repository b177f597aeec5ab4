"""What a program serves: plain functions, declared as Prefect flows."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from trioworker.errors import ConfigurationError
from trioworker.flows.schedules import Schedule, schedules_problem

if TYPE_CHECKING:
    from trioworker.flows.parameters import Parameters

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# Beyond this no server of Prefect's counts.
_MOST_RETRIES = 1_000_000

# Seconds; and a number that any database takes.
_LONGEST_DELAY = 366 * 24 * 60 * 60

_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def _without_partials(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _called(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """What may be executed when a function, or an object that can be called like one, is called."""
    if inspect.isroutine(function):
        return (function,)
    return (function, type(function).__call__)


@attrs.frozen(kw_only=True, eq=False)
class TrioFlow:
    """A function as a Prefect flow. Made by `TrioFlows.flow`.

    Attributes:
        function: what is called; async, or sync and then called in a worker thread of Trio's.
        name: the flow's name on the server.
        retries: how often a run that has failed is tried again.
        retry_delay: whole seconds before each of these attempts.
        timeout: seconds that each attempt may take; None for any time.
        description: what it does, for people; by default the function's docstring.
        tags: given to each of its runs.
        version: of the code, for people; None for none.
        concurrency_limit: how many of its runs may be active at once on all workers together; None for any number.
        schedules: when runs are created, unless `TrioFlows.deploy` is told otherwise.

    Raises:
        ConfigurationError: something that cannot be right.
    """

    function: Callable[..., Any] = attrs.field(repr=False)
    name: str
    retries: int = 0
    retry_delay: int = 0
    timeout: float | None = None
    description: str | None = attrs.field(default=None, repr=False)
    tags: Sequence[str] = ()
    version: str | None = None
    concurrency_limit: int | None = None
    schedules: Sequence[Schedule] = ()

    def __attrs_post_init__(self) -> None:
        bare = _without_partials(self.function)
        if not callable(bare) or isinstance(bare, type):
            raise ConfigurationError(f"{self.function!r} cannot be served as a flow: it is no function.")
        if any(is_generator(each) for each in _called(bare) for is_generator in _GENERATORS):
            raise ConfigurationError(
                f"{self.entrypoint} cannot be served as a flow: it is a generator (it has a `yield`), and nobody"
                " would iterate over it."
            )
        self._check_types()
        if not self.name or any(character in self.name for character in "/%&<>"):
            raise ConfigurationError(
                f"{self.name!r} cannot be the name of a flow: it is empty or has one of / % & < >."
            )
        if not (0 <= self.retries <= _MOST_RETRIES and self.retries == int(self.retries)):
            raise ConfigurationError(f"Flow {self.name!r}: {self.retries} retries are not possible.")
        if not 0 <= self.retry_delay <= _LONGEST_DELAY:
            raise ConfigurationError(
                f"Flow {self.name!r}: retry_delay must be 0 seconds or more, and no more than a year."
            )
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigurationError(f"Flow {self.name!r}: timeout must be more than 0 seconds, or None.")
        if self.concurrency_limit is not None and self.concurrency_limit < 1:
            raise ConfigurationError(f"Flow {self.name!r}: a concurrency limit below 1 would let none run.")

    def _check_types(self) -> None:
        """Refuse what is of another type than is written above, as not everybody has types checked."""
        if not isinstance(self.name, str):
            raise ConfigurationError(f"The name of a flow must be text, not {self.name!r}.")
        problem = next(self._type_problems(), None)
        if problem is not None:
            raise ConfigurationError(f"Flow {self.name!r}: {problem}.")

    def _type_problems(self) -> Iterator[str]:
        for argument, value, is_right, wanted in (
            ("retries", self.retries, _is_number, "a whole number"),
            ("retry_delay", self.retry_delay, _is_number, "a number of seconds"),
            ("timeout", self.timeout, _or_none(_is_number), "a number of seconds, or None"),
            ("description", self.description, _or_none(_is_text), "text, or None"),
            ("tags", self.tags, _is_list_of_text, "a list of text"),
            ("version", self.version, _or_none(_is_text), "text, or None"),
            ("concurrency_limit", self.concurrency_limit, _or_none(_is_whole), "a whole number, or None"),
        ):
            if not is_right(value):
                yield f"{argument} must be {wanted}, not {value!r}"
        problem = schedules_problem(self.schedules)
        if problem is not None:
            yield problem

    @property
    def is_async(self) -> bool:
        """Whether the function is run as a task; else it is called in a thread."""
        return any(map(inspect.iscoroutinefunction, _called(_without_partials(self.function))))

    @property
    def entrypoint(self) -> str:
        """Where the function is, for people: its module and its name in there."""
        bare = _without_partials(self.function)
        # An object that can be called is known by its class.
        named = bare if hasattr(bare, "__qualname__") else type(bare)
        return f"{named.__module__}:{named.__qualname__}"

    @cached_property
    def parameters(self) -> Parameters:
        """What the function is called with.

        Raises:
            ConfigurationError: its signature cannot be served; the message says which parameter and why.
        """
        # Here, since most workers serve no functions: what is known of their types takes a while to import.
        from trioworker.flows.parameters import Parameters  # noqa: PLC0415

        return Parameters.of(self.function)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _is_whole(value: object) -> bool:
    return isinstance(value, int)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, Collection) and not _is_text(value) and all(map(_is_text, value))


def _or_none(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


def _usual_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"{function!r} has no name: give the flow one, with @app.flow(name=...).")
    return name.strip("_").replace("_", "-")


def _whole_seconds(seconds: Any) -> Any:
    """As many, rounded up; what is no number stays, for the flow to refuse it."""
    if not _is_number(seconds):
        return seconds
    return math.ceil(seconds) if math.isfinite(seconds) else -1


def _listed(values: Any) -> Any:
    """All that an iterable has; what cannot be a list stays, for the flow to refuse it."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else values


class FlowDeclarations:
    """The functions that a program has declared as flows: what `TrioFlows` knows without a server."""

    def __init__(self) -> None:
        self._flows: dict[str, TrioFlow] = {}

    @overload
    def flow(self, function: FunctionT, /) -> FunctionT: ...

    @overload
    def flow(
        self,
        /,
        *,
        name: str | None = None,
        retries: int = 0,
        retry_delay: float = 0,
        timeout: float | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        version: str | None = None,
        concurrency_limit: int | None = None,
        schedules: Sequence[Schedule] = (),
    ) -> Callable[[FunctionT], FunctionT]: ...

    def flow(
        self,
        function: FunctionT | None = None,
        /,
        *,
        name: str | None = None,
        retries: int = 0,
        retry_delay: float = 0,
        timeout: float | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        version: str | None = None,
        concurrency_limit: int | None = None,
        schedules: Sequence[Schedule] = (),
    ) -> FunctionT | Callable[[FunctionT], FunctionT]:
        """Declare a function as a Prefect flow; the function itself stays as it is.

        Written `@app.flow(...)`, or `@app.flow` if there is nothing to say of it.

        Args:
            function: what is declared, if there is nothing to say of it.
            name: the flow's name; by default the function's, with dashes for underscores.
            retries: how often a run that has failed is tried again, unless the run itself says otherwise.
            retry_delay: seconds before each of these attempts; the server counts whole ones, so it is rounded up.
            timeout: seconds that each attempt may take, after which the run fails as `TimedOut`.
            description: what it does, for people; by default the function's docstring.
            tags: given to each of its runs.
            version: of the code, for people.
            concurrency_limit: how many of its runs may be active at once, on all workers together: a concurrency
                limit of Prefect deployments.
            schedules: when runs are created: `Cron`, `Interval` and `RRule`.

        Raises:
            ConfigurationError: something that cannot be right, or a second flow of one name.
        """

        def declare(function: FunctionT) -> FunctionT:
            bare = _without_partials(function)
            documented = bare if inspect.isroutine(bare) else type(bare)
            self._add(
                TrioFlow(
                    function=function,
                    name=name if name is not None else _usual_name(bare),
                    retries=retries,
                    retry_delay=_whole_seconds(retry_delay),
                    timeout=timeout,
                    description=description if description is not None else inspect.getdoc(documented),
                    tags=_listed(tags),
                    version=version,
                    concurrency_limit=concurrency_limit,
                    schedules=_listed(schedules),
                )
            )
            return function

        return declare if function is None else declare(function)

    def _add(self, flow: TrioFlow) -> None:
        known = self._flows.get(flow.name)
        if known is not None:
            raise ConfigurationError(
                f"There are two flows {flow.name!r}: {known.entrypoint} and {flow.entrypoint}. Give one of them"
                " another name."
            )
        self._flows[flow.name] = flow

    def __iter__(self) -> Iterator[TrioFlow]:
        """The flows, in the order in which they were declared."""
        return iter(self._flows.values())

    def __len__(self) -> int:
        """How many flows there are."""
        return len(self._flows)

    def get(self, name: str) -> TrioFlow | None:
        """The flow of that name, if there is one.

        Args:
            name: the flow's, as the server knows it.
        """
        return self._flows.get(name)

    def check(self) -> Mapping[str, Any]:
        """Make sure that every function can be served.

        Returns:
            The parameter schema of each flow, by its name.

        Raises:
            ConfigurationError: there are no flows, or a signature cannot be served.
        """
        if not self._flows:
            raise ConfigurationError("There are no flows to serve: declare some with @app.flow().")
        return {flow.name: flow.parameters.schema for flow in self}
