"""Reads HTTP requests out of a stream of bytes, as far as workers make use of HTTP."""

from __future__ import annotations

from typing import Final

import attrs

from benchmarks.failures import BenchmarkError

_HEAD_END: Final = b"\r\n\r\n"


class UnreadableRequestError(BenchmarkError):
    """A request of a form that no worker was known to send."""


@attrs.frozen
class Request:
    """A request as it was sent.

    Attributes:
        method: the HTTP method.
        target: path and query.
        body: what was sent with it.
        is_websocket: whether it asks for a websocket; if so, what follows in the stream is no HTTP.
        head: everything before the body.
    """

    method: str
    target: str
    body: bytes = b""
    is_websocket: bool = False
    head: bytes = attrs.field(default=b"", repr=False)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@attrs.define
class RequestReader:
    """Takes the bytes of one connection as they come, and gives the requests in them.

    Attributes:
        rest: what has come and is not yet a whole request.
        is_websocket: whether a websocket was asked for; from then on, nothing is looked at any more.
    """

    rest: bytes = b""
    is_websocket: bool = False

    def feed(self, data: bytes) -> list[Request]:
        """Take some bytes; returns the requests that are whole by now.

        Raises:
            UnreadableRequestError: a body whose length is not said, or a head that is none.
        """
        found: list[Request] = []
        if self.is_websocket:
            return found
        self.rest += data
        while not self.is_websocket and (request := self._take()) is not None:
            found.append(request)
            self.is_websocket = request.is_websocket
        return found

    def _take(self) -> Request | None:
        end = self.rest.find(_HEAD_END)
        if end < 0:
            return None
        head = self.rest[: end + len(_HEAD_END)]
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "transfer-encoding" in headers or first.count(" ") != 2:
            raise UnreadableRequestError(f"the gate cannot read this request: {first}")
        length = int(headers.get("content-length", "0"))
        if len(self.rest) < len(head) + length:
            return None
        body, self.rest = self.rest[len(head) : len(head) + length], self.rest[len(head) + length :]
        method, target, _ = first.split(" ")
        return Request(method, target, body, headers.get("upgrade", "").lower() == "websocket", head)
