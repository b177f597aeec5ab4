"""What the requests of a worker are for, and how many there are a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from benchmarks.apparatus.http_requests import Request

POLL: Final = "POST work_pools/*/get_scheduled_flow_runs"

_VARIABLE: Final = re.compile(
    r"(?<=/)[0-9a-f]{8}-[0-9a-f-]{27}(?=/|$)|(?<=work_pools/)[^/]+(?=/)|(?<=work_pools/)[^/]+$"
)


def kind_of(request: Request) -> str:
    """Method and route of a request: its path below the API, with `*` for whatever names a single thing.

    Names of work pools and UUIDs are such; `filter` after `work_pools` is none.
    """
    path = request.path.rstrip("/").partition("/api/")[2]
    route = path if path == "work_pools/filter" else _VARIABLE.sub("*", path)
    return f"{'WEBSOCKET' if request.is_websocket else request.method} {route}"


def is_counted(request: Request) -> bool:
    """Whether a request counts as one that a run costs: anything but logs, events and websockets."""
    if request.is_websocket:
        return False
    return not re.search(r"/(logs|events)/?$", request.path)


def count(requests: Iterable[Request]) -> Counter[str]:
    """How many of the requests that count there are of each kind."""
    return Counter(kind_of(request) for request in requests if is_counted(request))
