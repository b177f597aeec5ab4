"""The websockets of the stub API: whoever comes is let in, listened to, and told nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import trio
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, TextMessage
from wsproto.events import Request as Opening

_CHUNK = 65536


async def serve_websocket(
    stream: trio.SocketStream, opening: bytes, note_event: Callable[[Mapping[str, Any]], None]
) -> None:
    """Serve one websocket of Prefect's events, in or out, until it is closed.

    Args:
        stream: the connection.
        opening: the request for the websocket.
        note_event: called with each event that is sent.
    """
    connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    data: bytes | None = opening
    text = ""
    while True:
        connection.receive_data(data or None)
        for event in connection.events():
            match event:
                case Opening():
                    answer = connection.send(
                        AcceptConnection(subprotocol=next(iter(event.subprotocols), None))
                    )
                    await stream.send_all(answer)
                case Ping() | CloseConnection():
                    await stream.send_all(connection.send(event.response()))
                    if isinstance(event, CloseConnection):
                        return
                case TextMessage():
                    text += event.data
                    if event.message_finished:
                        message, text = json.loads(text), ""
                        if message.get("type") == "auth":
                            await stream.send_all(connection.send(TextMessage('{"type": "auth_success"}')))
                        else:
                            note_event(message)
                case _:
                    pass
        data = await stream.receive_some(_CHUNK)
        if not data:
            return
