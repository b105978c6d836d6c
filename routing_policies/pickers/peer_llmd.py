"""llm-d's default profile: a weighted sum of scores in [0, 1], highest wins.

The scorers and weights of llm-d's inference scheduler (`prefix-cache-scorer` 3, `queue-scorer` 2,
`kv-cache-utilization-scorer` 2, `max-score-picker`):

    prefix · m/B  +  queue · (max − q)/(max − min)  +  kv_cache · (1 − KV utilisation)

m/B is the matched share of the prompt, q the requests that an engine has not begun. That and the KV
utilisation are what engines last told of themselves, as llm-d reads them from vLLM's metrics; who
tells nothing counts as idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked


@dataclass(frozen=True)
class PeerLlmd:
    prefix_cache_scorer: float = 3.0
    queue_scorer: float = 2.0
    kv_cache_utilization_scorer: float = 2.0

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        if not ranked:
            return ()
        queues = [r.candidate.waiting or 0 for r in ranked]
        low, high = min(queues), max(queues)
        # Equals keep their order; to begin at a random place is its random choice among the best.
        turn = int(context.draw * len(ranked))
        turned = (*ranked[turn:], *ranked[:turn])
        return sorted(turned, key=lambda r: -self._score(r, low, high))

    def _score(self, ranked: Ranked, low: int, high: int) -> float:
        candidate, estimate = ranked.candidate, ranked.estimate
        prompt_tokens = estimate.cached_tokens + estimate.uncached_tokens
        queue = (high - (candidate.waiting or 0)) / (high - low) if high > low else 1.0
        return (
            self.prefix_cache_scorer * estimate.cached_tokens / prompt_tokens
            + self.queue_scorer * queue
            + self.kv_cache_utilization_scorer * (1 - (candidate.kv_usage or 0.0))
        )
