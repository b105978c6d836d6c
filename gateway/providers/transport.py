"""
The HTTP client towards endpoints, behind httpx's transport seam.

httpx gives the types, the exceptions and MockTransport; aiohttp does the work. httpx's own pool
takes time that grows with the connections in use (about 20 times aiohttp's CPU per stream at 200
streams), so the gateway calls a transport directly and never `httpx.AsyncClient`. Any other
`httpx.AsyncBaseTransport` fits in its place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx

KEEP_IDLE_S = 4.0
"""Shorter than uvicorn's 5 s, which vLLM, SGLang and many others keep: whoever closes an idle
connection just as a request is on its way makes that request fail, so it must be us."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One pool per process. Leaving a response's body early closes its connection at once.

    Of `extensions["timeout"]` only `connect` is used: how long an endpoint may stay silent is the
    provider's to say, and it differs before and after the first event.
    """

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_S),
            # A cookie that one tenant's answer sets must not travel with another's request.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions.get("timeout", {})
        with as_httpx():
            response = await self._session.request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=_in_pieces(request.content) if request.content else None,
                allow_redirects=False,  # an endpoint's address comes from the config alone
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout.get("connect")),
            )
        return httpx.Response(
            response.status, headers=list(response.raw_headers), stream=_Body(response)
        )

    async def aclose(self) -> None:
        await self._session.close()


PIECE = 256 * 1024


def _in_pieces(content: bytes) -> bytes | AsyncIterator[bytes]:
    """A large body would hold up the event loop while it is copied to the socket in one go."""
    if len(content) <= PIECE:
        return content

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), PIECE):
            yield content[start : start + PIECE]

    return pieces()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with as_httpx():
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        # Back to the pool after the last byte, closed before it.
        self._response.close()


@contextmanager
def as_httpx() -> Iterator[None]:
    """aiohttp's errors as httpx's own; a ConnectError promises that nothing was sent."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as exc:
        raise httpx.ConnectTimeout(str(exc)) from exc
    except aiohttp.ServerTimeoutError as exc:
        raise httpx.ReadTimeout(str(exc)) from exc
    except aiohttp.ClientConnectorError as exc:
        raise httpx.ConnectError(str(exc)) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
