"""Any server that speaks OpenAI's chat and completions API: the base of every dialect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import httpx

from gateway.domain import Event, InferenceRequest, Json, ReplicaStats
from gateway.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.providers.base import Continuation
from gateway.wire.openai import encode_request, error_field, parse_event
from gateway.wire.sse import DONE, EventDecoder, EventTooLarge

MAX_BODY = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed, good or bad."""


LAST_BYTES_S = 0.05
"""How long to wait for the end of a body whose last event has come."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an endpoint may keep us waiting, in seconds."""

    connect: float = 5.0
    first_event: float = 600.0  # the whole answer, when it is not streamed; the SDKs wait as long
    between_events: float = 60.0


@dataclass(frozen=True)
class OpenAICompatible:
    transport: httpx.AsyncBaseTransport
    base_url: str  # up to and including /v1
    models: Mapping[str, str]  # the client's name -> the endpoint's
    api_key: str | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()

    # What a dialect may say differently.

    @property
    def continuation(self) -> Continuation | None:
        return None

    def headers(self, request_id: str) -> dict[str, str]:
        headers = {"x-request-id": request_id}
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        return headers

    def fields(self, request: InferenceRequest) -> Json:
        """Body fields of the gateway's own."""
        return {}

    async def stats(self) -> ReplicaStats | None:
        return None

    # What all dialects share.

    @asynccontextmanager
    async def open(
        self, request: InferenceRequest, request_id: str
    ) -> AsyncIterator[AsyncIterator[Event]]:
        deadline = asyncio.get_running_loop().time() + self.timeouts.first_event
        with translated():
            async with asyncio.timeout_at(deadline):
                response = await self.transport.handle_async_request(
                    self._upstream(request, request_id)
                )
            try:
                if response.status_code != 200:
                    async with asyncio.timeout_at(deadline):
                        body = await read_body(response)
                    raise refusal(response.status_code, response.headers, body)
                read = self._stream if request.stream else self._whole
                async with aclosing(read(response, deadline)) as events:
                    yield events
            finally:
                await response.aclose()

    def _upstream(self, request: InferenceRequest, request_id: str) -> httpx.Request:
        return httpx.Request(
            "POST",
            f"{self.base_url}/{request.operation}",
            headers={
                "content-type": "application/json",
                "accept": "text/event-stream" if request.stream else "application/json",
                "accept-encoding": "identity",
                **self.headers(request_id),
                **(request.trace_headers or {}),
            },
            content=encode_request(self.models[request.model], request, self.fields(request)),
            extensions={"timeout": {"connect": self.timeouts.connect}},
        )

    async def _whole(self, response: httpx.Response, deadline: float) -> AsyncGenerator[Event]:
        async with asyncio.timeout_at(deadline):
            body = await read_body(response)
        yield parse_event(body)

    async def _stream(self, response: httpx.Response, deadline: float) -> AsyncGenerator[Event]:
        """A stream is whole when it says [DONE], or at least why it finished.

        A connection that closes tidily before that would look like a short answer to the SDKs.
        """
        loop = asyncio.get_running_loop()
        decoder = EventDecoder()
        chunks = _chunks(response)
        started = finished = False
        while (chunk := await _next_unless(chunks, deadline, finished)) is not None:
            for data in decoder.feed(chunk):
                if data == DONE:
                    # Take the body's end too, so that the connection can be used again.
                    with suppress(TimeoutError, httpx.TransportError):
                        await _next(chunks, loop.time() + LAST_BYTES_S)
                    return
                event = parse_event(data)
                finished = finished or event.finishes
                started = True
                yield event
            if started:
                deadline = loop.time() + self.timeouts.between_events
        if not finished:
            raise UpstreamBroken("the endpoint stopped in the middle of its answer")


async def _next_unless(
    chunks: AsyncIterator[bytes], deadline: float, finished: bool
) -> bytes | None:
    """The next bytes, or None at the end. Once it is `finished`, a cut is an end like any other."""
    try:
        return await _next(chunks, deadline)
    except httpx.TransportError:
        if finished:
            return None
        raise


async def _next(chunks: AsyncIterator[bytes], deadline: float) -> bytes | None:
    async with asyncio.timeout_at(deadline):
        return await anext(chunks, None)


async def read_body(response: httpx.Response) -> bytes:
    """The whole body. Raises UpstreamBroken when it is larger than MAX_BODY."""
    body = bytearray()
    async for chunk in _chunks(response):
        body += chunk
        if len(body) > MAX_BODY:
            raise UpstreamBroken(f"the endpoint's answer is larger than {MAX_BODY} bytes")
    return bytes(body)


def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    assert isinstance(response.stream, httpx.AsyncByteStream)  # the type says: sync or async
    return aiter(response.stream)


@contextmanager
def translated() -> Iterator[None]:
    """The client library's errors as ours; without its text, which names addresses."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
        raise UpstreamUnreachable("the endpoint cannot be reached") from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise UpstreamTimeout("the endpoint took too long") from exc
    except (httpx.TransportError, EventTooLarge) as exc:
        raise UpstreamBroken("the connection to the endpoint broke") from exc


def refusal(status: int, headers: httpx.Headers, body: bytes) -> GatewayError:
    """What an answer that is no 200 means to us.

    The caller's own mistakes go back to the caller with the endpoint's words. Everything else is
    between us and the endpoint: keys, models and capacity are not the caller's to mend, and the
    endpoint's words could tell of ours.
    """
    message = error_field(body, "message") or "the endpoint refused the request"
    param = error_field(body, "param")
    if error_field(body, "code") == ContextLengthExceeded.code:
        return ContextLengthExceeded(message, param=param)
    if status in (400, 422):
        return InvalidRequest(message, param=param)
    if status == 413:
        return BodyTooLarge(message)
    if status == 429:
        return UpstreamBusy("the endpoint is at its limit", retry_after_s=_retry_after(headers))
    return UpstreamRefused(f"the endpoint answered with status {status}")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds, from either form of the header (RFC 9110 §10.2.3)."""
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
