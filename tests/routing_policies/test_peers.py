"""The peers' rules as decision tables, each row derived by hand from the source's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.config.load import PACKAGED, load_policy
from routing_policies.base import Candidate, Context, Price, RouteRequest
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from routing_policies.policy import Policy

CATALOG = Catalog.load()
PROMPT = 1000


def packaged(name: str) -> Policy:
    return load_policy(PACKAGED / f"{name}.yaml", CATALOG)


def candidate(name: str, **facts: Any) -> Candidate:
    return Candidate(name, models=frozenset("m"), **facts)


def order(policy: Policy, candidates: Sequence[Candidate], draw: float = 0.0) -> str:
    """The endpoints' names, of one letter each, first choice first."""
    decision = policy.decide(RouteRequest("m", PROMPT), candidates, Context(now=0.0, draw=draw))
    assert not decision.dropped
    assert sorted(r.candidate.endpoint for r in decision.ranked) == sorted(
        c.endpoint for c in candidates
    )
    return "".join(r.candidate.endpoint for r in decision.ranked)


def loaded(in_flight: Sequence[int], cached: Sequence[int]) -> list[Candidate]:
    return [
        candidate(name, in_flight=n, cached_tokens=tokens)
        for name, n, tokens in zip("abc", in_flight, cached, strict=True)
    ]


@pytest.mark.parametrize(
    ("in_flight", "cached", "first"),
    [
        # Balanced, and the match is above 0.5: the longest match, whatever its load.
        ((5, 0, 0), (600, 0, 0), "a"),
        ((32, 0, 0), (600, 0, 0), "a"),  # max − min must be above 32
        ((5, 3, 0), (600, 700, 0), "b"),
        ((5, 3, 0), (600, 600, 0), "b"),  # equal matches: the less busy
        # At 0.5 or below: fewest requests.
        ((5, 1, 2), (500, 0, 0), "b"),
        ((5, 1, 2), (501, 0, 0), "a"),
        # Imbalanced, by more than 32 and by more than 1.1 times: fewest requests.
        ((33, 0, 1), (900, 0, 0), "b"),
        ((363, 330, 331), (900, 0, 0), "a"),  # by 33, but 363 is not above 1.1 · 330
        ((364, 330, 331), (900, 0, 0), "b"),
    ],
)
def test_sglang(in_flight: tuple[int, ...], cached: tuple[int, ...], first: str) -> None:
    assert order(packaged("peer_sglang"), loaded(in_flight, cached))[0] == first


@pytest.mark.parametrize(
    ("in_flight", "cached", "first"),
    [
        # Within mean + 1σ: the best match. Of (4, 2, 0): mean 2, σ 1.63.
        ((2, 4, 0), (900, 0, 0), "a"),
        ((4, 2, 0), (900, 300, 0), "b"),  # 4 is above 3.63: the next match
        ((4, 2, 0), (900, 0, 0), "c"),  # no other match: fewest requests
        ((3, 3, 3), (100, 0, 0), "a"),  # any match counts, however short
        ((3, 2, 3), (400, 400, 0), "b"),  # equal matches: the less busy
        ((3, 2, 3), (0, 0, 0), "b"),
        # max − min above 8: fewest requests.
        ((1, 9, 9), (0, 900, 0), "b"),
        ((0, 9, 9), (0, 900, 0), "a"),
    ],
)
def test_aibrix(in_flight: tuple[int, ...], cached: tuple[int, ...], first: str) -> None:
    assert order(packaged("peer_aibrix"), loaded(in_flight, cached))[0] == first


def told(
    waiting: Sequence[int | None], kv_usage: Sequence[float | None], cached: Sequence[int]
) -> list[Candidate]:
    return [
        candidate(name, waiting=n, kv_usage=use, cached_tokens=tokens)
        for name, n, use, tokens in zip("abc", waiting, kv_usage, cached, strict=True)
    ]


@pytest.mark.parametrize(
    ("waiting", "kv_usage", "cached", "expected"),
    [
        # 3·match + 2·(max − q)/(max − min) + 2·(1 − KV use); all q equal: the middle term is 2.
        ((0, 0, 0), (0, 0, 0), (0, 500, 0), "bac"),
        ((4, 0, 0), (0.5, 0, 0), (999, 0, 0), "bca"),  # 2.997 + 0 + 1 = 3.997 < 4
        ((4, 0, 0), (0.1, 0, 0), (500, 0, 0), "bca"),  # 1.5 + 0 + 1.8 = 3.3 < 4
        ((8, 0, 8), (0.1, 0, 0.1), (900, 0, 0), "abc"),  # 2.7 + 0 + 1.8 = 4.5 > 4 > 1.8
        ((4, 0, 8), (0.05, 0, 0.1), (500, 0, 0), "abc"),  # 1.5 + 1 + 1.9 = 4.4 > 4 > 1.8
        ((4, 0, 8), (0.05, 0, 0.1), (300, 0, 0), "bac"),  # 0.9 + 1 + 1.9 = 3.8 < 4
        # With a cache hardly in use, affinity never yields to a queue that all have.
        ((3, 3, 3), (0.2, 0.0, 0.1), (400, 0, 0), "abc"),  # 1.2 − 0.4 > 0 > −0.2: still a
        ((3, 3, 3), (0.9, 0.0, 0.1), (400, 0, 0), "bca"),  # 1.2 − 1.8 < −0.2 < 0
        # Who tells nothing counts as idle.
        ((1, None, 1), (0.1, None, 0.3), (0, 0, 0), "bac"),
    ],
)
def test_llmd(
    waiting: tuple[int | None, ...],
    kv_usage: tuple[float | None, ...],
    cached: tuple[int, ...],
    expected: str,
) -> None:
    assert order(packaged("peer_llmd"), told(waiting, kv_usage, cached)) == expected


def test_llmd_draws_among_the_best() -> None:
    firsts = [order(packaged("peer_llmd"), loaded((1, 1, 1), (0, 0, 0)), d / 9) for d in range(9)]
    assert Counter(text[0] for text in firsts) == {"a": 3, "b": 3, "c": 3}


def queued(
    in_flight: Sequence[int], queue: Sequence[int], cached: Sequence[int]
) -> list[Candidate]:
    return [
        candidate(name, in_flight=n, queued_tokens=q, cached_tokens=tokens)
        for name, n, q, tokens in zip("ab", in_flight, queue, cached, strict=True)
    ]


def decoding(active: Sequence[int], queue: Sequence[int], cached: Sequence[int]) -> list[Candidate]:
    return [
        candidate(name, in_flight=bool(a), active_tokens=a, queued_tokens=q, cached_tokens=tokens)
        for name, a, q, tokens in zip("ab", active, queue, cached, strict=True)
    ]


@pytest.mark.parametrize(
    ("active", "queue", "cached", "first"),
    [
        # (q + u + active)/16: a token under decode weighs as much as one to prefill.
        ((0, 0), (0, 0), (500, 0), "a"),
        ((499, 0), (0, 0), (500, 0), "a"),
        ((501, 0), (0, 0), (500, 0), "b"),
        ((700, 700), (0, 501), (0, 500), "a"),  # 1000 against 1001
        ((700, 700), (0, 499), (0, 500), "b"),
        ((2000, 2000), (2000, 0), (900, 0), "b"),
    ],
)
def test_dynamo(
    active: tuple[int, ...], queue: tuple[int, ...], cached: tuple[int, ...], first: str
) -> None:
    assert order(packaged("peer_dynamo"), decoding(active, queue, cached))[0] == first


@pytest.mark.parametrize(
    ("parameters", "first"),
    [
        # a: 100 uncached, 5000 active, one request. b: 1000 uncached, idle.
        ({}, "b"),  # 5100 against 1000 tokens
        ({"prefill_load_scale": 6.0}, "a"),  # 5600 against 6000
        ({"prefill_load_scale": 6.0, "overlap_score_credit": 0.5}, "b"),  # 8300 against 6000
        ({"prefill_load_scale": 6.0, "decode_active_request_weight": 26.0}, "b"),  # 376 > 375
        ({"prefill_load_scale": 6.0, "decode_active_request_weight": 24.0}, "a"),  # 374 blocks
    ],
)
def test_dynamos_parameters_weigh_its_terms(parameters: dict[str, float], first: str) -> None:
    tuned = build_policy(
        "tuned", {"minimize": {"peer_dynamo": parameters}, "pick": {"lowest": {"tie": 0}}}, CATALOG
    )
    assert order(tuned, decoding((5000, 0), (0, 0), (900, 0)))[0] == first


@pytest.mark.parametrize(
    ("in_flight", "queue", "cached", "first"),
    [
        # T_queue + T_prefill; how many decode there does not count.
        ((99, 0), (0, 0), (500, 0), "a"),
        # In tokens 510 + 500 against 1000: 0.8 ms more; attention saves 0.2 ms.
        ((0, 0), (510, 0), (500, 0), "b"),
        ((0, 0), (490, 0), (500, 0), "a"),
        ((0, 0), (2000, 0), (999, 0), "b"),
    ],
)
def test_mooncake(
    in_flight: tuple[int, ...], queue: tuple[int, ...], cached: tuple[int, ...], first: str
) -> None:
    assert order(packaged("peer_mooncake"), queued(in_flight, queue, cached))[0] == first


@pytest.mark.parametrize(
    ("in_flight", "queue", "cached", "first"),
    [
        # (q + u)·(n + 1)
        ((0, 0), (0, 0), (500, 0), "a"),
        ((1, 0), (0, 0), (501, 0), "a"),  # 499·2 = 998 against 1000
        ((1, 0), (0, 0), (499, 0), "b"),  # 501·2 = 1002
        ((1, 0), (100, 0), (501, 0), "b"),  # 599·2: the queue is multiplied too
        ((0, 3), (900, 0), (0, 550), "b"),  # 1900 against 450·4 = 1800
    ],
)
def test_lmetric(
    in_flight: tuple[int, ...], queue: tuple[int, ...], cached: tuple[int, ...], first: str
) -> None:
    assert order(packaged("peer_lmetric"), queued(in_flight, queue, cached))[0] == first


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        # Six ordered pairs of three: ab, ac, ba, bc, ca, cb. Loads 3, 2, 1.
        (0.0, "bac"),
        (1 / 6, "cab"),
        (2 / 6, "bac"),
        (3 / 6, "cba"),
        (4 / 6, "cab"),
        (5 / 6, "cba"),
        (0.999, "cba"),
    ],
)
def test_two_choices(draw: float, expected: str) -> None:
    assert order(packaged("peer_p2c"), loaded((3, 2, 1), (0, 0, 0)), draw + 1e-9) == expected


def test_two_choices_between_equals_reach_everybody_alike() -> None:
    policy, candidates = packaged("peer_p2c"), loaded((1, 1, 1), (0, 0, 0))
    firsts = Counter(order(policy, candidates, (i + 0.5) / 600)[0] for i in range(600))
    assert firsts == {"a": 200, "b": 200, "c": 200}


def priced(**prices: float) -> list[Candidate]:
    return [candidate(name, price=Price(input=p, output=p)) for name, p in prices.items()]


def test_inverse_square_prefers_a_third_of_the_price_nine_times_as_often() -> None:
    policy = packaged("peer_inverse_square")
    candidates = priced(a=3.0, b=1.0)
    firsts = Counter(order(policy, candidates, (i + 0.5) / 1000)[0] for i in range(1000))
    assert firsts == {"a": 100, "b": 900}


@pytest.mark.parametrize(
    ("draw", "expected"), [(0.0, "bca"), (0.7, "bca"), (0.8, "cba"), (0.97, "abc")]
)
def test_inverse_square_falls_back_from_cheap_to_dear(draw: float, expected: str) -> None:
    # Weights 1, 1/4 and 1/16, of 1.3125 in all: b below 0.762, c below 0.952.
    assert order(packaged("peer_inverse_square"), priced(a=4.0, b=1.0, c=2.0), draw) == expected


def test_inverse_square_takes_what_is_free_first() -> None:
    policy, candidates = packaged("peer_inverse_square"), priced(a=1.0, b=0.0, c=0.0)
    assert {order(policy, candidates, draw / 10)[0] for draw in range(10)} == {"b", "c"}


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        # Our own a and b on average at most 12 busy: by q + u·(1 + √n), then providers by price.
        ((12, 12), "abdc"),
        ((24, 0), "badc"),
        # Busier: the cheapest provider, and our own behind them.
        ((13, 12), "dcba"),
        ((40, 0), "dcba"),
    ],
)
def test_overflow(in_flight: tuple[int, int], expected: str) -> None:
    ours = [candidate(n, in_flight=i, dedicated=True) for n, i in zip("ab", in_flight, strict=True)]
    assert order(packaged("peer_overflow"), [*ours, *priced(c=2.0, d=1.0)]) == expected


@pytest.mark.parametrize("name", sorted(f.stem for f in PACKAGED.glob("peer_*.yaml")))
def test_every_peer_has_an_answer_for_one_candidate_and_for_none(name: str) -> None:
    policy = packaged(name)
    assert order(policy, [candidate("a")], draw=0.99) == "a"
    assert order(policy, []) == ""
