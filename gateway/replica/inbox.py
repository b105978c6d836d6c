"""From the engine's thread to the task of one exchange."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.errors import Unavailable
from gateway.replica.choice import Piece
from gateway.replica.request import Finish


class Inbox:
    """What has happened to one exchange and was not yet taken. Filled from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: deque[Piece] = deque()
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._loop.call_soon_threadsafe(self._arrived.set)

    def fail(self, failure: Exception) -> None:
        """Nothing that comes after it counts."""
        self._failure = failure
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self) -> list[Piece]:
        """All the pieces that have piled up.

        Raises the exception that the exchange failed with, Unavailable if the engine gave it up.
        """
        await self._arrived.wait()
        self._arrived.clear()
        if self._failure is not None:
            raise self._failure
        pieces = [self._pieces.popleft() for _ in range(len(self._pieces))]
        if any(piece.end is not None and piece.end.finish is Finish.ABORTED for piece in pieces):
            raise Unavailable("the replica stopped before the answer was complete")
        return pieces
