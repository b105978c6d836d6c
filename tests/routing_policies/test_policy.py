"""Decisions, as tables: what is known of each candidate, and who is asked first."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.config.load import PACKAGED, load_policy
from routing_policies.base import (
    NO_LIMITS,
    Candidate,
    Coefficients,
    Context,
    HardLimits,
    Limits,
    Price,
    RouteRequest,
)
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from routing_policies.estimate import estimates
from routing_policies.policy import Decision, Policy

CATALOG = Catalog.load()
NAMES = sorted(file.stem for file in PACKAGED.glob("*.yaml"))
POLICIES = {name: load_policy(PACKAGED / f"{name}.yaml", CATALOG) for name in NAMES}


def fleet(**facts: dict[str, Any]) -> list[Candidate]:
    """`fleet(a={"in_flight": 3}, b={})`: endpoints that serve `m`, and what differs."""
    return [Candidate(name, **{"models": frozenset("m"), **known}) for name, known in facts.items()]


def decide(
    name: str, candidates: Sequence[Candidate], *, prompt_tokens: int = 1000, draw: float = 0.0
) -> Decision:
    request = RouteRequest("m", prompt_tokens, fewest_prompt_tokens=prompt_tokens // 10)
    return POLICIES[name].decide(request, candidates, Context(now=0.0, draw=draw))


def order(decision: Decision) -> str:
    return "".join(ranked.candidate.endpoint for ranked in decision.ranked)


@pytest.mark.parametrize("name", NAMES)
def test_packaged_policies_build_and_decide(name: str) -> None:
    assert order(decide(name, fleet(a={}))) == "a"


@pytest.mark.parametrize("name", NAMES)
def test_who_would_refuse_by_its_own_word_stands_behind_everyone(name: str) -> None:
    limited = {"limited": True}
    assert order(decide(name, fleet(a=limited, b={}, c=limited)))[0] == "b"
    assert order(decide(name, fleet(a=limited))) == "a", "but is better than nobody"


@pytest.mark.parametrize("name", NAMES)
def test_nobody_to_choose_from_is_a_decision_too(name: str) -> None:
    decision = decide(name, [])
    assert (list(decision.ranked), decision.dropped) == ([], {})


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        (0, 1, 2, "abc"),
        (2, 1, 0, "cba"),
        (1, 0, 1, "bac"),  # what ties behind the first keeps its order
        (7, 7, 7, "abc"),
    ],
)
def test_least_busy_asks_whoever_has_the_fewest_in_flight(
    a: int, b: int, c: int, expected: str
) -> None:
    candidates = fleet(a={"in_flight": a}, b={"in_flight": b}, c={"in_flight": c})
    assert order(decide("least_busy", candidates)) == expected


def test_least_busy_knows_nothing_of_caches() -> None:
    candidates = fleet(a={"in_flight": 1, "cached_tokens": 999}, b={"queued_tokens": 10_000})
    assert order(decide("least_busy", candidates)) == "ba"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # The prompt has 1000 tokens; q + u·(1 + √n) is written beside each.
        ({"cached_tokens": 800}, {}, "ab"),  # 400 (u=200, n=0) < 1000: the cache wins
        ({"cached_tokens": 800, "in_flight": 9}, {}, "ab"),  # 800 < 1000: load, but not enough
        ({"cached_tokens": 800, "in_flight": 16}, {}, "ab"),  # 1000: a tie, which `a` draws
        ({"cached_tokens": 800, "in_flight": 25}, {}, "ba"),  # 1200 > 1000: load outweighs it
        ({"cached_tokens": 800, "queued_tokens": 900}, {}, "ba"),  # 1100: so does a queue
        ({"cached_tokens": 999, "queued_tokens": 900}, {}, "ab"),  # 901
        ({"in_flight": 4}, {"in_flight": 1}, "ba"),  # no cache anywhere: the least loaded
        ({"queued_tokens": 500}, {"queued_tokens": 100, "in_flight": 0}, "ba"),
    ],
)
def test_cache_aware_prefers_the_cache_until_load_outweighs_it(
    a: dict[str, int], b: dict[str, int], expected: str
) -> None:
    assert order(decide("cache_aware", fleet(a=a, b=b))) == expected


def test_cache_aware_costs_are_the_formulas() -> None:
    candidates = fleet(
        idle={},
        busy={"in_flight": 4, "queued_tokens": 50},
        warm={"in_flight": 9, "queued_tokens": 7, "cached_tokens": 900},
    )
    costs = {r.candidate.endpoint: r.cost for r in decide("cache_aware", candidates).ranked}
    # With nobody in flight √n is 0, so one idle endpoint costs just the prompt.
    assert costs == {"idle": 1000, "busy": 50 + 1000 * 3, "warm": 7 + 100 * 4}


def test_between_affinity_and_balance_there_is_no_cliff() -> None:
    """One more request in flight, or one more queued token, never changes a cost by a leap."""

    def cost(in_flight: int, queued: int) -> float:
        known = {"cached_tokens": 800, "in_flight": in_flight, "queued_tokens": queued}
        return decide("cache_aware", fleet(a=known)).ranked[0].cost

    by_load = [cost(n, 0) for n in range(100)]
    steps = [after - before for before, after in itertools.pairwise(by_load)]
    assert all(0 < step <= 200 for step in steps)  # u·(√(n+1) - √n), at most u
    assert steps == sorted(steps, reverse=True)
    assert [cost(0, q) - cost(0, 0) for q in range(0, 5000, 500)] == list(range(0, 5000, 500))


@pytest.mark.parametrize("name", ["cache_aware", "least_busy"])
@pytest.mark.parametrize("tied", range(1, 9))
def test_ties_are_shared_evenly_by_the_draw(name: str, tied: int) -> None:
    candidates = fleet(**{f"e{i}": {} for i in range(tied)}, busy={"in_flight": 50})
    draws = tied * 100
    first = Counter(
        decide(name, candidates, draw=(i + 0.5) / draws).ranked[0].candidate.endpoint
        for i in range(draws)
    )
    assert first == {f"e{i}": 100 for i in range(tied)}


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_the_first_of_a_tie_is_drawn_and_the_others_follow(draw: float) -> None:
    decision = decide("least_busy", fleet(a={}, b={}, c={}, d={"in_flight": 1}), draw=draw)
    assert sorted(order(decision)[:3]) == ["a", "b", "c"]
    assert order(decision)[3] == "d"


def test_when_the_first_of_a_tie_fails_its_equals_share_what_it_leaves() -> None:
    candidates, draws = fleet(a={}, b={}, c={}), 600
    orders = Counter(
        "".join(order(decide("least_busy", candidates, draw=(i + 0.5) / draws)))
        for i in range(draws)
    )
    assert orders == {"".join(way): 100 for way in itertools.permutations("abc")}


@pytest.mark.parametrize(
    ("queued", "drawn"),
    [
        (9, "b"),  # 1009: within 1 % of 1000
        (10, "b"),  # 1010: exactly 1 %
        (11, "a"),  # 1011: no tie
    ],
)
def test_a_tie_is_what_is_within_one_percent(queued: int, drawn: str) -> None:
    candidates = fleet(a={}, b={"queued_tokens": queued})
    assert order(decide("cache_aware", candidates, draw=0.99))[0] == drawn


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"models": frozenset({"other"})}, "serves_model"),
        ({"healthy": False}, "healthy"),
        ({"context_length": 100}, "fits_context"),  # of 1000 estimated, 100 are certain
        ({"healthy": False, "models": frozenset({"other"})}, "serves_model"),  # the first to object
        ({"context_length": 101}, None),  # the estimate may be wrong by that much
        ({"context_length": None}, None),  # not known: the endpoint will tell
        ({"in_flight": 10_000}, None),  # load is the objective's to weigh
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_dropped_and_by_which_filter(
    name: str, known: dict[str, Any], reason: str | None
) -> None:
    decision = decide(name, fleet(a=known, b={}))
    assert decision.dropped == ({} if reason is None else {"a": reason})
    assert sorted(order(decision)) == (["b"] if reason else ["a", "b"])


@pytest.mark.parametrize(
    ("prompt", "cached", "expected_cached", "uncached"),
    [
        (100, 0, 0, 100),
        (100, 60, 60, 40),
        (100, 100, 99, 1),  # the last token is always computed: its logits start the answer
        (100, 5000, 99, 1),  # an index that believes too much
        (1, 1, 0, 1),
    ],
)
def test_an_estimate_always_has_a_token_to_compute(
    prompt: int, cached: int, expected_cached: int, uncached: int
) -> None:
    (candidate,) = fleet(a={"cached_tokens": cached})
    expected = estimates(
        RouteRequest("m", prompt), [candidate], NO_LIMITS, Context(now=0.0, draw=0.0)
    )[0]
    assert (expected.cached_tokens, expected.uncached_tokens) == (expected_cached, uncached)


def mixed(**more: Any) -> Policy:
    spec = {"minimize": {"dollars": 1, "waiting": 0.01}, "pick": {"lowest": {"tie": 0}}}
    return build_policy("mixed", spec | more, CATALOG)


def seconds_and_dollars(ttft_s: float, dollars: float) -> dict[str, Any]:
    """Facts of an endpoint where a prompt of 1000 tokens takes and costs so much."""
    return {
        "coefficients": Coefficients(ttft_s, 0, 0, 0, 0.02, 0),
        "price": Price(input=dollars * 1000),
    }


@pytest.mark.parametrize(
    ("hard", "dropped"),
    [
        ({}, {}),
        ({"cost_usd": 0.05}, {"dear": "hard.cost_usd"}),
        ({"ttft": "10s"}, {"slow": "hard.ttft"}),
        ({"ttft": "20s", "cost_usd": 0.5}, {}),  # exactly at the limits
        ({"tpot": "15ms"}, {"dear": "hard.tpot", "slow": "hard.tpot"}),
        ({"ttft": "10s", "cost_usd": 0.05}, {"dear": "hard.cost_usd", "slow": "hard.ttft"}),
    ],
)
def test_beyond_a_hard_limit_nobody_is_asked(hard: dict[str, Any], dropped: dict[str, str]) -> None:
    facts = {"dear": seconds_and_dollars(1, 0.5), "slow": seconds_and_dollars(20, 0)}
    decision = mixed(hard=hard).decide(
        RouteRequest("m", 1000, output_tokens=0), fleet(**facts), Context(now=0, draw=0)
    )
    assert decision.dropped == dropped
    assert {r.candidate.endpoint for r in decision.ranked} == set(facts) - set(dropped)


@pytest.mark.parametrize(
    ("tenant_usd", "dropped"),
    [
        (None, {}),
        (0.5, {}),  # exactly
        (0.4, {"dear": "within_tenant_budget"}),
        (0.0, {"dear": "within_tenant_budget"}),  # what costs nothing is left
    ],
)
def test_what_a_tenant_cannot_pay_for_no_policy_chooses(
    tenant_usd: float | None, dropped: dict[str, str]
) -> None:
    facts = {"dear": seconds_and_dollars(1, 0.5), "slow": seconds_and_dollars(20, 0)}
    decision = mixed().decide(
        RouteRequest("m", 1000, output_tokens=0),
        fleet(**facts),
        Context(now=0, draw=0, tenant_usd=tenant_usd),
    )
    assert decision.dropped == dropped
    assert {r.candidate.endpoint for r in decision.ranked} == set(facts) - set(dropped)


def test_a_class_has_its_own_numbers_and_the_rest_of_the_policy() -> None:
    policy = mixed(
        limits={"ttft": "3s", "tpot": "60ms"},
        hard={"cost_usd": 1},
        classes={"batch": {"waiting": 0.0001, "limits": {"ttft": "1m"}, "hard": {"ttft": "5m"}}},
    )
    candidates = fleet(dear=seconds_and_dollars(1, 0.1), slow=seconds_and_dollars(20, 0))
    standard, batch, other = (
        policy.decide(
            RouteRequest("m", 1000, output_tokens=0, request_class=name),
            candidates,
            Context(now=0, draw=0),
        )
        for name in ("standard", "batch", "unheard-of")
    )
    assert [r.candidate.endpoint for r in standard.ranked] == ["dear", "slow"]  # 0.11 < 0.2
    assert [r.candidate.endpoint for r in batch.ranked] == ["slow", "dear"]  # 0.002 < 0.1001
    assert other == standard
    batched = policy.classes["batch"]
    assert batched.limits == Limits(ttft_s=60, tpot_s=0.06)
    assert batched.hard == HardLimits(cost_usd=1, ttft_s=300)
    assert (batched.filters, batched.fallback) == (policy.filters, policy.fallback)


def test_a_short_budget_makes_the_cheaper_one_worth_the_wait() -> None:
    candidates = fleet(dear=seconds_and_dollars(1, 0.1), slow=seconds_and_dollars(20, 0))
    request = RouteRequest("m", 1000, output_tokens=0)
    firsts = [
        mixed().decide(request, candidates, Context(0, 0, multiplier)).ranked[0].candidate.endpoint
        for multiplier in (0, 0.8, 1.0)  # 0.11, 0.19, 0.21 dollars against 0.2
    ]
    assert firsts == ["dear", "dear", "slow"]


def test_terms_say_what_each_objective_adds() -> None:
    policy = mixed(classes={"batch": {"waiting": 0.1}})
    request = RouteRequest("m", 1000, output_tokens=0)
    candidates = fleet(a=seconds_and_dollars(2, 0.3))
    (ranked,) = policy.decide(request, candidates, Context(now=0, draw=0)).ranked
    assert policy.terms(request, ranked) == pytest.approx({"dollars": 0.3, "waiting": 0.02})
    assert sum(policy.terms(request, ranked).values()) == ranked.cost
    batch = request._replace(request_class="batch")
    assert policy.terms(batch, ranked) == pytest.approx({"dollars": 0.3, "waiting": 0.2})


def test_objectives_add_up_by_weight() -> None:
    spec = {"minimize": {"in_flight": 10, "uncached_work": {"weight": "50%"}}, "pick": "lowest"}
    built = build_policy("mixed", spec, CATALOG)
    (ranked,) = built.decide(
        RouteRequest("m", 100), fleet(a={"in_flight": 4}), Context(now=0, draw=0)
    ).ranked
    assert ranked.cost == 10 * 4 + 0.5 * 100 * 3


candidate_facts = st.fixed_dictionaries(
    {
        "models": st.frozensets(st.sampled_from(["m", "other"])),
        "healthy": st.booleans(),
        "context_length": st.none() | st.integers(1, 5000),
        "in_flight": st.integers(0, 1000),
        "queued_tokens": st.integers(0, 1_000_000),
        "cached_tokens": st.integers(0, 10_000),
    }
)
fleets = st.dictionaries(st.text(min_size=1), candidate_facts, max_size=8)
draws = st.floats(0, 1, exclude_max=True)


@given(facts=fleets, prompt=st.integers(1, 20_000), draw=draws, name=st.sampled_from(NAMES))
def test_everyone_is_ranked_or_dropped_once_and_the_same_way_each_time(
    facts: dict[str, dict[str, Any]], prompt: int, draw: float, name: str
) -> None:
    candidates = fleet(**facts)
    before = [candidate._replace() for candidate in candidates]
    decision = decide(name, candidates, prompt_tokens=prompt, draw=draw)
    ranked = [r.candidate.endpoint for r in decision.ranked]
    assert sorted([*ranked, *decision.dropped]) == sorted(facts)
    assert decision == decide(name, candidates, prompt_tokens=prompt, draw=draw)
    assert candidates == before


@given(facts=fleets, prompt=st.integers(1, 20_000), draw=draws)
def test_the_first_choice_is_within_a_tie_of_the_best(
    facts: dict[str, dict[str, Any]], prompt: int, draw: float
) -> None:
    ranked = decide("cache_aware", fleet(**facts), prompt_tokens=prompt, draw=draw).ranked
    costs = [r.cost for r in ranked]
    assert costs == [] or costs[0] <= min(costs) * 1.01


def explored(draw: float, **facts: dict[str, Any]) -> str:
    spec = {
        "minimize": {"in_flight": 1},
        "pick": {"lowest": {"tie": 0, "explore": "10%", "stale": "1m"}},
    }
    policy = build_policy("curious", spec, CATALOG)
    context = Context(now=100.0, draw=draw)
    return order(policy.decide(RouteRequest("m", 1000), fleet(**facts), context))


BEST = {"chosen_at": 99.0}
LEFT = {"in_flight": 5, "chosen_at": 40.0}  # for a minute
LONGER = {"in_flight": 9, "chosen_at": 30.0}


@pytest.mark.parametrize(
    ("draw", "facts", "asked"),
    [
        (0.89, {"a": BEST, "b": LEFT, "c": LONGER}, "abc"),
        (0.9, {"a": BEST, "b": LEFT, "c": LONGER}, "cab"),
        (0.9, {"a": BEST, "b": LEFT, "c": {"in_flight": 9}}, "cab"),  # never asked
        (0.9, {"a": BEST, "b": LEFT | {"chosen_at": 41.0}}, "ab"),
        (0.9, {"a": BEST, "b": LEFT | {"price": Price(1)}}, "ab"),  # nothing is worth dollars
        (0.9, {"a": BEST | {"price": Price(1)}, "b": LEFT | {"price": Price(1)}}, "ba"),
    ],
)
def test_a_share_of_the_decisions_goes_to_see_who_was_left_alone(
    draw: float, facts: dict[str, dict[str, Any]], asked: str
) -> None:
    assert explored(draw, **facts) == asked


def test_ties_are_broken_by_what_exploring_leaves_of_the_draw() -> None:
    equals = {name: {"chosen_at": 99.0} for name in "abc"}
    firsts = Counter(explored(i / 1000, **equals)[0] for i in range(1000))
    assert all(abs(firsts[name] - 333) < 40 for name in "abc")
