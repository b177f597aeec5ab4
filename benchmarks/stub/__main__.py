"""A stub of the Prefect API, as quick as possible: what dispatching costs a worker, without what it costs a server.

    python -m benchmarks.stub DOCUMENTS

DOCUMENTS is a JSON file with what a real server has answered about a work pool, a flow, a deployment and a run that
is due; that is what the stub answers too. It prints its port, and ends when its standard input does.

Beyond the API there is `POST /runs` with a number, which has so many runs be due, and `GET /report`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from benchmarks.apparatus.http_requests import Request, RequestReader
from benchmarks.apparatus.request_kinds import kind_of
from benchmarks.stub.runs import StubRuns
from benchmarks.stub.websocket import serve_websocket

_CHUNK: Final = 65536
_RUN: Final = re.compile(r"/flow_runs/([0-9a-f-]{36})")

# The most that the real server gives a poll.
_LARGEST_PAGE: Final = 200

_REASONS: Final = {
    200: "OK",
    201: "Created",
    204: "No Content",
    404: "Not Found",
    422: "Unprocessable Entity",
}

Answer = tuple[int, Any]

# What is answered alike, whatever is asked.
_ALWAYS: Final[Mapping[str, Answer]] = {
    "PATCH flow_runs/*": (204, None),
    "PATCH flow_runs/*/labels": (204, None),
    "PATCH work_pools/*": (204, None),
    "POST work_pools/*/workers/heartbeat": (204, None),
    "POST work_pools/*/queues/filter": (200, []),
    "POST flow_runs/filter": (200, []),
    "POST logs": (201, None),
    "GET csrf-token": (422, {"detail": "CSRF protection is disabled."}),
}


@attrs.frozen
class Stub:
    """The stub.

    Attributes:
        documents: what the real server has answered.
        runs: the runs.
    """

    documents: Mapping[str, Any]
    runs: StubRuns

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection."""
        reader = RequestReader()
        # A worker that goes away does not say so.
        with suppress(trio.BrokenResourceError):
            async with stream:
                async for data in stream:
                    for request in reader.feed(bytes(data)):
                        if request.is_websocket:
                            await self._serve_websocket(stream, request, reader.rest)
                            return
                        await stream.send_all(self._response(request))

    async def _serve_websocket(self, stream: trio.SocketStream, request: Request, rest: bytes) -> None:
        if "/events/" in request.path:
            await serve_websocket(stream, request.head + rest, self.runs.note_event)
        else:
            # Prefect's worker then does by requests what it would have done over it.
            await stream.send_all(_encode(404, {"detail": "Not Found"}))

    def _response(self, request: Request) -> bytes:
        if request.path == "/report":
            return _raw(200, self.runs.report())
        if request.path == "/runs":
            self.runs.release(json.loads(request.body))
            return _encode(201, None)
        kind = kind_of(request)
        self.runs.requests[kind] += 1
        return _encode(*self._answer(kind, request))

    def _answer(self, kind: str, request: Request) -> Answer:  # noqa: PLR0911 - one for each route
        if kind in _ALWAYS:
            return _ALWAYS[kind]
        match kind:
            case "POST work_pools/*/get_scheduled_flow_runs":
                limit = json.loads(request.body).get("limit") or _LARGEST_PAGE
                return 200, self.runs.due(min(limit, _LARGEST_PAGE), time.time())
            case "POST flow_runs/*/set_state":
                return 201, self.runs.propose(_run_of(request), json.loads(request.body)["state"])
            case "POST flow_runs/bulk_set_state":
                body = json.loads(request.body)
                runs = body["flow_runs"]["id"]["any_"]
                answers = [{"flow_run_id": run, **self.runs.propose(run, body["state"])} for run in runs]
                return 200, {"results": answers}
            case "GET flow_runs/*":
                return 200, self.runs.runs[_run_of(request)].document
            case "GET flow_run_states":
                return 200, self.runs.runs[request.target.partition("flow_run_id=")[2][:36]].states
            case "GET work_pools/*" | "GET deployments/*" | "GET flows/*" | "GET admin/version":
                return 200, self.documents[kind.split()[1].partition("/")[0]]
            case "POST events":
                for event in json.loads(request.body):
                    self.runs.note_event(event)
                return 204, None
            case _:
                self.runs.troubles.append(f"the stub does not know {kind}")
                return 404, {"detail": "Not Found"}


def _run_of(request: Request) -> str:
    found = _RUN.search(request.path)
    assert found is not None  # noqa: S101 - the route has one
    return found[1]


def _encode(status: int, content: Any) -> bytes:
    return _raw(status, b"" if status == 204 else json.dumps(content).encode())


def _raw(status: int, content: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
    length = "" if status == 204 else f"Content-Length: {len(content)}\r\n"
    return f"{head}{length}\r\n".encode() + content


async def main(documents: Mapping[str, Any]) -> None:
    """Serve until standard input ends."""
    stub = Stub(documents, StubRuns(documents["scheduled"], documents["flow_runs"]))
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, stub.serve, 0, host="127.0.0.1"))
        print(listener.socket.getsockname()[1], flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, json.loads(Path(sys.argv[1]).read_text()))
