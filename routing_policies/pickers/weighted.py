"""By the draw, in proportion to a weight for each endpoint: shares of traffic, a canary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from routing_policies.base import Context, Ranked


@dataclass(frozen=True)
class Weighted:
    """A weight of 0 is for when all others have failed."""

    weights: dict[str, float] = field(default_factory=dict)  # by the endpoint's name
    others: float = 1.0  # the weight of every endpoint that is not named

    def __post_init__(self) -> None:
        for name, weight in [*self.weights.items(), ("others", self.others)]:
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ValueError(f"the weight of {name!r} must be a number")
            if not 0 <= weight <= 1e6:
                raise ValueError(f"the weight of {name!r} must be from 0 to a million")

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        # By name, so that a draw means the same in whatever order the candidates came.
        left = sorted(ranked, key=lambda r: r.candidate.endpoint)
        order, draw = [], context.draw
        while left:
            weights = [self.weights.get(r.candidate.endpoint, self.others) for r in left]
            index, draw = _drawn(weights, draw)
            order.append(left.pop(index))
        return order


def _drawn(weights: Sequence[float], draw: float) -> tuple[int, float]:
    """Whose share of the weights a draw in [0, 1) falls into, and what is left of the draw."""
    if not any(weights):
        weights = [1.0] * len(weights)
    at = draw * sum(weights)
    shares = [(index, weight) for index, weight in enumerate(weights) if weight]
    for index, weight in shares[:-1]:
        if at < weight:
            return index, at / weight
        at -= weight
    index, weight = shares[-1]
    # Rounding may lead to the very end of the last share; a draw stays below 1.
    return index, min(at / weight, 1 - 2**-53)
