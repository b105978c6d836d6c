"""
Without keys, only this machine may ask; and of what runs on it, no web page.

A browser will send any page's requests to 127.0.0.1. A page that is not local names itself in
`Origin`; one that had its own name resolve to 127.0.0.1 (DNS rebinding) shows that name in `Host`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Forbidden
from gateway.front.rescue import error_response


@dataclass(frozen=True)
class LoopbackOnly:
    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if not is_loopback(f"//{headers.get('host', '')}") or (
                origin is not None and not is_loopback(origin)
            ):
                answer = Forbidden("without keys, only this machine's own programs may ask")
                await error_response(answer)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
