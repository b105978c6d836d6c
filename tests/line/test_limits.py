"""Limits and budgets, as the OpenAI SDK meets them."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import nullcontext

import openai
import pytest

from gateway.admission.limits import Dollars, Limits, Windows
from gateway.config.bind import Seconds, Secret
from gateway.config.tree import Endpoint, Key, ModelMap, ModelPrice, State, Tenant
from gateway.state.embedded import embedded
from tests.support.gateways import gateway
from tests.support.serving import serving
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
KEYS = (
    Key("ann", Secret("sk-key-ann"), tenant="acme"),
    Key("bob", Secret("sk-key-bob"), tenant="acme", limits=Limits(requests=Windows(day=1))),
    Key("eve", Secret("sk-key-eve"), tenant="rival"),
)
DEAR = ModelPrice(input=0, output=1000)

pytestmark = pytest.mark.anyio


def limited(limits: Limits, *upstreams, **options):
    tenants = {"acme": Tenant(limits)}
    return gateway(*upstreams, keys=KEYS, api_key="sk-key-ann", tenants=tenants, **options)


async def ask(g, key: str = "ann", **changes):
    sdk = g.sdk.with_options(api_key=f"sk-key-{key}")
    return await sdk.chat.completions.with_raw_response.create(**{**ASK, **changes})


async def refused(g, key: str = "ann", **changes) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(g, key, **changes)
    return caught.value


async def test_the_limit_is_reached_with_a_429_that_says_when_to_come_back():
    upstream = Upstream()
    async with limited(Limits(requests=Windows(minute=2)), upstream) as g:
        headers = [(await ask(g)).headers for _ in range(2)]
        error = await refused(g)
        other = await ask(g, "eve")
    assert [h["x-ratelimit-remaining-requests"] for h in headers] == ["1", "0"]
    assert type(error) is openai.RateLimitError
    assert "2 requests per minute of this tenant" in error.message
    assert 20 <= int(error.response.headers["retry-after"]) <= 30
    assert error.response.headers["x-ratelimit-limit-requests"] == "2"
    assert len(upstream.received) == 3
    assert "x-ratelimit-limit-requests" not in other.headers


async def test_a_prompt_that_is_only_counted_is_a_request_too():
    limits = Limits(requests=Windows(day=1))
    async with gateway(Upstream(), tenants={"default": Tenant(limits)}) as g:
        counting = g.sdk.responses.input_tokens.with_raw_response
        first = await counting.count(model="m", input="hi")
        with pytest.raises(openai.RateLimitError) as caught:
            await counting.count(model="m", input="hi")
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_a_key_has_limits_of_its_own_within_its_tenants():
    async with limited(Limits(requests=Windows(day=3)), Upstream()) as g:
        await ask(g, "bob")
        error = await refused(g, "bob")
        headers = (await ask(g)).headers
    assert "1 requests per day of this key" in error.message
    assert headers["x-ratelimit-remaining-requests"] == "1", "what was refused was not counted"


async def test_tokens_are_held_as_expected_and_settled_as_used():
    async with limited(Limits(tokens=Windows(day=1000)), Upstream()) as g:
        first = (await ask(g)).headers["x-ratelimit-remaining-tokens"]
        used = (await g.settled.wait_for(1))[0].usage
        second = (await ask(g, max_tokens=1)).headers["x-ratelimit-remaining-tokens"]
        expected = (await g.settled.wait_for(2))[1].request.prompt_size
    assert int(first) < 1000 - 200, "an answer of middling length"
    assert used is not None
    actual = used.prompt_tokens + used.completion_tokens
    assert 1000 - actual - expected <= int(second) <= 1000 - actual


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_frees_its_place_and_pays_for_what_was_done(stream):
    upstream = Upstream(hold_at=2)
    limits = Limits(concurrent=1, tokens=Windows(day=1000))
    async with limited(limits, upstream) as g:
        task = asyncio.create_task(ask(g, stream=stream))
        await asyncio.wait_for(upstream.asked.wait(), 30)
        error = await refused(g)
        if stream:
            chunks = (await task).parse()
            await anext(aiter(chunks))
            await chunks.close()
        task.cancel()
        await g.settled.wait_for(2)
        upstream.release.set()
        headers = (await ask(g, max_tokens=1)).headers
    assert "1 concurrent of this tenant" in error.message
    assert error.response.headers["retry-after"] == "1"
    assert 900 < int(headers["x-ratelimit-remaining-tokens"]) < 1000


async def test_a_budget_sends_requests_to_the_cheaper_place_and_is_a_402_where_there_is_none():
    dear, free = Upstream(cached_tokens=None), Upstream()
    async with serving(dear) as dear_url, serving(free) as free_url:
        names = ModelMap(m="m", d="d")
        endpoints = {
            "dear": Endpoint(f"{dear_url}/v1", names, prices={"m": DEAR, "d": DEAR}),
            "free": Endpoint(f"{free_url}/v1", ModelMap(m="m")),
        }
        limits = Limits(dollars=Dollars(day=0.0075))
        async with limited(limits, policy="round_robin", endpoints=endpoints) as g:
            for _ in range(6):
                await ask(g, max_tokens=5)
            error = await refused(g, model="d", max_tokens=5)
            other = await ask(g, "eve", model="d", max_tokens=5)
    assert [len(dear.received), len(free.received)] == [1 + 1, 5]
    assert (error.status_code, error.code) == (402, "budget_exhausted")
    assert other.headers["x-gateway-endpoint"] == "dear"


async def test_concurrent_requests_cannot_spend_one_budget_twice():
    dear = Upstream(hold_headers=asyncio.Event())
    endpoint = {"prices": {"m": ModelPrice(input=0, output=1000)}}
    limits = Limits(dollars=Dollars(month=0.02))
    async with limited(limits, dear, endpoint=endpoint) as g:
        tasks = [asyncio.create_task(ask(g, max_tokens=5)) for _ in range(8)]
        async with asyncio.timeout(30):
            while sum(t.done() for t in tasks) + dear.running < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running = dear.running
        dear.hold_headers.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert running == 4, "four answers of 5 tokens, 1,000 dollars per million"
    assert sum(isinstance(a, openai.APIStatusError) and a.status_code == 402 for a in answers) == 4


@pytest.mark.parametrize("shared", [False, True])
async def test_every_answer_says_what_is_left_whatever_became_of_it(shared):
    broken = Upstream(status=500)
    endpoint = {"prices": {"m": DEAR}}
    limits = Limits(requests=Windows(day=50), dollars=Dollars(day=0.1))
    with embedded() if shared else nullcontext() as server:
        state = State(redis=Secret(server.url), deadline=Seconds(1)) if server else State()
        async with limited(limits, broken, endpoint=endpoint, state=state) as g:
            told = [
                (await refused(g, max_tokens=5)).response,
                (await refused(g, model="nobodys")).response,
                (await refused(g, temperature="hot")).response,
                (await refused(g, max_tokens=200)).response,
            ]
            broken.status = 200
            told += [(await ask(g, max_tokens=5, stream=s)).http_response for s in (True, False)]
    assert [answer.status_code for answer in told] == [502, 404, 400, 402, 200, 200]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in told]
    assert left == ["49", "49", "49", "48", "47", "46"], "of what was never admitted, nothing"


async def test_a_key_reaches_only_the_endpoints_and_policies_of_its_scope():
    keys = (
        Key("one", Secret("sk-key-one"), endpoints=("u1",)),
        Key("none", Secret("sk-key-none"), policies=("fastest",)),
    )
    first, second = Upstream(), Upstream()
    async with gateway(first, second, keys=keys) as g:
        assert (await ask(g, "one")).headers["x-gateway-endpoint"] == "u1"
        error = await refused(g, "none")
    assert (error.status_code, error.code) == (403, "permission_denied")
    assert first.received == []


async def test_a_reload_changes_limits_between_two_requests():
    async with limited(Limits(requests=Windows(day=1)), Upstream()) as g:
        await ask(g)
        assert (await refused(g)).status_code == 429
        more = {"acme": Tenant(Limits(requests=Windows(day=5)))}
        config = dataclasses.replace(g.gateway.config, tenants=more)
        g.gateway.put_in_force(config, g.gateway.rules)
        headers = (await ask(g)).headers
    assert headers["x-ratelimit-limit-requests"] == "5"


async def test_what_an_endpoint_refused_as_the_callers_mistake_used_no_tokens():
    upstream = Upstream(status=400, error={"error": {"message": "this prompt is too long"}})
    async with limited(Limits(tokens=Windows(day=5000)), upstream) as g:
        long = [{"role": "user", "content": "words " * 2000}]
        assert (await refused(g, messages=long)).status_code == 400
        (outcome,) = await g.settled.wait_for(1)
        (left,) = g.gateway.dispatcher.limiter.quotas(outcome.principal)
    assert left.left == pytest.approx(5000, abs=1)
