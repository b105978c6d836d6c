"""SGLang's `cache_aware`: longest match while loads are even, fewest requests when they are not.

The rule of SGLang's model gateway (`policies/cache_aware.rs`, `is_imbalanced` and
`select_worker`), parameters named and defaulted as in its `CacheAwareConfig`. Loads are imbalanced
when max − min > `balance_abs_threshold` and max > `balance_rel_threshold` · min. Its match rate is
over characters of its own tree; here it is cached over prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked
from routing_policies.pickers.lowest import Lowest

BY_COST = Lowest(tie=0)


@dataclass(frozen=True)
class PeerSglang:
    """For use with `minimize: {in_flight: 1}`."""

    cache_threshold: float = 0.5
    balance_abs_threshold: int = 32
    balance_rel_threshold: float = 1.1

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        by_load = BY_COST.pick(ranked, context)
        if not ranked or self._imbalanced(ranked):
            return by_load
        best = max(by_load, key=lambda r: r.estimate.cached_tokens)
        estimate = best.estimate
        prompt_tokens = estimate.cached_tokens + estimate.uncached_tokens
        if estimate.cached_tokens <= self.cache_threshold * prompt_tokens:
            return by_load
        return (best, *(r for r in by_load if r is not best))

    def _imbalanced(self, ranked: Sequence[Ranked]) -> bool:
        loads = [r.candidate.in_flight for r in ranked]
        low, high = min(loads), max(loads)
        return high - low > self.balance_abs_threshold and high > self.balance_rel_threshold * low
