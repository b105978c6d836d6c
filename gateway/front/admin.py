"""`/admin/keys`: make, list, rotate and revoke keys, for keys that may."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.admission.key_store import MadeKeys
from gateway.errors import Forbidden, NotFound, Unavailable
from gateway.front.body import BodyLimits, HungUp, read_body
from gateway.front.door import Door
from gateway.wire.strict_json import parse_object

LIMITS = BodyLimits(64 * 1024, 10.0)
NO_STORE = {"cache-control": "no-store"}
"""A new key is in the answer."""

Handler = Callable[["Admin", MadeKeys, Request], Awaitable[Response]]


def _admins_only(handler: Handler) -> Callable[[Admin, Request], Awaitable[Response]]:
    @functools.wraps(handler)
    async def checked(self: Admin, request: Request) -> Response:
        principal = self.door.ring.identify(request.headers.get("authorization"))
        if not principal.admin:
            raise Forbidden("this key may not manage keys")
        if self.keys is None:
            raise NotFound("there is no key store: set state.redis or state.keys_file")
        try:
            return await handler(self, self.keys, request)
        except HungUp:
            return Response(status_code=499)  # nobody reads it
        except OSError:
            raise Unavailable("the key store cannot be reached", retry_after_s=1.0) from None

    return checked


@dataclass(frozen=True)
class Admin:
    door: Door
    keys: MadeKeys | None

    @_admins_only
    async def every(self, keys: MadeKeys, request: Request) -> Response:
        shown = [record.shown() for record in await keys.every()]
        return JSONResponse({"object": "list", "data": shown})

    @_admins_only
    async def create(self, keys: MadeKeys, request: Request) -> Response:
        given = parse_object(await read_body(request.scope, request.receive, LIMITS))
        record, key = await keys.create(given)
        return JSONResponse({**record.shown(), "key": key}, 201, NO_STORE)

    @_admins_only
    async def rotate(self, keys: MadeKeys, request: Request) -> Response:
        record, key = await keys.rotate(request.path_params["id"])
        return JSONResponse({**record.shown(), "key": key}, 200, NO_STORE)

    @_admins_only
    async def revoke(self, keys: MadeKeys, request: Request) -> Response:
        record = await keys.revoke(request.path_params["id"])
        return JSONResponse({"id": record.id, "revoked": True})
