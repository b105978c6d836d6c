"""An API that clients speak: how it reads a request, and how it writes an answer or an error.

All of them are one line behind the door: admission, dispatch, settling and the ledger know chats
and completions only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gateway.domain import Event, InferenceRequest, Operation
from gateway.errors import GatewayError
from gateway.wire.openai import Presenter, TenantKeys, encode_json, parse_request


@dataclass(frozen=True, slots=True)
class Asker:
    """What an API may know of who asks, beside the request's body."""

    keys: TenantKeys
    session: str | None  # as a header names the conversation
    request_id: str
    detach: Callable[[bytes], Awaitable[Callable[[], None]]]
    """Answers the client with this body; the exchange goes on without it, until it is over or what
    this gives is called."""


class Answer(Protocol):
    """One answer as its API writes it. Everything it gives is ready to be sent."""

    def piece(self, event: Event) -> bytes:
        """Of a stream; empty where the client is not to see it."""
        ...

    def end(self) -> bytes:
        """What ends a stream."""
        ...

    def broken(self, error: GatewayError) -> bytes:
        """A stream's last words, instead of its end."""
        ...

    def whole(self, event: Event) -> bytes:
        """The body of an answer that is not streamed."""
        ...


A = TypeVar("A", bound=Answer)


class Api(Protocol[A]):
    async def read(self, raw: bytes, asker: Asker) -> tuple[InferenceRequest, A]:
        """The request, and its answer yet to be written. Raises GatewayError."""
        ...

    async def keep(self, answer: A) -> None:
        """What the client may ask for later, before it has the answer's last byte."""
        ...

    def refusal(self, error: GatewayError, request_id: str) -> bytes:
        """The body of a response that is no answer."""
        ...


@dataclass(frozen=True, slots=True)
class OpenAI:
    """`/v1/chat/completions` and `/v1/completions`: what the line itself speaks."""

    operation: Operation

    async def read(self, raw: bytes, asker: Asker) -> tuple[InferenceRequest, Presenter]:
        request = parse_request(self.operation, raw, asker.keys, asker.session)
        return request, Presenter(request.model, asker.request_id, request.include_usage)

    async def keep(self, answer: Presenter) -> None:
        pass

    def refusal(self, error: GatewayError, request_id: str) -> bytes:
        return encode_json(error.body())
