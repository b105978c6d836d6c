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
        turn = int(context.draw * tied)
        return (*ordered[turn:tied], *ordered[:turn], *ordered[tied:])
