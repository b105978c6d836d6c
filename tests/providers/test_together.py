"""Together AI, as its documentation reads."""

from __future__ import annotations

import pytest

from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    UpstreamBusy,
    UpstreamCold,
    UpstreamKeyRefused,
    UpstreamOverloaded,
)
from tests.support.clock import ManualClock
from tests.support.hosted import Hosted, Reply, answer, chunk, replies, speaking
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

ROUTING = {"error": {"message": "no ready replica", "type": "routing_error", "code": None}}


@pytest.mark.parametrize(
    ("dialect", "status", "body", "kind"),
    [
        (
            "together",
            403,
            {"error": {"message": "Input exceeds the context length"}},
            ContextLengthExceeded,
        ),
        ("together", 403, {"error": {"message": "not allowed"}}, UpstreamKeyRefused),
        ("together", 429, {"error": "above your rate"}, UpstreamBusy),
        ("together", 503, {"error": "ours"}, UpstreamOverloaded),
        ("together_dedicated", 503, ROUTING, UpstreamCold),
    ],
)
async def test_refusals_that_are_its_own(
    dialect: str, status: int, body: object, kind: type[GatewayError]
) -> None:
    async with speaking(dialect, replies(Reply(status, body))) as provider:
        with pytest.raises(GatewayError) as caught:
            await answer(provider, chat("hi"))
    assert type(caught.value) is kind


async def test_its_own_names_are_openais_for_clients() -> None:
    thought = chunk().replace(b'"delta": {}', b'"delta": {"reasoning": "hm"}')
    hosted = replies(Reply(pieces=(thought, chunk("a"), chunk(None, "eos"), b"data: [DONE]\n\n")))
    async with speaking("together", hosted) as provider:
        first, _, last = await answer(provider, chat("hi", stream=True))
    assert first.payload["choices"][0]["delta"] == {"reasoning_content": "hm"}
    assert last.payload["choices"][0]["finish_reason"] == "stop"
    assert last.finishes


async def test_serverless_takes_no_hint_and_dedicated_does() -> None:
    hosted = Hosted()
    for dialect in ("together", "together_dedicated"):
        async with speaking(dialect, hosted) as provider:
            await answer(provider, chat("hi", session_id="s"))
    serverless, dedicated = (r.body for r in hosted.received)
    assert "prompt_cache_key" not in serverless
    assert len(dedicated["prompt_cache_key"]) == 32


async def test_its_limits_are_heeded() -> None:
    spent = {"x-ratelimit-remaining": "12", "x-tokenlimit-remaining": "0", "x-ratelimit-reset": "2"}
    async with speaking("together", replies(Reply(headers=spent)), clock=ManualClock()) as provider:
        await answer(provider, chat("hi"))
        assert provider.rests_s() == 2
