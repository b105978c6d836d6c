"""Fireworks AI, as its documentation reads."""

from __future__ import annotations

import pytest

from gateway.errors import (
    InvalidRequest,
    UpstreamCold,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamUnpaid,
)
from tests.support.hosted import Hosted, Reply, answer, chunk, replies, speaking, whole
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

SCALING_UP = {
    "error": {
        "message": "Deployment is currently scaled to zero and is scaling up.",
        "code": "DEPLOYMENT_SCALING_UP",
        "type": "error",
    }
}


async def test_an_overflow_is_asked_to_be_an_error_unless_the_client_says_otherwise() -> None:
    hosted = Hosted()
    async with speaking("fireworks", hosted) as provider:
        await answer(provider, chat("hi"))
        await answer(provider, chat("hi", context_length_exceeded_behavior="truncate"))
    asked = [r.body["context_length_exceeded_behavior"] for r in hosted.received]
    assert asked == ["error", "truncate"]


async def test_sessions_stay_in_one_place_and_tenants_caches_apart() -> None:
    hosted = Hosted()
    async with speaking("fireworks", hosted) as provider:
        for tenant in ("ann", "bob"):
            await answer(provider, chat("hi", tenant=tenant, session_id="s"))
    ann, bob = hosted.received
    assert ann.body["prompt_cache_key"] == ann.headers["x-session-affinity"]
    apart = [r.body["prompt_cache_isolation_key"] for r in (ann, bob)]
    assert len({*apart, ann.body["prompt_cache_key"]}) == 3


async def test_a_caller_cannot_choose_whose_cache_it_uses() -> None:
    with pytest.raises(InvalidRequest):
        chat("hi", prompt_cache_isolation_key="another tenant's")


async def test_cached_tokens_are_read_from_a_header_where_the_body_is_silent() -> None:
    told = {"prompt_tokens": 11, "completion_tokens": 2}
    in_body = {**told, "prompt_tokens_details": {"cached_tokens": 5}}
    headers = {"fireworks-cached-prompt-tokens": "7"}
    hosted = replies(
        Reply(body=whole(), headers=headers),
        Reply(body=whole(usage=in_body), headers=headers),
        Reply(body=whole(), headers={"fireworks-cached-prompt-tokens": "some"}),
    )
    async with speaking("fireworks", hosted) as provider:
        events = [event for _ in range(3) for event in await answer(provider, chat("hi"))]
    assert [e.usage and e.usage.cached_tokens for e in events] == [7, 5, None]
    assert events[0].payload["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}


async def test_in_a_stream_they_are_read_from_its_measurements() -> None:
    last = chunk(
        None,
        "stop",
        usage={"prompt_tokens": 11, "completion_tokens": 1},
        perf_metrics={"cached-prompt-tokens": "9"},
    )
    hosted = replies(Reply(pieces=(chunk("a"), last, b"data: [DONE]\n\n")))
    async with speaking("fireworks", hosted) as provider:
        events = await answer(provider, chat("hi", stream=True))
    assert events[-1].usage is not None
    assert events[-1].usage.cached_tokens == 9


@pytest.mark.parametrize(
    ("dialect", "status", "body", "kind"),
    [
        ("fireworks", 412, {"error": {"message": "suspended"}}, UpstreamUnpaid),
        ("fireworks", 503, {"error": {"message": "shed"}}, UpstreamOverloaded),
        ("fireworks_dedicated", 503, SCALING_UP, UpstreamCold),
        ("fireworks_dedicated", 503, {"fault": {"faultstring": "x"}}, UpstreamOverloaded),
    ],
)
async def test_refusals_that_are_its_own(
    dialect: str, status: int, body: object, kind: type[UpstreamError]
) -> None:
    async with speaking(dialect, replies(Reply(status, body))) as provider:
        with pytest.raises(UpstreamError) as caught:
            await answer(provider, chat("hi"))
    assert type(caught.value) is kind
    assert not caught.value.took_work
