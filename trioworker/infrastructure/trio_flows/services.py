"""What the runs of one worker's functions share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.models import Event, LogLine
from trioworker.infrastructure.trio_flows.run_logs import RunLogHandler
from trioworker.lean_attrs import frozen
from trioworker.service import Rhythm


@frozen(kw_only=True)
class Services:
    """What functions' runs need of their worker.

    Attributes:
        api: the API.
        patience: the delays between attempts while the API is away.
        send_log: takes a line for a run's log; None where that is not wanted.
        send_event: takes an event.
        heartbeat_seconds: between two signs of life of a run; None for none.
        now: the time of day.
        stopping: whether the worker begins nothing any more.
        wait_stopping: returns when that is so.
    """

    api: PrefectAPI
    patience: Rhythm
    send_log: Callable[[LogLine], None] | None
    send_event: Callable[[Event], None]
    heartbeat_seconds: float | None
    now: Callable[[], datetime]
    stopping: Callable[[], bool]
    wait_stopping: Callable[[], Awaitable[None]]


@frozen(kw_only=True)
class Room:
    """Where the calls of one worker live.

    Attributes:
        nursery: holds each call until its last line has been executed.
        threads: for functions that are not async.
        log_handler: takes what functions log.
    """

    nursery: trio.Nursery
    threads: trio.CapacityLimiter
    log_handler: RunLogHandler
