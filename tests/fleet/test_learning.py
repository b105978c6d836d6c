"""What answers teach: coefficients that approach the truth, forget, and never run wild."""

from __future__ import annotations

import dataclasses
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.fleet.learning import (
    SPEEDS,
    Average,
    Learning,
    Observation,
    Regression,
    from_peers,
    solve,
)
from routing_policies.base import Coefficients


def test_a_system_is_solved() -> None:
    assert solve([[4.0, 1.0], [1.0, 3.0]], [1.0, 2.0]) == pytest.approx([1 / 11, 7 / 11])


def answer(truth: Coefficients, draw: random.Random, **changes) -> Observation:
    """What an endpoint with these coefficients does to a request drawn at random."""
    prompt, queued, busy = draw.randint(50, 8000), draw.choice([0, 0, 3000]), draw.randint(0, 12)
    cached = draw.choice([0, prompt // 2])
    noise = draw.lognormvariate(0, 0.1)
    first = truth.base_s + queued * truth.per_queued_s
    first += (prompt - cached) * (truth.per_token_s + truth.per_token_context_s * prompt)
    output = draw.randint(2, 400)
    each = truth.per_output_s + busy * truth.per_output_busy_s
    return Observation(
        **{
            "first_event_s": first * noise,
            "streamed": True,
            "output_s": each * (output - 1),
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "output_tokens": output,
            "queued_tokens": queued,
            "in_flight": busy,
            "expected_first_s": first,
            "expected_cached_tokens": cached,
            **changes,
        }
    )


FAST = Coefficients(0.02, 2e-5, 2e-10, 2e-5, 0.004, 1e-4)
SLOW = Coefficients(0.8, 1e-3, 1e-8, 8e-4, 0.05, 4e-3)


@pytest.mark.parametrize("truth", [FAST, SLOW])
def test_a_hundred_answers_tell_how_fast_an_endpoint_is(truth: Coefficients) -> None:
    learning, draw = Learning(Coefficients()), random.Random(1)
    for second in range(100):
        learning.answered(answer(truth, draw), float(second))
    known = learning.coefficients
    for prompt, queued in ((500, 0), (4000, 0), (4000, 3000)):

        def first(c: Coefficients, prompt: int = prompt, queued: int = queued) -> float:
            each = c.per_token_s + c.per_token_context_s * prompt
            return c.base_s + queued * c.per_queued_s + prompt * each

        assert first(known) == pytest.approx(first(truth), rel=0.15)
    assert known.per_output_s + 6 * known.per_output_busy_s == pytest.approx(
        truth.per_output_s + 6 * truth.per_output_busy_s, rel=0.05
    )
    assert known.lateness[3] == pytest.approx(0, abs=0.1)  # the median
    assert 0.05 < known.lateness[4] < 0.25  # they were drawn with 0.1
    assert 40 < known.samples <= 50  # the later ones; older answers count for nothing


def test_an_endpoint_that_slows_down_is_found_out_and_forgiven() -> None:
    learning, draw = Learning(Coefficients()), random.Random(2)
    times = []
    for second in range(3000):
        truth = SLOW if 1000 <= second < 2000 else FAST
        learning.answered(answer(truth, draw), float(second))
        times.append(learning.coefficients.base_s + 1000 * learning.coefficients.per_token_s)
    assert times[999] < 0.1
    assert times[1999] > 1.0
    assert times[2999] < times[1999] / 3


def test_after_silence_belief_goes_back_to_the_prior() -> None:
    regression = Regression([1.0], half_life_s=10)
    for second in range(50):
        regression.learn([1.0], 5.0, float(second))
    assert regression.theta[0] > 4.9
    regression.learn([1.0], 5.0, 10_000.0)
    assert regression.samples == pytest.approx(1.0)
    assert regression.theta[0] == pytest.approx(4.6)  # one answer, and the prior beside it


def test_errors_and_cache_misses_are_shares() -> None:
    learning, draw = Learning(Coefficients()), random.Random(3)
    for second in range(60):
        if second % 4 == 0:
            learning.failed(float(second))
        else:
            seen = answer(FAST, draw, expected_cached_tokens=1000, cached_tokens=500)
            learning.answered(seen, float(second))
    assert learning.coefficients.error_rate == pytest.approx(0.19, abs=0.04)  # 0.25 on the prior
    assert learning.coefficients.hit_rate == pytest.approx(0.55, abs=0.05)


def test_answers_that_were_not_streamed_tell_how_much_slower_it_all_is() -> None:
    learning, draw = Learning(Coefficients()), random.Random(4)
    double = dataclasses.replace(
        Coefficients(), **{name: 2 * getattr(Coefficients(), name) for name in SPEEDS}
    )
    for second in range(60):
        seen = answer(double, draw)
        known = learning.coefficients
        each = known.per_token_s + known.per_token_context_s * seen.prompt_tokens
        expected = known.base_s + seen.queued_tokens * known.per_queued_s
        expected += (seen.prompt_tokens - seen.cached_tokens) * each
        whole = {"first_event_s": seen.first_event_s + seen.output_s, "output_s": 0.0}
        seen = seen._replace(streamed=False, expected_first_s=expected, **whole)
        learning.answered(seen, float(second))
    known = learning.coefficients
    assert known.per_output_s == pytest.approx(double.per_output_s, rel=0.2)
    assert known.base_s + 2000 * known.per_token_s == pytest.approx(
        double.base_s + 2000 * double.per_token_s, rel=0.3
    )


def test_a_new_endpoint_starts_between_the_table_and_its_peers_by_how_much_these_have_seen() -> (
    None
):
    table = Coefficients()
    few, many = (dataclasses.replace(SLOW, samples=count) for count in (5.0, 45.0))
    assert from_peers([], table) == table
    between = (table.base_s + SLOW.base_s) / 2
    assert from_peers([few], table).base_s == pytest.approx(between)
    assert from_peers([many], table).base_s == pytest.approx(0.1 * table.base_s + 0.9 * SLOW.base_s)
    assert from_peers([many], table).samples == 0


def test_what_is_taken_from_peers_is_no_failing_and_no_cache() -> None:
    failing = dataclasses.replace(SLOW, samples=50.0, error_rate=1.0, hit_rate=0.0)
    prior = from_peers([failing], Coefficients())
    assert (prior.error_rate, prior.hit_rate) == (0.0, 1.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30
    )
)
def test_no_coefficient_is_ever_negative(answers: list[tuple[float, int, int]]) -> None:
    learning = Learning(Coefficients())
    for first, prompt, queued in answers:
        seen = Observation(first, True, first, prompt, 0, 7, queued, 3, 0.1, 0)
        learning.answered(seen, 0.0)
    known = learning.coefficients
    assert min(known.base_s, known.per_token_s, known.per_token_context_s) >= 0
    assert min(known.per_queued_s, known.per_output_s, known.per_output_busy_s) >= 0


def test_an_average_rests_on_its_prior() -> None:
    average = Average(0.0, weight=3, half_life_s=10)
    assert average.mean == 0.0
    average.learn(1.0, 0.0)
    assert average.mean == 0.25


def test_answers_that_wait_to_be_learnt_teach_what_they_would_have_at_once() -> None:
    truth, draw = Coefficients(base_s=0.3), random.Random(1)
    waited, at_once = Learning(Coefficients()), Learning(Coefficients())
    for now in range(1000):
        seen = answer(truth, draw)
        waited.answered(seen, float(now))
        at_once.answered(seen, float(now))
        assert at_once.coefficients  # whoever reads has them learnt
    assert waited.coefficients == at_once.coefficients
    assert waited.uncached_tokens == at_once.uncached_tokens
