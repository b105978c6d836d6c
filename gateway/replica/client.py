"""The client's side of a connection: its body, and that it may hang up at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from gateway.errors import BodyTooLarge, RequestTimeout
from gateway.replica.inbox import Inbox

BODY_S = 30.0
"""Seconds that a client may take to send its body."""


class HungUp(Exception):
    """The client has closed its connection. Nobody is left to be told."""


async def read_body(receive: Receive, most: int) -> bytes:
    """The request's body. Raises BodyTooLarge, RequestTimeout, HungUp."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                body += message.get("body", b"")
                if len(body) > most:
                    raise BodyTooLarge(f"the body is larger than {most} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {BODY_S:g} s") from None


@asynccontextmanager
async def listening(receive: Receive, inbox: Inbox) -> AsyncIterator[None]:
    """While it lasts, a client that hangs up fails the inbox with HungUp. After `read_body`."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        inbox.fail(HungUp())

    listener = asyncio.create_task(listen())
    try:
        yield
    finally:
        listener.cancel()
