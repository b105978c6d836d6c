"""`GET /v1/models` and `/v1/models/{id}`: what this key may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import ModelNotFound
from gateway.fleet.fleet import Fleet
from gateway.front.door import Door


@dataclass(frozen=True)
class Models:
    door: Door
    fleet: Fleet
    created: int  # Unix seconds; OpenAI's schema wants one, and the SDKs parse it

    async def every(self, request: Request) -> Response:
        data = [self._model(name) for name in self._usable(request)]
        return JSONResponse({"object": "list", "data": data})

    async def one(self, request: Request) -> Response:
        name = request.path_params["name"]
        usable = self._usable(request)
        if name not in usable:
            raise ModelNotFound.among(usable, name)
        return JSONResponse(self._model(name))

    def _usable(self, request: Request) -> list[str]:
        principal = self.door.ring.identify(request.headers.get("authorization"))
        return [name for name in self.fleet.models() if principal.may_use(name)]

    def _model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "gateway"}
