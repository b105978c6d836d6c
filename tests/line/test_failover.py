"""Until the first event, a refusal only costs the next try."""

import dataclasses

import openai
import pytest

from gateway.rules import always
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

pytestmark = pytest.mark.anyio


REFUSALS = [{"status": 500}, {"status": 429}, {"status": 401}]
BROKEN_STREAMS = [
    {"break_at": 0},
    {"stop_at": 0},
    {"raw_at": {0: b'data: {"error": {"message": "overloaded"}}\n\n'}},
]


@pytest.mark.parametrize(
    ("broken", "stream"),
    [(b, False) for b in REFUSALS] + [(b, True) for b in REFUSALS + BROKEN_STREAMS],
)
async def test_the_next_endpoint_answers_when_the_first_does_not(broken, stream):
    async with gateway(Upstream(**broken), Upstream()) as g:
        answer = await g.sdk.chat.completions.create(**ASK, stream=stream)
        if stream:
            assert [c async for c in answer]
        (outcome,) = await g.settled.wait_for(1)
        assert g.in_flight() == {"u0": 0, "u1": 0}
    assert [a.endpoint for a in outcome.attempts] == ["u0", "u1"]
    assert [a.error is None for a in outcome.attempts] == [False, True]


async def test_an_endpoint_that_is_not_there_is_passed_over():
    async with gateway("http://127.0.0.1:9/v1", Upstream()) as g:
        assert (await g.sdk.chat.completions.create(**ASK)).choices
        (outcome,) = await g.settled.wait_for(1)
    assert [a.error for a in outcome.attempts] == ["upstream_unreachable", None]


async def test_tries_end_at_the_policys_limit():
    upstreams = [Upstream(status=500) for _ in range(5)]
    async with gateway(*upstreams) as g:
        with pytest.raises(openai.InternalServerError):
            await g.sdk.chat.completions.create(**ASK)
    assert [len(u.received) for u in upstreams] == [1, 1, 1, 0, 0]


async def test_after_the_first_event_nothing_is_sent_twice():
    first, second = Upstream(break_at=1), Upstream()
    async with gateway(first, second) as g:
        with pytest.raises(openai.APIError):
            async for _ in await g.sdk.chat.completions.create(**ASK, stream=True):
                pass
    assert second.received == []


async def test_a_longer_prompt_goes_on_to_an_endpoint_that_takes_more():
    refusal = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    small, large = Upstream(status=400, error=refusal), Upstream()
    async with gateway(small, large) as g:
        g.gateway.fleet.endpoints["u0"].context_length = 100
        g.gateway.fleet.endpoints["u1"].context_length = 8000
        assert (await g.sdk.chat.completions.create(**ASK)).choices
        (outcome,) = await g.settled.wait_for(1)
    assert [a.error for a in outcome.attempts] == ["context_length_exceeded", None]


async def test_a_prompt_that_is_too_long_is_not_sent_where_no_more_is_taken():
    refusal = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    small, other = Upstream(status=400, error=refusal), Upstream()
    async with gateway(small, other) as g:
        for endpoint in g.gateway.fleet.endpoints.values():
            endpoint.context_length = 100
        with pytest.raises(openai.BadRequestError, match="too long"):
            await g.sdk.chat.completions.create(**ASK)
    assert (len(small.received), len(other.received)) == (1, 0)


async def test_a_failed_attempt_leaves_no_belief_about_that_endpoints_cache():
    """Else the next request of the conversation would go where nothing was computed."""
    broken, good = Upstream(status=500), Upstream()
    async with gateway(broken, good) as g:
        await g.sdk.chat.completions.create(**ASK)
        broken.status = 200
        await g.sdk.chat.completions.create(**ASK)
        outcomes = await g.settled.wait_for(2)
    assert outcomes[1].attempts[0].endpoint == "u1"
    assert outcomes[1].attempts[0].expected_cached_tokens > 0


async def test_a_policy_that_forgets_about_models_still_asks_no_endpoint_that_lacks_it():
    other, right = Upstream(), Upstream()
    async with gateway(other, right, policy="least_busy", models=("m", "n")) as g:
        for endpoint, models in (("u0", {"n"}), ("u1", {"m"})):
            g.gateway.fleet.endpoints[endpoint].models = frozenset(models)
        (policy,) = g.gateway.rules.policies.values()
        g.gateway.dispatcher.rules = always(dataclasses.replace(policy, filters={}))
        assert (await g.sdk.chat.completions.create(**ASK)).choices
    assert (len(other.received), len(right.received)) == (0, 1)
