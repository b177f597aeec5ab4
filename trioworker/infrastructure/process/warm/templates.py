"""The template processes of a worker: started when a flow run needs one, kept while they are of use."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from trioworker.infrastructure.process.warm.program.dependence import environment_at_start, matters_at_start
from trioworker.infrastructure.process.warm.program.messages import Job, Refusal
from trioworker.infrastructure.process.warm.template import Forked, RefusedError, Template, nothing_before
from trioworker.lean_attrs import frozen
from trioworker.process_group import ProcessGroup

__all__ = ["Templates"]

_logger = logging.getLogger(__name__)

_MOST: Final = 3
"""How many templates there are at most, each of some 80 MB; for one more, the one least recently used has to go."""

_IDLE: Final = 600.0
"""Seconds after which a template that nobody has used is ended."""

_RETRY_AFTER: Final = 60.0
"""Seconds after which a template that could not be had is tried anew, for the first time; twice as many each time."""

_RETRY_AFTER_AT_MOST: Final = 600.0

_REMEMBERED: Final = 100
"""Of how many kinds of flow runs it is known at most that they had no template."""

_ATTEMPTS: Final = 2
"""How many templates are tried for a flow run, of which the first may have become stale, or have been killed."""


@frozen
class _Key:
    """What flow runs have to have in common to be forked from the same template.

    Attributes:
        environment: as far as it matters at the start.
        output: by which files the worker's output can be told; None if the runs write nowhere.
    """

    environment: frozenset[tuple[str, str]] = attrs.field(repr=False)
    output: tuple[tuple[int, int], ...] | None


@attrs.define(eq=False, repr=False)
class _Kept:
    """A template for one kind of flow runs.

    Attributes:
        used_at: when it was used last, in seconds on Trio's clock.
        template: once it is ready.
        refused: why there is none.
        ready: set when either is known.
        over: set when it is not to be used any more.
    """

    used_at: float = attrs.field(factory=trio.current_time)
    template: Template | None = None
    refused: RefusedError | None = None
    ready: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen(eq=False, repr=False)
class _Refused:
    """Why one kind of flow runs has no template for now.

    Attributes:
        error: why.
        until: when another one may be tried, in seconds on Trio's clock.
        times: how often in a row it came to none.
    """

    error: RefusedError
    until: float
    times: int


class Templates:
    """Forks the processes of flow runs, where that can be had.

    Args:
        python: the interpreter of the flows.
        modules: what the templates import besides Prefect.
        environment: the worker's own, for what does not depend on a flow run.
    """

    def __init__(self, python: str, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._python = python
        self._modules = modules
        self._environment = {name: value for name, value in environment.items() if not _is_of_runs(name)}
        self._kept: dict[_Key, _Kept] = {}
        self._refused: dict[_Key, _Refused] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Have templates for as long as the block goes on; the processes that they have forked go on after that."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def fork(
        self,
        job: Job,
        *,
        stream_output: bool,
        before_beginning: Callable[[int], Awaitable[None]] = nothing_before,
    ) -> ProcessGroup:
        """Start a flow run from a template.

        Args:
            job: what is to be executed.
            stream_output: whether it writes to the worker's standard output and error, or nowhere.
            before_beginning: awaited with the process id, when nothing can keep the process any more from executing
                the job, and it has not begun to.

        Raises:
            RefusedError: it is to be started otherwise, as the log was told.
        """
        try:
            forked, template = await self._fork(job, before_beginning, stream_output=stream_output)
        except RefusedError as error:
            _logger.debug("A fresh process is started for %s, because %s", _name(job), error.reason)
            raise
        pid = forked.group.pid
        _logger.debug("Process %d for %s was forked from template %d", pid, _name(job), template.pid)
        if self._nursery is None:
            forked.connection.close()
        else:
            self._nursery.start_soon(_note_engine, forked, _name(job))
        return forked.group

    async def _fork(
        self, job: Job, before_beginning: Callable[[int], Awaitable[None]], *, stream_output: bool
    ) -> tuple[Forked, Template]:
        key = _Key(
            frozenset(environment_at_start(job.environment).items()), _output(stream_output=stream_output)
        )
        attempt = 0
        while True:
            attempt += 1
            kept = self._keep(key)
            kept.used_at = trio.current_time()
            await kept.ready.wait()
            if kept.template is None:
                assert kept.refused is not None  # noqa: S101 - one of both, once it is ready
                raise kept.refused.with_traceback(None)
            try:
                forked = await kept.template.fork(job, before_beginning)
            except RefusedError as error:
                if not error.template_is_gone:
                    raise
                self._let_go(key, kept)
                if attempt == _ATTEMPTS:
                    raise
            else:
                self._refused.pop(key, None)
                return forked, kept.template

    def _keep(self, key: _Key) -> _Kept:
        """The template for a key, which may not be ready yet."""
        if self._nursery is None:
            raise RefusedError("the worker has no templates any more")
        refused = self._refused.get(key)
        if refused is not None and trio.current_time() < refused.until:
            raise refused.error.with_traceback(None)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _MOST:
                oldest = min(self._kept, key=lambda other: self._kept[other].used_at)
                self._let_go(oldest, self._kept[oldest])
            kept = self._kept[key] = _Kept()
            self._nursery.start_soon(self._live, key, kept)
        return kept

    def _let_go(self, key: _Key, kept: _Kept) -> None:
        """Have no more children of a template."""
        if self._kept.get(key) is kept:
            del self._kept[key]
        kept.over.set()

    async def _live(self, key: _Key, kept: _Kept) -> None:
        """A template from its start to its end."""
        try:
            await self._live_well(key, kept)
        except RefusedError as error:
            self._remember(key, error)
            kept.refused = error
            kept.ready.set()
        finally:
            self._let_go(key, kept)

    async def _live_well(self, key: _Key, kept: _Kept) -> None:
        """A template from its start to its end.

        Raises:
            RefusedError: it has come to nothing.
        """
        try:
            template = await Template.start(
                self._python,
                self._modules,
                {**self._environment, **dict(key.environment)},
                stream_output=key.output is not None,
            )
        except (OSError, RuntimeError) as error:
            # The latter for want of a thread.
            raise RefusedError(f"its template cannot be started ({error})") from error
        try:
            problems = await template.wait_ready()
            kept.template = template
            kept.ready.set()
            for problem in problems:
                _logger.warning("%s", problem)
            await self._use(kept, template)
        finally:
            with trio.CancelScope(shield=True):
                # Bounded: it is killed at once.
                await template.end()

    def _remember(self, key: _Key, error: RefusedError) -> None:
        """Have no flow run try anew for a while what came to nothing, nor wait for it."""
        before = self._refused.pop(key, None)
        times = 1 if before is None else before.times + 1
        pause = min(_RETRY_AFTER * 2.0 ** min(times - 1, 10), _RETRY_AFTER_AT_MOST)
        if len(self._refused) >= _REMEMBERED:
            # The one that was refused first: whoever is refused anew goes to the end.
            del self._refused[next(iter(self._refused))]
        self._refused[key] = _Refused(error, trio.current_time() + pause, times)
        if not error.no_template:
            # Not what it says of itself, which holds for good mostly.
            _logger.warning(
                "Flow runs are started in fresh processes for %.0f s, because %s", pause, error.reason
            )

    async def _use(self, kept: _Kept, template: Template) -> None:
        """Return when a template is not needed any more, or has ended; also when it has not been for long."""
        async with trio.open_nursery() as nursery:

            async def end_with_template() -> None:
                await template.wait_ended()
                nursery.cancel_scope.cancel()

            async def end_when_over() -> None:
                await kept.over.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_template)
            nursery.start_soon(end_when_over)
            while trio.current_time() < kept.used_at + _IDLE:  # noqa: ASYNC110 - when it is used, is no end
                await trio.sleep_until(kept.used_at + _IDLE)
            nursery.cancel_scope.cancel()


async def _note_engine(forked: Forked, name: str) -> None:
    with forked.connection:
        engine = await forked.engine()
    if isinstance(engine, Refusal):
        _logger.debug("The engine of %s is a fresh process, because %s", name, engine.reason)


def _name(job: Job) -> str:
    return f"flow run {job.environment.get('PREFECT__FLOW_RUN_ID', 'without an id')!r}"


def _is_of_runs(name: str) -> bool:
    return matters_at_start(name) or name.startswith("PREFECT__")


def _output(*, stream_output: bool) -> tuple[tuple[int, int], ...] | None:
    """By which files the worker's standard output and error can be told; they may be others one day."""
    if not stream_output:
        return None
    found = []
    for descriptor in (1, 2):
        try:
            status = os.fstat(descriptor)
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)
