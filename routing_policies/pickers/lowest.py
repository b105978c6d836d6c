"""Lowest cost first; candidates whose cost is within `tie` of the best share by the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked


@dataclass(frozen=True)
class Lowest:
    tie: float = 0.01  # fraction of the best cost

    def __post_init__(self) -> None:
        if self.tie < 0:
            raise ValueError("tie must not be negative")

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        if not ranked:
            return ()
        ordered = sorted(ranked, key=lambda r: r.cost)
        limit = ordered[0].cost * (1 + self.tie)
        tied = sum(r.cost <= limit for r in ordered)
        return (*shuffled(ordered[:tied], context.draw), *ordered[tied:])


def shuffled(items: Sequence[Ranked], draw: float) -> list[Ranked]:
    """The permutation of `items` that a uniform draw in [0, 1) names, its digits one by one.

    All of it and not just the first: when an endpoint fails, its equals share what it leaves.
    """
    left, order = list(items), []
    while left:
        draw *= len(left)
        order.append(left.pop(int(draw)))
        draw %= 1
    return order
