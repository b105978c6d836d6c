"""Tokens of a prompt, guessed from its bytes and what answers have told."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.fleet.tokens import FIRST_GUESS, MOST_PER_BYTE, TokenRatio, fewest


def test_before_any_answer_it_is_a_guess() -> None:
    assert TokenRatio().estimate("m", 10_000) == round(10_000 * FIRST_GUESS)
    assert TokenRatio().estimate("m", 0) == 1


def test_answers_tell_the_ratio() -> None:
    ratio = TokenRatio()
    for _ in range(50):
        ratio.learn("m", 20_000, 10_000)
    assert ratio.estimate("m", 1000) == pytest.approx(500, rel=0.02)
    assert ratio.estimate("other", 1000) == round(1000 * FIRST_GUESS)


def test_a_short_prompt_that_is_mostly_template_moves_it_little() -> None:
    ratio = TokenRatio()
    ratio.learn("m", 40, 31)
    assert ratio.estimate("m", 30_000) == pytest.approx(30_000 * FIRST_GUESS, rel=0.02)


def test_an_endpoint_that_miscounts_does_no_lasting_harm() -> None:
    ratio = TokenRatio()
    ratio.learn("m", 1000, 10**12)
    assert ratio.estimate("m", 1000) < 1000 * MOST_PER_BYTE
    for _ in range(100):
        ratio.learn("m", 20_000, 5_000)
    assert ratio.estimate("m", 1000) == pytest.approx(250, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**15)), max_size=20))
def test_it_never_runs_wild(answers: list[tuple[int, int]]) -> None:
    ratio = TokenRatio()
    for size, tokens in answers:
        ratio.learn("m", size, tokens)
    assert 1 <= ratio.estimate("m", 1000) <= 1000 * MOST_PER_BYTE


def test_the_fewest_tokens_are_far_below_any_estimate() -> None:
    assert fewest(12_000) == 1000
