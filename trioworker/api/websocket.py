"""The client's end of a websocket, on a connection that has been turned into one. wsproto knows the frames."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
import httpcore
import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

__all__ = ["WebSocket", "WebSocketLostError"]

_CHUNK: Final = 65_536

# Seconds for taking leave of a peer that may not listen any more.
_CLOSE_SECONDS: Final = 1.0


class WebSocketLostError(Exception):
    """The websocket has come to its end.

    Attributes:
        code: by which the other end took leave; None if it did not.
        reason: what it said to that, or what has happened.
    """

    def __init__(self, reason: str, code: int | None = None) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"closed with {code} {reason}".strip() if code else reason)


@attrs.define(eq=False, repr=False)
class WebSocket:
    """One websocket, for a single task at a time.

    Whoever receives answers the other end's pings, too, and asks a silent one for a sign of life.

    Attributes:
        stream: the connection.
        keepalive: seconds of silence after which a sign of life is asked for, and to wait for one.
    """

    stream: httpcore.AsyncNetworkStream
    keepalive: float
    _frames: Connection = attrs.field(factory=lambda: Connection(ConnectionType.CLIENT), init=False)

    async def send_json(self, value: Any) -> None:
        """Send a message.

        Raises:
            WebSocketLostError: the connection is lost.
        """
        await self._send(TextMessage(data=json.dumps(value)))

    async def receive(self) -> str | bytes:
        """Wait for a message, and return it whole.

        Raises:
            WebSocketLostError: the connection is lost, or the other end has taken leave.
        """
        text, data = "", b""
        while True:
            for event in self._frames.events():
                match event:
                    case TextMessage():
                        text += event.data
                    case BytesMessage():
                        data += event.data
                    case Ping():
                        await self._send(event.response())
                    case CloseConnection():
                        raise WebSocketLostError(event.reason or "", event.code)
                if isinstance(event, TextMessage | BytesMessage) and event.message_finished:
                    return text or data
            self._frames.receive_data(await self._receive_some())

    async def close(self) -> None:
        """Take leave, but close the connection in any case, also when cancelled, within a second."""
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await self._take_leave()
        with trio.CancelScope(shield=True) as at_once:
            at_once.cancel()
            await self.stream.aclose()

    async def _take_leave(self) -> None:
        if self._frames.state not in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
            return
        try:
            await self._send(CloseConnection(code=1000))
        except WebSocketLostError:
            # Then there is nobody to take leave of.
            return

    async def _receive_some(self) -> bytes:
        """Wait for anything at all."""
        try:
            try:
                received = await self.stream.read(_CHUNK, timeout=self.keepalive)
            except httpcore.ReadTimeout:
                await self._send(Ping())
                received = await self.stream.read(_CHUNK, timeout=self.keepalive)
        except httpcore.ReadTimeout as error:
            raise WebSocketLostError(f"no sign of life for {2 * self.keepalive:g} s") from error
        except httpcore.NetworkError as error:
            raise WebSocketLostError(type(error).__name__) from error
        if not received:
            raise WebSocketLostError("the connection was closed")
        return received

    async def _send(self, event: Event) -> None:
        try:
            await self.stream.write(self._frames.send(event), timeout=self.keepalive)
        except (httpcore.NetworkError, httpcore.WriteTimeout) as error:
            raise WebSocketLostError(type(error).__name__) from error
