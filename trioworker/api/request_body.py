"""The body of a request that may be left off half-way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


class RequestBody(httpx.AsyncByteStream):
    """What a request sends.

    httpx's own is an async generator. Of one that is not used up, as when the request is cancelled or the connection
    breaks while it is sent, Trio tells with a `ResourceWarning`.

    Args:
        content: the whole body.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chunks((self._content,))


class _Chunks(AsyncIterator[bytes]):
    def __init__(self, chunks: tuple[bytes, ...]) -> None:
        self._left = iter(chunks)

    async def __anext__(self) -> bytes:
        for chunk in self._left:
            return chunk
        raise StopAsyncIteration
