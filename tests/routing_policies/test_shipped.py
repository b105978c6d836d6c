"""The shipped policies, as tables: what each one is for, and where it stops."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest

from gateway.config.load import PACKAGED, load_policy
from routing_policies.base import Candidate, Coefficients, Context, Price, RouteRequest
from routing_policies.catalog import Catalog, PolicyError
from routing_policies.policy import Policy

CATALOG = Catalog.load()
NAMES = sorted(f.stem for f in PACKAGED.glob("*.yaml") if not f.stem.startswith("peer_"))
POLICIES = {name: load_policy(PACKAGED / f"{name}.yaml", CATALOG) for name in NAMES}
REQUEST = RouteRequest("m", prompt_tokens=1000)


def order(name: str, draw: float = 0.0, **facts: dict[str, Any]) -> str:
    """`order("least_busy", a={"in_flight": 3}, b={})`: who is asked first, who then."""
    candidates = [Candidate(e, **{"models": frozenset("m"), **f}) for e, f in facts.items()]
    decision = POLICIES[name].decide(REQUEST, candidates, Context(now=0.0, draw=draw))
    return "".join(r.candidate.endpoint for r in decision.ranked)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"cached_tokens": 16}, {}, "ab"),
        ({"cached_tokens": 16, "queued_tokens": 90_000, "in_flight": 31}, {}, "ab"),
        ({"cached_tokens": 16, "in_flight": 32}, {"in_flight": 31}, "ba"),  # beyond the limit
        ({"cached_tokens": 16, "in_flight": 40}, {"in_flight": 39}, "ba"),  # both: the less crowded
        ({"cached_tokens": 16, "in_flight": 40}, {"in_flight": 40}, "ab"),  # equally: the cache
        ({"in_flight": 2}, {"in_flight": 1}, "ba"),  # load, between equals only
    ],
)
def test_cache_first_follows_the_cache_up_to_a_number_in_flight(
    a: dict[str, int], b: dict[str, int], expected: str
) -> None:
    assert order("cache_first", a=a, b=b) == expected


def seconds(ttft_s: float) -> dict[str, Any]:
    """Facts of a machine of ours whose first token is expected after so long; the limit is 3 s."""
    return {"dedicated": True, "coefficients": Coefficients(ttft_s, 0, 0, 0, 0.01, 0)}


HOSTED = {"price": Price(1, 1)}
CALLED = HOSTED | {"chosen_at": 9.0}  # after any machine of ours


@pytest.mark.parametrize(
    ("ours", "hosted", "expected"),
    [
        (seconds(1.0), HOSTED, "ab"),
        (seconds(2.9), HOSTED, "ab"),  # P(miss) 47 %: it stays
        (seconds(3.1), HOSTED, "ba"),  # 53 %: it spills
        (seconds(2.9) | {"chosen_at": 8.0}, CALLED, "ba"),  # not clearly below: it stays away
        (seconds(2.2) | {"chosen_at": 8.0}, CALLED, "ba"),  # 27 %
        (seconds(2.1) | {"chosen_at": 8.0}, CALLED, "ab"),  # 24 %: it comes back
        (seconds(2.9) | {"chosen_at": 9.5}, CALLED, "ab"),  # and stays again
        (seconds(9.0), {"healthy": False}, "a"),  # nobody else: ours, late as it is
    ],
)
def test_local_first_spills_at_the_limit_and_comes_back_well_below_it(
    ours: dict[str, Any], hosted: dict[str, Any], expected: str
) -> None:
    assert order("local_first", a=ours, b=hosted) == expected


def test_local_first_asks_ours_that_would_be_late_after_all_others() -> None:
    cheap, dear = {"price": Price(1, 1)}, {"price": Price(2, 2)}
    assert order("local_first", a=seconds(9), b=dear, c=cheap, d=seconds(2)) == "dcba"


def test_under_a_load_near_the_limit_local_first_does_not_swing() -> None:
    """Estimates that go up and down across the limit change sides once, not each time."""
    policy, sides, chosen = POLICIES["local_first"], [], {"ours": None, "hosted": None}
    for now, ttft_s in enumerate([1.0, 3.2, 2.8, 3.2, 2.8, 3.2, 2.8, 1.5, 2.8]):
        candidates = [
            Candidate("ours", frozenset("m"), chosen_at=chosen["ours"], **seconds(ttft_s)),
            Candidate("hosted", frozenset("m"), chosen_at=chosen["hosted"]),
        ]
        decision = policy.decide(REQUEST, candidates, Context(now=now, draw=0.0))
        first = decision.ranked[0].candidate.endpoint
        chosen[first] = float(now)
        sides.append(first)
    assert [side for side, _ in itertools.groupby(sides)] == ["ours", "hosted", "ours"]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"in_flight": 1}, {}, "ba"),  # 0.15 s · 2 > 0.15 s · 1
        ({}, {"coefficients": Coefficients(base_s=0.5)}, "ab"),  # it answers slower
        ({"in_flight": 2}, {"coefficients": Coefficients(base_s=0.5)}, "ab"),  # 0.45 < 0.6
        ({"in_flight": 4}, {"coefficients": Coefficients(base_s=0.5)}, "ba"),  # 0.75 > 0.6
    ],
)
def test_peak_ewma_multiplies_what_was_learnt_by_who_would_share_it(
    a: dict[str, Any], b: dict[str, Any], expected: str
) -> None:
    assert order("peak_ewma", a=a, b=b) == expected


def test_round_robin_asks_whoever_was_chosen_least_recently() -> None:
    facts = {"a": {"chosen_at": 3.0}, "b": {"chosen_at": 1.0}, "c": {"chosen_at": 2.0}}
    assert order("round_robin", **facts) == "bca"
    assert order("round_robin", **facts, d={}) == "dbca"  # who never was comes first
    assert order("round_robin", a={"in_flight": 1}, b={}) == "ba"


def weighted(**weights: float) -> Policy:
    picker = CATALOG.build("pickers", "weighted", {"weights": weights})
    return dataclasses.replace(POLICIES["weighted"], picker=picker)


def orders(policy: Policy, names: str, draws: int) -> Counter[str]:
    candidates = [Candidate(name, frozenset("m")) for name in names]
    contexts = (Context(now=0.0, draw=(i + 0.5) / draws) for i in range(draws))
    decisions = (policy.decide(REQUEST, candidates, context) for context in contexts)
    return Counter("".join(r.candidate.endpoint for r in d.ranked) for d in decisions)


def test_weighted_shares_by_weight_and_so_do_the_seconds() -> None:
    assert orders(weighted(a=3, b=2), "abc", 60) == {
        "abc": 20,  # 3/6 · 2/3
        "acb": 10,
        "bac": 15,  # 2/6 · 3/4
        "bca": 5,
        "cab": 6,  # 1/6 · 3/5
        "cba": 4,
    }


def test_weighted_asks_a_weight_of_zero_last() -> None:
    assert set(orders(weighted(a=0), "abc", 60)) == {"bca", "cba"}
    assert orders(weighted(a=0, b=0), "ab", 60) == {"ab": 30, "ba": 30}


def test_weighted_means_the_same_in_whatever_order_candidates_come() -> None:
    assert orders(weighted(a=3), "abc", 60) == orders(weighted(a=3), "cba", 60)


@pytest.mark.parametrize("weights", [{"a": "3"}, {"a": -1}, {"a": True}, {"a": float("inf")}])
def test_a_weight_that_is_none_is_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="the weight of 'a' must be"):
        CATALOG.build("pickers", "weighted", {"weights": weights})


@pytest.mark.parametrize("given", [{"spill": 2}, {"come_back": 0}, {"come_back": "60%"}])
def test_a_hysteresis_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="come_back must be above 0 and at most spill"):
        CATALOG.build("pickers", "local_first", given)


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("name", NAMES)
def test_the_ends_of_the_draw_choose_somebody(name: str, draw: float) -> None:
    assert sorted(order(name, draw, a={}, b={}, c=CALLED)) == ["a", "b", "c"]
