"""What is their own at OpenRouter, Groq, DeepInfra, Cerebras, Hugging Face and DeepSeek."""

from __future__ import annotations

import pytest

from gateway.errors import (
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamOverloaded,
)
from tests.support.clock import ManualClock
from tests.support.hosted import Hosted, Reply, answer, chunk, replies, speaking, text_of, whole
from tests.support.requests import chat
from tests.support.upstream import event

pytestmark = pytest.mark.anyio

FAILED_TOOL = {"error": {"message": "no such tool", "code": "tool_use_failed"}}
TOO_MANY = {"error": {"message": "TPM: Limit 6000, Requested 7000", "code": "rate_limit_exceeded"}}


@pytest.mark.parametrize(
    ("dialect", "status", "body", "kind"),
    [
        ("openrouter", 403, {"error": {"message": "flagged", "code": 403}}, InvalidRequest),
        ("openrouter", 503, {"error": {"message": "nobody", "code": 503}}, UpstreamOverloaded),
        ("groq", 498, {"error": {"code": "capacity_exceeded"}}, UpstreamOverloaded),
        ("groq", 400, FAILED_TOOL, UpstreamBroken),
        ("groq", 413, TOO_MANY, UpstreamBusy),
        ("deepinfra", 429, {"detail": "Rate limited"}, UpstreamBusy),
        ("deepseek", 503, {"error": {"message": "overloaded"}}, UpstreamOverloaded),
        ("huggingface", 503, b"<html>", UpstreamOverloaded),
    ],
)
async def test_refusals_that_are_their_own(
    dialect: str, status: int, body: object, kind: type[GatewayError]
) -> None:
    async with speaking(dialect, replies(Reply(status, body))) as provider:
        with pytest.raises(GatewayError) as caught:
            await answer(provider, chat("hi"))
    assert type(caught.value) is kind


async def test_openrouter_says_in_a_200_when_to_come_back() -> None:
    body = {"error": {"message": "m", "code": 429, "availability": {"retry_after": 12}}}
    async with speaking("openrouter", replies(Reply(body=body))) as provider:
        with pytest.raises(UpstreamBusy) as caught:
            await answer(provider, chat("hi"))
    assert caught.value.retry_after_s == 12


async def test_openrouters_and_groqs_reasoning_has_one_name_for_clients() -> None:
    body = whole()
    body["choices"][0]["message"]["reasoning"] = "hm"
    for dialect in ("openrouter", "groq", "cerebras"):
        async with speaking(dialect, replies(Reply(body=body))) as provider:
            (only,) = await answer(provider, chat("hi"))
        message = only.payload["choices"][0]["message"]
        assert message["reasoning_content"] == "hm"
        assert "reasoning" not in message


async def test_groq_tells_a_streams_usage_beside_it() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 1}
    cached = {**usage, "prompt_tokens_details": {"cached_tokens": 4}}
    last = chunk(None, "stop", x_groq={"id": "req-1", "usage": cached})
    first = event({"id": "a", "choices": [], "x_groq": {"id": "req-1"}})
    hosted = replies(Reply(pieces=(first, chunk("a"), last, b"data: [DONE]\n\n")))
    async with speaking("groq", hosted) as provider:
        events = await answer(provider, chat("hi", stream=True))
    assert events[-1].usage is not None
    assert events[-1].usage.cached_tokens == 4


@pytest.mark.parametrize(
    ("dialect", "headers", "rests"),
    [
        (
            "groq",
            {
                "x-ratelimit-remaining-requests": "100",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "2h",
                "x-ratelimit-reset-tokens": "2m59.56s",
            },
            179.56,
        ),
        (
            "cerebras",
            {
                "x-ratelimit-remaining-requests-day": "100",
                "x-ratelimit-remaining-tokens-minute": "0",
                "x-ratelimit-reset-requests-day": "33011.38",
                "x-ratelimit-reset-tokens-minute": "11.38",
            },
            11.38,
        ),
        ("groq", {"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "9s"}, 0),
    ],
)
async def test_limits_are_heeded_before_they_refuse(
    dialect: str, headers: dict[str, str], rests: float
) -> None:
    hosted = replies(Reply(headers=headers))
    async with speaking(dialect, hosted, clock=ManualClock(0)) as provider:
        await answer(provider, chat("hi"))
        assert provider.rests_s() == rests


async def test_deepseek_counts_hits_of_its_cache_beside_the_tokens() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 2, "prompt_cache_hit_tokens": 8}
    async with speaking("deepseek", replies(Reply(body=whole(usage=usage)))) as provider:
        (only,) = await answer(provider, chat("hi"))
    assert only.usage is not None
    assert only.usage.cached_tokens == 8


async def test_a_tier_is_shown_as_it_is_echoed() -> None:
    hosted = replies(Reply(body=whole(service_tier="priority")))
    async with speaking("deepinfra", hosted) as provider:
        (only,) = await answer(provider, chat("hi", service_tier="priority"))
    assert hosted.received[0].body["service_tier"] == "priority"
    assert only.payload["service_tier"] == "priority"


async def test_cerebras_error_in_a_stream_has_its_status_beside_it() -> None:
    wrong = event({"error": {"message": "later", "code": "queue_full"}, "status_code": 503})
    async with speaking("cerebras", replies(Reply(pieces=(wrong,)))) as provider:
        with pytest.raises(UpstreamOverloaded):
            await answer(provider, chat("hi", stream=True))


async def test_huggingfaces_models_name_their_provider() -> None:
    hosted = Hosted()
    models = {"m": "openai/gpt-oss-20b:groq"}
    async with speaking("huggingface", hosted, models=models) as provider:
        assert text_of(await answer(provider, chat("hi"))) == "Hello"
    assert hosted.received[0].body["model"] == "openai/gpt-oss-20b:groq"
