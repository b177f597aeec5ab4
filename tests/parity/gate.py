"""A gate between the workers and the server.

It keeps from them that SQLite is busy for once, since that says nothing about a worker; and at it something can
be done at an exact moment of a run's life.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h11
import httpx
import trio

Action = Callable[[str], Awaitable[None]]

_CHUNK = 65536
_ATTEMPTS = 200
_OF_ONE_CONNECTION = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"}


@attrs.define(eq=False)
class Gate:
    """Passes requests on, and does something when a worker gets to know a run, or has claimed it.

    Attributes:
        server: the address of the server.
        client: what makes its requests.
        port: where it listens.
        at_poll: what to do before a worker hears of a run, by the deployment; done once.
        at_claim: what to do before a worker hears that its claim was accepted, by the deployment; done once.
    """

    server: httpx.URL
    client: httpx.AsyncClient
    port: int = 0
    at_poll: dict[str, Action] = attrs.field(factory=dict)
    at_claim: dict[str, Action] = attrs.field(factory=dict)
    _deployments: dict[str, str] = attrs.field(factory=dict)

    @property
    def url(self) -> str:
        """The API as it is reached through the gate."""
        return f"http://127.0.0.1:{self.port}/api"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Pass on whatever comes over one connection."""
        try:
            async with stream:
                await self._serve(stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError, httpx.TransportError):
            # The other side is told by the end of the connection.
            return

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        seen = bytearray()
        while True:
            body = bytearray()
            request: h11.Request | None = None
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                match event:
                    case h11.NEED_DATA:
                        data = await stream.receive_some(_CHUNK)
                        seen += data
                        connection.receive_data(data)
                    case h11.Request():
                        request = event
                        if dict(event.headers).get(b"upgrade", b"").lower() == b"websocket":
                            await self._splice(stream, bytes(seen))
                            return
                    case h11.Data():
                        body += event.data
                    case _:
                        return
            assert request is not None
            seen.clear()
            await self._answer(stream, connection, request, bytes(body))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(
        self, stream: trio.SocketStream, connection: h11.Connection, request: h11.Request, body: bytes
    ) -> None:
        target = request.target.decode()
        headers = [
            (name, value) for name, value in request.headers if name.decode() not in _OF_ONE_CONNECTION
        ]
        response = await self._patient_request(request.method.decode(), target, headers, body)
        await self._act(target, body, response)
        kept = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in _OF_ONE_CONNECTION]
        length = ("Content-Length", str(len(response.content)))
        answer = connection.send(h11.Response(status_code=response.status_code, headers=[*kept, length]))
        await stream.send_all(answer or b"")
        for event in (h11.Data(data=response.content), h11.EndOfMessage()):
            await stream.send_all(connection.send(event) or b"")

    async def _patient_request(
        self, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> httpx.Response:
        """Ask the server again as long as it answers that it is busy: nothing has come of such a request."""
        for _ in range(_ATTEMPTS):
            response = await self.client.request(
                method, self.server.join(target), headers=headers, content=body
            )
            if response.status_code != 503:
                break
            await trio.sleep(0.1)
        return response

    async def _act(self, target: str, body: bytes, response: httpx.Response) -> None:
        if not response.is_success:
            return
        if target.endswith("/get_scheduled_flow_runs"):
            for entry in response.json():
                run, deployment = entry["flow_run"]["id"], entry["flow_run"]["deployment_id"]
                self._deployments[run] = deployment
                if (action := self.at_poll.pop(deployment, None)) is not None:
                    await action(run)
        elif target.endswith("/set_state") and _claims(body):
            run = target.rsplit("/", 2)[1]
            accepted = response.json()["status"] == "ACCEPT"
            deployment = self._deployments.get(run, "")
            if accepted and (action := self.at_claim.pop(deployment, None)) is not None:
                await action(run)

    async def _splice(self, stream: trio.SocketStream, head: bytes) -> None:
        """Pass a websocket on as it is."""
        async with await trio.open_tcp_stream(self.server.host, self.server.port or 80) as upstream:
            await upstream.send_all(head)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_copy, stream, upstream, nursery.cancel_scope)
                nursery.start_soon(_copy, upstream, stream, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except trio.BrokenResourceError:
        pass
    finally:
        both.cancel()


def _claims(body: bytes) -> bool:
    state: dict[str, Any] = json.loads(body)["state"]
    return state["type"] == "PENDING" and state.get("name") in {None, "Pending"}


@asynccontextmanager
async def open_gate(server: str) -> AsyncIterator[Gate]:
    """A gate before a server, for the length of a block."""
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1)
    async with (
        httpx.AsyncClient(timeout=300, limits=limits, trust_env=False) as client,
        trio.open_nursery() as nursery,
    ):
        gate = Gate(httpx.URL(server), client)
        serve = partial(trio.serve_tcp, gate.serve, 0, host="127.0.0.1")
        (listener, *_) = await nursery.start(serve)
        gate.port = listener.socket.getsockname()[1]
        yield gate
        nursery.cancel_scope.cancel()
