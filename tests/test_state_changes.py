"""The events websocket: what is asked for, what is understood, and every way in which it can go wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import trio
import trio.testing
from command import free_port
from conftest import PrefectServer
from hypothesis import given
from hypothesis import strategies as st
from proxy import Websockets, serve_proxy
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from trioworker.api import state_changes
from trioworker.api import websocket as websocket_module
from trioworker.api.client import open_client
from trioworker.api.condition import Condition
from trioworker.api.errors import (
    APIError,
    APINotFoundError,
    APIUnavailableError,
    NotAuthenticatedError,
    NotPermittedError,
    RequestRefusedError,
)
from trioworker.api.models import StateChange, StateType
from trioworker.api.state_changes import StateChanges, open_state_changes, read_message, subscription
from trioworker.api.transport import USER_AGENT, TransportConfig, open_transport
from trioworker.testing import FakePrefectAPI

RUN_ID = UUID("11111111-1111-4111-8111-111111111111")
POOL_ID = UUID("22222222-2222-4222-8222-222222222222")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CANCELLING = frozenset({StateType.CANCELLING})

# Seconds that anything may take that is sure to come.
PATIENCE = 20.0

# Seconds within which something is done that waits for nobody, on a machine that is busy with other things.
AT_ONCE = 5.0


def message(run_id: UUID = RUN_ID, state_type: str = "CANCELLING") -> dict[str, Any]:
    """What the server sends, less what does not matter."""
    return {
        "type": "event",
        "event": {
            "occurred": "2026-01-01T12:00:00.500000Z",
            "event": "prefect.flow-run.Cancelling",
            "resource": {
                "prefect.resource.id": f"prefect.flow-run.{run_id}",
                "prefect.resource.name": "a-run",
                "prefect.state-type": state_type,
            },
            "related": [],
        },
    }


def change(run_id: UUID = RUN_ID, state_type: StateType = StateType.CANCELLING) -> StateChange:
    return StateChange(flow_run_id=run_id, state_type=state_type, occurred=NOW + timedelta(milliseconds=500))


# What is asked for, and what is understood


def test_subscription_names_the_pool_and_the_state_types() -> None:
    asked = subscription(POOL_ID, {StateType.SCHEDULED, StateType.CANCELLING}, NOW)
    assert json.loads(json.dumps(asked)) == asked
    assert (asked["type"], asked["backfill"]) == ("filter", False)
    assert asked["filter"]["resource"] == {"labels": {"prefect.state-type": ["CANCELLING", "SCHEDULED"]}}
    assert asked["filter"]["any_resource"] == {"id": [f"prefect.work-pool.{POOL_ID}"]}


def test_subscription_lasts_for_years_and_bears_with_clocks_that_differ() -> None:
    occurred = subscription(POOL_ID, CANCELLING, NOW)["filter"]["occurred"]
    assert datetime.fromisoformat(occurred["until"]) > NOW + timedelta(days=3 * 365)
    assert NOW - timedelta(hours=1) < datetime.fromisoformat(occurred["since"]) < NOW - timedelta(minutes=1)


@pytest.mark.parametrize("kind", StateType)
def test_state_change_is_read(kind: StateType) -> None:
    assert read_message(json.dumps(message(state_type=kind.value))) == change(state_type=kind)


def test_state_change_is_read_from_bytes() -> None:
    assert read_message(bytearray(json.dumps(message()).encode())) == change()


def with_event(**parts: Any) -> dict[str, Any]:
    return {**message(), "event": {**message()["event"], **parts}}


def with_resource(**labels: Any) -> dict[str, Any]:
    names = {"id": "prefect.resource.id", "state_type": "prefect.state-type"}
    resource = dict(message()["event"]["resource"])
    resource.update({names[name]: value for name, value in labels.items()})
    return with_event(resource=resource)


@pytest.mark.parametrize(
    "other",
    [
        "",
        "{",
        "null",
        "[]",
        "[" * 100_000,
        "9" * 5_000,
        b"\xff\xfe",
        json.dumps({"type": "auth_success"}),
        json.dumps({**message(), "type": "notice"}),
        json.dumps({"type": "event"}),
        json.dumps({"type": "event", "event": None}),
        json.dumps(with_event(resource={})),
        json.dumps(with_event(occurred=None)),
        json.dumps(with_event(occurred="yesterday")),
        json.dumps(with_event(occurred="2026-01-01T12:00:00")),
        json.dumps(with_resource(id=f"prefect.task-run.{RUN_ID}")),
        json.dumps(with_resource(id="prefect.flow-run.5")),
        json.dumps(with_resource(id=5)),
        json.dumps(with_resource(state_type="DREAMING")),
        json.dumps(with_resource(state_type=["CANCELLING"])),
    ],
)
def test_whatever_is_no_state_change_is_nothing(other: str | bytes) -> None:
    assert read_message(other) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_read_without_an_error(value: Any) -> None:
    assert read_message(json.dumps(value)) is None


@given(st.text() | st.binary())
def test_any_text_is_read_without_an_error(text: str | bytes) -> None:
    assert read_message(text) is None


@given(part=st.sampled_from(["occurred", "resource", "event", "related"]), value=JSON)
def test_any_part_of_an_event_is_read_without_an_error(part: str, value: Any) -> None:
    read = read_message(json.dumps(with_event(**{part: value})))
    assert read is None or read.flow_run_id == RUN_ID


@given(label=st.sampled_from(["id", "state_type"]), value=JSON | st.text().map("prefect.flow-run.{}".format))
def test_any_label_is_read_without_an_error(label: str, value: Any) -> None:
    assert read_message(json.dumps(with_resource(**{label: value}))) is None


@given(
    run_id=st.uuids(),
    kind=st.sampled_from(StateType),
    occurred=st.datetimes(timezones=st.just(timezone(timedelta(hours=2)))),
)
def test_every_state_change_is_read(run_id: UUID, kind: StateType, occurred: datetime) -> None:
    sent = message(run_id, kind.value)
    sent["event"]["occurred"] = occurred.isoformat()
    expected = StateChange(flow_run_id=run_id, state_type=kind, occurred=occurred)
    assert read_message(json.dumps(sent)) == expected


# What is iterated over


async def test_what_has_come_is_told_before_the_failure() -> None:
    changes = StateChanges()
    await changes.add(change())
    changes.add_nowait(change(POOL_ID))
    changes.fail(APIUnavailableError("gone"))
    assert [await anext(changes), await anext(changes)] == [change(), change(POOL_ID)]
    for _ in range(2):
        with pytest.raises(APIUnavailableError, match="gone"):
            await anext(changes)


# A server of our own


@attrs.define
class Peer:
    """The server's end of a websocket, after the upgrade."""

    stream: trio.abc.Stream
    head: str
    websocket: Connection = attrs.field(factory=lambda: Connection(ConnectionType.SERVER))
    received: list[Event] = attrs.field(factory=list)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.websocket.send(event))

    async def send_json(self, value: Any) -> None:
        await self.send(TextMessage(data=json.dumps(value)))

    async def receive(self) -> Event:
        while True:
            for event in self.websocket.events():
                self.received.append(event)
                return event
            chunk = await self.stream.receive_some()
            self.websocket.receive_data(bytes(chunk) or None)

    async def receive_json(self) -> Any:
        event = await self.receive()
        assert isinstance(event, TextMessage)
        return json.loads(event.data)

    async def welcome(self) -> dict[str, Any]:
        """Do as Prefect's server does until the subscription is there, and return that."""
        assert (await self.receive_json())["type"] == "auth"
        await self.send_json({"type": "auth_success"})
        subscribed: dict[str, Any] = await self.receive_json()
        return subscribed

    async def stay(self) -> None:
        """Answer pings until the other end goes."""
        while True:
            event = await self.receive()
            if isinstance(event, CloseConnection):
                return
            if isinstance(event, Ping):
                await self.send(event.response())


Play = Callable[[Peer], Awaitable[None]]


@attrs.define
class Loopback:
    """A server that upgrades, and then does what `play` says."""

    play: Play
    port: int = 0
    heads: list[str] = attrs.field(factory=list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        head = await read_head(stream)
        self.heads.append(head)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(upgraded(head))
            await self.play(Peer(stream, head))


async def read_head(stream: trio.abc.Stream) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = await stream.receive_some()
        if not chunk:
            break
        head += chunk
    return head.decode()


def upgraded(head: str) -> bytes:
    key = headers_of(head)["sec-websocket-key"]
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\nSec-WebSocket-Protocol: prefect\r\n\r\n"
    ).encode()


def headers_of(head: str) -> dict[str, str]:
    pairs = [line.partition(": ") for line in head.splitlines()[1:] if line]
    return {name.lower(): value for name, _, value in pairs}


@asynccontextmanager
async def serving(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server on loopback for the length of a block, as the number of its port."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def playing(play: Play) -> AsyncIterator[Loopback]:
    loopback = Loopback(play)
    async with serving(loopback.serve) as loopback.port:
        yield loopback


def config_for(port: int, **options: Any) -> TransportConfig:
    return TransportConfig(**{"url": f"http://127.0.0.1:{port}/api", "timeout": PATIENCE, **options})


@asynccontextmanager
async def listening(
    port: int, *, keepalive: float = PATIENCE, **options: Any
) -> AsyncIterator[AsyncIterator[StateChange]]:
    async with (
        open_transport(config_for(port, **options), Condition()) as transport,
        open_state_changes(transport, POOL_ID, CANCELLING, keepalive=keepalive) as changes,
    ):
        yield changes


async def refusal(port: int, **options: Any) -> APIError:
    """The error that connecting ends with."""
    with pytest.raises(APIError) as caught:
        async with listening(port, **options):
            pytest.fail("it was connected")
    return caught.value


async def loss(play: Play, **options: Any) -> APIError:
    """The error that a connection ends with that could be made."""
    async with playing(play) as loopback, listening(loopback.port, **options) as changes:
        with pytest.raises(APIError) as caught:
            await anext(changes)
    return caught.value


async def never_answer(_: trio.SocketStream) -> None:
    await trio.sleep_forever()


def answering(response: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Give the answer instead of an upgrade, and hang up."""

    async def answer(stream: trio.SocketStream) -> None:
        await read_head(stream)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(response)

    return answer


class TestConnecting:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            ("401 Unauthorized", NotAuthenticatedError),
            ("403 Forbidden", NotPermittedError),
            ("404 Not Found", APINotFoundError),
            ("426 Upgrade Required", RequestRefusedError),
            ("200 OK", APIUnavailableError),
            ("307 Temporary Redirect", APIUnavailableError),
            ("408 Request Timeout", APIUnavailableError),
            ("429 Too Many Requests", APIUnavailableError),
            ("502 Bad Gateway", APIUnavailableError),
            ("503 Service Unavailable", APIUnavailableError),
        ],
    )
    async def test_answer_that_opens_no_websocket_is_an_error_of_its_kind(
        self, status: str, kind: type[APIError]
    ) -> None:
        response = f"HTTP/1.1 {status}\r\nContent-Length: 5\r\nRetry-After: 7\r\n\r\nsorry"
        async with serving(answering(response.encode())) as port:
            error = await refusal(port)
        assert type(error) is kind
        assert status[:3] in str(error)

    async def test_what_the_server_asks_to_wait_is_passed_on(self) -> None:
        response = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n"
        async with serving(answering(response)) as port:
            error = await refusal(port)
        assert isinstance(error, APIUnavailableError)
        assert error.retry_after == 7

    @pytest.mark.parametrize(
        "response",
        [
            b"",
            b"HTTP/1.1 101 Swi",
            b"\x00\xff\x00\xff\r\n\r\n",
            b"HTTP/1.1 503 x\r\nContent-Length: 99\r\n\r\nx",
        ],
        ids=["nothing", "half a line", "garbage", "half a body"],
    )
    async def test_connection_that_is_closed_instead_is_lost(self, response: bytes) -> None:
        async with serving(answering(response)) as port:
            error = await refusal(port)
        assert type(error) is APIUnavailableError

    async def test_nobody_there_is_an_unavailable_api(self) -> None:
        assert type(await refusal(free_port())) is APIUnavailableError

    async def test_no_answer_to_the_upgrade_is_given_up(self) -> None:
        async with serving(never_answer) as port:
            error = await refusal(port, timeout=0.1)
        assert type(error) is APIUnavailableError
        assert "no answer within 0.1 s" in str(error)

    async def test_no_answer_to_the_token_is_given_up(self) -> None:
        async def play(_: Peer) -> None:
            await trio.sleep_forever()

        async with playing(play) as loopback:
            error = await refusal(loopback.port, timeout=0.1)
        assert type(error) is APIUnavailableError
        assert "no answer within 0.1 s" in str(error)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"type": "auth_failure", "reason": "expired"}, "expired"),
            ({"type": "auth_failure"}, "auth_failure"),
        ],
    )
    async def test_token_that_is_refused_by_a_message(self, answer: Any, reason: str) -> None:
        async def play(peer: Peer) -> None:
            await peer.receive_json()
            await peer.send_json(answer)
            await peer.stay()

        async with playing(play) as loopback:
            error = await refusal(loopback.port, key="SECRET")
        assert isinstance(error, NotAuthenticatedError)
        assert error.detail == reason
        assert "SECRET" not in str(error)

    async def test_token_that_is_refused_by_closing(self) -> None:
        """As Prefect's own server does it."""

        async def play(peer: Peer) -> None:
            await peer.receive_json()
            await peer.send(CloseConnection(code=1008, reason="Invalid token"))
            await peer.stay()

        async with playing(play) as loopback:
            error = await refusal(loopback.port)
        assert isinstance(error, NotAuthenticatedError)
        assert error.detail == "Invalid token"

    async def test_closing_for_another_reason_says_nothing_of_the_token(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.receive_json()
            await peer.send(CloseConnection(code=1012, reason="restarting"))
            await peer.stay()

        async with playing(play) as loopback:
            error = await refusal(loopback.port)
        assert type(error) is APIUnavailableError
        assert "1012 restarting" in str(error)

    @pytest.mark.parametrize("answer", ["hello", "[]", '{"type": 5}', '{"type": "event"}'])
    async def test_server_that_speaks_otherwise_is_none_of_prefects(self, answer: str) -> None:
        async def play(peer: Peer) -> None:
            await peer.receive_json()
            await peer.send(TextMessage(data=answer))
            await peer.stay()

        async with playing(play) as loopback:
            error = await refusal(loopback.port)
        assert type(error) is APIUnavailableError

    async def test_connecting_can_be_cancelled(self) -> None:
        async with serving(never_answer) as port:
            with trio.move_on_after(0.05) as scope:
                await refusal(port)
        assert scope.cancelled_caught

    async def test_proxy_variable_that_leads_nowhere_is_an_unavailable_api(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        error = await refusal(free_port(), url="http://api.test/api")
        assert type(error) is APIUnavailableError


class TestConnected:
    async def test_changes_are_told_in_order(self) -> None:
        runs = [uuid4() for _ in range(300)]

        async def play(peer: Peer) -> None:
            assert (await peer.welcome())["type"] == "filter"
            for run in runs:
                await peer.send_json(message(run))
            await peer.stay()

        async with playing(play) as loopback, listening(loopback.port) as changes:
            assert [(await anext(changes)).flow_run_id for _ in runs] == runs

    async def test_message_in_pieces_is_put_together(self) -> None:
        text = json.dumps(message())

        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.send(TextMessage(data=text[:50], message_finished=False))
            await peer.send(Ping(payload=b"between"))
            await peer.send(TextMessage(data=text[50:]))
            await peer.stay()

        async with playing(play) as loopback, listening(loopback.port) as changes:
            assert await anext(changes) == change()

    async def test_what_cannot_be_read_is_skipped_with_a_debug_line(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger=state_changes.__name__)

        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.send(TextMessage(data="no JSON"))
            await peer.send_json({"type": "notice"})
            await peer.send_json(message())
            await peer.stay()

        async with playing(play) as loopback, listening(loopback.port) as changes:
            assert await anext(changes) == change()
        ours = [record for record in caplog.records if record.name == state_changes.__name__]
        assert [record.levelno for record in ours] == [logging.DEBUG] * 2
        assert "no JSON" in ours[0].getMessage()

    async def test_closed_connection_is_lost(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()

        assert type(await loss(play)) is APIUnavailableError

    async def test_goodbye_is_a_loss_with_its_reason(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.send(CloseConnection(code=1002, reason="Invalid filter"))
            await peer.stay()

        error = await loss(play)
        assert type(error) is APIUnavailableError
        assert "1002 Invalid filter" in str(error)

    @pytest.mark.parametrize(
        "last",
        [b"\x81\x7e\x10\x00half a frame", b"\xff" * 100, b"\x8a\x03abc", b"\x81\x02\xff\xfe", b"\x83\x00"],
        ids=["half a frame", "garbage", "pong that nobody asked for", "no UTF-8", "unknown opcode"],
    )
    async def test_whatever_comes_instead_of_a_frame_is_a_loss(self, last: bytes) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.stream.send_all(last)

        assert type(await loss(play)) is APIUnavailableError

    async def test_reset_connection_is_lost(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            assert isinstance(peer.stream, trio.SocketStream)
            # To linger for no time at all makes closing a reset.
            peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        assert type(await loss(play)) is APIUnavailableError

    async def test_silence_is_found_out(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await trio.sleep_forever()

        begin = trio.current_time()
        assert type(await loss(play, keepalive=0.1)) is APIUnavailableError
        assert 0.2 <= trio.current_time() - begin < 0.2 + AT_ONCE

    async def test_server_that_has_nothing_to_say_is_not_taken_for_dead(self) -> None:
        pings = 0

        async def play(peer: Peer) -> None:
            nonlocal pings
            await peer.welcome()
            while pings < 5:
                event = await peer.receive()
                assert isinstance(event, Ping)
                pings += 1
                await peer.send(Pong(payload=event.payload))
            await peer.send_json(message())
            await peer.stay()

        async with playing(play) as loopback, listening(loopback.port, keepalive=0.05) as changes:
            assert await anext(changes) == change()
        assert pings == 5

    async def test_connection_may_last_longer_than_the_time_to_connect(self) -> None:
        timeout = 1.0

        async def play(peer: Peer) -> None:
            await peer.welcome()
            with trio.move_on_after(timeout):
                await peer.stay()
            await peer.send_json(message())
            await peer.stay()

        async with playing(play) as loopback, listening(loopback.port, timeout=timeout) as changes:
            assert await anext(changes) == change()

    async def test_what_came_before_the_loss_is_told(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.send_json(message())

        async with playing(play) as loopback, listening(loopback.port) as changes:
            assert await anext(changes) == change()
            with pytest.raises(APIUnavailableError):
                await anext(changes)


class TestLeaving:
    async def test_server_is_told_goodbye(self) -> None:
        gone = trio.Event()

        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.stay()
            assert isinstance(peer.received[-1], CloseConnection)
            assert peer.received[-1].code == 1000
            gone.set()

        async with playing(play) as loopback:
            async with listening(loopback.port):
                pass
            await gone.wait()

    async def test_server_that_does_not_answer_is_not_waited_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Or that bound would hide that somebody waits.
        monkeypatch.setattr(websocket_module, "_CLOSE_SECONDS", PATIENCE)

        async def play(peer: Peer) -> None:
            await peer.welcome()
            await trio.sleep_forever()

        async with playing(play) as loopback:
            async with listening(loopback.port):
                begin = trio.current_time()
            assert trio.current_time() - begin < AT_ONCE

    async def test_error_of_the_block_comes_out_bare(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.stay()

        async with playing(play) as loopback:
            with pytest.raises(KeyError, match="mine") as caught:
                async with listening(loopback.port):
                    raise KeyError("mine")
        assert type(caught.value) is KeyError

    async def test_cancellation_passes_through(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.stay()

        async with playing(play) as loopback:
            with trio.move_on_after(0.1) as scope:
                async with listening(loopback.port) as changes:
                    await anext(changes)
        assert scope.cancelled_caught

    async def test_cancellation_of_a_connection_that_is_lost_passes_through(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()

        async with playing(play) as loopback:
            with trio.CancelScope() as scope:
                async with listening(loopback.port) as changes:
                    with suppress(APIUnavailableError):
                        await anext(changes)
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught


class TestConfiguration:
    """The websocket is reached as everything else is."""

    @pytest.mark.parametrize(
        ("options", "token", "authorization"),
        [
            ({}, None, None),
            ({"key": "k"}, "k", "Bearer k"),
            ({"auth_string": "user:password"}, "user:password", "Basic dXNlcjpwYXNzd29yZA=="),
            ({"key": "k", "auth_string": "user:password"}, "k", "Bearer k"),
        ],
        ids=["nothing", "key", "auth string", "both"],
    )
    async def test_credentials_go_into_the_upgrade_and_into_the_first_message(
        self, options: dict[str, Any], token: str | None, authorization: str | None
    ) -> None:
        first: list[Any] = []

        async def play(peer: Peer) -> None:
            first.append(await peer.receive_json())
            await peer.send_json({"type": "auth_success"})
            await peer.stay()

        async with playing(play) as loopback, listening(loopback.port, **options):
            pass
        assert first == [{"type": "auth", "token": token}]
        assert headers_of(loopback.heads[0]).get("authorization") == authorization

    async def test_upgrade_bears_the_headers_of_all_requests(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.stay()

        custom = {"X-Team": "a", "Upgrade": "h2c", "Connection": "close", "User-Agent": "mine"}
        async with playing(play) as loopback, listening(loopback.port, headers=custom):
            pass
        headers = headers_of(loopback.heads[0])
        assert loopback.heads[0].startswith("GET /api/events/out HTTP/1.1\r\n")
        assert headers["x-team"] == "a"
        assert headers["user-agent"] == USER_AGENT
        assert (headers["upgrade"], headers["connection"]) == ("websocket", "Upgrade")
        assert headers["sec-websocket-protocol"] == "prefect"

    async def test_slash_at_the_end_of_the_url_does_not_matter(self) -> None:
        async def play(peer: Peer) -> None:
            await peer.welcome()
            await peer.stay()

        loopback = Loopback(play)
        async with serving(loopback.serve) as port, listening(port, url=f"http://127.0.0.1:{port}/api/"):
            pass
        assert loopback.heads[0].startswith("GET /api/events/out HTTP/1.1\r\n")

    async def test_condition_of_the_api_takes_no_note(self) -> None:
        changes: list[object] = []
        condition = Condition(changes.append)
        async with open_transport(config_for(free_port()), condition) as transport:
            for _ in range(3):
                with pytest.raises(APIUnavailableError):
                    async with open_state_changes(transport, POOL_ID, CANCELLING):
                        pytest.fail("it was connected")
        assert changes == []
        assert condition.reachable

    async def test_websocket_takes_no_connection_away_from_requests(self) -> None:
        """Sixteen requests, each of which is answered only when all are there, beside an open websocket."""
        waiting = 0
        all_there = trio.Event()

        async def serve(stream: trio.SocketStream) -> None:
            nonlocal waiting
            head = await read_head(stream)
            if "events/out" in head:
                await stream.send_all(upgraded(head))
                peer = Peer(stream, head)
                await peer.welcome()
                await peer.stay()
                return
            waiting += 1
            if waiting == 16:
                all_there.set()
            await all_there.wait()
            await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

        async with (
            serving(serve) as port,
            open_transport(config_for(port), Condition()) as transport,
            open_state_changes(transport, POOL_ID, CANCELLING),
            trio.open_nursery() as nursery,
        ):
            for number in range(16):
                nursery.start_soon(transport.request, "GET", f"thing/{number}")
        assert waiting == 16


class TestProxy:
    @pytest.mark.parametrize(
        ("what", "kind"),
        [(Websockets.REFUSE, NotPermittedError), (Websockets.CLOSE, APIUnavailableError)],
    )
    async def test_proxy_that_lets_no_websocket_through(self, what: Websockets, kind: type[APIError]) -> None:
        async with trio.open_nursery() as nursery:
            upstream = f"http://127.0.0.1:{free_port()}/api"
            proxy = await nursery.start(partial(serve_proxy, upstream, websockets=what))
            assert type(await refusal(proxy.port)) is kind
            assert proxy.websockets_asked_for() == 1
            nursery.cancel_scope.cancel()


class TestFake:
    async def test_change_is_told_at_its_moment(self, autojump_clock: trio.testing.MockClock) -> None:
        api = FakePrefectAPI()
        pool = api.add_work_pool("pool")
        run = api.schedule(api.add_deployment("flow", "pool"))
        api.set_state(run.id, "Running", force=True)
        async with api.open_state_changes(pool.id, CANCELLING) as changes:
            await trio.sleep(5)
            api.cancel(run.id)
            told = await anext(changes)
        assert told == StateChange(
            flow_run_id=run.id,
            state_type=StateType.CANCELLING,
            occurred=api.moment(5),
            queue_name="default",
        )
        assert api.times("open_state_changes") == [0]

    async def test_other_pools_and_types_are_not_told(self, autojump_clock: trio.testing.MockClock) -> None:
        api = FakePrefectAPI()
        pool = api.add_work_pool("pool")
        api.add_work_pool("other")
        ours, theirs = api.add_deployment("flow", "pool"), api.add_deployment("flow", "other")
        async with api.open_state_changes(pool.id, {StateType.SCHEDULED, StateType.FAILED}) as changes:
            api.schedule(theirs)
            run = api.schedule(ours)
            api.set_state(run.id, "Running", force=True)
            api.set_state(run.id, "Failed", force=True)
            told = [await anext(changes), await anext(changes)]
            with trio.move_on_after(1) as scope:
                await anext(changes)
        assert [(change.flow_run_id, change.state_type) for change in told] == [
            (run.id, StateType.SCHEDULED),
            (run.id, StateType.FAILED),
        ]
        assert scope.cancelled_caught

    async def test_outage_ends_it_and_refuses_the_next(self, autojump_clock: trio.testing.MockClock) -> None:
        api = FakePrefectAPI()
        pool = api.add_work_pool("pool")
        run = api.schedule(api.add_deployment("flow", "pool"))
        async with api.open_state_changes(pool.id, {StateType.SCHEDULED}) as changes:
            with api.outage("pulled the plug"):
                # Nobody is told any more, and nothing breaks by it.
                api.set_state(run.id, "Scheduled", force=True)
                with pytest.raises(APIUnavailableError, match="pulled the plug"):
                    await anext(changes)
                with pytest.raises(APIUnavailableError, match="pulled the plug"):
                    async with api.open_state_changes(pool.id, CANCELLING):
                        pytest.fail("it was connected")
        async with api.open_state_changes(pool.id, CANCELLING):
            pass
        assert api.condition.reachable

    async def test_refusal_ends_it_but_no_other_request(self, autojump_clock: trio.testing.MockClock) -> None:
        api = FakePrefectAPI()
        pool = api.add_work_pool("pool")
        async with api.open_state_changes(pool.id, CANCELLING) as changes:
            api.refuse_state_changes("dropped")
            with pytest.raises(APIUnavailableError, match="dropped"):
                await anext(changes)
        with pytest.raises(APIUnavailableError, match="dropped"):
            async with api.open_state_changes(pool.id, CANCELLING):
                pytest.fail("it was connected")
        assert await api.read_work_pool("pool") == pool
        api.accept_state_changes()
        async with api.open_state_changes(pool.id, CANCELLING):
            pass


# The real thing


@attrs.define
class Real:
    """A work pool of the real server, and a client."""

    server: PrefectServer
    pool_id: UUID
    deployment: str

    async def schedule(self) -> UUID:
        run = await self.server.acall("POST", f"deployments/{self.deployment}/create_flow_run", {})
        return UUID(run["id"])

    async def become(self, run: UUID, state_type: StateType) -> None:
        body = {"state": {"type": state_type.value}, "force": True}
        await self.server.acall("POST", f"flow_runs/{run}/set_state", body)


async def make_pool(server: PrefectServer) -> Real:
    name = f"state-changes-{uuid4()}"
    pool = await server.acall("POST", "work_pools/", {"name": name, "type": "process"})
    flow = await server.acall("POST", "flows/", {"name": name})
    body = {"name": name, "flow_id": flow["id"], "work_pool_name": name}
    deployment = await server.acall("POST", "deployments/", body)
    return Real(server, UUID(pool["id"]), deployment["id"])


class TestServer:
    async def test_cancelled_run_is_told(self, prefect_server: PrefectServer) -> None:
        pool = await make_pool(prefect_server)
        run = await pool.schedule()
        await pool.become(run, StateType.RUNNING)
        with trio.fail_after(PATIENCE):
            async with (
                open_client(TransportConfig(url=prefect_server.url)) as client,
                client.open_state_changes(pool.pool_id, CANCELLING) as changes,
            ):
                before = datetime.now(UTC)
                await pool.become(run, StateType.CANCELLING)
                told = await anext(changes)
        assert (told.flow_run_id, told.state_type) == (run, StateType.CANCELLING)
        assert before - timedelta(seconds=1) < told.occurred < before + timedelta(seconds=PATIENCE)

    async def test_runs_of_other_pools_are_not_told(self, prefect_server: PrefectServer) -> None:
        ours, theirs = await make_pool(prefect_server), await make_pool(prefect_server)
        with trio.fail_after(PATIENCE):
            async with (
                open_client(TransportConfig(url=prefect_server.url)) as client,
                client.open_state_changes(ours.pool_id, {StateType.SCHEDULED}) as changes,
            ):
                await theirs.schedule()
                run = await ours.schedule()
                told = await anext(changes)
        assert told.flow_run_id == run

    async def test_several_changes_are_told_in_order(self, prefect_server: PrefectServer) -> None:
        pool = await make_pool(prefect_server)
        with trio.fail_after(PATIENCE):
            async with (
                open_client(TransportConfig(url=prefect_server.url)) as client,
                client.open_state_changes(
                    pool.pool_id, {StateType.SCHEDULED, StateType.CANCELLING}
                ) as changes,
            ):
                first, second = await pool.schedule(), await pool.schedule()
                await pool.become(first, StateType.RUNNING)
                await pool.become(first, StateType.CANCELLING)
                told = [await anext(changes) for _ in range(3)]
        assert [(change.flow_run_id, change.state_type) for change in told] == [
            (first, StateType.SCHEDULED),
            (second, StateType.SCHEDULED),
            (first, StateType.CANCELLING),
        ]

    async def test_what_happened_before_connecting_is_not_told(self, prefect_server: PrefectServer) -> None:
        pool = await make_pool(prefect_server)
        told: list[UUID] = []
        runs: list[UUID] = []
        with trio.fail_after(PATIENCE):
            async with open_client(TransportConfig(url=prefect_server.url)) as client:
                for _ in range(2):
                    async with client.open_state_changes(pool.pool_id, {StateType.SCHEDULED}) as changes:
                        runs.append(await pool.schedule())
                        told.append((await anext(changes)).flow_run_id)
        assert told == runs

    async def test_server_that_goes_is_an_unavailable_api(self, prefect_server: PrefectServer) -> None:
        pool = await make_pool(prefect_server)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                proxy = await nursery.start(serve_proxy, prefect_server.url)
                async with (
                    open_client(TransportConfig(url=proxy.api_url)) as client,
                    client.open_state_changes(pool.pool_id, CANCELLING) as changes,
                ):
                    proxy.vanish()
                    with pytest.raises(APIUnavailableError):
                        await anext(changes)

    async def test_leaving_takes_no_time(
        self, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(websocket_module, "_CLOSE_SECONDS", PATIENCE)
        async with open_client(TransportConfig(url=prefect_server.url)) as client:
            async with client.open_state_changes(POOL_ID, CANCELLING):
                begin = time.monotonic()
            assert time.monotonic() - begin < AT_ONCE
