"""Past the framework, for the few paths that nearly every request takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True)
class Direct:
    """The last of the middleware: what is left of Starlette's layers, and its search for a route
    one by one, cost as much as a policy's decision. These endpoints answer their own errors."""

    app: ASGIApp
    posts: Mapping[str, ASGIApp]  # by path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self.posts.get(scope["path"])
        await (endpoint or self.app)(scope, receive, send)
