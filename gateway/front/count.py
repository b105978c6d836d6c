"""How many tokens a request's prompt is, without an answer to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.dispatch import Dispatcher
from gateway.domain import InferenceRequest, Outcome
from gateway.errors import GatewayError
from gateway.front.body import HungUp, read_body
from gateway.front.door import Door
from gateway.front.quota import quota_headers
from gateway.front.request_id import request_id
from gateway.front.rescue import error_response
from gateway.wire.openai import TenantKeys


@dataclass(frozen=True)
class Count:
    door: Door
    dispatcher: Dispatcher
    read: Callable[[bytes, TenantKeys], Awaitable[InferenceRequest]]
    shown: Callable[[int], dict[str, object]]
    refusal: Callable[[GatewayError, str], bytes]
    refused: Callable[[str], None]  # told the error's code
    clock: Callable[[], float]

    async def answer(self, request: Request) -> Response:
        try:
            principal = self.door.identify(request.headers)
        except GatewayError as error:
            return self._refuse(error, request)
        outcome = Outcome(request_id(request.scope), principal, self.clock())
        try:
            raw = await read_body(request.scope, request.receive, self.door.limits)
            keys = TenantKeys.derive(self.door.secret, principal.tenant)
            tokens = await self.dispatcher.count(await self.read(raw, keys), outcome)
        except HungUp:
            return Response(status_code=400)  # nobody reads it
        except GatewayError as error:
            response = self._refuse(error, request)
        else:
            response = JSONResponse(self.shown(tokens))
        response.headers.update(quota_headers(outcome.quotas))
        return response

    def _refuse(self, error: GatewayError, request: Request) -> Response:
        self.refused(error.code or "")
        return error_response(error, self.refusal(error, request_id(request.scope)))
