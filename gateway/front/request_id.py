"""Every response names its request, so that a caller's log and ours can be laid side by side."""

from __future__ import annotations

import random
import re

from starlette.types import Message, Scope, Send

from gateway.front.messages import is_messages

HEADER = "x-request-id"

ANTHROPICS = "request-id"
"""Where Anthropic's SDKs look for it."""

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


def name_headers(scope: Scope) -> dict[str, str]:
    """What its response names it by."""
    names = (HEADER, ANTHROPICS) if is_messages(scope["path"]) else (HEADER,)
    return dict.fromkeys(names, request_id(scope))


def naming(scope: Scope, send: Send) -> Send:
    """`send` with the request's name on the response."""

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            named = {n.encode(): value.encode() for n, value in name_headers(scope).items()}
            others = [header for header in message["headers"] if header[0] not in named]
            message["headers"] = [*others, *named.items()]
        await send(message)

    return send_named
