"""The worker's end of the control channel: told an intent, an engine that is terminated knows what to do.

One channel serves one attempt at a run. The engine of the run's process, once it can be interrupted, connects to a
port on loopback and shows the token that it was given in its environment; the first to do so is the child, and
nobody else is listened to after that. What is said then is in `attempt_protocol`: two messages of the engine at the
most, so that no connection can keep the worker busy.

The channel makes the end of a run more graceful where it works. Where it does not, the run goes on all the same.
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, Self, TypeVar

import attrs
import trio

from trioworker.infrastructure.process.attempt_protocol import (
    BYTE_OF_INTENT,
    RECEIPT_ACKNOWLEDGED,
    EngineReceipt,
    Hello,
    IntentAcknowledged,
    MalformedMessageError,
    choose,
    encode_hello,
    take_message,
    take_token,
)
from trioworker.infrastructure.protocol import Intent
from trioworker.visitors import accept

__all__ = ["Conclusion", "ControlChannel", "Delivery", "EngineReceipt", "open_control_channel"]

_logger = logging.getLogger(__name__)

_STRANGERS: Final = 4
"""How many connections at a time may owe the token; for one more, the oldest has to go."""

_QUEUE: Final = 32
"""How many connections wait in the kernel's queue to be met; whoever comes after that tries again a second later."""

_TOKEN_TIME: Final = 1.0
"""Seconds that a connection has for its token. Prefect's engine sends it at once."""

_LEAST_TOKEN_TIME: Final = 0.1
"""Seconds that it has if others wait to be met."""

_CHUNK: Final = 8192

Conclusion = EngineReceipt | Intent

T = TypeVar("T")


class Delivery(enum.Enum):
    """What became of an intent."""

    ACKNOWLEDGED = "acknowledged"
    """The engine will act by it as soon as it is sent SIGTERM, and leaves its state to the worker."""

    ALREADY_CONCLUDED = "already concluded"
    """The engine has reported the last state of its run, and will end by itself."""

    NOT_ACKNOWLEDGED = "not acknowledged"
    """The engine could not be reached, or did not answer in time: sent SIGTERM, it may report a crash."""


@attrs.define(eq=False, repr=False)
class _Connection:
    """A connection and what has been received on it, but not been taken yet."""

    stream: trio.SocketStream
    _received: bytes = b""
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    async def take(self, first: Callable[[bytes], tuple[T, bytes] | None]) -> T | None:
        """Wait for what `first` finds at the beginning; None if the connection ends before."""
        while (found := first(self._received)) is None:
            chunk = await self.stream.receive_some(_CHUNK)
            if not chunk:
                return None
            self._received += chunk
        taken, self._received = found
        return taken

    async def send(self, data: bytes) -> None:
        async with self._sending:
            await self.stream.send_all(data)


class ControlChannel:
    """The control channel of one attempt at a run; `open_control_channel` makes one.

    Attributes:
        environment: what the run's process finds the channel by, in Prefect's words; empty if there is none.
    """

    def __init__(self, port: int | None, ack_timeout: float) -> None:
        token = secrets.token_hex(16)
        self.environment: Mapping[str, str] = (
            {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token} if port else {}
        )
        self._port = port
        self._token = token.encode()
        self._ack_timeout = ack_timeout
        self._child: _Connection | None = None
        self._intent: Intent | None = None
        self._conclusion: Conclusion | None = None
        self._over = trio.Event()

    @classmethod
    def unreachable(cls) -> Self:
        """The channel of a child that cannot be reached, because it was another worker's."""
        return cls(None, 0.0)

    @property
    def conclusion(self) -> Conclusion | None:
        """The first of these to happen: the engine's receipt, or an intent that it acknowledged; None before."""
        return self._conclusion

    async def final_conclusion(self) -> Conclusion | None:
        """The conclusion of a child that has ended, with regard to what it sent last and nobody has read yet.

        Waits for that no longer than `deliver` does, should a descendant of the child hold the connection open.
        """
        await trio.lowlevel.checkpoint()
        if self._child is not None:
            with trio.move_on_after(self._ack_timeout):
                await self._over.wait()
        return self._conclusion

    async def deliver(self, intent: Intent) -> Delivery:
        """Tell the engine what is intended with its run, and wait for its answer, up to the channel's time.

        If the engine is not there (not yet, or no more), the answer comes at once.

        An engine is told one intent only. Delivering another one, be it meanwhile or later, gives the answer to
        the first, which `conclusion` names. An answer that comes late counts as well, even if the delivery was
        given up or cancelled.
        """
        await trio.lowlevel.checkpoint()
        if self._child is not None:
            with trio.move_on_after(self._ack_timeout):
                # Of a connection that is broken, what was received before may still be read.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._tell(self._child, intent)
                await self._over.wait()
        if self._conclusion is None:
            return Delivery.NOT_ACKNOWLEDGED
        if isinstance(self._conclusion, EngineReceipt):
            return Delivery.ALREADY_CONCLUDED
        return Delivery.ACKNOWLEDGED

    async def _tell(self, child: _Connection, intent: Intent) -> None:
        if self._intent is not None:
            return
        self._intent = intent
        try:
            await child.send(BYTE_OF_INTENT[intent])
        except BaseException:
            # A single byte was either sent or not.
            self._intent = None
            raise

    async def _serve(self, listener: trio.SocketListener) -> None:
        try:
            await self._meet_child(listener)
            if self._child is not None:
                await self._converse(self._child)
        except (MalformedMessageError, trio.BrokenResourceError) as error:
            self._debug(f"closed, because of {error!r}")
        finally:
            self._over.set()
            if self._child is not None:
                await trio.aclose_forcefully(self._child.stream)

    async def _meet_child(self, listener: trio.SocketListener) -> None:
        """Listen until somebody shows the token, and no longer.

        The child is heard at once, however many strangers have come before and say nothing.
        """
        async with listener, trio.open_nursery() as nursery:
            places = trio.Semaphore(_STRANGERS)
            visits: dict[trio.CancelScope, float] = {}

            async def meet(stream: trio.SocketStream, visit: trio.CancelScope) -> None:
                stranger = _Connection(stream)
                try:
                    with visit:
                        if await self._has_token(stranger):
                            self._child = stranger
                            nursery.cancel_scope.cancel()
                    if visit.cancelled_caught:
                        self._debug("turned a connection away, which was slow to show the token")
                finally:
                    if self._child is not stranger:
                        await trio.aclose_forcefully(stream)
                    del visits[visit]
                    places.release()

            while True:
                await trio.lowlevel.wait_readable(listener.socket)
                if places.value == 0:
                    oldest, began = next(iter(visits.items()))
                    oldest.deadline = began + _LEAST_TOKEN_TIME
                await places.acquire()
                stream = await accept(listener, self._debug)
                now = trio.current_time()
                visit = trio.CancelScope(deadline=now + _TOKEN_TIME)
                visits[visit] = now
                nursery.start_soon(meet, stream, visit)

    async def _has_token(self, stranger: _Connection) -> bool:
        try:
            token = await stranger.take(take_token)
        except (MalformedMessageError, trio.BrokenResourceError) as error:
            self._debug(f"turned a connection away, because of {error!r}")
            return False
        # Used up by the first: of two that come at the same moment, the second is not the child.
        if self._child is None and token is not None and secrets.compare_digest(token, self._token):
            return True
        self._debug("turned a connection away, which did not show the token")
        return False

    async def _converse(self, child: _Connection) -> None:
        chosen: Hello | None = None
        while self._conclusion is None:
            match await child.take(take_message):
                case None:
                    return
                case Hello() as offer if chosen is None:
                    chosen = choose(offer)
                    await child.send(encode_hello(chosen))
                case IntentAcknowledged() if self._intent is not None:
                    self._conclusion = self._intent
                case EngineReceipt() as receipt if chosen is not None and chosen.receipts:
                    self._conclusion = receipt
                    await child.send(RECEIPT_ACKNOWLEDGED)
                case message:
                    raise MalformedMessageError(f"{message} out of turn")

    def _debug(self, message: str) -> None:
        _logger.debug("Control channel on port %s: %s", self._port, message)


@asynccontextmanager
async def open_control_channel(*, ack_timeout: float = 1.0) -> AsyncIterator[ControlChannel]:
    """Listen to the engine of one attempt at a run, for as long as its process lives.

    Nothing that the process does, or anybody else who connects, raises anything here. If there is no port to be
    had, that is logged, and the channel reaches nobody.

    Args:
        ack_timeout: seconds that the engine has for acknowledging an intent.
    """
    listener = await _listen()
    if listener is None:
        yield ControlChannel(None, ack_timeout)
        return
    channel = ControlChannel(listener.socket.getsockname()[1], ack_timeout)
    # Who is cut off has yet to tell the engine why.
    serving = trio.CancelScope(shield=True)

    async def serve() -> None:
        with serving:
            await channel._serve(listener)  # noqa: SLF001 - the other half of the same thing

    exits = AsyncExitStack()
    nursery = await exits.enter_async_context(trio.open_nursery())
    try:
        nursery.start_soon(serve)
        yield channel
    finally:
        serving.cancel()
        # The nursery does not see the block's exception, which it would put into a group. Shielded, since a
        # cancellation from outside would come out of here in its place.
        nursery.cancel_scope.shield = True
        nursery.cancel_scope.cancel()
        await exits.aclose()


async def _listen() -> trio.SocketListener | None:
    try:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=_QUEUE)
    except OSError as error:
        _logger.warning(
            "No port on 127.0.0.1 for the control channel of a flow run: %s. The run goes on, but if it is"
            " terminated, it does not learn why and may report a crash.",
            error,
        )
        return None
    return listener
