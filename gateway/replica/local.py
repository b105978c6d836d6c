"""A replica that listens on loopback serves this machine's own programs, and no web page."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Forbidden
from gateway.loopback import is_local


@dataclass(frozen=True, slots=True)
class LoopbackOnly:
    """Middleware. Raises Forbidden."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if not is_local(headers.get("host", ""), headers.get("origin")):
                raise Forbidden("only this machine's own programs may ask this replica")
        await self.app(scope, receive, send)
