"""Errors to answers before the first byte: the one table."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.errors import GatewayError, NotFound, NotSupported, Unavailable, UpstreamError
from gateway.front.messages import is_messages
from gateway.front.request_id import request_id
from gateway.front.unsupported import no_such_path
from gateway.wire.messages.answer import error_body
from gateway.wire.openai import encode_json

MAX_RETRY_AFTER_S = 60
"""The Node SDK ignores longer waits, the Python SDK gives up at them."""


DEFECT = "the gateway failed; its log says why"


def error_response(error: GatewayError, body: bytes | None = None) -> Response:
    """`body`: as another API than OpenAI's has it."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        # An endpoint's own word may stand behind it, even one that is infinite.
        seconds = min(MAX_RETRY_AFTER_S, max(1, error.retry_after_s))
        headers["retry-after"] = str(math.ceil(seconds))
    hopeless = isinstance(error, UpstreamError) and not error.repeatable
    if hopeless or isinstance(error, NotSupported):
        headers["x-should-retry"] = "false"  # the SDKs would, for their part, twice
    if isinstance(error, Unavailable):
        headers["connection"] = "close"  # the next request had better go elsewhere
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(body or encode_json(error.body()), error.status, headers, "application/json")


def refusal(scope: Scope, error: GatewayError) -> Response:
    """In the shape of the API that the path belongs to."""
    theirs = is_messages(scope["path"])
    return error_response(error, error_body(error, request_id(scope)) if theirs else None)


async def rescue(request: Request, error: Exception) -> Response:
    """Starlette's handler for errors outside an exchange."""
    assert isinstance(error, GatewayError)
    return refusal(request.scope, error)


async def defect(request: Request, error: Exception) -> Response:
    """What nobody expected; Starlette raises it again, for the log."""
    return refusal(request.scope, GatewayError(DEFECT))


async def no_such_route(request: Request, error: Exception) -> Response:
    """404, 405 and 501 in the API's shape."""
    assert isinstance(error, HTTPException)
    answer = no_such_path(request.method, request.url.path)
    response = refusal(request.scope, answer)
    if not isinstance(answer, NotSupported):
        response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


Handler = Callable[[Request, Exception], Awaitable[Response]]


def counted(handler: Handler, refused: Callable[[str], None]) -> Handler:
    """`refused` is told the error's code; nothing that the caller wrote is in one."""

    async def answer(request: Request, error: Exception) -> Response:
        refused((error.code if isinstance(error, GatewayError) else None) or NotFound.code)
        return await handler(request, error)

    return answer
