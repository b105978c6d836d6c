"""`/v1/responses/{id}` and what is below it: responses that their tenant may ask for again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import InvalidRequest, NotFound, UnsupportedRequest
from gateway.front.door import Door
from gateway.front.kept import Kept
from gateway.front.responses import Responses
from gateway.front.shown import Shown
from gateway.wire.responses.fields import INCLUDED
from gateway.wire.responses.listing import page

LOST = {"code": "server_error", "message": "the gateway went down before this was done"}


@dataclass(frozen=True)
class KeptResponses:
    door: Door
    responses: Responses
    wall: Callable[[], float]
    longest_s: Callable[[], float]  # that an exchange may take

    async def retrieve(self, request: Request) -> Response:
        for name, value in request.query_params.multi_items():
            if name == "stream" and value.lower() == "false":
                continue
            if name not in ("include", "include[]") or value not in INCLUDED:
                raise UnsupportedRequest(f"'{name}={value[:100]}' is not known here", param=name)
        return Shown((await self._found(request)).response)

    async def delete(self, request: Request) -> Response:
        tenant, kept = self._tenant(request), await self._found(request)
        if cancel := self.responses.running.pop(kept.id, None):
            cancel()
        await self.responses.remove(tenant, kept.id)
        return Shown({"id": kept.id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        tenant, kept = self._tenant(request), await self._found(request)
        if not kept.response.get("background"):
            raise InvalidRequest("only a background response can be cancelled", param="response_id")
        if kept.status == "in_progress":
            kept = replace(kept, response=kept.response | {"status": "cancelled"})
            if cancel := self.responses.running.pop(kept.id, None):
                cancel()
            await self.responses.put(tenant, kept)
        return Shown(kept.response)

    async def input_items(self, request: Request) -> Response:
        kept = await self._found(request)
        return Shown(page(kept.id, kept.items, request.query_params))

    def _tenant(self, request: Request) -> str:
        return self.door.identify(request.headers).tenant

    async def _found(self, request: Request) -> Kept:
        """Raises InvalidKey, NotFound, Unavailable."""
        id = request.path_params["id"]
        kept = await self.responses.find(self._tenant(request), id)
        if kept is None:
            raise NotFound(f"there is no stored response {id[:100]!r}", param="response_id")
        overdue = self.wall() - kept.response["created_at"] > self.longest_s()
        if kept.status == "in_progress" and overdue:
            return replace(kept, response=kept.response | {"status": "failed", "error": LOST})
        return kept
