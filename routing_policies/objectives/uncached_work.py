"""Prefill work that a choice makes somebody wait for, in tokens: `q + u·(1 + nᵖ)`.

q are the uncached prompt tokens queued on the candidate: this request waits for them. u are the
uncached tokens of this prompt: this request waits for them too, and so do the n requests already
in flight there, whose decoding they slow. Both load and cache are counted in tokens, so there is
no weight to tune and no cliff between affinity and balance.

p = 1 counts all of the others' delay; in simulation over conversation, agent and hot-prefix traces
its square root was best or within about a point nearly everywhere, with the shorter tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class UncachedWork:
    exponent: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 1:
            raise ValueError("exponent must be from 0 to 1")

    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        others = math.pow(candidate.in_flight, self.exponent)
        return candidate.queued_tokens + estimate.uncached_tokens * (1 + others)
