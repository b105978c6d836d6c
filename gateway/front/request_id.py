"""Every response names its request, so that a caller's log and ours can be laid side by side."""

from __future__ import annotations

import random
import re

from starlette.types import Message, Scope, Send

HEADER = "x-request-id"

GIVEN = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
"""A caller's own id is kept when it is safe to print anywhere."""


def name(scope: Scope) -> None:
    """Before anything else is done: everything after it may log the name."""
    given = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
    chosen = given if GIVEN.fullmatch(given) else b"%032x" % random.getrandbits(128)
    scope["request_id"] = chosen.decode()


def request_id(scope: Scope) -> str:
    """The name that this request has."""
    chosen: str = scope["request_id"]
    return chosen


def naming(scope: Scope, send: Send) -> Send:
    """`send` with the request's name on the response."""

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            named = (HEADER.encode(), request_id(scope).encode())
            others = [header for header in message["headers"] if header[0] != named[0]]
            message["headers"] = [*others, named]
        await send(message)

    return send_named
