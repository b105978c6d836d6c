"""Seconds, dollars and risk of a request on a candidate, in numbers small enough to do by hand."""

from __future__ import annotations

import dataclasses
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from routing_policies.base import (
    NO_LIMITS,
    Candidate,
    Coefficients,
    Context,
    Estimate,
    Limits,
    Price,
    RouteRequest,
)
from routing_policies.estimate import estimates

CLOCK = Coefficients(
    base_s=0.5,
    per_token_s=0.001,
    per_token_context_s=1e-6,
    per_queued_s=0.002,
    per_output_s=0.01,
    per_output_busy_s=0.005,
)
REQUEST = RouteRequest("m", prompt_tokens=1000, output_tokens=200)


def of(
    limits: Limits = NO_LIMITS, *, request: RouteRequest = REQUEST, dearer: float = 0.0, **facts
) -> Estimate:
    candidate = Candidate("e", frozenset("m"), **{"coefficients": CLOCK, **facts})
    context = Context(now=0.0, draw=0.0, budget_multiplier=dearer)
    return estimates(request, [candidate], limits, context)[0]


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({}, 0.5 + 1000 * (0.001 + 1e-6 * 1000)),
        ({"cached_tokens": 600}, 0.5 + 400 * (0.001 + 1e-6 * 1000)),  # the context stays as long
        ({"queued_tokens": 300}, 0.5 + 300 * 0.002 + 1000 * 0.002),
        ({"in_flight": 9}, 0.5 + 1000 * 0.002),  # those wait for us, not we for them
    ],
)
def test_the_first_token_waits_for_the_queue_and_the_prompt(facts: dict, seconds: float) -> None:
    assert of(**facts).ttft_s == pytest.approx(seconds)


def test_others_are_delayed_only_where_the_machine_is_ours_and_by_the_root_of_their_number() -> (
    None
):
    assert of(in_flight=9).external_s == 0
    assert of(in_flight=9, dedicated=True).external_s == pytest.approx(1000 * 0.002 * 3)


def test_tokens_after_the_first_come_slower_the_more_run() -> None:
    assert of(in_flight=4).tpot_s == pytest.approx(0.01 + 4 * 0.005)


@pytest.mark.parametrize(
    ("price", "cached", "dollars"),
    [
        (Price(), 0, 0),
        (Price(input=1, output=3), 0, 1000 + 600),
        (Price(input=1, output=3, cached=0.1), 400, 600 + 40 + 600),
        (Price(input=1, output=3), 400, 1000 + 600),  # no price for cached tokens: no discount
        (Price(input=1, output=3, cached=0.1, cache_write=0.25), 400, 600 * 1.25 + 40 + 600),
    ],
)
def test_dollars_are_what_the_choice_adds_to_the_bill(
    price: Price, cached: int, dollars: float
) -> None:
    assert of(price=price, cached_tokens=cached).cost_usd == pytest.approx(dollars / 1e6)


def test_a_cache_that_often_misses_saves_less() -> None:
    flaky = dataclasses.replace(CLOCK, hit_rate=0.5)
    price = Price(input=1, output=0, cached=0)
    assert of(price=price, cached_tokens=400, coefficients=flaky).cost_usd == pytest.approx(8e-4)


def test_a_short_budget_makes_dollars_dearer_and_not_the_bill() -> None:
    seen = of(price=Price(input=1), dearer=3.0)
    assert (seen.cost_usd, seen.effective_usd) == pytest.approx((1e-3, 4e-3))


def test_a_limit_at_the_expected_time_is_missed_half_the_time() -> None:
    assert of(Limits(ttft_s=2.5)).p_miss == pytest.approx(0.5)
    assert of(Limits(ttft_s=2.5 * math.exp(0.5))).p_miss == pytest.approx(0.1587, abs=1e-4)  # 1 σ
    assert of().p_miss == 0


def test_the_risk_is_by_the_quantiles_that_were_seen() -> None:
    """Mostly on time, and now and then eight times as late."""
    heavy = dataclasses.replace(CLOCK, lateness=(-0.3, -0.2, -0.1, 0.0, 0.1, 2.1, 2.4))

    def within(sigmas: float) -> float:
        return 0.5 * math.erfc(-sigmas / math.sqrt(2))

    def risk(late: float) -> float:
        return of(Limits(ttft_s=2.5 * math.exp(late)), coefficients=heavy).p_miss

    assert risk(0.1) == pytest.approx(1 - within(1))
    assert risk(1.1) == pytest.approx(1 - within(1.5))  # on the line between two quantiles
    assert risk(2.7) == pytest.approx(1 - within(4), abs=1e-6)  # beyond the last, it goes on
    assert risk(-0.3) == pytest.approx(1 - within(-3))


def test_an_error_is_a_miss() -> None:
    failing = dataclasses.replace(CLOCK, error_rate=0.25)
    assert of(coefficients=failing).p_miss == 0.25
    assert of(Limits(ttft_s=2.5), coefficients=failing).p_miss == pytest.approx(1 - 0.75 / 2)


numbers = st.floats(0, 10, allow_nan=False)


@given(
    st.builds(Coefficients, numbers, numbers, numbers, numbers, numbers, numbers),
    st.builds(Price, numbers, numbers, st.none() | numbers, numbers),
    st.integers(0, 10**6),
    st.integers(0, 10**4),
    st.integers(1, 10**6),
)
def test_nothing_is_negative_or_no_number(
    coefficients: Coefficients, price: Price, cached: int, busy: int, prompt: int
) -> None:
    seen = of(
        Limits(ttft_s=3, tpot_s=0.06),
        request=RouteRequest("m", prompt),
        coefficients=coefficients,
        price=price,
        cached_tokens=cached,
        in_flight=busy,
        dedicated=True,
    )
    assert all(math.isfinite(v) and v >= 0 for v in seen)
    assert seen.p_miss <= 1
