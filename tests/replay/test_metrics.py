"""A run in numbers."""

from __future__ import annotations

import pytest

from gateway.replay.metrics import Limits, mean, percentile, summarise
from gateway.replay.simulation import Answer
from gateway.replay.trace import TraceRequest


def answer(
    *,
    prompt: int = 800,
    output: int = 11,
    ttft: float = 1.0,
    tpot: float = 0.05,
    endpoint: str = "a",
) -> Answer:
    first = 10.0 + ttft
    last = first + tpot * (output - 1)
    return Answer(TraceRequest(10.0, prompt, output), endpoint, first, last, prompt // 2, 0.25)


@pytest.mark.parametrize(
    ("one", "good"),
    [
        (answer(ttft=2.1), True),  # 2 s and a second for each 8000 tokens
        (answer(ttft=2.11), False),
        (answer(prompt=80_000, ttft=12.0), True),
        (answer(tpot=0.0599), True),
        (answer(tpot=0.0601), False),
        (answer(output=1), True),  # no token after the first, so no pace to keep
    ],
)
def test_what_is_within_the_limits(one: Answer, good: bool) -> None:
    assert Limits().met(one) is good


def test_the_first_tenth_is_not_counted() -> None:
    answers = [answer(ttft=100.0), *(answer() for _ in range(9))]
    assert summarise(answers, 1).goodput == 1.0


def test_a_summary_by_hand() -> None:
    answers = [answer(), *(answer(ttft=float(i)) for i in range(1, 10))]
    answers[5] = answer(ttft=5.0, endpoint="b")
    summary = summarise(answers, 3)
    assert (summary.ttft_p50, summary.ttft_p95, summary.ttft_p99) == pytest.approx((5.0, 9.0, 9.0))
    assert summary.goodput == pytest.approx(2 / 9)
    assert summary.e2e_mean == pytest.approx(5.5)
    assert summary.cost == pytest.approx(9 * 0.25)
    assert summary.hit == pytest.approx(0.5)
    assert summary.spread == pytest.approx(8 / 3)  # 8 of 9 on one of three endpoints


def test_seeds_are_averaged_number_by_number() -> None:
    fast, slow = (summarise([answer(ttft=ttft)], 1) for ttft in (1.0, 2.0))
    assert mean([fast, slow]).ttft_p50 == pytest.approx(1.5)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], p) for p in (0.0, 0.25, 0.5, 0.51, 1.0)] == [
        1.0,
        1.0,
        2.0,
        3.0,
        4.0,
    ]
