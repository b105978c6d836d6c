"""A request's body, whole, within a size and a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import Receive, Scope

from gateway.errors import BodyTooLarge, GatewayError, RequestTimeout


class HungUp(Exception):
    """The client left before it had sent its request."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    size: int  # bytes
    seconds: float


async def read_body(scope: Scope, receive: Receive, limits: BodyLimits) -> bytes:
    """Raises BodyTooLarge before reading what a header already tells, RequestTimeout, HungUp."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limits.size:
            raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                body += message.get("body", b"")
                if len(body) > limits.size:
                    raise _too_large(limits)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {limits.seconds:g} seconds") from None


def _too_large(limits: BodyLimits) -> GatewayError:
    return BodyTooLarge(f"the body is larger than {limits.size} bytes")
