"""What providers ask of an HTTP client. `http1.py` has ours; any transport of httpx's fits too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx


class Body(Protocol):
    async def read(self) -> bytes:
        """All that has come since the last time, once something has; nothing at the end. Raises
        httpx.TransportError where it breaks off."""
        ...

    async def aclose(self) -> None:
        """Leaving it early hangs up on the endpoint."""
        ...


@dataclass(slots=True)
class Response:
    status_code: int
    headers: Mapping[str, str]  # names in lower case; of several of a name, commas between
    stream: Body

    async def aclose(self) -> None:
        await self.stream.aclose()


class Client(Protocol):
    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        connect_s: float | None = None,
    ) -> Response:
        """The response's head, its body still to come. How long an endpoint may stay silent is
        its provider's to say; redirects are not followed. Raises httpx.TransportError."""
        ...


@dataclass(frozen=True, slots=True)
class Httpx:
    """Through httpx, whose types cost more than the rest of a request."""

    transport: httpx.AsyncBaseTransport

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        connect_s: float | None = None,
    ) -> Response:
        timeout = {"connect": connect_s}
        request = httpx.Request(
            method, url, headers=headers, content=content, extensions={"timeout": timeout}
        )
        response = await self.transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)  # the type says: sync or async
        body = _HttpxBody(response.stream, aiter(response.stream))
        return Response(response.status_code, dict(response.headers), body)


@dataclass(frozen=True, slots=True)
class _HttpxBody:
    stream: httpx.AsyncByteStream
    chunks: AsyncIterator[bytes]

    async def read(self) -> bytes:
        async for chunk in self.chunks:
            if chunk:
                return chunk
        return b""

    async def aclose(self) -> None:
        await self.stream.aclose()
