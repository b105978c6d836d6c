"""The rim of the replica's server: the one place where errors become answers."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BodyTooLarge, GatewayError, InvalidRequest, NotFound
from gateway.replica.answer import error_event
from gateway.replica.client import HungUp

logger = logging.getLogger(__name__)

LONGEST_RETRY_AFTER_S = 60
"""OpenAI's Node SDK ignores longer ones, and the Python SDK does not retry at all above 120 s."""


class Rescue:
    """Middleware that turns what went wrong into OpenAI's error object.

    JSON with its status before the first byte, the stream's last event after it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
            return
        except HungUp:
            logger.info("%s: the client hung up", scope["path"])
            return
        except GatewayError as error:
            failure = error
        except Exception as error:
            # Its message may quote a prompt; where it came from does not.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("unexpected %s\n%s", type(error).__name__, frames)
            failure = GatewayError("the replica failed on this request")
        if started:
            await send({"type": "http.response.body", "body": error_event(failure)})
        else:
            await _refusal(failure)(scope, receive, send)


async def unrouted(request: Request, error: Exception) -> Response:
    """What the router itself refuses: a path that is not there, a method that it does not take."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        refused = InvalidRequest(f"{request.url.path} takes only {allowed}")
        return json_response(refused.body(), 405, {"allow": allowed})
    return _refusal(NotFound(f"there is no {request.url.path[:200]} here"))


def json_response(
    body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    # In ASCII: a refused field's name may hold half a surrogate pair, which UTF-8 cannot carry.
    content = json.dumps(body).encode()
    return Response(content, status, headers, media_type="application/json")


def _refusal(error: GatewayError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        seconds = min(LONGEST_RETRY_AFTER_S, math.ceil(error.retry_after_s))
        headers["retry-after"] = str(seconds)
    if isinstance(error, BodyTooLarge):
        headers["connection"] = "close"  # the rest of the body is not worth reading
    return json_response(error.body(), error.status, headers)
