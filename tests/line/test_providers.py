"""Dialects as an operator has them: from the config to the wire, with the whole gateway between."""

import asyncio

import pytest

from gateway.config.bind import Secret
from gateway.config.tree import EndpointTimeouts
from gateway.providers.dialects.baseten_dedicated import BasetenDedicated
from routing_policies.base import FREE
from tests.support.gateways import gateway
from tests.support.hosted import Hosted, Reply, chunk, replies
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

pytestmark = pytest.mark.anyio


async def until(happened):
    async with asyncio.timeout(30):
        while True:
            if happened():
                return
            await asyncio.sleep(0.001)


async def test_who_says_that_nothing_remains_is_asked_when_nobody_else_is_left():
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h"}
    first, second = replies(Reply(headers=spent)), Hosted()
    async with gateway(first, second) as g:
        for _ in range(3):
            await g.sdk.chat.completions.create(**ASK)
        assert (len(first.received), len(second.received)) == (1, 2)
        g.gateway.fleet.endpoints["u1"].down("for the test")
        await g.sdk.chat.completions.create(**ASK)
    assert len(first.received) == 2


async def test_a_refused_key_costs_the_client_nothing_while_there_is_another():
    hosted = replies(Reply(401, {"error": {"message": "no key-a"}}), Reply())
    keys = {"api_key": Secret("key-a"), "api_keys": (Secret("key-b"), Secret("", "UNSET"))}
    async with gateway(hosted, endpoint=keys) as g:
        await g.sdk.chat.completions.create(**ASK)
        (outcome,) = await g.settled.wait_for(1)
    used = [r.headers["authorization"] for r in hosted.received]
    assert used == ["Bearer key-a", "Bearer key-b"]
    assert [a.error for a in outcome.attempts] == [None]


async def test_what_the_operator_sends_along_goes_with_each_request():
    hosted = Hosted()
    async with gateway(hosted, endpoint={"headers": {"X-Team": Secret("search")}}) as g:
        await g.sdk.chat.completions.create(**ASK, extra_headers={"x-team": "mine", "x-other": "1"})
    headers = hosted.received[0].headers
    assert headers["x-team"] == "search"
    assert "x-other" not in headers


async def test_two_endpoints_know_a_session_by_different_names():
    first, second = replies(Reply(503)), Hosted()
    async with gateway(first, second, endpoint={"dialect": "fireworks"}) as g:
        await g.sdk.chat.completions.create(**ASK, prompt_cache_key="conversation")
    names = [h.received[0].body["prompt_cache_key"] for h in (first, second)]
    apart = [h.received[0].body["prompt_cache_isolation_key"] for h in (first, second)]
    assert len({*names, *apart, "conversation"}) == 5


async def test_a_place_that_sleeps_is_woken_with_the_gateway():
    asked = asyncio.Event()

    class Sleeping(Hosted):
        async def __call__(self, scope, receive, send):
            await super().__call__(scope, receive, send)
            if self.received:
                asked.set()

    hosted = Sleeping()
    async with gateway(hosted, endpoint={"dialect": "baseten_dedicated", "wake": True}):
        await asyncio.wait_for(asked.wait(), 5)
    assert [(r.method, r.path) for r in hosted.received] == [("POST", "/wake")]


async def test_one_that_cannot_be_woken_does_not_stop_the_gateway(caplog):
    async with gateway(
        replies(Reply(500), Reply()), endpoint={"dialect": "baseten_dedicated", "wake": True}
    ) as g:
        await until(lambda: "could not be woken" in caplog.text)
        assert (await g.sdk.chat.completions.create(**ASK)).choices


async def test_a_dialects_patience_holds_unless_the_config_says_otherwise():
    for timeouts, expected in ((EndpointTimeouts(), 1200), (EndpointTimeouts(first_event=3), 3)):
        options = {"dialect": "baseten_dedicated", "timeouts": timeouts}
        async with gateway(Upstream(), endpoint=options) as g:
            provider = g.gateway.fleet.endpoints["u0"].provider
            assert isinstance(provider, BasetenDedicated)
            assert provider.timeouts.first_event == expected


async def test_an_engine_tells_the_gateway_its_load_and_its_context():
    metrics = b"vllm:num_requests_running 9\n"
    models = {"data": [{"id": "theirs-m", "max_model_len": 100}]}
    hosted = Hosted(pages={"/metrics": Reply(body=metrics), "/v1/models": Reply(body=models)})
    async with gateway(hosted, endpoint={"dialect": "vllm"}) as g:
        endpoint = g.gateway.fleet.endpoints["u0"]
        await until(lambda: endpoint.context_length == 100)
        seen = endpoint.snapshot("m", 0, FREE, g.gateway.clock())
    assert 1 <= seen.in_flight <= 9  # what it told counts less as it ages


async def test_reasoning_reaches_the_client_under_one_name():
    thought = chunk().replace(b'"delta": {}', b'"delta": {"reasoning": "hm"}')
    hosted = replies(Reply(pieces=(thought, chunk("a"), chunk(None, "eos"), b"data: [DONE]\n\n")))
    async with gateway(hosted, endpoint={"dialect": "together"}) as g:
        stream = await g.sdk.chat.completions.create(**ASK, stream=True)
        choices = [c.choices[0] async for c in stream]
    assert choices[0].delta.reasoning_content == "hm"
    assert choices[-1].finish_reason == "stop"
