"""What many connections have to send, sent in one go."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

logger = logging.getLogger(__name__)

LARGE = 64 * 1024
"""Bytes that do not wait: the transport has to say when it is full."""


class Outbox:
    """Writes, made together once the event loop has run what was ready.

    A write goes through the kernel's whole network stack, and the interpreter comes back to caches
    that hold none of it: with one after each step of each request, both work cold. Kept for later
    they find themselves warm, and of what one connection has to say there is one write, the head of
    a response with its body.

    Belongs to one event loop. Whoever is told that the other side has said its last flushes: the
    loop then closes the transport below unasked.
    """

    def __init__(self) -> None:
        self._waiting: list[Gathered] = []

    def of(self, transport: asyncio.Transport) -> Gathered:
        return Gathered(transport, self)

    def add(self, transport: Gathered) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(transport)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            try:
                transport.flush()
            except Exception:  # a rim: one connection's defect must not silence the others
                logger.exception("a connection that could not be written to is closed")
                transport.abort()


class Gathered(asyncio.Transport):
    """A transport that writes with the others of its outbox."""

    __slots__ = ("_outbox", "_parts", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._parts: list[bytes | bytearray | memoryview] = []
        self._size = 0  # bytes of them

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._parts:
            self._outbox.add(self)
        self._parts.append(data)
        self._size += len(data)
        if self._size > LARGE:
            self.flush()

    def flush(self) -> None:
        """What still has to be written; nobody is left to read it where the other side has gone."""
        parts, self._parts, self._size = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._parts, self._size = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
