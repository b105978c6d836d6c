"""
HTTP/1.1 on a bare socket.

A server library sees to it that answers are well formed; this one must be able to send what is
not: half an event, a reset, nothing at all. httptools parses, the rest is here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import httptools

SEGMENT_GAP_S = 0.005
"""Between two writes that are to arrive as two segments."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str  # with its query
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


class Reply:
    """One answer on its way out. Everything is written at once, or with `segment` by itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunked = False
        self._gzip: zlib._Compress | None = None

    async def start(
        self, status: int, headers: Mapping[str, str], length: int | None, *, gzip: bool = False
    ) -> None:
        """`length` None: in chunks."""
        phrase = next((s.phrase for s in HTTPStatus if s == status), "Status")
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        if gzip:
            self._gzip = zlib.compressobj(wbits=31)
            lines.append("content-encoding: gzip")
        self._chunked = length is None or gzip
        lines.append("transfer-encoding: chunked" if self._chunked else f"content-length: {length}")
        await self._connection.write("\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n")

    async def write(self, data: bytes) -> None:
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if data:
            await self._connection.write(
                b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
            )

    async def segments(self, data: bytes, at: int) -> None:
        """Cut before byte `at`."""
        await self.write(data[:at])
        await asyncio.sleep(SEGMENT_GAP_S)
        await self.write(data[at:])

    async def end(self) -> None:
        if self._gzip is not None:
            rest = self._gzip.flush()
            await self._connection.write(b"%x\r\n%b\r\n" % (len(rest), rest))
        if self._chunked:
            await self._connection.write(b"0\r\n\r\n")

    async def stall(self) -> None:
        """For as long as the other side stays."""
        await asyncio.Event().wait()

    def reset(self) -> None:
        self._connection.reset()

    def close(self) -> None:
        """Before the body has ended."""
        self._connection.close()


Serve = Callable[[Request, Reply], Coroutine[None, None, None]]


class Connection(asyncio.Protocol):
    """Requests one after the other; a client that hangs up cancels the one that runs."""

    def __init__(self, serve: Serve, known: set[Connection]) -> None:
        self._serve = serve
        self._known = known
        self._ended = False  # by us, not by the client
        self._writable = asyncio.Event()
        self._writable.set()
        self._requests: deque[Request] = deque()
        self.task: asyncio.Task[None] | None = None
        self._parser = httptools.HttpRequestParser(self)

    # asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._known.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._known.discard(self)
        self._writable.set()
        if self.task is not None and not self._ended:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # httptools calls

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", dict[str, str](), bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self._requests.append(
            Request(method, self._target.decode("latin-1"), self._headers, bytes(self._body))
        )
        self._next()

    # Serving

    def _next(self) -> None:
        if self._requests and self.task is None and not self._transport.is_closing():
            self.task = asyncio.create_task(self._serve(self._requests.popleft(), Reply(self)))
            self.task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if task.cancelled() or task.exception() is not None:
            self._transport.abort()
        else:
            self._next()

    async def write(self, data: bytes) -> None:
        await self._writable.wait()
        if self._transport.is_closing():
            raise asyncio.CancelledError
        self._transport.write(data)

    def reset(self) -> None:
        """RST instead of FIN."""
        self._ended = True
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self._transport.abort()

    def close(self) -> None:
        self._ended = True
        self._transport.close()


class Port:
    """A listening socket that can refuse for a while and come back under the same number.

    It accepts by itself: asyncio's server, closed at the wrong moment, leaves connections that it
    has accepted and will never serve.
    """

    def __init__(self, serve: Serve, host: str, port: int) -> None:
        self._serve = serve
        self.host = host
        self.number = port
        self._listening: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._reopening: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def open(self) -> None:
        """Raises OSError."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        address = (self.host, self.number)
        self._listening = socket.create_server(address, family=family, backlog=2048)
        self._listening.setblocking(False)
        self.number = self._listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    @property
    def listens(self) -> bool:
        return self._listening is not None

    def refuse(self, seconds: float) -> None:
        """New connections; those that are open go on."""
        self._stop_listening()
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().call_later(seconds, self.open)

    async def close(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
        self._stop_listening()
        running = [c.task for c in self._connections if c.task is not None]
        for task in (*running, *self._tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.reset()
        await asyncio.gather(*running, *self._tasks, return_exceptions=True)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        accepted.setblocking(False)
        loop = asyncio.get_running_loop()
        connecting = loop.connect_accepted_socket(
            lambda: Connection(self._serve, self._connections), accepted
        )
        task: asyncio.Task[object] = loop.create_task(connecting)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
