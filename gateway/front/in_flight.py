"""How many requests are being answered: what still has to end before the process may."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

LAST_WORDS_S = 5.0
"""uvicorn cancels what has not ended in time and goes down at once; each is settled right after."""


@dataclass
class InFlight:
    """Entered by each request, left when it is over."""

    _count: int = 0
    _none: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *exc: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """All of them, or LAST_WORDS_S."""
        if self._count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), LAST_WORDS_S)
