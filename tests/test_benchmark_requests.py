"""How the benchmark reads, tells apart and counts the requests of a worker."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.apparatus.http_requests import Request, RequestReader, UnreadableRequestError
from benchmarks.apparatus.request_kinds import POLL, count, is_counted, kind_of

RUN = "a19d1d10-6b1c-4f0e-9b0f-3c2b1a000001"


def sent(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *length, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


STREAM = (
    sent("POST", "/api/logs/", b'[{"level": 20}]')
    + sent("GET", "/api/flows/1?x=y")
    + sent("GET", "/api/health")
)


@given(cuts=st.lists(st.integers(0, len(STREAM))))
def test_requests_are_found_however_the_stream_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    reader = RequestReader()
    pieces = [STREAM[a:b] for a, b in pairwise(places)]
    found = [request for piece in pieces for request in reader.feed(piece)]
    assert [(request.method, request.path, request.body) for request in found] == [
        ("POST", "/api/logs/", b'[{"level": 20}]'),
        ("GET", "/api/flows/1", b""),
        ("GET", "/api/health", b""),
    ]
    assert reader.rest == b""


def test_behind_a_request_for_a_websocket_nothing_is_taken_for_a_request() -> None:
    reader = RequestReader()
    opening = sent("GET", "/api/events/in", b"", "Connection: Upgrade", "Upgrade: WebSocket")
    (request,) = reader.feed(opening + b"\x81\x05GET /")
    assert request.is_websocket
    assert request.head == opening
    assert reader.rest == b"\x81\x05GET /"
    assert reader.feed(b"\r\n\r\n") == []


def test_a_body_whose_length_is_not_said_is_refused() -> None:
    with pytest.raises(UnreadableRequestError, match="POST /api/logs/"):
        RequestReader().feed(sent("POST", "/api/logs/", b"", "Transfer-Encoding: chunked"))


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("POST", "/api/work_pools/my%20pool/get_scheduled_flow_runs", POLL),
        ("GET", "/api/work_pools/my-pool", "GET work_pools/*"),
        ("POST", "/api/work_pools/filter", "POST work_pools/filter"),
        ("POST", f"/api/flow_runs/{RUN}/set_state", "POST flow_runs/*/set_state"),
        ("GET", f"/api/flow_run_states/?flow_run_id={RUN}", "GET flow_run_states"),
        ("PATCH", f"/api/flow_runs/{RUN}", "PATCH flow_runs/*"),
        ("GET", "/api/admin/version", "GET admin/version"),
    ],
)
def test_the_kind_of_a_request_leaves_out_what_names_a_single_thing(
    method: str, target: str, kind: str
) -> None:
    assert kind_of(Request(method, target)) == kind


def test_logs_events_and_websockets_do_not_count() -> None:
    counted = [
        Request("POST", "/api/logs/"),
        Request("POST", "/api/events"),
        Request("GET", "/api/events/out", is_websocket=True),
        Request("GET", "/api/work_pools/p/workers/connect", is_websocket=True),
        Request("POST", "/api/events/filter"),
        Request("POST", "/api/flow_runs/filter"),
    ]
    assert [is_counted(request) for request in counted] == [False, False, False, False, True, True]


def test_requests_are_counted_by_kind() -> None:
    requests = [
        Request("GET", f"/api/flows/{RUN}"),
        Request("GET", "/api/flows/b19d1d10-6b1c-4f0e-9b0f-3c2b1a000002"),
        Request("POST", "/api/logs/"),
        Request("POST", "/api/work_pools/p/get_scheduled_flow_runs"),
    ]
    assert count(requests) == Counter({"GET flows/*": 2, POLL: 1})
