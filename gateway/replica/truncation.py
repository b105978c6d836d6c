"""Which tokens may be drawn: min-p, top-k and top-p, and the draw itself. Pure functions.

The vocabulary has tens of thousands of tokens and few of them matter, so nothing here sorts all of
them, or looks at ids before it knows which values it wants (numpy has vector code for values).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gateway.replica.backends.base import Float32

Ids = NDArray[np.intp]

FLOOR = 1e-4
"""Share of the likeliest token's weight above which the wanted ones are looked for first."""

_SPAN = 256
"""Weights that are summed up at once before the cumulated sums are searched."""


def draw(
    weights: Float32, noise: float, *, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> int:
    """The token at `noise` in [0, 1) of the distribution that weights [V] stand for.

    Weights need not sum to one. In vLLM's order, each filter working on what the one before it
    left: `min_p` keeps what has at least this share of the likeliest weight, `top_k` above 0 so
    many likeliest, `top_p` below 1 the nucleus.
    """
    ids: Ids | None = None
    if min_p > 0:
        ids = np.flatnonzero(weights >= np.float32(min_p) * weights.max())
        weights = weights[ids]
    if 0 < top_k < len(weights):
        weights, ids = _narrowed(weights, ids, largest(weights, top_k, FLOOR * weights.max()))
    if top_p < 1:
        weights, ids = _narrowed(weights, ids, nucleus(weights, top_p))
    index = _exceeding(weights, noise * float(weights.sum()))
    return index if ids is None else int(ids[index])


def nucleus(weights: Float32, top_p: float) -> Ids:
    """Indices of the nucleus, in ascending order: the fewest likeliest tokens that hold at least
    this share of the mass (Holtzman et al. 2020); equal weights by lowest index.
    """
    wanted = top_p * float(weights.sum())
    likely = weights[weights > FLOOR * weights.max()]
    ordered = np.sort(likely if likely.sum() > wanted else weights)
    dropped = _exceeding(ordered, float(ordered.sum()) - wanted)
    return _at_least(weights, ordered[dropped], len(ordered) - dropped)


def largest(values: Float32, count: int, likely: float) -> Ids:
    """Indices of the `count` largest values, ascending; of equal values the lowest indices.

    They are looked for among the values above `likely` first.
    """
    pool = values[values > likely]
    if len(pool) < count:
        pool = values
    last = len(pool) - count
    return _at_least(values, np.partition(pool, last)[last], count)


def _at_least(values: Float32, lowest: np.float32, count: int) -> Ids:
    """The first `count` indices of values from `lowest` on; what is larger is always among them."""
    ids = np.flatnonzero(values >= lowest)
    surplus = len(ids) - count
    if surplus:
        equal = np.flatnonzero(values[ids] == lowest)
        ids = np.delete(ids, equal[-surplus:])
    return ids


def _narrowed(weights: Float32, ids: Ids | None, kept: Ids) -> tuple[Float32, Ids]:
    return weights[kept], kept if ids is None else ids[kept]


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
