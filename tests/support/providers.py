"""Providers that answer no requests, for tests of what is known of endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from gateway.domain import EndpointStats, Event, InferenceRequest
from gateway.errors import UpstreamUnreachable
from tests.support.clock import ManualClock


class Silent:
    """There, and never asked; tells nothing of itself."""

    continuation = None

    def open(
        self, request: InferenceRequest, request_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        raise NotImplementedError

    async def stats(self) -> EndpointStats | None:
        return None

    def rests_s(self) -> float:
        return 0.0

    async def probe(self) -> None:
        return None


class Scripted(Silent):
    """Answers `stats` with each of `answers` in turn, None being none; then it is mute.

    `clock` goes a second with each.
    """

    def __init__(self, *answers: EndpointStats | None, clock: ManualClock | None = None) -> None:
        self._clock = clock or ManualClock()
        self._answers = list(answers)
        self._mute = asyncio.Event()
        self.asked = 0

    async def stats(self) -> EndpointStats | None:
        self.asked += 1
        self._clock.advance(1)
        if not self._answers:
            self._mute.set()
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if answer is None:
            raise UpstreamUnreachable("the endpoint cannot be reached")
        return answer

    @property
    def left(self) -> int:
        return len(self._answers)

    async def all_told(self) -> None:
        async with asyncio.timeout(30):
            await self._mute.wait()
