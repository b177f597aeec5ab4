"""The body of a request that may be left off half-way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


class RequestBody(httpx.AsyncByteStream):
    """What a request sends, if anything.

    httpx's own is an async generator, and of one that a cancelled request has not used up Trio says so, with a
    `ResourceWarning`.

    Args:
        content: the body; None for a request without.
    """

    def __init__(self, content: bytes | None) -> None:
        self._chunks = () if content is None else (content,)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chunks(self._chunks)


class _Chunks(AsyncIterator[bytes]):
    def __init__(self, chunks: tuple[bytes, ...]) -> None:
        self._left = iter(chunks)

    async def __anext__(self) -> bytes:
        for chunk in self._left:
            return chunk
        raise StopAsyncIteration
