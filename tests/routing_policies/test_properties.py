"""What holds of every shipped policy, whatever it is asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.config.load import PACKAGED, load_policy
from routing_policies.base import (
    DATA_POLICIES,
    LATENESS_SIGMAS,
    Candidate,
    Coefficients,
    Context,
    Price,
    RouteRequest,
)
from routing_policies.catalog import Catalog
from routing_policies.pickers.lowest import Lowest
from routing_policies.policy import Policy

CATALOG = Catalog.load()
POLICIES = [
    load_policy(file, CATALOG)
    for file in sorted(PACKAGED.glob("*.yaml"))
    if not file.stem.startswith("peer_")
]
BY_COST = [policy for policy in POLICIES if isinstance(policy.picker, Lowest)]

seconds = st.floats(0, 10)
shares = st.floats(0, 1)
counts = st.integers(0, 10_000)
dollars = st.floats(0, 100)
coefficients = st.builds(
    Coefficients,
    base_s=seconds,
    per_token_s=st.floats(0, 0.01),
    per_token_context_s=st.floats(0, 1e-6),
    per_queued_s=st.floats(0, 0.01),
    per_output_s=seconds,
    per_output_busy_s=seconds,
    lateness=st.builds(
        lambda middle, step: tuple(middle + step * sigmas for sigmas in LATENESS_SIGMAS),
        st.floats(-3, 3),
        st.floats(0.01, 3),
    ),
    error_rate=shares,
    hit_rate=shares,
)
prices = st.builds(Price, dollars, dollars, st.none() | dollars, dollars)
candidates = st.builds(
    Candidate,
    endpoint=st.text("abcdef", min_size=1),
    models=st.just(frozenset("m")),
    healthy=st.booleans(),
    context_length=st.none() | st.integers(1, 1_000_000),
    in_flight=counts,
    queued_tokens=st.integers(0, 1_000_000),
    cached_tokens=st.integers(0, 1_000_000),
    dedicated=st.booleans(),
    chosen_at=st.none() | st.floats(0, 1e6),
    coefficients=coefficients,
    price=prices,
    start_usd=dollars,
    start_s=seconds,
    capabilities=st.none() | st.frozensets(st.sampled_from(["tools", "vision"])),
    data_policy=st.sampled_from(DATA_POLICIES),
)
fleets = st.lists(candidates, max_size=6, unique_by=lambda c: c.endpoint)
requests = st.builds(
    RouteRequest,
    model=st.just("m"),
    prompt_tokens=st.integers(1, 1_000_000),
    output_tokens=st.floats(0, 100_000),
    request_class=st.sampled_from(["standard", "batch"]),
    needs=st.frozensets(st.sampled_from(["tools", "vision"])),
    data_policy=st.sampled_from(DATA_POLICIES),
    budget_usd=st.none() | dollars,
)
contexts = st.builds(
    Context,
    now=st.floats(0, 1e6),
    draw=st.floats(0, 1, exclude_max=True),
    budget_multiplier=st.floats(0, 1000),
    tenant_usd=st.none(),
)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(requests, fleets, contexts, st.randoms(use_true_random=False))
def test_the_order_of_candidates_plays_no_part_but_between_equals(
    policy: Policy, request: RouteRequest, fleet: list[Candidate], context: Context, shuffle
) -> None:
    decision = policy.decide(request, fleet, context)
    shuffled = list(fleet)
    shuffle.shuffle(shuffled)
    other = policy.decide(request, shuffled, context)
    assert decision == policy.decide(request, fleet, context)
    assert decision.dropped == other.dropped
    assert [r.cost for r in decision.ranked] == [r.cost for r in other.ranked]
    assert {r.candidate.endpoint for r in decision.ranked} == {
        r.candidate.endpoint for r in other.ranked
    }


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(requests, fleets, contexts)
def test_nothing_is_negative_and_everything_is_a_number(
    policy: Policy, request: RouteRequest, fleet: list[Candidate], context: Context
) -> None:
    for ranked in policy.decide(request, fleet, context).ranked:
        values: Sequence[float] = (
            ranked.cost,
            *ranked.estimate,
            *policy.terms(request, ranked).values(),
        )
        assert all(math.isfinite(value) and value >= 0 for value in values)
        assert ranked.estimate.p_miss <= 1


def better(worse: Candidate, by: dict[str, float]) -> Candidate:
    """A candidate that is at least as good in every respect; `by` are shares to keep."""
    known, price = worse.coefficients, worse.price
    slow = ("base_s", "per_token_s", "per_token_context_s", "per_queued_s", "per_output_s")
    faster = {name: getattr(known, name) * by["slow"] for name in slow}
    return worse._replace(
        endpoint="better",
        in_flight=int(worse.in_flight * by["load"]),
        queued_tokens=int(worse.queued_tokens * by["load"]),
        start_usd=worse.start_usd * by["dollars"],
        start_s=worse.start_s * by["slow"],
        cached_tokens=worse.cached_tokens + int(1000 * by["cached"]),
        coefficients=dataclasses.replace(
            known, **faster, error_rate=known.error_rate * by["errors"]
        ),
        price=Price(
            price.input * by["dollars"], price.output * by["dollars"], 0.0, price.cache_write
        ),
    )


@pytest.mark.parametrize("policy", BY_COST, ids=lambda policy: policy.name)
@given(
    requests,
    candidates,
    contexts,
    st.fixed_dictionaries(dict.fromkeys(("slow", "load", "cached", "errors", "dollars"), shares)),
)
def test_who_is_better_in_every_respect_never_costs_more(
    policy: Policy, request: RouteRequest, worse: Candidate, context: Context, by: dict[str, float]
) -> None:
    worse = worse._replace(endpoint="worse", healthy=True, context_length=None, capabilities=None)
    request = request._replace(data_policy=DATA_POLICIES[0])
    assert isinstance(policy.picker, Lowest)
    usual = 0.99 * (1 - policy.picker.explore)  # and not to see how somebody does
    context = context._replace(draw=context.draw * usual)
    decision = policy.decide(request, [worse, better(worse, by)], context)
    cost = {ranked.candidate.endpoint: ranked.cost for ranked in decision.ranked}
    assert cost["better"] <= cost["worse"] * (1 + 1e-9)
    if cost["worse"] > cost["better"] * (1 + policy.picker.tie):
        assert decision.ranked[0].candidate.endpoint == "better"
