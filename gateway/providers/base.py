"""A provider speaks one endpoint's dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gateway.domain import CAPABILITIES, EndpointStats, Event, InferenceRequest


class Continuation(Enum):
    """From what an endpoint goes on with an answer that broke off elsewhere."""

    TOKEN_IDS = "token_ids"  # from its tokens: what comes is what would have come
    TEXT = "text"  # from its text, as the beginning of the assistant's message: plausible


ENGINE = frozenset(CAPABILITIES)
"""What the common engines can do with a model that can: which one can, nobody tells us."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a dialect's places can do and promise, whatever the model; docs/providers.md says from
    where we know. None: not known."""

    features: frozenset[str] = ENGINE
    isolates_tenants: bool = False  # no tenant of ours finds what another left in its cache
    tells_cached: bool | None = None  # its usage counts cached tokens
    data_policy: str = "unrestricted"  # unless its account says otherwise
    region: str | None = None
    stops_billing: bool | None = None  # when we hang up

    @property
    def capabilities(self) -> frozenset[str]:
        """As configs and policies name them."""
        return self.features | ({"isolates_tenants"} if self.isolates_tenants else set())


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

    async def stats(self) -> EndpointStats | None:
        """What the endpoint tells of itself when asked; None from those that do not.

        Raises UpstreamError.
        """
        ...

    async def count(self, request: InferenceRequest) -> int | None:
        """Tokens of the request's prompt, counted there and not estimated; None where it cannot
        tell. Raises UpstreamError."""
        ...

    def rests_s(self) -> float:
        """Seconds until a key of ours is free again, as the endpoint has said: a limit is used up,
        or about to be. 0 while one is; it may be asked all the same."""
        ...

    async def probe(self) -> None:
        """Ask for something that is free, or nothing where nothing is: a place that sleeps is not
        woken to see whether it is there. Raises UpstreamError when there is no good answer."""
        ...
