"""
uvicorn, with the deadlines that it has not.

uvicorn on httptools refuses requests that smuggle, but waits without end for a head that trickles
in, for a client that does not read, and for a body that was refused. Each is one timer, armed only
while such a wait lasts. (The body's deadline is `body.read_body`'s; how long an endpoint may be
silent is its provider's.) What all connections have to say goes through one outbox, and an exchange
that asks is told when its client leaves.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from socket import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import GatewayError, InvalidRequest, Unavailable
from gateway.front.drain import Drain
from gateway.front.exchange import WHEN_LEFT
from gateway.outbox import Gathered, Outbox
from gateway.wire.openai import encode_json


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    connections: int = 8192
    head_bytes: int = 64 * 1024
    head_s: float = 10.0
    stalled_reader_s: float = 60.0
    keep_alive_s: float = 75.0  # longer than the SDKs keep a connection, so that they close first
    linger_s: float = 5.0  # a body that nobody wants any more may still come in for so long


class GuardedProtocol(HttpToolsProtocol):
    limits: ConnectionLimits
    outbox: Outbox  # one for all connections
    transport: Gathered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(self.outbox.of(transport))
        self._reading = Deadline(self.loop)
        self._writing = Deadline(self.loop)
        self._too_large = False
        self._deaf = False  # nothing more is taken; the connection closes after its answer
        self._head_bytes: int | None = 0  # received of a head; None: it is complete
        self._tell: Callable[[], None] | None = None  # when the client leaves before its answer
        self._reading.arm(self.limits.head_s, self.transport.close)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, Unavailable("too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.disarm()
        self._writing.disarm()
        super().connection_lost(exc)
        if self.scope is not None:  # which knows us: nobody should have to look for such circles
            self.scope.pop("extensions", None)
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def eof_received(self) -> None:
        self.transport.flush()  # the event loop closes what is below it

    def when_left(self, tell: Callable[[], None]) -> None:
        self.flow.resume_reading()  # behind a large body a connection's end is not read
        if self.cycle.disconnected:
            tell()
        else:
            self._tell = tell

    # The head: request line and headers. A second request before the first is answered
    # (pipelining) is not served: uvicorn would stop reading, and not notice a hang-up. RFC 9112
    # §9.3.2 lets a server close instead, and no client in use pipelines.

    def on_message_begin(self) -> None:
        if self._answering():
            raise ValueError("pipelined")  # httptools makes it a parser error: handled below
        super().on_message_begin()
        self.scope["extensions"] = {WHEN_LEFT: {"call": self.when_left}}
        if self._head_bytes is None:  # a further request on this connection
            self._head_bytes = 0

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        super().data_received(data)
        if self._head_bytes is not None and not self.transport.is_closing():
            if not self._reading.armed:  # few heads of further requests come in pieces
                self._reading.arm(self.limits.head_s, self.transport.close)
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self._too_large = True
                self.send_400_response("")

    def on_headers_complete(self) -> None:
        self._reading.disarm()
        self._head_bytes = None
        # With what stands on the line besides: a colon, a space, CR and LF.
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes:
            self._too_large = True
            raise ValueError("head too large")  # httptools makes it a parser error: answered below
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an answer in the API's shape, and no second chance."""
        if self._answering():
            self._deaf = True
            self.cycle.keep_alive = False
            return
        status, reason = (431, "the headers are too large") if self._too_large else (400, msg)
        self._refuse(status, InvalidRequest(reason))

    def _refuse(self, status: int, error: GatewayError) -> None:
        body = encode_json(error.body())
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, HTTPStatus(status).phrase.encode(), len(body), body)
        )
        self._deaf = True
        self.transport.close()

    # A body that comes in after its request was answered: a refusal need not read it.

    def on_response_complete(self) -> None:
        self._tell = None
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._reading.arm(self.limits.linger_s, self.transport.close)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading.disarm()

    # The reader.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.arm(self.limits.stalled_reader_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.disarm()


class Deadline:
    """One timer, armed and disarmed at will."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, seconds: float, act: Callable[[], None]) -> None:
        self.disarm()
        self._timer = self._loop.call_later(seconds, act)

    @property
    def armed(self) -> bool:
        return self._timer is not None

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DrainingServer(uvicorn.Server):
    """Goes down in steps: not ready, for `notice_s`; no new requests; no server.

    A load balancer takes its time to hear that it should send nothing more, and until then it
    sends. Ctrl-C is a person's, who has nobody to notify; a second signal cuts the notice short,
    and a second Ctrl-C the drain as well.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, notice_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._notice_s = notice_s
        self._loop: asyncio.AbstractEventLoop | None = None  # once it starts

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        noticed, self._drain.noticed = self._drain.noticed, True
        loop = self._loop
        if noticed or sig != signal.SIGTERM or not self._notice_s or loop is None:
            super().handle_exit(sig, frame)
            return
        # From a handler of the interpreter's: the loop may sleep, and must be woken.
        loop.call_soon_threadsafe(loop.call_later, self._notice_s, super().handle_exit, sig, frame)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._drain.noticed = self._drain.refusing = True
        await super().shutdown(sockets)
        if not self.force_exit:
            # uvicorn would raise them again, and the process die of what it has done as asked.
            self._captured_signals.clear()


def server(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    limits: ConnectionLimits,
    drain_s: float,
    drain: Drain,
    notice_s: float = 0.0,
) -> uvicorn.Server:
    """A server that lets running exchanges finish for `drain_s` seconds when it is told to stop."""
    protocol = type("Protocol", (GuardedProtocol,), {"limits": limits, "outbox": Outbox()})
    return DrainingServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(limits.keep_alive_s),
            timeout_graceful_shutdown=int(drain_s),
            backlog=2048,
        ),
        drain,
        notice_s,
    )
