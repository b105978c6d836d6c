"""
From logits to tokens. Pure functions: what is random comes in as an argument.

The order is vLLM's, so that equal requests mean the same: the log-probabilities that a caller is
told are the model's own (`logprobs_of`); then come `logit_bias` and `min_tokens`, the penalties,
what a grammar allows, greedy or the temperature, and which tokens may be drawn (`truncation`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gateway.replica.backends.base import Float32
from gateway.replica.request import Logprobs
from gateway.replica.sampling import Sampling, Seen, Turn
from gateway.replica.truncation import FLOOR, draw, largest

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them would overflow (vLLM has the same bound)."""


def sample(
    logits: Float32, turns: Sequence[Turn], generator: np.random.Generator
) -> list[int | None]:
    """One token for each row of logits [S, V], which are not changed; None where not finite.

    Rows do not influence each other: a seeded row's token depends on its logits, its past, its
    seed and its position alone.
    """
    tokens: list[int | None] = []
    likeliest = logits.argmax(axis=1)
    for given, first, turn in zip(logits, likeliest, turns, strict=True):
        row, best, sampling = given, first, turn.sampling
        if turn.adjusts:
            row = adjusted(given, turn)
            best = row.argmax()
        # argmax finds a NaN before any number, and infinity before any other
        if not np.isfinite(row[best]):
            tokens.append(None)
        elif sampling.temperature < GREEDY_BELOW:
            tokens.append(int(best))
        else:
            seed = sampling.seed
            noise = generator.random() if seed is None else seeded_noise(seed, turn.position)
            with np.errstate(over="ignore"):  # a mask of the lowest float32 becomes -inf, as meant
                weights = np.exp((row - row[best]) * np.float32(1 / sampling.temperature))
            top_p, top_k, min_p = sampling.top_p, sampling.top_k, sampling.min_p
            tokens.append(draw(weights, noise, top_p=top_p, top_k=top_k, min_p=min_p))
    return tokens


def seeded_noise(seed: int, position: int) -> float:
    """Uniform in [0, 1), a function of its arguments: counter-based (Philox 4x64), no state.

    So a seed gives the same tokens in any batch, after preemption, and on another replica.
    """
    raw = np.random.Philox(key=seed % 2**128, counter=position).random_raw()
    return float(raw >> 11) * 2.0**-53


def adjusted(row: Float32, turn: Turn) -> Float32:
    """A copy of the logits [V] with what the request adds to them and takes off."""
    row, sampling = row.copy(), turn.sampling
    if bias := sampling.logit_bias:
        size = len(bias)
        row[np.fromiter(bias, np.intp, size)] += np.fromiter(bias.values(), np.float32, size)
    if turn.generated < sampling.min_tokens:
        row[list(sampling.stop_tokens)] = -np.inf
    if turn.seen is not None:
        _penalise(row, turn.seen, sampling)
    if turn.mask is not None:
        row[~turn.mask] = -np.inf
    return row


def logprobs_of(row: Float32, token: int, count: int) -> Logprobs:
    """Natural logarithms of the model's own probabilities: of the token and the `count` likeliest.

    `row` are its raw logits [V], before bias, penalties and temperature.
    """
    most = row.max()
    total = most + np.log(np.exp(row - most).sum())
    top: tuple[tuple[int, float], ...] = ()
    if count:
        ids = largest(row, min(count, len(row)), float(most) + np.log(FLOOR))
        order = ids[np.argsort(-row[ids], kind="stable")]
        top = tuple(zip(order.tolist(), (row[order] - total).tolist(), strict=True))
    return Logprobs(float(row[token] - total), top)


def _penalise(row: Float32, seen: Seen, sampling: Sampling) -> None:
    ids = np.frombuffer(seen.ids, np.int32)
    counts = np.frombuffer(seen.counts, np.float32)
    values = row[ids]
    if (factor := np.float32(sampling.repetition_penalty)) != 1:
        # Keskar et al. 2019, as everybody has it since: away from certainty on both sides of zero
        values = np.where(values > 0, values / factor, values * factor)
    values -= np.float32(sampling.frequency_penalty) * counts
    values -= np.float32(sampling.presence_penalty) * (counts > 0)
    row[ids] = values
