"""Where every request comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.front.in_flight import InFlight
from gateway.front.loopback import is_from_here
from gateway.front.request_id import name, naming


@dataclass(frozen=True)
class Entrance:
    """Counts and names them all, and lets those that nearly everybody sends past the framework,
    whose layers and search for a route cost as much as a policy's decision. These endpoints answer
    their own errors, and write their request's name on their answers."""

    app: ASGIApp  # the framework, for everything else; it refuses whom it must
    posts: Mapping[str, ASGIApp]  # by path
    in_flight: InFlight
    local_only: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name(scope)
        endpoint = self.posts.get(scope["path"]) if scope["method"] == "POST" else None
        with self.in_flight:
            if endpoint is None or (self.local_only and not is_from_here(scope)):
                await self.app(scope, receive, naming(scope, send))
            else:
                await endpoint(scope, receive, send)
