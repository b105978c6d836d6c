from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from gateway.errors import InvalidRequest
from gateway.replica.backends.base import Float32
from gateway.replica.request import Sampling
from gateway.replica.sampler import draw, nucleus, sample, seeded_noise


def rows(count: int, vocabulary: int = 1000, *, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((count, vocabulary), np.float32) * 2


def sampled(logits: Float32, sampling: Sampling, position: int = 0, *, seed: int = 0) -> list[int]:
    generator = np.random.default_rng(seed)
    tokens = sample(logits, [sampling] * len(logits), [position] * len(logits), generator)
    assert None not in tokens
    return [token for token in tokens if token is not None]


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = rows(3)
    assert sampled(logits, Sampling(temperature=0)) == list(logits.argmax(axis=1))


def test_a_low_temperature_comes_close_to_greedy() -> None:
    logits = rows(3)
    assert sampled(logits, Sampling(temperature=1e-4)) == list(logits.argmax(axis=1))


def test_a_tiny_top_p_is_greedy() -> None:
    logits = rows(3)
    assert sampled(logits, Sampling(top_p=1e-9)) == list(logits.argmax(axis=1))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_give_no_token_and_others_go_on(
    broken: float, temperature: float
) -> None:
    logits = rows(3)
    logits[1, 500] = broken
    samplings = [Sampling(temperature=temperature, seed=1)] * 3
    tokens = sample(logits, samplings, [0] * 3, np.random.default_rng(0))
    assert tokens[1] is None
    assert [tokens[0], tokens[2]] == sampled(logits[[0, 2]], samplings[0])


def test_a_row_that_is_masked_altogether_gives_no_token() -> None:
    logits = np.full((1, 8), -np.inf, np.float32)
    assert sample(logits, [Sampling()], [0], np.random.default_rng(0)) == [None]


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min])
def test_masked_tokens_are_never_drawn(mask: float) -> None:
    logits = np.full((500, 8), mask, np.float32)
    logits[:, 3] = 20
    logits[:, 5] = 20
    assert set(sampled(logits, Sampling(temperature=0.3))) == {3, 5}


def test_a_seed_gives_the_same_token_in_any_batch() -> None:
    logits = rows(4)
    sampling = Sampling(seed=7)
    together = sampled(logits, sampling, position=12)
    alone = [sampled(logits[[i]], sampling, position=12, seed=99)[0] for i in range(4)]
    assert together == alone


def test_seeds_and_positions_give_different_noise() -> None:
    noise = {seeded_noise(seed, position) for seed in (-1, 0, 2**63) for position in range(50)}
    assert len(noise) == 150
    assert all(0 <= value < 1 for value in noise)


def test_seeded_noise_is_the_same_for_ever() -> None:
    """Another replica, perhaps of another version, must continue an answer with equal noise."""
    assert seeded_noise(42, 17) == 0.4439797563407103


def test_frequencies_follow_the_distribution() -> None:
    weights = np.array([1, 2, 0, 5, 2], np.float32)
    drawn = Counter(draw(weights, 1.0, seeded_noise(1, i)) for i in range(20_000))
    assert drawn[2] == 0
    for token, weight in enumerate(weights):
        assert drawn[token] / 20_000 == pytest.approx(weight / 10, abs=0.02)


def test_temperature_one_half_squares_the_odds() -> None:
    logits = np.log(np.tile(np.array([1, 3], np.float32), (20_000, 1)))
    drawn = Counter(sampled(logits, Sampling(temperature=0.5)))
    assert drawn[1] / drawn[0] == pytest.approx(9, rel=0.1)


def naive_nucleus(weights: Float32, top_p: float) -> list[int]:
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    wanted, mass, kept = top_p * float(weights.astype(np.float64).sum()), 0.0, []
    for token in order:
        if mass >= wanted:
            break
        mass += float(weights[token])
        kept.append(token)
    return sorted(kept)


# eighths and sixteenths, so that sums are exact and both ways must agree to the token
@given(
    weights=arrays(np.int32, st.integers(1, 700), elements=st.integers(0, 16)),
    top_p=st.sampled_from([1 / 16, 1 / 4, 1 / 2, 3 / 4, 15 / 16]),
)
@settings(deadline=None)
def test_the_nucleus_is_the_fewest_likeliest_tokens_with_the_mass(
    weights: np.ndarray[tuple[int], np.dtype[np.int32]], top_p: float
) -> None:
    weights[0] = 16
    floats = (weights / 16).astype(np.float32)
    assert list(nucleus(floats, top_p)) == naive_nucleus(floats, top_p)


def test_a_peaked_nucleus_is_found_without_the_tail() -> None:
    weights = np.full(49_152, 1e-9, np.float32)
    weights[[5, 70, 40_000]] = [0.5, 1.0, 0.25]
    assert list(nucleus(weights, 0.8)) == [5, 70]


@given(
    weights=arrays(np.float32, st.integers(1, 700), elements=st.floats(0, 1, width=32)),
    noise=st.floats(0, 1, exclude_max=True),
    top_p=st.floats(0.01, 1),
)
@settings(deadline=None)
def test_a_drawn_token_has_weight_and_is_in_the_nucleus(
    weights: Float32, noise: float, top_p: float
) -> None:
    weights[-1] = 1
    token = draw(weights, top_p, noise)
    assert weights[token] > 0
    if top_p < 1:
        assert token in nucleus(weights, top_p)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", np.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("max_tokens", 0),
    ],
)
def test_sampling_refuses_what_makes_no_sense_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.param == field
