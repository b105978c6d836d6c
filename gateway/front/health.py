"""`GET /health`: this process is alive. `GET /ready`: an endpoint answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.fleet.fleet import Fleet
from gateway.front.drain import Drain
from gateway.reload import Live


@dataclass(frozen=True)
class Health:
    fleet: Fleet
    live: Live
    drain: Drain

    async def alive(self, request: Request) -> Response:
        return JSONResponse({"status": "alive", "config": dataclasses.asdict(self.live)})

    async def ready(self, request: Request) -> Response:
        if self.drain.noticed:
            return JSONResponse({"status": "draining"}, status_code=503)
        if self.fleet.ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "no endpoint answers"}, status_code=503)
