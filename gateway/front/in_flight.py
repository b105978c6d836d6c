"""How many requests are being answered: what still has to end before the process may."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

LAST_WORDS_S = 5.0
"""uvicorn cancels what has not ended in time and goes down at once; each is settled right after."""


@dataclass
class InFlight:
    _count: int = 0
    _none: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def one(self) -> Iterator[None]:
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def ended(self) -> None:
        """All of them, or LAST_WORDS_S."""
        if self._count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), LAST_WORDS_S)


@dataclass(frozen=True)
class Counted:
    app: ASGIApp
    in_flight: InFlight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.in_flight.one():
            await self.app(scope, receive, send)
