"""The seam between providers and HTTP clients, with a client that is not ours."""

from __future__ import annotations

import json

import httpx
import pytest

from gateway.errors import UpstreamUnreachable
from gateway.providers.client import Httpx
from gateway.providers.openai_compatible import OpenAICompatible
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

WHOLE = {
    "id": "theirs-1",
    "choices": [{"index": 0, "message": {"content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


async def test_a_provider_speaks_through_any_transport_of_httpxs() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=WHOLE)

    client = Httpx(httpx.MockTransport(answer))
    provider = OpenAICompatible(client, "http://there:8000/v1", {"m": "theirs"})
    async with provider.open(chat("hi"), "r-1") as events:
        [event] = [event async for event in events]
    assert event.payload["choices"] == WHOLE["choices"]
    [request] = asked
    assert str(request.url) == "http://there:8000/v1/chat/completions"
    assert request.headers["x-request-id"] == "r-1"
    assert json.loads(request.content)["model"] == "theirs"


async def test_what_breaks_there_is_told_as_with_our_own_client() -> None:
    def nobody(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)

    provider = OpenAICompatible(Httpx(httpx.MockTransport(nobody)), "http://there/v1", {"m": "m"})
    with pytest.raises(UpstreamUnreachable):
        async with provider.open(chat("hi"), "r-1"):
            pass
