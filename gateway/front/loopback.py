"""Without keys, only this machine may ask; and of what runs on it, no web page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Forbidden
from gateway.front.rescue import refusal
from gateway.loopback import is_local


def is_from_here(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return is_local(headers.get("host", ""), headers.get("origin"))


@dataclass(frozen=True)
class LoopbackOnly:
    app: ASGIApp
    refused: Callable[[str], None]  # told the error's code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_from_here(scope):
            answer = Forbidden("without keys, only this machine's own programs may ask")
            self.refused(answer.code)
            await refusal(scope, answer)(scope, receive, send)
            return
        await self.app(scope, receive, send)
