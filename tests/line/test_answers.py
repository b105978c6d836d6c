"""The whole line over real sockets: the OpenAI SDK, the gateway, an endpoint."""

import pytest

from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

pytestmark = pytest.mark.anyio


async def test_a_chat_answer_comes_back_under_the_clients_model_name():
    upstream = Upstream()
    async with gateway(upstream) as g:
        answer = await g.sdk.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.model == "m"
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert upstream.received[0].body["model"] == "theirs-m"


async def test_a_chat_stream_keeps_one_id_and_the_clients_model_name():
    async with gateway(Upstream()) as g:
        chunks = [c async for c in await g.sdk.chat.completions.create(**ASK, stream=True)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello there"
    assert {c.model for c in chunks} == {"m"}
    assert {c.id for c in chunks} == {"upstream-1"}
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_usage_is_always_asked_for_and_shown_only_to_a_client_that_asked():
    upstream = Upstream()
    async with gateway(upstream) as g:
        plain = [c async for c in await g.sdk.chat.completions.create(**ASK, stream=True)]
        asked = [
            c
            async for c in await g.sdk.chat.completions.create(
                **ASK, stream=True, stream_options={"include_usage": True}
            )
        ]
        outcomes = await g.settled.wait_for(2)
    assert [c.usage for c in plain if c.usage] == []
    assert asked[-1].usage.completion_tokens == 3
    assert asked[-1].choices == []
    assert [r.body["stream_options"] for r in upstream.received] == [{"include_usage": True}] * 2
    assert [o.usage.prompt_tokens for o in outcomes] == [11, 11]


async def test_completions_are_served_streamed_and_not():
    async with gateway(Upstream()) as g:
        whole = await g.sdk.completions.create(model="m", prompt="Say hello")
        stream = await g.sdk.completions.create(model="m", prompt="Say hello", stream=True)
        pieces = [c.choices[0].text async for c in stream if c.choices[0].finish_reason is None]
    assert whole.choices[0].text == "Hello there"
    assert "".join(pieces) == "Hello there"


async def test_models_are_listed_and_looked_up():
    async with gateway(Upstream(), models=("a/b", "m")) as g:
        listed = [model.id async for model in g.sdk.models.list()]
        one = await g.sdk.models.retrieve("a/b")
    assert listed == ["a/b", "m"]
    assert (one.id, one.object) == ("a/b", "model")


async def test_the_response_names_its_request_endpoint_and_policy():
    async with gateway(Upstream()) as g:
        raw = await g.sdk.chat.completions.with_raw_response.create(
            **ASK, extra_headers={"x-request-id": "mine-1"}
        )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-gateway-endpoint"] == "u0"
    assert raw.headers["x-gateway-policy"] == "cache_aware"


async def test_fields_we_do_not_know_go_upstream_as_they_came():
    upstream = Upstream()
    async with gateway(upstream) as g:
        await g.sdk.chat.completions.create(
            **ASK, seed=7, extra_body={"guided_regex": "a+", "top_k": 5}
        )
    body = upstream.received[0].body
    assert (body["seed"], body["guided_regex"], body["top_k"]) == (7, "a+", 5)


async def test_the_clients_credentials_and_cookies_stay_here():
    upstream = Upstream()
    async with gateway(upstream, api_key="sk-the-clients-own") as g:
        await g.sdk.chat.completions.create(
            **ASK,
            extra_headers={
                "cookie": "session=1",
                "x-forwarded-for": "10.1.1.1",
                "openai-organization": "org",
                "te": "trailers",
            },
        )
    headers = upstream.received[0].headers
    assert set(headers) == {
        *("host", "content-type", "content-length", "accept", "accept-encoding", "x-request-id")
    }
    assert "sk-the-clients-own" not in str(upstream.received)


async def test_cookies_of_an_endpoint_are_not_kept():
    upstream = Upstream(headers={"set-cookie": "tenant=a"})
    async with gateway(upstream) as g:
        for _ in range(2):
            await g.sdk.chat.completions.create(**ASK)
    assert all("cookie" not in r.headers for r in upstream.received)


async def test_keep_alive_comments_and_odd_framing_do_no_harm():
    upstream = Upstream(raw_at={1: b": still here\n\ndata:\n\n", 2: b"event: x\r\n\r\n"})
    async with gateway(upstream) as g:
        chunks = [c async for c in await g.sdk.chat.completions.create(**ASK, stream=True)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello there"


async def test_the_lease_is_given_back_and_the_exchange_settled_before_the_next_request():
    async with gateway(Upstream()) as g:
        for stream in (False, True):
            answer = await g.sdk.chat.completions.create(**ASK, stream=stream)
            if stream:
                assert [c async for c in answer]
            assert g.in_flight() == {"u0": 0}
        outcomes = await g.settled.wait_for(2)
    assert [o.ended for o in outcomes] == ["finished", "finished"]
    assert all(o.finished >= o.attempts[0].first_event >= o.started for o in outcomes)
