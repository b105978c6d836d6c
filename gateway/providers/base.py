"""A provider speaks one endpoint's dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from gateway.domain import Event, InferenceRequest, ReplicaStats


class Provider(Protocol):
    def open(
        self, request: InferenceRequest, request_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Send the request and give its answer as events, exactly one when it is not streamed.

        Entering may raise an UpstreamError (another endpoint may do better), or InvalidRequest and
        its kin when the endpoint says that the request itself is at fault; so may the iterator.
        Leaving, at whatever point, ends the request at the endpoint.
        """
        ...


@runtime_checkable
class TellsStats(Protocol):
    """A provider whose endpoint tells of itself when asked."""

    async def stats(self) -> ReplicaStats:
        """Raises UpstreamError."""
        ...
