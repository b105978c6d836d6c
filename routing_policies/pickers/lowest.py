"""Lowest cost first; candidates whose cost is within `tie` of the best share by the draw.

What is believed of an endpoint that nobody asks stays as it is: one that was slow once would be
left alone for ever. So a share of the decisions, `explore`, goes first to whoever was not asked for
longest, if that is at least `stale`, and if it costs no more dollars than the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked
from routing_policies.pickers.round_robin import chosen_at

BELOW_1 = math.nextafter(1, 0)


@dataclass(frozen=True)
class Lowest:
    tie: float = 0.01  # fraction of the best cost
    explore: float = 0.0  # share of the decisions
    stale: float = 60.0  # seconds

    def __post_init__(self) -> None:
        if self.tie < 0:
            raise ValueError("tie must not be negative")
        if not 0 <= self.explore < 1:
            raise ValueError("explore is a share from 0 to below 100%")

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        if not ranked:
            return ()
        ordered = sorted(ranked, key=lambda r: r.cost)
        limit = ordered[0].cost * (1 + self.tie)
        tied = sum(r.cost <= limit for r in ordered)
        # The one draw says whether to explore, and its place in that part breaks ties.
        usual = 1 - self.explore
        exploring = context.draw >= usual
        draw = (context.draw - usual) / self.explore if exploring else context.draw / usual
        choices = (*shuffled(ordered[:tied], min(draw, BELOW_1)), *ordered[tied:])
        return self._curious(choices, context.now) if exploring else choices

    def _curious(self, ranked: Sequence[Ranked], now: float) -> Sequence[Ranked]:
        dollars = ranked[0].estimate.cost_usd
        forgotten = [
            r for r in ranked if now - chosen_at(r) >= self.stale and r.estimate.cost_usd <= dollars
        ]
        if not forgotten:
            return ranked
        first = min(forgotten, key=lambda r: (chosen_at(r), r.cost, r.candidate.endpoint))
        return (first, *(r for r in ranked if r is not first))


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
