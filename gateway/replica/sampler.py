"""From logits to tokens. Pure functions: what is random comes in as an argument."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.replica.backends.base import Float32
from gateway.replica.request import Sampling

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them would overflow (vLLM has the same bound)."""

_FLOOR = 1e-4
"""Share of the likeliest token's weight above which the nucleus is looked for first."""

_SPAN = 256
"""Weights that are summed up at once before the cumulated sums are searched."""


def sample(
    logits: Float32,
    samplings: Sequence[Sampling],
    positions: Sequence[int],
    generator: np.random.Generator,
) -> list[int | None]:
    """One token for each row of logits [S, V]; None where they are not finite.

    `positions` are where the tokens will stand in their sequences. Rows do not influence each
    other: a seeded row's token depends on its logits, its seed and its position alone.
    """
    tokens: list[int | None] = []
    likeliest = logits.argmax(axis=1)
    for row, best, sampling, position in zip(logits, likeliest, samplings, positions, strict=True):
        # argmax finds a NaN before any number, and infinity before any other
        if not np.isfinite(row[best]):
            tokens.append(None)
        elif sampling.temperature < GREEDY_BELOW:
            tokens.append(int(best))
        else:
            seed = sampling.seed
            noise = generator.random() if seed is None else seeded_noise(seed, position)
            with np.errstate(over="ignore"):  # a mask of the lowest float32 becomes -inf, as meant
                weights = np.exp((row - row[best]) * np.float32(1 / sampling.temperature))
            tokens.append(draw(weights, sampling.top_p, noise))
    return tokens


def seeded_noise(seed: int, position: int) -> float:
    """Uniform in [0, 1), a function of its arguments: counter-based (Philox 4x64), no state.

    So a seed gives the same tokens in any batch, after preemption, and on another replica.
    """
    raw = np.random.Philox(key=seed % 2**128, counter=position).random_raw()
    return float(raw >> 11) * 2.0**-53


def draw(weights: Float32, top_p: float, noise: float) -> int:
    """The token at `noise` in [0, 1) of the distribution that weights [V] stand for.

    Weights need not sum to one. `top_p` below 1 keeps the nucleus: the fewest likeliest tokens
    that hold at least this share of the mass (Holtzman et al. 2020); equal weights by lowest id.
    """
    if top_p >= 1:
        return _exceeding(weights, noise * float(weights.sum()))
    ids = nucleus(weights, top_p)
    kept = weights[ids]
    return int(ids[_exceeding(kept, noise * float(kept.sum()))])


def nucleus(weights: Float32, top_p: float) -> NDArray[np.intp]:
    """Token ids of the nucleus, in ascending order.

    Found from its lowest weight, so values are sorted and not ids (numpy has vector code for
    that), and only those above a floor if they hold the mass: they are the likeliest ones.
    """
    wanted = top_p * float(weights.sum())
    likely = weights[weights > _FLOOR * weights.max()]
    ordered = np.sort(likely if likely.sum() > wanted else weights)
    dropped = _exceeding(ordered, float(ordered.sum()) - wanted)
    lowest = ordered[dropped]
    ids = np.flatnonzero(weights >= lowest)
    surplus = len(ids) - (len(ordered) - dropped)
    if surplus:
        equal = np.flatnonzero(weights[ids] == lowest)
        ids = np.delete(ids, equal[-surplus:])
    return ids


def _exceeding(weights: Float32, target: float) -> int:
    """Index at which the cumulated weights first exceed `target`; its weight is above zero.

    Sums up spans first and then the weights of one span, several times faster than one by one.
    """
    spans = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _SPAN)), dtype=np.float64)
    span = _search(spans, target)
    first = span * _SPAN
    inside = np.cumsum(weights[first : first + _SPAN], dtype=np.float64)
    return first + _search(inside, target - float(spans[span - 1]) if span else target)


def _search(cumulated: NDArray[np.float64], target: float) -> int:
    # the total was rounded on another way than these sums: never look beyond the last of them
    target = min(target, float(np.nextafter(cumulated[-1], 0)))
    return int(np.searchsorted(cumulated, target, side="right"))
