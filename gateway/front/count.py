"""How many tokens a request's prompt is, without an answer to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.dispatch import Dispatcher
from gateway.domain import InferenceRequest
from gateway.errors import GatewayError
from gateway.front.body import HungUp, read_body
from gateway.front.door import Door
from gateway.front.rescue import error_response
from gateway.wire.openai import TenantKeys


@dataclass(frozen=True)
class Count:
    door: Door
    dispatcher: Dispatcher
    read: Callable[[bytes, TenantKeys], Awaitable[InferenceRequest]]
    shown: Callable[[int], dict[str, object]]
    refusal: Callable[[GatewayError], bytes]
    refused: Callable[[str], None]  # told the error's code

    async def answer(self, request: Request) -> Response:
        try:
            principal = self.door.identify(request.headers)
            raw = await read_body(request.scope, request.receive, self.door.limits)
            keys = TenantKeys.derive(self.door.secret, principal.tenant)
            tokens = await self.dispatcher.count(await self.read(raw, keys), principal)
        except HungUp:
            return Response(status_code=400)  # nobody reads it
        except GatewayError as error:
            self.refused(error.code or "")
            return error_response(error, self.refusal(error))
        return JSONResponse(self.shown(tokens))
