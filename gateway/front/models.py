"""
`GET /v1/models` and `/v1/models/{id}`: what this key may ask for, and where it would be answered.

OpenAI's shape is four fields, which the SDKs parse. Who asks for more (`?details=true`, or the
header `x-gateway-details: true`) has with each model its endpoints: context, capabilities, the
price of this hour and the speed that their answers have taught.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.domain import Principal
from gateway.errors import InvalidRequest, ModelNotFound
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.front.door import Door

ASK = "details"
HEADER = "x-gateway-details"

PROMPT_TOKENS = 1000
"""The time to the first token is told of a prompt of so many tokens, none of them cached."""


@dataclass(frozen=True)
class Models:
    door: Door
    fleet: Fleet
    created: int  # Unix seconds; OpenAI's schema wants one, and the SDKs parse it
    clock: Callable[[], float]
    wall: Callable[[], float] = time.time

    async def every(self, request: Request) -> Response:
        principal, detailed = self._principal(request), _detailed(request)
        data = [self._model(name, principal, detailed) for name in self._usable(principal)]
        return JSONResponse({"object": "list", "data": data})

    async def one(self, request: Request) -> Response:
        principal, name = self._principal(request), request.path_params["name"]
        usable = self._usable(principal)
        if name not in usable:
            raise ModelNotFound.among(usable, name)
        return JSONResponse(self._model(name, principal, _detailed(request)))

    def _principal(self, request: Request) -> Principal:
        return self.door.principal(request.scope)

    def _usable(self, principal: Principal) -> list[str]:
        return [name for name in self.fleet.models() if principal.may_use(name)]

    def _model(self, name: str, principal: Principal, detailed: bool) -> dict[str, Any]:
        model: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "gateway",
        }
        if detailed:
            endpoints = [*self._endpoints(name, principal)]
            lengths = [e["context_length"] for e in endpoints if e["context_length"] is not None]
            told = [e["capabilities"] for e in endpoints if e["capabilities"] is not None]
            model["context_length"] = max(lengths, default=None)
            model["capabilities"] = sorted({c for capabilities in told for c in capabilities})
            model["endpoints"] = endpoints
        return model

    def _endpoints(self, model: str, principal: Principal) -> Iterator[dict[str, Any]]:
        now, wall = self.clock(), self.wall()
        for name, endpoint in self.fleet.endpoints.items():
            if model in endpoint.models and principal.may_reach(name):
                yield _endpoint(endpoint, model, now, wall)


def _endpoint(endpoint: Endpoint, model: str, now: float, wall: float) -> dict[str, Any]:
    """What is not known is null."""
    known = endpoint.capabilities
    tariff = endpoint.tariffs.get(model)
    price = tariff.at(wall, 0, None) if tariff else None
    return {
        "name": endpoint.name,
        "available": endpoint.unavailable(model, now) is None,
        "context_length": endpoint.context_length,
        "capabilities": None if known is None else sorted(known),
        "data_policy": endpoint.data_policy,
        "region": endpoint.region,
        "price_per_million": price
        and {"input": price.input, "cached": price.cached, "output": price.output},
        "measured": _measured(endpoint),
    }


def _measured(endpoint: Endpoint) -> dict[str, float] | None:
    learnt = endpoint.learning.coefficients
    if not learnt.samples:
        return None
    per_token_s = learnt.per_token_s + PROMPT_TOKENS * learnt.per_token_context_s
    return {
        "answers": round(learnt.samples, 1),
        "ttft_s": _rounded(learnt.base_s + PROMPT_TOKENS * per_token_s),
        "seconds_per_token": _rounded(learnt.per_output_s),
        "error_rate": _rounded(learnt.error_rate),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _detailed(request: Request) -> bool:
    """Raises InvalidRequest."""
    asked = request.query_params.get(ASK, request.headers.get(HEADER, "false"))
    if asked not in ("true", "false"):
        raise InvalidRequest(f"{ASK!r} must be true or false", param=ASK)
    return asked == "true"
