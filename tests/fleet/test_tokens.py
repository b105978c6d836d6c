"""Tokens of a prompt, guessed from its bytes and what answers have told."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.domain import InferenceRequest
from gateway.fleet.tokens import (
    FIRST_GUESS,
    MOST_PER_BYTE,
    TOKENS_PER_IMAGE,
    TokenRatio,
    fewest,
)
from tests.support.requests import chat, completion, parsed


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
    request = chat("x" * 12_000)
    assert fewest(request) == request.prompt_size // 12
    assert fewest(completion([5] * 100)) == 100  # they are counted


def test_a_prompt_of_tokens_is_counted_and_says_nothing_of_text() -> None:
    ratio, tokens = TokenRatio(), completion([5] * 100)
    assert ratio.count(tokens) == (100, True)
    ratio.answered(tokens, 100)
    assert ratio.estimate("m", 10_000) == round(10_000 * FIRST_GUESS)
    assert not ratio.count(completion("five")).exact


def with_pictures(count: int) -> InferenceRequest:
    url = "data:image/png;base64," + "A" * 100_000
    parts = [{"type": "image_url", "image_url": {"url": url}}] * count
    text = {"type": "text", "text": "what is this?"}
    return parsed({"model": "m", "messages": [{"role": "user", "content": [text, *parts]}]})


def test_a_picture_counts_by_a_rule_and_not_by_its_bytes() -> None:
    ratio = TokenRatio()
    none, two = (ratio.count(with_pictures(count)) for count in (0, 2))
    assert 2 * TOKENS_PER_IMAGE <= two.tokens - none.tokens < 2 * TOKENS_PER_IMAGE + 100
    assert not two.exact
    ratio.answered(with_pictures(2), 5000)
    assert ratio.count(with_pictures(0)) == none
