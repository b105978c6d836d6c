"""One answer of an endpoint: asked for, read as it comes, and its connection given back."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx

from gateway.domain import Event, InferenceRequest, Operation
from gateway.errors import GatewayError, UpstreamBroken
from gateway.providers.client import Body, Response
from gateway.providers.reading import TRANSLATED, Pace, body_of, read_body
from gateway.wire.openai import (
    Ending,
    ErrorInAnswer,
    check_whole,
    parse_event,
    parse_vectors,
)
from gateway.wire.responses.native import parse_native
from gateway.wire.sse import DONE, EventDecoder

if TYPE_CHECKING:
    from gateway.providers.openai_compatible import OpenAICompatible

LAST_BYTES_S = 0.05
"""How long to wait for the end of a body whose last event has come."""

Parse = Callable[[bytes, int | None], Event]
"""Of an answer, and of the cached tokens that were told beside it."""


class Reply(ABC):
    """Once entered, the endpoint has agreed to answer; iterated, its events."""

    def __init__(
        self, provider: OpenAICompatible, request: InferenceRequest, request_id: str
    ) -> None:
        self._provider = provider
        self._request = request
        self._request_id = request_id
        self._pace = Pace(provider.timeouts, asyncio.get_running_loop().time)
        self._response: Response

    async def __aenter__(self) -> Reply:
        try:
            with TRANSLATED:
                self._response = await self._provider.answered(
                    self._request, self._request_id, self._pace
                )
        except BaseException:
            self._pace.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        self._pace.close()
        with TRANSLATED:
            await self._response.aclose()
        TRANSLATED.__exit__(kind, exc, trace)

    def __aiter__(self) -> Reply:
        return self

    @abstractmethod
    async def __anext__(self) -> Event: ...

    async def _whole(self) -> bytes:
        with self._pace:
            return await read_body(self._response)

    def _event(self, raw: bytes, parse: Parse) -> Event:
        try:
            return parse(raw, self._provider.cached_in_headers(self._response.headers))
        except ErrorInAnswer as exc:
            raise self._instead(exc) from None

    def _instead(self, told: ErrorInAnswer) -> GatewayError:
        """What it means that an answer, or the next piece of one, is an error."""
        status, response = told.said.status, self._response
        if self._pace.started or status is None:
            return UpstreamBroken("the endpoint reported an error in its answer")
        return self._provider.refusal(status, response.headers, told.said)


class Whole(Reply):
    """Not streamed: one event."""

    _given = False

    async def __anext__(self) -> Event:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        raw, request = await self._whole(), self._request
        if request.operation is Operation.EMBEDDINGS:
            return self._event(raw, lambda raw, _: parse_vectors(raw, request))
        if request.native is not None:
            return self._event(raw, parse_native)
        event = self._event(raw, parse_event)
        check_whole(request.operation, event)
        return event


class Stream(Reply):
    """A stream is whole when each choice has said why it finished, or with [DONE] each begun.

    One that ends before that, however tidily, would look like a short answer to the SDKs.
    """

    def __init__(
        self, provider: OpenAICompatible, request: InferenceRequest, request_id: str
    ) -> None:
        super().__init__(provider, request, request_id)
        self._decoder = EventDecoder()
        self._ending = Ending(request)
        self._parse: Parse = parse_event if request.native is None else parse_native
        self._received: Iterator[bytes] = iter(())  # what each event holds, of all that has come
        self._body: Body | None = None
        self._cached: int | None = None  # tokens, as told beside the body

    async def __anext__(self) -> Event:
        pace, ending = self._pace, self._ending
        while True:
            for data in self._received:
                if data == DONE:
                    await self._end()
                    raise StopAsyncIteration
                try:
                    event = self._parse(data, self._cached)
                except ErrorInAnswer as exc:
                    raise self._instead(exc) from None
                ending.note(event)
                pace.started = True
                pace.events += 1
                if not (self._request.include_usage or event.is_usage_only):
                    event.payload.pop("usage", None)
                return event
            body = self._body or await self._begun()
            received = await pace.next_unless(body, ending.reached)
            if not received:
                break
            self._received = iter(self._decoder.feed(received))
        if not ending.reached:
            raise UpstreamBroken("the endpoint stopped in the middle of its answer")
        raise StopAsyncIteration

    async def _begun(self) -> Body:
        headers = self._response.headers
        if headers.get("content-type", "").startswith("application/json"):
            self._event(await self._whole(), parse_event)
            raise UpstreamBroken("the endpoint answered with no stream")
        self._cached = self._provider.cached_in_headers(headers)
        self._body = body_of(self._response)
        return self._body

    async def _end(self) -> None:
        # Take the body's end too, so that the connection can be used again.
        assert self._body is not None, "its end has been read there"
        with suppress(TimeoutError, httpx.TransportError):
            await self._pace.last(self._body, LAST_BYTES_S)
        if not self._ending.said:
            raise UpstreamBroken("the endpoint's answer ended without a reason")
