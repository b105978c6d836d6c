"""Rules, fallback models and budgets, from a client's request to the endpoint that answers it."""

import openai
import pytest

from gateway.config.bind import Secret
from gateway.config.tree import Key
from gateway.fleet.learning import Learning
from gateway.rules import Match, RequestMatch, Rule, Rules, always
from gateway.tariffs import Tariff
from routing_policies.base import Coefficients, Price
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BASIC = {"filters": ["serves_model"], "minimize": {"in_flight": 1}, "pick": {"lowest": {"tie": 0}}}

pytestmark = pytest.mark.anyio


def policy(name="mine", **more):
    return build_policy(name, BASIC | more, Catalog.load())


def serve_only(g, **models):
    for endpoint, served in models.items():
        g.gateway.fleet.endpoints[endpoint].models = frozenset(served)


async def test_a_header_chooses_the_policy_and_goes_no_further():
    rules = Rules((Rule(policy("urgent"), Match(header={"X-Urgent": "1"})), Rule(policy("usual"))))
    upstream = Upstream()
    async with gateway(upstream, rules=rules) as g:
        create = g.sdk.chat.completions.with_raw_response.create
        urgent = await create(**ASK, extra_headers={"x-urgent": "1"})
        usual = await create(**ASK)
    assert urgent.headers["x-gateway-policy"] == "urgent"
    assert usual.headers["x-gateway-policy"] == "usual"
    assert all("x-urgent" not in received.headers for received in upstream.received)


@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_answers_when_nobody_of_the_asked_one_does(stream):
    broken, other = Upstream(status=500), Upstream()
    rules = always(policy(fallback={"attempts": 1, "models": ["x", "n"]}))
    async with gateway(broken, other, rules=rules, models=("m", "n")) as g:
        serve_only(g, u0={"m"}, u1={"n"})
        answer = await g.sdk.chat.completions.with_raw_response.create(**ASK, stream=stream)
        if stream:
            names = {chunk.model async for chunk in answer.parse()}
        else:
            names = {answer.parse().model}
        (outcome,) = await g.settled.wait_for(1)
    assert names == {"m"}  # as the client called it
    assert answer.headers["x-gateway-model"] == "n"
    assert answer.headers["x-gateway-endpoint"] == "u1"
    assert [received.body["model"] for received in other.received] == ["theirs-n"]
    assert [attempt.endpoint for attempt in outcome.attempts] == ["u0", "u1"]
    assert outcome.model == "m"


async def test_what_the_client_hears_of_is_its_own_model():
    busy = {"error": {"message": "slow down"}}
    first, second = Upstream(status=429, error=busy), Upstream(status=500)
    async with gateway(
        first, second, rules=always(policy(fallback={"models": ["n"]})), models=("m", "n")
    ) as g:
        serve_only(g, u0={"m"}, u1={"n"})
        with pytest.raises(openai.RateLimitError):
            await g.sdk.chat.completions.create(**ASK)
    assert len(second.received) == 1


async def test_a_request_that_is_wrong_falls_back_on_nothing():
    wrong, other = Upstream(status=400, error={"error": {"message": "no"}}), Upstream()
    async with gateway(
        wrong, other, rules=always(policy(fallback={"models": ["n"]})), models=("m", "n")
    ) as g:
        serve_only(g, u0={"m"}, u1={"n"})
        with pytest.raises(openai.BadRequestError):
            await g.sdk.chat.completions.create(**ASK)
    assert other.received == []


async def test_a_fallback_leaves_no_belief_about_the_caches_of_the_asked_model():
    broken, both = Upstream(status=500), Upstream()
    async with gateway(
        broken, both, rules=always(policy(fallback={"models": ["n"]})), models=("m", "n")
    ) as g:
        serve_only(g, u0={"m"}, u1={"n"})
        await g.sdk.chat.completions.create(**ASK)
        serve_only(g, u1={"m", "n"})
        await g.sdk.chat.completions.create(**ASK)
        outcomes = await g.settled.wait_for(2)
    assert outcomes[1].attempts[-1].expected_cached_tokens == 0


async def test_round_robin_goes_round():
    async with gateway(Upstream(), Upstream(), Upstream(), policy="round_robin") as g:
        for _ in range(6):
            await g.sdk.chat.completions.create(**ASK)
        outcomes = await g.settled.wait_for(6)
    assert [o.attempts[0].endpoint for o in outcomes] == ["u0", "u1", "u2"] * 2


async def test_what_was_spent_makes_the_dear_endpoint_lose():
    spec = {
        "minimize": {"dollars": 1, "waiting": 1},
        "budget": {"dollars_per_hour": 0.01, "patience": "1s"},
    }
    async with gateway(Upstream(), Upstream(), rules=always(policy(**spec))) as g:
        dear, slow = g.gateway.fleet.endpoints.values()
        dear.tariffs = {
            "m": Tariff(Price(input=1000))
        }  # 11 tokens are 1.1 cents: more than an hour's
        slow.learning = Learning(Coefficients(base_s=2))
        for _ in range(2):
            await g.sdk.chat.completions.create(**ASK)
        outcomes = await g.settled.wait_for(2)
    assert [outcome.attempts[0].endpoint for outcome in outcomes] == ["u0", "u1"]


FILTERED = {"filters": ["serves_model", "has_capabilities", "allowed_by_data_policy"]}
TOOL = {"type": "function", "function": {"name": "f"}}


async def test_a_request_with_tools_goes_only_where_there_are_some():
    async with gateway(Upstream(), Upstream(), rules=always(policy(**FILTERED))) as g:
        g.gateway.fleet.endpoints["u0"].capabilities = frozenset({"logprobs"})
        for more in ({"tools": [TOOL]}, {"logprobs": True}):
            await g.sdk.chat.completions.create(**ASK, **more)
        outcomes = await g.settled.wait_for(2)
    assert [o.attempts[0].endpoint for o in outcomes] == ["u1", "u0"]


async def test_what_nobody_can_do_is_answered_without_asking_anybody():
    upstream = Upstream()
    async with gateway(upstream, rules=always(policy(**FILTERED))) as g:
        g.gateway.fleet.endpoints["u0"].capabilities = frozenset()
        with pytest.raises(openai.BadRequestError, match="tools") as refused:
            await g.sdk.chat.completions.create(**ASK, tools=[TOOL])
    assert refused.value.code == "unsupported_request"
    assert upstream.received == []


async def test_a_keys_data_policy_and_class_hold_for_its_requests():
    keys = (Key("a", Secret("12345678-a"), data_policy="no_training", request_class="batch"),)
    by_class = {"classes": {"batch": {"in_flight": 5}}}
    async with gateway(
        Upstream(),
        Upstream(),
        rules=always(policy(**FILTERED, **by_class)),
        keys=keys,
        api_key="12345678-a",
    ) as g:
        g.gateway.fleet.endpoints["u1"].data_policy = "zero_retention"
        await g.sdk.chat.completions.create(**ASK)
        (outcome,) = await g.settled.wait_for(1)
    assert [o.dropped_by for o in outcome.considered] == [None, "allowed_by_data_policy"]
    assert outcome.request.request_class == "batch"


async def test_what_the_budget_has_no_more_money_for_is_dropped():
    spec = {
        "filters": ["serves_model", "within_budget"],
        "budget": {"dollars_per_hour": 0.01, "patience": "1s"},
    }
    async with gateway(Upstream(), Upstream(), rules=always(policy(**spec))) as g:
        g.gateway.fleet.endpoints["u0"].tariffs = {"m": Tariff(Price(input=400))}
        for _ in range(4):  # 11 tokens are 0.44 cents
            await g.sdk.chat.completions.create(**ASK)
        outcomes = await g.settled.wait_for(4)
    assert [o.attempts[0].endpoint for o in outcomes] == ["u0", "u0", "u1", "u1"]


async def test_a_rule_may_look_at_the_request():
    rules = Rules(
        (
            Rule(policy("tools"), Match(request=RequestMatch(needs=("tools",)))),
            Rule(policy("short"), Match(request=RequestMatch(max_tokens=10, stream=False))),
            Rule(policy("long"), Match(request=RequestMatch(longer_than=1000))),
            Rule(policy("flex"), Match(request=RequestMatch(service_tier="flex"))),
            Rule(policy("rest")),
        )
    )
    long = [{"role": "user", "content": "x" * 1000}]
    async with gateway(Upstream(), rules=rules) as g:
        score = g.sdk.completions.with_raw_response.create
        scored = await score(model="m", prompt="hi", max_tokens=0, echo=True, logprobs=1)
        create = g.sdk.chat.completions.with_raw_response.create
        used = [
            (await create(**(ASK | more))).headers["x-gateway-policy"]
            for more in (
                {"tools": [TOOL], "max_tokens": 5},
                {"max_tokens": 10},
                {"max_tokens": 11},
                {"max_tokens": 5, "stream": True},
                {"messages": long},
                {"service_tier": "flex"},
            )
        ]
    assert used == ["tools", "short", "rest", "rest", "long", "flex"]
    assert scored.headers["x-gateway-policy"] == "short"


async def test_a_session_in_a_header_keeps_to_its_endpoint():
    async with gateway(Upstream(), Upstream(), policy="cache_aware") as g:
        for number in range(4):
            messages = [{"role": "user", "content": f"{number} " * 300}]
            session = {"x-session-id": "one"} if number % 2 else {"x-session-id": "two"}
            g.gateway.dispatcher.random.seed(number)
            await g.sdk.chat.completions.create(model="m", messages=messages, extra_headers=session)
        outcomes = await g.settled.wait_for(4)
    went = [o.attempts[0].endpoint for o in outcomes]
    assert went[2:] == went[:2]


async def test_a_model_to_fall_back_on_may_do_what_the_clients_cannot():
    async with gateway(
        Upstream(),
        Upstream(),
        models=("m", "other"),
        rules=always(policy(**FILTERED, fallback={"models": ["other"]})),
    ) as g:
        first, second = (g.gateway.fleet.endpoints[name] for name in ("u0", "u1"))
        first.models, first.capabilities = frozenset({"m"}), frozenset()
        second.models, second.capabilities = frozenset({"other"}), frozenset({"tools"})
        await g.sdk.chat.completions.create(**ASK, tools=[TOOL])
        (outcome,) = await g.settled.wait_for(1)
    assert (outcome.request.model, outcome.attempts[-1].endpoint) == ("other", "u1")
