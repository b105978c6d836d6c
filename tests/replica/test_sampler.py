from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from gateway.errors import InvalidRequest
from gateway.replica.backends.base import Float32
from gateway.replica.sampler import adjusted, logprobs_of, sample, seeded_noise
from gateway.replica.sampling import Sampling, Seen, Turn
from gateway.replica.truncation import draw, largest, nucleus


def rows(count: int, vocabulary: int = 1000, *, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((count, vocabulary), np.float32) * 2


def sampled(logits: Float32, sampling: Sampling, position: int = 0, *, seed: int = 0) -> list[int]:
    generator = np.random.default_rng(seed)
    tokens = sample(logits, [Turn(sampling, position)] * len(logits), generator)
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
    sampling = Sampling(temperature=temperature, seed=1)
    tokens = sample(logits, [Turn(sampling, 0)] * 3, np.random.default_rng(0))
    assert tokens[1] is None
    assert [tokens[0], tokens[2]] == sampled(logits[[0, 2]], sampling)


def test_a_row_that_is_masked_altogether_gives_no_token() -> None:
    logits = np.full((1, 8), -np.inf, np.float32)
    assert sample(logits, [Turn(Sampling(), 0)], np.random.default_rng(0)) == [None]


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
    drawn = Counter(draw(weights, seeded_noise(1, i)) for i in range(20_000))
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
    token = draw(weights, noise, top_p=top_p)
    assert weights[token] > 0
    if top_p < 1:
        assert token in nucleus(weights, top_p)


@given(
    weights=arrays(np.int32, st.integers(1, 300), elements=st.integers(0, 16)),
    count=st.integers(1, 40),
    likely=st.integers(-1, 16),
)
@settings(deadline=None)
def test_the_largest_are_those_of_a_full_sort_wherever_they_are_looked_for(
    weights: np.ndarray[tuple[int], np.dtype[np.int32]], count: int, likely: int
) -> None:
    count = min(count, len(weights))
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    assert list(largest(weights.astype(np.float32), count, likely)) == sorted(order[:count])


def naive_candidates(weights: Float32, top_k: int, top_p: float, min_p: float) -> list[int]:
    kept = [i for i, weight in enumerate(weights) if weight >= np.float32(min_p) * weights.max()]
    kept = sorted(sorted(kept, key=lambda i: (-weights[i], i))[: top_k or None])
    return [kept[i] for i in naive_nucleus(weights[kept], top_p)] if top_p < 1 else kept


@given(
    weights=arrays(np.int32, st.integers(1, 120), elements=st.integers(0, 16)),
    top_k=st.integers(0, 30),
    top_p=st.sampled_from([1 / 4, 3 / 4, 1]),
    min_p=st.sampled_from([0, 1 / 8, 1 / 2]),
)
@settings(deadline=None)
def test_min_p_then_top_k_then_top_p_leave_what_is_drawn_from(
    weights: np.ndarray[tuple[int], np.dtype[np.int32]], top_k: int, top_p: float, min_p: float
) -> None:
    weights[0] = 16
    floats = (weights / 16).astype(np.float32)
    kept = naive_candidates(floats, top_k, top_p, min_p)
    sums = np.cumsum(floats[kept], dtype=np.float64)
    for noise in np.arange(64) / 64:  # exact, like the weights
        wanted = kept[int(np.searchsorted(sums, noise * sums[-1], side="right"))]
        assert draw(floats, noise, top_p=top_p, top_k=top_k, min_p=min_p) == wanted


def test_top_k_of_one_is_greedy() -> None:
    logits = rows(3)
    assert sampled(logits, Sampling(top_k=1)) == list(logits.argmax(axis=1))


def naive_penalties(
    row: Float32, prompt: list[int], output: list[int], sampling: Sampling
) -> list[float]:
    logits = [float(value) for value in row]
    for token in set(prompt + output):
        factor = sampling.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in set(output):
        logits[token] -= sampling.frequency_penalty * output.count(token)
        logits[token] -= sampling.presence_penalty
    return logits


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(repetition_penalty=1.5),
        Sampling(repetition_penalty=0.5),
        Sampling(presence_penalty=0.7),
        Sampling(frequency_penalty=-0.7),
        Sampling(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.25),
    ],
)
def test_penalties_are_those_of_the_naive_formula(sampling: Sampling) -> None:
    row = rows(1, 40)[0]
    prompt, output = [3, 5, 5, 7], [5, 9, 9, 9, 11]
    seen = Seen.of(sampling, prompt, output[:2])
    assert seen is not None
    for token in output[2:]:
        seen.add(token)
    wanted = naive_penalties(row, prompt, output, sampling)
    assert adjusted(row, Turn(sampling, 9, 5, seen)) == pytest.approx(wanted, abs=1e-6)


def test_without_penalties_nothing_is_counted() -> None:
    assert Seen.of(Sampling(), [1], [2]) is None


def test_a_bias_comes_before_the_choice_and_leaves_the_logits_alone() -> None:
    logits = rows(2)
    before = logits.copy()
    assert sampled(logits, Sampling(temperature=0, logit_bias={17: 100.0})) == [17, 17]
    second = np.argsort(-logits, axis=1)[:, 1]
    for row, token in zip(logits, second, strict=True):
        banned = Sampling(temperature=0, logit_bias={int(row.argmax()): -100.0})
        assert sampled(row[None], banned) == [token]
    assert (logits == before).all()


def test_no_stop_token_is_drawn_before_min_tokens() -> None:
    logits = rows(1)
    best, second = np.argsort(-logits[0])[:2]
    sampling = Sampling(temperature=0, min_tokens=3, stop_tokens=frozenset({int(best)}))
    generator = np.random.default_rng(0)
    tokens = [sample(logits, [Turn(sampling, 9, n)], generator)[0] for n in range(5)]
    assert tokens == [second, second, second, best, best]


def test_a_seed_gives_the_same_token_in_any_batch_with_every_option() -> None:
    logits = rows(4)
    sampling = Sampling(
        seed=7, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.1, logit_bias={3: 1.0}
    )
    turns = [Turn(sampling, 12, 4, Seen([1, 2, i], [5, 6])) for i in range(4)]
    together = sample(logits, turns, np.random.default_rng(0))
    alone = [sample(logits[[i]], [turns[i]], np.random.default_rng(9))[0] for i in range(4)]
    assert together == alone


def test_logprobs_are_the_models_own() -> None:
    row = rows(1, 50)[0]
    wanted = row - np.log(np.exp(row.astype(np.float64)).sum())
    order = np.argsort(-row)
    told = logprobs_of(row, 7, 5)
    assert told.chosen == pytest.approx(wanted[7], abs=1e-5)
    assert [token for token, _ in told.top] == list(order[:5])
    assert [logprob for _, logprob in told.top] == pytest.approx(wanted[order[:5]], abs=1e-5)
    assert logprobs_of(row, 7, 0).top == ()
    assert len(logprobs_of(row, 7, 99).top) == 50


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", np.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", np.inf),
        ("min_tokens", -1),
        ("max_tokens", 0),
    ],
)
def test_sampling_refuses_what_makes_no_sense_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.param == field
