"""`GET /metrics`: Prometheus's text format, for an admin's key where there are keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from gateway.front.door import Door


@dataclass(frozen=True)
class MetricsPage:
    door: Door
    exposition: Callable[[], Awaitable[bytes]]
    content_type: str

    async def show(self, request: Request) -> Response:
        self.door.admit_admin(request.headers.get("authorization"))
        return Response(await self.exposition(), headers={"content-type": self.content_type})
