"""A provider speaks one endpoint's dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol

from gateway.domain import Event, InferenceRequest, ReplicaStats


class Continuation(Enum):
    """From what an endpoint goes on with an answer that broke off elsewhere."""

    TOKEN_IDS = "token_ids"  # from its tokens: what comes is what would have come
    TEXT = "text"  # from its text, as the beginning of the assistant's message: plausible


class Provider(Protocol):
    @property
    def continuation(self) -> Continuation | None:
        """None: it cannot, and a request with `delivered` must not be sent to it."""
        ...

    def open(
        self, request: InferenceRequest, request_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Send the request and give its answer as events, exactly one when it is not streamed.

        Entering may raise an UpstreamError (another endpoint may do better), or InvalidRequest and
        its kin when the endpoint says that the request itself is at fault; so may the iterator.
        Leaving, at whatever point, ends the request at the endpoint.
        """
        ...

    async def stats(self) -> ReplicaStats | None:
        """What the endpoint tells of itself when asked; None from those that do not.

        Raises UpstreamError.
        """
        ...

    async def probe(self) -> None:
        """Ask for something that is free. Raises UpstreamError when there is no good answer."""
        ...
