"""
HTTP/1.1 towards endpoints: asyncio's transports, httptools' parser, and a pool.

httpx gives the exceptions. Its own pool takes time that grows with the connections in use, and a
general client pays in every request for what an endpoint never asks: cookies, redirects, proxies,
decompression. Here a request is one write, and what was read at once of an answer one wake-up.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import lru_cache

import httptools
import httpx

from gateway.outbox import Outbox
from gateway.providers.client import Response

KEEP_IDLE_S = 4.0
"""Shorter than uvicorn's 5 s, which vLLM, SGLang and many others keep: whoever closes an idle
connection just as a request is on its way makes that request fail, so it must be us."""

PIECE = 256 * 1024
"""A larger body goes to the socket in pieces of so many bytes, each when the last has left."""

MAX_HEAD = 256 * 1024
"""Bytes of a response's head."""

MOST_UNREAD = 256 * 1024
"""Bytes of an answer that wait for their reader; then the endpoint has to wait."""

Origin = tuple[str, str, int]


class Http1Client:
    """A pool of connections. Leaving a response's body early closes its connection at once."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._outbox = Outbox()
        self._tls = tls  # None: what httpx trusts, made when it is first needed
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        connect_s: float | None = None,
    ) -> Response:
        target = _target(url)
        head = _head(method, target, headers, len(content))
        connection = self._reused(target.origin)
        if connection is None:
            connection = await self._connected(target.origin, connect_s)
        try:
            await connection.send(head, content)
            await connection.head_received()
        except BaseException:
            connection.abort()
            raise
        body = _Body(self, target.origin, connection)
        return Response(connection.status, connection.headers, body)

    async def aclose(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for waiting in self._idle.values():
            for connection in waiting:
                connection.abort()
        self._idle.clear()

    def _reused(self, origin: Origin) -> _Connection | None:
        waiting = self._idle.get(origin)
        while waiting:
            connection = waiting.pop()  # the last that came back is the least likely to be closed
            if connection.usable(asyncio.get_running_loop().time()):
                return connection
            connection.abort()
        return None

    async def _connected(self, origin: Origin, timeout: float | None) -> _Connection:
        scheme, host, port = origin
        tls = self._context() if scheme == "https" else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._outbox), host, port, ssl=tls
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout("the connection took too long") from exc
        except (OSError, UnicodeError) as exc:  # TLS's errors among them; a name that is none
            raise httpx.ConnectError("the connection was not made") from exc
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        return self._tls

    def _give_back(self, origin: Origin, connection: _Connection) -> None:
        if not connection.reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, deque()).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_IDLE_S, self._close_stale)

    def _close_stale(self) -> None:
        loop = asyncio.get_running_loop()
        for origin, waiting in list(self._idle.items()):
            while waiting and not waiting[0].usable(loop.time()):
                waiting.popleft().abort()
            if not waiting:
                del self._idle[origin]
        self._sweep = None
        if self._idle:  # of each origin, the one that has been idle for longest stands first
            oldest = min([waiting[0].idle_since for waiting in self._idle.values()])
            self._sweep = loop.call_at(oldest + KEEP_IDLE_S, self._close_stale)


@dataclass(frozen=True, slots=True)
class _Target:
    """An address, as a request says it."""

    origin: Origin
    host: bytes
    path: bytes


@lru_cache(maxsize=1024)  # addresses come from the config; to parse one takes as long as to send it
def _target(url: str) -> _Target:
    parsed = httpx.URL(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return _Target((parsed.scheme, parsed.host, port), parsed.netloc, parsed.raw_path)


def _head(method: str, target: _Target, headers: Mapping[str, str], length: int) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise httpx.LocalProtocolError("a header holds the end of a line")
    return b"%b %b HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n%b\r\n" % (
        method.encode("ascii"),
        target.path,
        target.host,
        length,
        text.encode("latin-1"),
    )


class _Connection(asyncio.Protocol):
    """One connection, and the one request that is on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._loop = loop
        self._outbox = outbox
        self._transport: asyncio.Transport
        self._lost: BaseException | None = None  # why there is nobody there any more
        self._waiter: asyncio.Future[None] | None = None  # for whatever comes next
        self._writable: asyncio.Future[None] | None = None  # while the socket is full
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self._head_size = 0
        self._head_done = False
        self._keep_alive = False
        self._done = False  # the answer is whole
        self._sent = False  # so is the request
        self._pieces: list[bytes] = []
        self._unread = 0
        self._paused = False

    # From the request's task.

    async def send(self, head: bytes, content: bytes) -> None:
        self._begin()
        if len(content) <= PIECE:
            self._transport.write(head + content)
        else:
            self._transport.write(head)
            for start in range(0, len(content), PIECE):
                if self._head_done or self._lost:
                    return
                self._transport.write(content[start : start + PIECE])
                if self._writable is not None:
                    await self._writable
        self._sent = True

    async def head_received(self) -> None:
        while not self._head_done:
            await self._news()

    async def read(self) -> bytes:
        """All that has come of the answer's body; nothing at its end. Raises httpx.ReadError when
        it breaks off."""
        while not self._pieces:
            if self._done:
                return b""
            await self._news()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _news(self) -> asyncio.Future[None]:
        """Done when more has come, or nobody is there any more. Raises httpx.ReadError."""
        if self._lost is not None:
            raise httpx.ReadError("the connection was closed") from self._lost
        self._waiter = self._loop.create_future()
        return self._waiter

    # For the pool.

    @property
    def reusable(self) -> bool:
        whole = self._done and self._sent and self._keep_alive
        return whole and self._lost is None and not self._paused

    def usable(self, now: float) -> bool:
        return (
            self._lost is None
            and not self._transport.is_closing()
            and now - self.idle_since < KEEP_IDLE_S
        )

    def abort(self) -> None:
        self._transport.abort()

    # From the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = self._outbox.of(transport)
        # An endpoint that vanished without a word is noticed although we only wait.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._done:  # more than was asked for: whose answer would the next be?
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._break(exc)
        else:
            if not self._head_done:
                self._head_size += len(data)
                if self._head_size > MAX_HEAD:
                    self._break(ValueError("the head is too large"))
        self._wake()

    def eof_received(self) -> None:
        if self._head_done and not self._has_length():
            self._done = True  # such a body ends with its connection

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = self._lost or exc or ConnectionResetError("closed by the endpoint")
        self._room()
        self._wake()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        self._room()
        self._writable = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _break(self, why: BaseException) -> None:
        self._lost = why
        self._transport.abort()

    def _has_length(self) -> bool:
        return "content-length" in self.headers or "transfer-encoding" in self.headers

    def _room(self) -> None:
        """There is room to write again, or no longer a reason to."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # From the parser.

    def on_message_begin(self) -> None:
        if self._done:
            raise ValueError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # what stands behind a body tells nothing that we use
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._head_done = self.status >= 200
        self._keep_alive = self._parser.should_keep_alive()
        if self._head_done:
            self._room()  # an answer before the whole request is out is a refusal

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._unread += len(body)
        if self._unread > MOST_UNREAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._head_done:
            self._done = True
        else:  # 1xx: the answer itself is still to come
            self.headers.clear()


class _Body:
    def __init__(self, pool: Http1Client, origin: Origin, connection: _Connection) -> None:
        self._pool = pool
        self._origin = origin
        self._connection: _Connection | None = connection

    def read(self) -> Coroutine[None, None, bytes]:
        assert self._connection is not None, "the response is closed"
        return self._connection.read()

    async def aclose(self) -> None:
        # Back to the pool after the last byte, closed before it.
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._give_back(self._origin, connection)
