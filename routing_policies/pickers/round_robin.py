"""Whoever was chosen for this model least recently comes first; who never was, before all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked


@dataclass(frozen=True)
class RoundRobin:
    """The objective decides between candidates that were chosen at the same time, or never."""

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        return sorted(ranked, key=lambda r: (chosen_at(r), r.cost))


def chosen_at(ranked: Ranked) -> float:
    last = ranked.candidate.chosen_at
    return -math.inf if last is None else last
