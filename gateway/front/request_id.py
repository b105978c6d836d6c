"""Every response names its request, so that a caller's log and ours can be laid side by side."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GIVEN = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
"""A caller's own id is kept when it is safe to print anywhere."""


@dataclass(frozen=True)
class RequestId:
    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
        chosen = given if GIVEN.fullmatch(given) else b"%032x" % random.getrandbits(128)
        scope["request_id"] = chosen.decode()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", chosen)]
            await send(message)

        await self.app(scope, receive, send_named)


def request_id(scope: Scope) -> str:
    """The id that the middleware gave this request."""
    chosen: str = scope["request_id"]
    return chosen
