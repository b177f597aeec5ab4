"""The control channel: with an engine that a test plays on a bare socket, and with Prefect's own."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.abc
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trioworker.infrastructure.process.attempt_protocol import Disposition
from trioworker.infrastructure.process.control_channel import (
    ControlChannel,
    Delivery,
    EngineReceipt,
    open_control_channel,
)
from trioworker.infrastructure.protocol import Intent
from trioworker.process_group import ProcessGroup

HELLO = b"\x00PF\x02\x01"
RECEIPT_ACKNOWLEDGED = b"\x02"
ABORTED = EngineReceipt(Disposition.ORCHESTRATION_ABORTED)
COMPLETED = EngineReceipt(Disposition.STATE_REPORTED, UUID(int=7), "COMPLETED", "Done")

# How often the world is looked at before it is said that something does not happen.
PATIENCE = 100_000


@asynccontextmanager
async def open_channel(ack_timeout: float = 1) -> AsyncIterator[ControlChannel]:
    """The channel under test, in a block that does not wait for ever."""
    # A virtual clock would jump to the deadline whenever a test waits for a socket.
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    with trio.fail_after(math.inf if virtual else 60):
        async with open_control_channel(ack_timeout=ack_timeout) as channel:
            yield channel


def receipt_bytes(**fields: str) -> bytes:
    payload = json.dumps(fields).encode()
    return b"\x01" + struct.pack("!I", len(payload)) + payload


ABORTED_BYTES = receipt_bytes(disposition="ORCHESTRATION_ABORTED")
COMPLETED_BYTES = receipt_bytes(
    disposition="STATE_REPORTED", state_id=str(UUID(int=7)), state_type="COMPLETED", state_name="Done"
)


class Engine:
    """One end of a connection to the channel."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = await self.stream.receive_some(size - len(data))
            assert chunk, f"closed after {data!r}"
            data += chunk
        return data

    async def closed_by_worker(self) -> bool:
        try:
            return await self.stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True

    def reset(self) -> None:
        """Close without a good-bye."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


def port(channel: ControlChannel) -> int:
    return int(channel.environment["PREFECT__CONTROL_PORT"])


def token(channel: ControlChannel) -> bytes:
    return channel.environment["PREFECT__CONTROL_TOKEN"].encode() + b"\n"


@asynccontextmanager
async def connection(channel: ControlChannel) -> AsyncIterator[Engine]:
    with trio.socket.socket() as bare:
        await bare.connect(("127.0.0.1", port(channel)))
        yield Engine(trio.SocketStream(bare))


@asynccontextmanager
async def engine(channel: ControlChannel, *, hello: bytes = b"") -> AsyncIterator[Engine]:
    """An engine that has shown its token, and been let in."""
    async with connection(channel) as one:
        await one.send(token(channel) + hello)
        if hello:
            assert await one.receive(5) == HELLO
        else:
            await until(lambda: channel._child is not None)
        yield one


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(PATIENCE):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    pytest.fail("what the test waits for does not happen")


async def answer(one: Engine, channel: ControlChannel, intent: Intent, response: bytes) -> Delivery:
    """What a delivery gives to which an engine responds."""
    deliveries: list[Delivery] = []

    async def deliver() -> None:
        deliveries.append(await channel.deliver(intent))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        await one.receive(1)
        await one.send(response)
    return deliveries[0]


async def test_the_environment_tells_where_to_connect_and_a_token_of_each_attempt() -> None:
    async with open_channel() as first, open_channel() as second:
        assert set(first.environment) == {"PREFECT__CONTROL_PORT", "PREFECT__CONTROL_TOKEN"}
        assert port(first) != port(second)
        assert token(first) != token(second)
        assert first.conclusion is None


@pytest.mark.parametrize(("intent", "byte"), [("cancel", b"c"), ("reschedule", b"r"), ("relinquish", b"q")])
@pytest.mark.parametrize("hello", [b"", HELLO], ids=["version 1", "version 2"])
async def test_an_intent_that_is_acknowledged_concludes_the_attempt(
    intent: Intent, byte: bytes, hello: bytes
) -> None:
    async with open_channel() as channel, engine(channel, hello=hello) as one:
        deliveries: list[Delivery] = []

        async def deliver() -> None:
            deliveries.append(await channel.deliver(intent))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            assert await one.receive(1) == byte
            before = channel.conclusion
            await one.send(b"a")
        assert deliveries == [Delivery.ACKNOWLEDGED]
        assert before is None
        assert channel.conclusion == intent
        assert await one.closed_by_worker()


@pytest.mark.parametrize(
    ("encoded", "receipt"), [(ABORTED_BYTES, ABORTED), (COMPLETED_BYTES, COMPLETED)], ids=["aborted", "state"]
)
async def test_a_receipt_is_acknowledged_and_concludes_the_attempt(
    encoded: bytes, receipt: EngineReceipt
) -> None:
    async with open_channel() as channel, engine(channel, hello=HELLO) as one:
        await one.send(encoded)
        assert await one.receive(1) == RECEIPT_ACKNOWLEDGED
        assert channel.conclusion == receipt
        assert await channel.deliver("cancel") is Delivery.ALREADY_CONCLUDED
        assert await one.closed_by_worker()


async def test_messages_may_come_byte_by_byte() -> None:
    async with open_channel() as channel, connection(channel) as one:
        for byte in token(channel) + HELLO:
            await one.send(bytes([byte]))
        assert await one.receive(5) == HELLO
        for byte in COMPLETED_BYTES:
            await one.send(bytes([byte]))
        assert await one.receive(1) == RECEIPT_ACKNOWLEDGED
        assert channel.conclusion == COMPLETED


async def test_messages_may_come_all_at_once() -> None:
    async with open_channel() as channel, connection(channel) as one:
        await one.send(token(channel) + HELLO + COMPLETED_BYTES)
        assert await one.receive(6) == HELLO + RECEIPT_ACKNOWLEDGED
        assert channel.conclusion == COMPLETED


async def test_a_receipt_on_its_way_wins_over_an_intent() -> None:
    async with open_channel() as channel, engine(channel, hello=HELLO) as one:
        assert await answer(one, channel, "cancel", COMPLETED_BYTES) is Delivery.ALREADY_CONCLUDED
        assert channel.conclusion == COMPLETED
        assert await one.receive(1) == RECEIPT_ACKNOWLEDGED


async def test_only_the_first_of_several_receipts_counts() -> None:
    async with open_channel() as channel, engine(channel, hello=HELLO) as one:
        await one.send(COMPLETED_BYTES + ABORTED_BYTES)
        assert await channel.final_conclusion() == COMPLETED
        assert channel.conclusion == COMPLETED


@pytest.mark.parametrize(
    ("response", "delivery", "conclusion"),
    [
        (b"a" + COMPLETED_BYTES, Delivery.ACKNOWLEDGED, "cancel"),
        (COMPLETED_BYTES + b"a", Delivery.ALREADY_CONCLUDED, COMPLETED),
    ],
)
async def test_the_first_of_a_receipt_and_an_acknowledgement_counts(
    response: bytes, delivery: Delivery, conclusion: EngineReceipt | Intent
) -> None:
    async with open_channel() as channel, engine(channel, hello=HELLO) as one:
        assert await answer(one, channel, "cancel", response) is delivery
        assert channel.conclusion == conclusion


async def test_an_engine_that_is_not_there_yet_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_channel() as channel:
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert await channel.final_conclusion() is None
        assert trio.current_time() == 0


@pytest.mark.parametrize(
    "leave", [lambda one: one.stream.socket.close(), Engine.reset], ids=["close", "reset"]
)
async def test_an_engine_that_went_away_is_not_waited_for(
    leave: Callable[[Engine], None], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_channel() as channel, engine(channel) as one:
        leave(one)
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert await channel.final_conclusion() is None
        assert trio.current_time() == 0


async def test_an_engine_that_leaves_instead_of_answering_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_channel() as channel, engine(channel) as one:
        with trio.CancelScope() as scope:

            async def leave() -> None:
                await one.receive(1)
                one.stream.socket.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert not scope.cancelled_caught
        assert trio.current_time() == 0


async def test_an_engine_that_concluded_and_went_away_has_concluded() -> None:
    async with open_channel() as channel:
        async with engine(channel, hello=HELLO) as one:
            await one.send(COMPLETED_BYTES)
        assert await channel.deliver("cancel") is Delivery.ALREADY_CONCLUDED


async def test_what_an_engine_said_last_is_in_its_final_conclusion() -> None:
    async with open_channel() as channel:
        async with engine(channel, hello=HELLO) as one:
            await one.send(COMPLETED_BYTES)
        assert await channel.final_conclusion() == COMPLETED


async def test_the_final_conclusion_does_not_wait_for_who_holds_the_connection_open(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_channel(ack_timeout=3) as channel, engine(channel):
        assert await channel.final_conclusion() is None
        assert trio.current_time() == 3


async def test_an_answer_is_waited_for_as_long_as_was_said_and_counts_when_it_is_late(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_channel(ack_timeout=2) as channel, engine(channel) as one:
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert trio.current_time() == 2
        await one.send(b"a")
        assert await channel.deliver("reschedule") is Delivery.ACKNOWLEDGED
        assert channel.conclusion == "cancel"
        assert trio.current_time() == 2
        assert await one.receive(1) == b"c"
        assert await one.closed_by_worker()


async def test_the_answer_to_one_delivery_is_the_answer_to_all() -> None:
    async with open_channel() as channel, engine(channel) as one:
        deliveries: list[Delivery] = []

        async def deliver(intent: Intent) -> None:
            deliveries.append(await channel.deliver(intent))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver, "cancel")
            nursery.start_soon(deliver, "cancel")
            nursery.start_soon(deliver, "cancel")
            assert await one.receive(1) == b"c"
            await one.send(b"a")
        assert deliveries == [Delivery.ACKNOWLEDGED] * 3
        assert await channel.deliver("relinquish") is Delivery.ACKNOWLEDGED
        assert channel.conclusion == "cancel"
        assert await one.closed_by_worker()


async def test_the_answer_to_a_delivery_that_was_cancelled_counts() -> None:
    async with open_channel() as channel, engine(channel) as one:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.deliver, "cancel")
                await one.receive(1)
                scope.cancel()
        assert scope.cancelled_caught
        await one.send(b"a")
        assert await channel.final_conclusion() == "cancel"


async def test_a_delivery_cancelled_before_anything_was_sent_leaves_room_for_another() -> None:
    async with open_channel() as channel, engine(channel) as one:
        assert channel._child is not None
        async with channel._child._sending:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(channel.deliver, "cancel")
                    await until(lambda: channel._intent == "cancel")
                    scope.cancel()
        assert await answer(one, channel, "reschedule", b"a") is Delivery.ACKNOWLEDGED
        assert channel.conclusion == "reschedule"


@pytest.mark.parametrize("shown", [b"wrong\n", b"\n", b"x" * 1000, b"\xff\x00\n", b""])
async def test_who_does_not_show_the_token_is_turned_away(shown: bytes) -> None:
    async with open_channel() as channel:
        async with connection(channel) as stranger:
            await stranger.send(shown)
            if not shown:
                await stranger.stream.send_eof()
            assert await stranger.closed_by_worker()
        async with connection(channel) as stranger:
            await stranger.send(shown)
            stranger.reset()
        async with engine(channel, hello=HELLO) as one:
            assert await answer(one, channel, "cancel", b"a") is Delivery.ACKNOWLEDGED


async def test_who_is_slow_to_show_the_token_is_turned_away(autojump_clock: trio.testing.MockClock) -> None:
    async with open_channel() as channel, connection(channel) as stranger:
        await stranger.send(token(channel)[:-1])
        assert await stranger.closed_by_worker()
        assert trio.current_time() == 1


async def silent(channel: ControlChannel, connections: AsyncExitStack, number: int) -> list[Engine]:
    """Strangers who connect and say nothing; as many as there is room for have been met."""
    strangers = [await connections.enter_async_context(connection(channel)) for _ in range(number)]
    await trio.testing.wait_all_tasks_blocked()
    return strangers


async def test_four_strangers_at_a_time_are_met(autojump_clock: trio.testing.MockClock) -> None:
    async with open_channel() as channel, AsyncExitStack() as connections:
        strangers = await silent(channel, connections, 4)
        await strangers[3].send(b"wrong\n")
        assert await strangers[3].closed_by_worker()
        assert trio.current_time() == 0


async def test_the_oldest_stranger_makes_room_for_the_child_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_channel() as channel, AsyncExitStack() as connections:
        strangers = await silent(channel, connections, 4)
        await trio.sleep(0.5)
        async with engine(channel, hello=HELLO):
            assert trio.current_time() == 0.5
            assert await strangers[0].closed_by_worker()


async def test_whoever_has_just_come_has_a_moment_for_the_token_though_others_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else strangers could push out the child itself, before it has shown its token."""
    async with open_channel() as channel, connection(channel) as child, AsyncExitStack() as connections:
        await trio.testing.wait_all_tasks_blocked()
        await silent(channel, connections, 4)
        await trio.sleep(0.05)
        await child.send(token(channel) + HELLO)
        assert await child.receive(5) == HELLO
        assert trio.current_time() == 0.05


async def test_the_child_is_heard_soon_behind_a_crowd_of_silent_strangers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_channel() as channel, AsyncExitStack() as connections:
        await silent(channel, connections, 20)
        async with engine(channel, hello=HELLO):
            assert trio.current_time() <= 0.5


async def test_the_child_is_met_while_a_stranger_is_silent() -> None:
    async with open_channel() as channel, connection(channel) as stranger, engine(channel):
        assert await stranger.closed_by_worker()


async def test_nobody_is_listened_to_once_the_child_is_there() -> None:
    async with open_channel() as channel, engine(channel):
        await until(lambda: not is_listening(port(channel)))


def is_listening(number: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", number)) == 0


async def test_of_two_that_show_the_token_at_the_same_moment_one_is_the_child() -> None:
    async with open_channel() as channel, connection(channel) as one, connection(channel) as two:
        # Both are met before either has shown anything, and both tokens are there when one is looked at.
        await trio.testing.wait_all_tasks_blocked()
        for each in (one, two):
            os.write(each.stream.socket.fileno(), token(channel) + HELLO)
        answers: list[bytes] = []

        async def listen(each: Engine) -> None:
            try:
                answers.append(await each.stream.receive_some())
            except trio.BrokenResourceError:
                answers.append(b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, one)
            nursery.start_soon(listen, two)
        assert sorted(answers) == [b"", HELLO]


@pytest.mark.parametrize(
    "message",
    [
        b"?",
        b"a",
        b"\x00PG",
        COMPLETED_BYTES,
        HELLO + HELLO,
        b"\x00PF\x01\x01" + COMPLETED_BYTES,
        HELLO + b"\x01" + struct.pack("!I", 4097),
        HELLO + b"\x01" + struct.pack("!I", 4096) + b"[" * 4096,
        HELLO + receipt_bytes(disposition="OTHER"),
        HELLO + b"\x01\x00\x00\x00\x02[]",
    ],
)
async def test_a_message_that_is_none_closes_the_connection_with_a_debug_line(
    message: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG, "trioworker")
    async with open_channel() as channel, engine(channel) as one:
        await one.send(message)
        assert await channel.final_conclusion() is None
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert trio.current_time() == 0
        assert [record.levelname for record in caplog.records] == ["DEBUG"]
        assert token(channel).decode().strip() not in caplog.text


@pytest.mark.parametrize("message", [b"\x00P", HELLO + COMPLETED_BYTES[:3], HELLO + COMPLETED_BYTES[:-1]])
async def test_half_a_message_is_none(message: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_channel() as channel:
        async with engine(channel) as one:
            await one.send(message)
        assert await channel.final_conclusion() is None
        assert trio.current_time() == 0


@given(
    chunks=st.lists(st.binary(max_size=40) | st.sampled_from([HELLO, COMPLETED_BYTES, b"a"]), max_size=5),
    authenticated=st.booleans(),
    intended=st.booleans(),
    reset=st.booleans(),
)
@settings(deadline=None)
async def test_whatever_an_engine_sends_the_block_goes_on(
    chunks: list[bytes], authenticated: bool, intended: bool, reset: bool
) -> None:
    async with open_channel(ack_timeout=0.001) as channel:
        async with connection(channel) as one:
            if authenticated:
                await one.send(token(channel))
                await until(lambda: channel._child is not None)
            if intended:
                await channel.deliver("cancel")
            try:
                for chunk in chunks:
                    await one.send(chunk)
            except trio.BrokenResourceError:
                pass
            if reset:
                one.reset()
        conclusion = await channel.final_conclusion()
    assert conclusion in ((None, COMPLETED, "cancel") if authenticated else (None,))


async def test_no_connection_outlives_the_block() -> None:
    async with AsyncExitStack() as connections:
        async with open_channel() as channel:
            one = await connections.enter_async_context(engine(channel, hello=HELLO))
        assert await one.closed_by_worker()
        async with open_channel() as channel:
            stranger = await connections.enter_async_context(connection(channel))
            await stranger.send(token(channel)[:5])
        assert await stranger.closed_by_worker()
        assert not is_listening(port(channel))


@pytest.mark.parametrize(
    "error",
    [ValueError("own"), ExceptionGroup("own", [ValueError("inner")]), KeyboardInterrupt(), SystemExit(3)],
    ids=["error", "group", "interrupt", "exit"],
)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_exception_of_the_block_leaves_as_it_is(error: BaseException, cancelled: bool) -> None:
    with trio.CancelScope() as scope, pytest.raises(type(error)) as caught:  # noqa: PT012
        async with open_control_channel() as channel, engine(channel):
            if cancelled:
                scope.cancel()
            raise error
    assert caught.value is error


async def test_the_block_can_be_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with open_control_channel() as channel, engine(channel):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


class NoSockets(trio.abc.SocketFactory):
    """A machine that has none left."""

    def socket(self, family: Any = None, type: Any = None, proto: Any = None) -> Any:  # noqa: A002
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_without_a_port_the_run_goes_on_and_cannot_be_told_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trio.socket.set_custom_socket_factory(NoSockets())
    async with open_channel() as channel:
        assert channel.environment == {}
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert await channel.final_conclusion() is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert os.strerror(errno.EMFILE) in record.message


async def test_a_connection_that_cannot_be_accepted_is_accepted_later(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    accept = trio.SocketListener.accept
    errors = [OSError(errno.EMFILE, "too many"), OSError(errno.ENOBUFS, "too little")]

    async def reluctant(listener: trio.SocketListener) -> trio.SocketStream:
        if errors:
            await trio.lowlevel.checkpoint()
            raise errors.pop()
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", reluctant)
    async with open_channel() as channel, engine(channel, hello=HELLO) as one:
        assert await answer(one, channel, "cancel", b"a") is Delivery.ACKNOWLEDGED
    assert not errors


# Prefect's side of the channel, as its engine uses it.
PREFECTS = """
import signal, sys, time
from prefect._internal.attempt_control import EngineOutcomeReceipt
from prefect._internal.control_listener import configure_from_env, get_intent, report_engine_outcome
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm

configure_from_env()
try:
    with capture_sigterm():
        {in_context}
except TerminationSignal:
    print(get_intent(), flush=True)
"""
WAIT = "print('ready', flush=True); time.sleep(600)"


@asynccontextmanager
async def prefects_engine(
    channel: ControlChannel, environment: dict[str, str], in_context: str
) -> AsyncIterator[tuple[ProcessGroup, trio.lowlevel.FdStream]]:
    """A process with Prefect's side of the channel, and what it prints."""
    reader, writer = os.pipe()
    async with trio.lowlevel.FdStream(reader) as output:
        try:
            group = await ProcessGroup.start(
                [sys.executable, "-c", PREFECTS.format(in_context=in_context)],
                env={**environment, **channel.environment},
                stdout=writer,
            )
        finally:
            os.close(writer)
        try:
            yield group, output
        finally:
            with trio.CancelScope(shield=True):
                await group.terminate(0)


async def line_of(output: trio.lowlevel.FdStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        chunk = await output.receive_some(1)
        assert chunk, f"ended after {line!r}"
        line += chunk
    return line.decode().strip()


async def text_of(output: trio.lowlevel.FdStream) -> str:
    return b"".join([chunk async for chunk in output]).decode()


@pytest.mark.process
@pytest.mark.parametrize("intent", ["cancel", "reschedule", "relinquish"])
async def test_prefects_engine_knows_the_intent_when_it_is_terminated(
    intent: Intent, process_environment: dict[str, str]
) -> None:
    async with (
        open_channel(ack_timeout=30) as channel,
        prefects_engine(channel, process_environment, WAIT) as (group, output),
    ):
        assert await line_of(output) == "ready"
        await until(lambda: channel._child is not None)
        assert await channel.deliver(intent) is Delivery.ACKNOWLEDGED
        assert channel.conclusion == intent
        assert await group.terminate(30) == 0
        assert await text_of(output) == f"{intent}\n"


@pytest.mark.process
async def test_a_receipt_of_prefects_engine_is_acknowledged(process_environment: dict[str, str]) -> None:
    report = "print(report_engine_outcome(EngineOutcomeReceipt.orchestration_aborted()), flush=True)"
    async with (
        open_channel() as channel,
        prefects_engine(channel, process_environment, report) as (group, output),
    ):
        assert await text_of(output) == "True\n"
        assert await group.wait() == 0
        assert await channel.final_conclusion() == ABORTED
        assert await channel.deliver("cancel") is Delivery.ALREADY_CONCLUDED


@pytest.mark.process
async def test_prefects_engine_that_cannot_act_by_an_intent_says_so_by_leaving(
    process_environment: dict[str, str],
) -> None:
    """Such as one whose flow has put a signal handler of its own in place of Prefect's."""
    replace = f"signal.signal(signal.SIGTERM, signal.SIG_DFL); {WAIT}"
    async with (
        open_channel(ack_timeout=math.inf) as channel,
        prefects_engine(channel, process_environment, replace) as (group, output),
    ):
        assert await line_of(output) == "ready"
        await until(lambda: channel._child is not None)
        assert await channel.deliver("cancel") is Delivery.NOT_ACKNOWLEDGED
        assert channel.conclusion is None
        assert await group.terminate(30) == -signal.SIGTERM
