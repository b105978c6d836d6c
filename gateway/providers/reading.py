"""How an endpoint's bytes arrive: not too late, not too slowly, not too many."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
import httpx

from gateway.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from gateway.providers.client import Body, Response
from gateway.wire.sse import EventTooLarge

MAX_BODY = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed, good or bad."""

INFLATED_AT_ONCE = 256 * 1024
"""Bytes: a few that stand for very many must not fill the memory before they are counted."""

SLOW_FOR_S = 20.0
"""Of waiting for the endpoint: over so long its events are counted to say that it is slow."""

USAGE_WITHIN_S = 5.0
"""After the last finish reason: the client has its answer, and only usage can follow."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an endpoint may keep us waiting, in seconds."""

    connect: float = 5.0
    first_event: float = 600.0  # the whole answer, when it is not streamed; the SDKs wait as long
    between_events: float = 60.0  # comments count: somebody is there
    total: float = 3600.0
    slowest: float = 0.0  # events per second of waiting, once the first has come


@dataclass(slots=True)
class Pace:
    """Of one answer. A client that reads slowly is not the endpoint's fault: while nobody waits for
    the endpoint, nothing but the total runs."""

    timeouts: Timeouts
    now: Callable[[], float]
    deadline: float = field(init=False)  # of what is awaited
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)
    _rings: float = field(default=0.0, init=False)  # when it goes off
    _waiting: asyncio.Task[Any] | None = field(default=None, init=False)
    _cancelling: int = field(default=0, init=False)  # how often it had been asked to end by then
    _late: bool = field(default=False, init=False)
    _ends: float = field(init=False)
    started: bool = field(default=False, init=False)  # the first event is there
    events: int = field(default=0, init=False)  # since they were last held against `slowest`
    _waited: float = field(default=0.0, init=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        now = self.now()
        self._ends = now + self.timeouts.total
        self.deadline = min(now + self.timeouts.first_event, self._ends)

    def __enter__(self) -> None:
        """Begin to wait: what is awaited within ends at the deadline, with TimeoutError.

        `asyncio.timeout` would make a timer for each piece of a stream. Here there is one for the
        whole answer, which looks at the deadline that holds when it goes off.
        """
        loop = self._loop
        if loop is None:  # to ask for it is a call to the kernel
            loop = self._loop = asyncio.get_running_loop()
        if self._timer is None or self._rings > self.deadline:
            self._arm(loop)
        task = self._waiting = asyncio.current_task(loop)
        assert task is not None
        self._cancelling = task.cancelling()

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        task, self._waiting = self._waiting, None
        if not self._late or not isinstance(exc, asyncio.CancelledError):
            return
        if task is not None and task.uncancel() <= self._cancelling:
            raise TimeoutError from None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def next_unless(self, body: Body, finished: bool) -> bytes:
        """The next bytes, or none at the end. Once `finished`, a cut is an end like any other, and
        so is silence."""
        began = self.now()
        if self.started:
            patience_s = self.timeouts.between_events
            if finished and patience_s > USAGE_WITHIN_S:
                patience_s = USAGE_WITHIN_S
            ends = began + patience_s
            self.deadline = min(self._ends, ends)
        try:
            with self:
                data = await body.read()
        except (httpx.TransportError, TimeoutError):
            if finished:
                return b""
            raise
        if self.timeouts.slowest and self.started and not finished:
            self._check_speed(self.now() - began)
        return data

    async def last(self, body: Body, within_s: float) -> None:
        """What comes after the last event. Raises TimeoutError."""
        self.deadline = self.now() + within_s
        with self:
            await body.read()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self.deadline
        left_s = max(0.0, self.deadline - self.now())
        self._timer = loop.call_later(left_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiting is None:
            return  # the next wait sets it again
        if self.now() < self.deadline:
            self._arm(loop)
        else:
            self._late = True
            self._waiting.cancel()

    def _check_speed(self, waited_s: float) -> None:
        self._waited += waited_s
        if self._waited < SLOW_FOR_S:
            return
        if self.events < self.timeouts.slowest * self._waited:
            raise UpstreamTimeout("the endpoint's answer became too slow")
        self._waited, self.events = 0.0, 0


def body_of(response: Response) -> Body:
    """The body as it is meant. What stands between may compress it, though we ask for `identity`.

    Raises UpstreamBroken, or httpx.TransportError where the connection or the compression breaks.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return response.stream
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Inflated(response.stream)
    raise UpstreamBroken("the endpoint's answer is encoded in a way that nobody asked for")


class _Inflated:
    """A compressed body."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as it begins

    async def read(self) -> bytes:
        while not self._decoder.eof:
            left = self._decoder.unconsumed_tail or await self._body.read()
            if not left:
                raise httpx.RemoteProtocolError("the compressed body ended too early")
            try:
                data = self._decoder.decompress(left, INFLATED_AT_ONCE)
            except zlib.error as exc:
                raise httpx.RemoteProtocolError("not what its content-encoding says") from exc
            if data:
                return data
        while await self._body.read():  # so that the connection can be used again
            pass
        return b""

    async def aclose(self) -> None:
        await self._body.aclose()


async def read_body(response: Response) -> bytes:
    """The whole body. Raises UpstreamBroken when it is larger than MAX_BODY."""
    body, parts, size = body_of(response), list[bytes](), 0
    while data := await body.read():
        parts.append(data)
        size += len(data)
        if size > MAX_BODY:
            raise UpstreamBroken(f"the endpoint's answer is larger than {MAX_BODY} bytes")
    return b"".join(parts)


class Translated:
    """The client library's errors as ours; without its text, which names addresses."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        match exc:
            case None:
                return
            case httpx.ConnectTimeout():
                raise UpstreamUnreachable(f"{UNREACHABLE}: nobody answered in time") from exc
            case httpx.ConnectError():
                raise UpstreamUnreachable(f"{UNREACHABLE}: {_not_connected(exc)}") from exc
            case httpx.TimeoutException() | TimeoutError():
                raise UpstreamTimeout("the endpoint took too long") from exc
            case httpx.TransportError() | EventTooLarge():
                raise UpstreamBroken(f"{BROKE}: {_broke(exc)}") from exc


TRANSLATED = Translated()

UNREACHABLE = "the endpoint cannot be reached"
BROKE = "the connection to the endpoint broke"


def _not_connected(exc: httpx.ConnectError) -> str:
    """In plain words. Where a library's text is used, it is one that holds no address."""
    match _root(exc):
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return "no names can be found now"
        case socket.gaierror() | UnicodeError():
            return "its name was not found"
        case ssl.SSLCertVerificationError() as bad:
            wrong = bad.verify_message.partition(",")[0]  # after it a name may follow
            return f"TLS failed: its certificate is not accepted ({wrong})"
        case ssl.SSLError() as bad:
            return f"TLS failed: {(bad.reason or 'no handshake').replace('_', ' ').lower()}"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case ConnectionError():  # while TLS was agreed on
            return "it was closed before anything was sent"
        case _:  # several addresses, and each for a reason of its own
            return "nobody takes a connection"


def _broke(exc: BaseException) -> str:
    match _root(exc):
        case EventTooLarge():
            return "an event is too large"
        case httptools.HttpParserError() | httptools.HttpParserUpgrade():
            return "what came is no HTTP"
        case httpx.RemoteProtocolError() | zlib.error():
            return "what came is not what it says to be"
        case ValueError():
            return "the head of its answer is too large"
        case _:
            return "it was closed"


def _root(exc: BaseException) -> BaseException:
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return exc
